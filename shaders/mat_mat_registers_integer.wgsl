// y = x · weightᵀ for any number of rows of x by products of integer codes, summed exactly before they are scaled, without
// workgroup memory and its barriers: every invocation computes TILE_ROWS rows by COLS columns of y by itself. Codes of
// weights are read and unpacked once for TILE_ROWS rows.
//
// With `pairs`, two rows are multiplied at once: see pairs.
//
// All invocations need the same values of x: few load another row each, see exchange.
import package::exchange::{FOURS, exchanged};
import package::generated::{COLS, TILE_ROWS, WORKGROUP};
import package::mat_mat_tile::{Tile, params, tile_of, weight_block, write, x_block};
import package::pairs::split_pair;
import package::quant::activations::{Parts, block_scale};
import package::quant::packed::{signed_integers, two_words};
import package::quant::scales::next_words;
import package::weight::{DOTS, ScaleWords, WeightScale, scale_in, weight_codes, weight_dot};

@group(0) @binding(3) var<storage, read> x_codes: array<u64>;  // [rows, blocks, 4]
@group(0) @binding(6) var<storage, read> x_scales: array<u64>; // [rows, blocks]

// Rows of the tile that are multiplied at once, and groups of four that are: row j of group i of both halves of the tile
// for pairs, and of the tile else.
@if(pairs) const AT_ONCE = 2u;
@else const AT_ONCE = 1u;
const GROUPS = TILE_ROWS / 4u / AT_ONCE;

// So many invocations load another row each, so often.
const LOADING = 4u * min(FOURS, GROUPS);
const LOADS = (GROUPS + FOURS - 1u) / FOURS;

// Sums of a block's products.
alias Dot = array<i32, DOTS>;

// Drivers keep these in registers, as every loop over them is unrolled.
alias Dots = array<array<array<Dot, COLS>, 4>, GROUPS>;
alias Sums = array<array<array<array<f32, COLS>, 4>, GROUPS>, AT_ONCE>;

// A part of a block's codes, see quant/activations, as numbers: those of two words of either half of the block.
alias Numbers = array<array<vec4i, 2>, 2>;

// Invocation 3 of workgroup (2, 1), with 32 invocations of 8 columns each and 16 rows: columns 536 to 543 of
// rows 16 to 31.
@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3u,
    @builtin(local_invocation_index) index: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let tile = tile_of(workgroup);
    @if(experts)
    if tile.row >= tile.end {
        return;
    }
    let first = index * COLS;

    var sums: Sums;
    var scale_words: array<ScaleWords, COLS>;
    for (var block = 0u; block < params.blocks; block++) {
        // All of a block before anything is computed: what waits for memory waits together.
        var w_codes: array<Parts, COLS>;
        @unroll for (var col = 0u; col < COLS; col++) {
            let at = weight_block(tile, first + col, block);
            w_codes[col] = Parts(weight_codes(at, 0u), weight_codes(at, 1u));
        }
        var dots: Dots;
        @unroll for (var part = 0u; part < 2u; part++) {
            add_part(&dots, &w_codes, tile, block, part, lane);
        }
        var scales: array<WeightScale, COLS>;
        @unroll for (var col = 0u; col < COLS; col++) {
            let at = weight_block(tile, first + col, block);
            scale_words[col] = next_words(scale_words[col], at, block == 0u);
            scales[col] = scale_in(scale_words[col], at);
        }
        add_block(&sums, &dots, &scales, tile, block, lane);
    }
    @unroll for (var half = 0u; half < AT_ONCE; half++) {
        @unroll for (var i = 0u; i < GROUPS; i++) {
            @unroll for (var j = 0u; j < 4u; j++) {
                @unroll for (var col = 0u; col < COLS; col++) {
                    write(tile, row_of(half, i) + j, first + col, sums[half][i][j][col]);
                }
            }
        }
    }
}

// The first row of a group.
fn row_of(half: u32, group: u32) -> u32 {
    return 4u * (half * GROUPS + group);
}

