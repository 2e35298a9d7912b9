// y = x · weightᵀ for COLS rows of x, without workgroup memory and its barriers: every invocation computes ROWS
// neighbouring outputs of each by itself. With `integer`, both factors are integer codes of a block, whose products
// are summed exactly before they are scaled, with `pairs` two at a time: see pairs.
//
// All invocations need the same values of x: few load another value each, see exchange.
//
// Every output is summed in the same order whatever COLS and ROWS are, in explicit `fma`, so that a
// row of x gives the same bits whatever rows it is batched with.
//
// With `normed`, rows of x are still to be divided by the root of their mean square: see epilogue/rms_norm.
import package::epilogue::{UNIT, finish};
import package::exchange::{FOURS, exchanged};
import package::generated::{COLS, QUADS, ROWS, WORKGROUP};
import package::mat_vec_task::{Task, block_of, first_task, params, root_scale, x_row};
import package::pairs::{column_pairs, split_pair, weight_pairs};
import package::quant::activations::{BlockScale, Parts, block_scale, dot_block};
import package::quant::packed::two_words;
import package::quant::scales::next_words;
import package::reduce::{Invocation, workgroup_sum};
import package::weight::{ScaleWords, WeightScale, scale_in, weight_codes, weight_dot, weight_quad};

@if(integer) @group(0) @binding(3) var<storage, read> x_codes: array<u64>;  // [rows, blocks, 4]
@if(integer) @group(0) @binding(5) var<storage, read> x_scales: array<u64>; // [rows, blocks]
@else @group(0) @binding(3) var<storage, read> x: array<f32>;               // [rows, blocks * QUADS, 4], then squares if normed

// Four invocations load of a column what is needed at once, and of as many columns their scales: with eight, those of columns
// 2i and 2i + 1 are load i, and the scales of 8i to 8i + 7.
const LOADING = 4u * min(FOURS, COLS);
const LOADS = (COLS + FOURS - 1u) / FOURS;
const SCALE_LOADS = (COLS + 4u * FOURS - 1u) / (4u * FOURS);

// Drivers keep these in registers while they grow, as every loop over them is unrolled.
alias Sums = array<array<f32, COLS>, ROWS>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3u,
    @builtin(global_invocation_id) id: vec3u,
    invocation: Invocation,
    @builtin(subgroup_size) _size: u32, // see Invocation
) {
    // Not that of the invocation: the loop over an expert's rows has to be the same for all that exchange values.
    var task = first_task(workgroup.y);
    @if(experts)
    for (; task.first < task.end; task.first += COLS) {
        multiply(task, id.x * ROWS, invocation);
    }
    @if(!experts)
    multiply(task, id.x * ROWS, invocation);
}

fn multiply(task: Task, first: u32, invocation: Invocation) {
    var sums: Sums;
    var scale_words: array<ScaleWords, ROWS>;
    for (var block = 0u; block < params.blocks; block++) {
        add_block(&sums, &scale_words, task, first, block, invocation.lane);
    }
    // Not unrolled: with an epilogue for each, llvmpipe of Mesa 22.3.6 took 17 times as long for all of the kernel.
    for (var col = 0u; col < COLS; col++) {
        let scale = x_scale(col, invocation);
        for (var unit = 0u; unit < ROWS / UNIT; unit++) {
            var outputs: array<f32, UNIT>;
            for (var i = 0u; i < UNIT; i++) {
                outputs[i] = sums[unit * UNIT + i][col] * scale;
            }
            finish(task, first + unit * UNIT, col, &outputs);
        }
    }
}

fn next_scales(
    words: ptr<function, array<ScaleWords, ROWS>>,
    task: Task,
    first: u32,
    block: u32,
) -> array<WeightScale, ROWS> {
    var scales: array<WeightScale, ROWS>;
    @unroll for (var row = 0u; row < ROWS; row++) {
        let at = block_of(task, first + row, block);
        (*words)[row] = next_words((*words)[row], at, block == 0u);
        scales[row] = scale_in((*words)[row], at);
    }
    return scales;
}

// What row `col` of x is to be multiplied with.
@if(normed)
fn x_scale(col: u32, invocation: Invocation) -> f32 {
    // A block of x, of 32 columns, has 8 squares: one for every 4 columns.
    let squares = params.blocks * 8u;
    var sum = 0.0;
    for (var i = invocation.index; i < squares; i += WORKGROUP) {
        sum += x[params.first_square + col * squares + i];
    }
    return root_scale(workgroup_sum(sum, invocation));
}

@else
fn x_scale(col: u32, invocation: Invocation) -> f32 {
    return 1.0;
}

// Codes of a block as they are multiplied. For pairs, the second and fourth of each word apart from the first and third.
@if(pairs) alias Codes = array<Parts, 2>;
@else alias Codes = array<Parts, 1>;

