// y = x · weightᵀ for any number of rows of x, without workgroup memory and its barriers: every invocation
// computes TILE_ROWS rows by COLS columns of y by itself; the weights are read and decoded once for TILE_ROWS rows.
// With `integer`, both factors are integer codes of a block, whose products are summed exactly before they are scaled;
// with `pairs`, two rows at once.
//
// All invocations need the same values of x. To a driver that loads for one invocation after the other, a load of
// four values costs no more than a load of one value four times: each invocation loads another one, and the subgroup
// exchanges them.
import package::generated::{COLS, QUADS, TILE_ROWS, WORKGROUP};
import package::mat_mat_tile::{Tile, params, tile_of, weight_block, write, x_block};
import package::quant::activations::{BlockScale, dot16};
import package::quant::pairs::{Spread, dot_pair, paired, split_pair, spread};
import package::weight::{WeightScale, weight_codes, weight_dot, weight_quad, weight_scale};

@if(integer) @group(0) @binding(3) var<storage, read> x_codes: array<u32>;         // [rows, blocks, 8]
@if(integer) @group(0) @binding(6) var<storage, read> x_scales: array<BlockScale>; // [rows, blocks]
@else @group(0) @binding(3) var<storage, read> x: array<f32>;                      // [rows, blocks * QUADS, 4]

// Nested, so that every index is a loop's own counter: drivers unroll such loops and keep the sums in registers.
alias Sums = array<array<f32, COLS>, TILE_ROWS>;

// Invocation 3 of workgroup (2, 1), with 32 invocations of 8 columns each and 8 rows: columns 536 to 543 of
// rows 8 to 15.
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
    for (var block = 0u; block < params.blocks; block++) {
        add_block(&sums, tile, first, block, lane % 4u);
    }
    for (var row = 0u; row < TILE_ROWS; row++) {
        for (var col = 0u; col < COLS; col++) {
            write(tile, row, first + col, sums[row][col]);
        }
    }
}

// Scales and sums of the rows' blocks, of four rows each: those of row 6 are [1][2].
@if(integer)
struct RowScales {
    scale: array<vec4f, TILE_ROWS / 4u>,
    sum: array<vec4i, TILE_ROWS / 4u>,
}

@if(integer)
fn row_scales(tile: Tile, block: u32, quarter: u32) -> RowScales {
    var rows: RowScales;
    for (var i = 0u; i < TILE_ROWS / 4u; i++) {
        let own = x_scales[x_block(tile, 4u * i + quarter, block)];
        rows.scale[i] = bitcast<vec4f>(quarters(bitcast<u32>(own.scale)));
        rows.sum[i] = bitcast<vec4i>(quarters(bitcast<u32>(own.sum)));
    }
    return rows;
}

@if(pairs)
fn add_block(sums: ptr<function, Sums>, tile: Tile, first: u32, block: u32, quarter: u32) {
    let rows = row_scales(tile, block, quarter);
    var dots: array<array<array<i32, COLS>, TILE_ROWS / 2u>, 2>; // of either half of the block
    for (var half = 0u; half < 2u; half++) {
        var codes: array<Spread, COLS>;
        for (var col = 0u; col < COLS; col++) {
            codes[col] = spread(weight_codes(weight_block(tile, first + col, block), half));
        }
        for (var pair = 0u; pair < TILE_ROWS / 2u; pair++) {
            let a = x_codes[8u * x_block(tile, 2u * pair, block) + 4u * half + quarter];
            let b = x_codes[8u * x_block(tile, 2u * pair + 1u, block) + 4u * half + quarter];
            let own = bitcast<vec4u>(paired(a, b));
            let x = Spread(
                bitcast<vec4i>(quarters(own.x)), bitcast<vec4i>(quarters(own.y)),
                bitcast<vec4i>(quarters(own.z)), bitcast<vec4i>(quarters(own.w)),
            );
            for (var col = 0u; col < COLS; col++) {
                dots[half][pair][col] = dot_pair(codes[col], x);
            }
        }
    }
    for (var col = 0u; col < COLS; col++) {
        let w_scale = weight_scale(weight_block(tile, first + col, block));
        for (var pair = 0u; pair < TILE_ROWS / 2u; pair++) {
            let low = split_pair(dots[0][pair][col]);
            let high = split_pair(dots[1][pair][col]);
            for (var i = 0u; i < 2u; i++) {
                let row = 2u * pair + i;
                let dot = weight_dot(w_scale, low[i], high[i], rows.sum[row / 4u][row % 4u]);
                (*sums)[row][col] = fma(rows.scale[row / 4u][row % 4u], dot, (*sums)[row][col]);
            }
        }
    }
}

@elif(integer)
fn add_block(sums: ptr<function, Sums>, tile: Tile, first: u32, block: u32, quarter: u32) {
    var low: array<vec4u, COLS>; // the first half of a block
    var high: array<vec4u, COLS>;
    var scales: array<WeightScale, COLS>;
    for (var col = 0u; col < COLS; col++) {
        let at = weight_block(tile, first + col, block);
        low[col] = weight_codes(at, 0u);
        high[col] = weight_codes(at, 1u);
        scales[col] = weight_scale(at);
    }
    let rows = row_scales(tile, block, quarter);
    for (var row = 0u; row < TILE_ROWS; row++) {
        let at = 8u * x_block(tile, row, block);
        let x_low = quarters(x_codes[at + quarter]);
        let x_high = quarters(x_codes[at + 4u + quarter]);
        let scale = rows.scale[row / 4u][row % 4u];
        let sum = rows.sum[row / 4u][row % 4u];
        for (var col = 0u; col < COLS; col++) {
            let dot = weight_dot(scales[col], dot16(low[col], x_low), dot16(high[col], x_high), sum);
            (*sums)[row][col] = fma(scale, dot, (*sums)[row][col]);
        }
    }
}

@else
fn add_block(sums: ptr<function, Sums>, tile: Tile, first: u32, block: u32, quarter: u32) {
    var scales: array<WeightScale, COLS>;
    for (var col = 0u; col < COLS; col++) {
        scales[col] = weight_scale(weight_block(tile, first + col, block));
    }
    for (var j = 0u; j < QUADS; j++) {
        var quads: array<vec4f, COLS>;
        for (var col = 0u; col < COLS; col++) {
            quads[col] = weight_quad(weight_block(tile, first + col, block), j, scales[col]);
        }
        for (var row = 0u; row < TILE_ROWS; row++) {
            let at = 4u * (x_block(tile, row, block) * QUADS + j);
            let v = bitcast<vec4f>(quarters(bitcast<u32>(x[at + quarter])));
            for (var col = 0u; col < COLS; col++) {
                let w = quads[col];
                (*sums)[row][col] =
                    fma(w.w, v.w, fma(w.z, v.z, fma(w.y, v.y, fma(w.x, v.x, (*sums)[row][col]))));
            }
        }
    }
}

// What the first four invocations of the subgroup, which has no fewer, hold.
fn quarters(value: u32) -> vec4u {
    return vec4u(
        subgroupBroadcast(value, 0u), subgroupBroadcast(value, 1u),
        subgroupBroadcast(value, 2u), subgroupBroadcast(value, 3u),
    );
}