fn add_part(
    dots: ptr<function, Dots>,
    w_codes: ptr<function, array<Parts, COLS>>,
    tile: Tile,
    block: u32,
    part: u32,
    lane: u32,
) {
    var loaded: array<Numbers, LOADS>;
    if lane < LOADING {
        @unroll for (var i = 0u; i < LOADS; i++) {
            loaded[i] = x_numbers(tile, i * FOURS, block, part, lane);
        }
    }
    var w: array<Numbers, COLS>;
    @unroll for (var col = 0u; col < COLS; col++) {
        w[col] = weight_numbers((*w_codes)[col][part]);
    }
    @unroll for (var i = 0u; i < GROUPS; i++) {
        @unroll for (var j = 0u; j < 4u; j++) {
            @unroll for (var h = 0u; h < 2u; h++) {
                @unroll for (var word = 0u; word < 2u; word++) {
                    @unroll for (var k = 0u; k < 4u; k++) {
                        let x = bitcast<i32>(exchanged(bitcast<u32>(loaded[i / FOURS][h][word][k]))[i % FOURS][j]);
                        @unroll for (var col = 0u; col < COLS; col++) {
                            (*dots)[i][j][col][h % DOTS] += w[col][h][word][k] * x;
                        }
                    }
                }
            }
        }
    }
}

fn add_block(
    sums: ptr<function, Sums>,
    dots: ptr<function, Dots>,
    w_scales: ptr<function, array<WeightScale, COLS>>,
    tile: Tile,
    block: u32,
    lane: u32,
) {
    var loaded: array<array<vec2u, LOADS>, AT_ONCE>; // scales as in memory
    if lane < LOADING {
        @unroll for (var half = 0u; half < AT_ONCE; half++) {
            @unroll for (var i = 0u; i < LOADS; i++) {
                loaded[half][i] = two_words(x_scales[x_block(tile, row_of(half, i * FOURS) + lane, block)]);
            }
        }
    }
    @unroll for (var half = 0u; half < AT_ONCE; half++) {
        @unroll for (var i = 0u; i < GROUPS; i++) {
            let scales = exchanged(loaded[half][i / FOURS].x)[i % FOURS];
            let code_sums = exchanged(loaded[half][i / FOURS].y)[i % FOURS];
            @unroll for (var j = 0u; j < 4u; j++) {
                let x = block_scale(vec2u(scales[j], code_sums[j]));
                @unroll for (var col = 0u; col < COLS; col++) {
                    let dot = (*dots)[i][j][col];
                    @if(pairs) let own = vec2i(split_pair(dot[0])[half] + 8 * x.sum, 0);
                    @else let own = vec2i(dot[0], select(0, dot[DOTS - 1u], DOTS == 2u));
                    let product = weight_dot((*w_scales)[col], own, x.sum);
                    (*sums)[half][i][j][col] = fma(x.scale, product, (*sums)[half][i][j][col]);
                }
            }
        }
    }
}

// Codes of weights, less 8 for pairs.
fn weight_numbers(words: vec4u) -> Numbers {
    @if(pairs)
    return Numbers(
        array<vec4i, 2>(bytes_less_8(words.x), bytes_less_8(words.y)),
        array<vec4i, 2>(bytes_less_8(words.z), bytes_less_8(words.w)),
    );
    @else
    return signed(words);
}

@if(pairs)
fn bytes_less_8(word: u32) -> vec4i {
    return vec4i((vec4u(word) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(255u)) - vec4i(8);
}

// Of row `lane` from the first of a group on.
fn x_numbers(tile: Tile, group: u32, block: u32, part: u32, lane: u32) -> Numbers {
    let first = signed(x_words(tile, row_of(0u, group) + lane, block, part));
    @if(pairs) {
        let second = signed(x_words(tile, row_of(1u, group) + lane, block, part));
        return Numbers(
            array<vec4i, 2>(first[0][0] + (second[0][0] << vec4u(16u)), first[0][1] + (second[0][1] << vec4u(16u))),
            array<vec4i, 2>(first[1][0] + (second[1][0] << vec4u(16u)), first[1][1] + (second[1][1] << vec4u(16u))),
        );
    }
    @else
    return first;
}

fn x_words(tile: Tile, row: u32, block: u32, part: u32) -> vec4u {
    let low = 4u * x_block(tile, row, block) + part;
    return vec4u(two_words(x_codes[low]), two_words(x_codes[low + 2u]));
}

fn signed(words: vec4u) -> Numbers {
    return Numbers(
        array<vec4i, 2>(signed_integers(words.x), signed_integers(words.y)),
        array<vec4i, 2>(signed_integers(words.z), signed_integers(words.w)),
    );
}