fn add_block(
    sums: ptr<function, Sums>,
    scale_words: ptr<function, array<ScaleWords, ROWS>>,
    task: Task,
    first: u32,
    block: u32,
    lane: u32,
) {
    @if(integer) {
        // Of all rows before anything is computed: what waits for memory waits together.
        var w_codes: array<Parts, ROWS>;
        @unroll for (var row = 0u; row < ROWS; row++) {
            let at = block_of(task, first + row, block);
            w_codes[row] = Parts(weight_codes(at, 0u), weight_codes(at, 1u));
        }
        var own_codes: array<vec2u, LOADS>;
        var own_scales: array<vec2u, SCALE_LOADS>;
        if lane < LOADING {
            @unroll for (var i = 0u; i < LOADS; i++) {
                let at = x_block(task, i * FOURS + lane / 4u, block);
                own_codes[i] = two_words(x_codes[4u * at + lane % 4u]);
            }
            @unroll for (var i = 0u; i < SCALE_LOADS; i++) {
                own_scales[i] = two_words(x_scales[x_block(task, i * 4u * FOURS + lane, block)]);
            }
        }
        var codes: array<Codes, COLS>;
        var scales: array<BlockScale, COLS>;
        @unroll for (var col = 0u; col < COLS; col++) {
            codes[col] = x_block_codes(own_codes[col / FOURS], col % FOURS);
            let own = own_scales[col / 4u / FOURS];
            let four = col / 4u % FOURS;
            scales[col] = block_scale(vec2u(exchanged(own.x)[four][col % 4u], exchanged(own.y)[four][col % 4u]));
        }
        let w_scales = next_scales(scale_words, task, first, block);
        @unroll for (var row = 0u; row < ROWS; row++) {
            let w = weight_block_codes(w_codes[row]);
            @unroll for (var col = 0u; col < COLS; col++) {
                let dot = weight_dot(w_scales[row], block_dot(w, codes[col], scales[col].sum), scales[col].sum);
                (*sums)[row][col] = fma(scales[col].scale, dot, (*sums)[row][col]);
            }
        }
    }
    @else {
        let w_scales = next_scales(scale_words, task, first, block);
        for (var j = 0u; j < QUADS; j++) {
            var w_quads: array<vec4f, ROWS>;
            @unroll for (var row = 0u; row < ROWS; row++) {
                w_quads[row] = weight_quad(block_of(task, first + row, block), j, w_scales[row]);
            }
            var own: array<f32, LOADS>;
            if lane < LOADING {
                @unroll for (var i = 0u; i < LOADS; i++) {
                    own[i] = x[4u * (x_block(task, i * FOURS + lane / 4u, block) * QUADS + j) + lane % 4u];
                }
            }
            var quads: array<vec4f, COLS>;
            @unroll for (var col = 0u; col < COLS; col++) {
                quads[col] = bitcast<vec4f>(exchanged(bitcast<u32>(own[col / FOURS]))[col % FOURS]);
            }
            @unroll for (var row = 0u; row < ROWS; row++) {
                let w = w_quads[row];
                @unroll for (var col = 0u; col < COLS; col++) {
                    let v = quads[col];
                    (*sums)[row][col] =
                        fma(w.w, v.w, fma(w.z, v.z, fma(w.y, v.y, fma(w.x, v.x, (*sums)[row][col]))));
                }
            }
        }
    }
}

// Number of a block of x. Columns past the end repeat the last one.
fn x_block(task: Task, col: u32, block: u32) -> u32 {
    return x_row(task, min(col, COLS - 1u)) * params.blocks + block;
}

// Of all of a block, of which each invocation of the four has read two words.
@if(pairs)
fn x_block_codes(own: vec2u, four: u32) -> Codes {
    let even = column_pairs(own.x);
    let odd = column_pairs(own.y);
    return Codes(all_words(vec2u(even.x, odd.x), four), all_words(vec2u(even.y, odd.y), four));
}

@elif(integer)
fn x_block_codes(own: vec2u, four: u32) -> Codes {
    return Codes(all_words(own, four));
}

@if(integer)
fn all_words(own: vec2u, four: u32) -> Parts {
    let even = exchanged(own.x)[four];
    let odd = exchanged(own.y)[four];
    return Parts(vec4u(even.x, odd.x, even.z, odd.z), vec4u(even.y, odd.y, even.w, odd.w));
}

@if(pairs)
fn weight_block_codes(codes: Parts) -> Codes {
    return Codes(
        Parts(weight_pairs(codes[0]), weight_pairs(codes[1])),
        Parts(weight_pairs(codes[0] >> vec4u(8u)), weight_pairs(codes[1] >> vec4u(8u))),
    );
}

@elif(integer)
fn weight_block_codes(codes: Parts) -> Codes {
    return Codes(codes);
}

// Sums of products, as weight_dot takes them.
@if(pairs)
fn block_dot(w: Codes, x: Codes, sum: i32) -> vec2i {
    let products = w[0][0] * x[0][0] + w[0][1] * x[0][1] + w[1][0] * x[1][0] + w[1][1] * x[1][1];
    let dot = bitcast<i32>(products.x + products.y + products.z + products.w);
    return vec2i(split_pair(dot).y + 8 * sum, 0);
}

@elif(integer)
fn block_dot(w: Codes, x: Codes, sum: i32) -> vec2i {
    return dot_block(w[0], x[0]);
}
