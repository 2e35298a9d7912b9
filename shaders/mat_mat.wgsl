// y = x · weightᵀ for any number of rows of x. A workgroup computes a tile of TILE_ROWS rows by
// TILE_COLS columns of y: block by block, both operands are brought to workgroup memory once, the weights
// decoded, and each invocation multiplies ROWS rows with COLS columns in registers. With `rounds_to_f16`, the operands
// in workgroup memory are 16-bit floats, which takes half of its room and of its bandwidth.
import package::bias::biased;
import package::generated::{COLS, MatmulParams, QUADS, ROWS, TILE_COLS, TILE_ROWS, WORKGROUP};
import package::half::{WEIGHT_SCALE, saturated_f16};
import package::weight::{weight_quad, weight_scale};

@group(0) @binding(2) var<uniform> params: MatmulParams;
@group(0) @binding(3) var<storage, read> x: array<vec4f>;     // [rows, blocks * QUADS]
@group(0) @binding(4) var<storage, read_write> y: array<f32>; // [rows, y_stride]
@group(0) @binding(5) var<storage, read> counts: array<u32>;  // [slots]: the number of rows is counts[slot]

// Invocations across and down the tile. 64 columns, 4 each, are 16 across; invocation 18 then is (2, 1),
// and computes columns 2, 18, 34, 50 of rows 1, 9, 17, 25 (32 rows, 4 each, are 8 down).
const ACROSS = TILE_COLS / COLS;
const DOWN = TILE_ROWS / ROWS;

@if(rounds_to_f16) alias Quad = vec4<f16>;
@else alias Quad = vec4f;

var<workgroup> x_tile: array<Quad, QUADS * TILE_ROWS>;      // [QUADS, TILE_ROWS]
var<workgroup> weight_tile: array<Quad, QUADS * TILE_COLS>; // [QUADS, TILE_COLS]

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) index: u32) {
    let rows = counts[params.slot];
    let first_col = workgroup.x * TILE_COLS;
    let first_row = workgroup.y * TILE_ROWS;
    let across = index % ACROSS;
    let down = index / ACROSS;

    // Indexed by loop counters alone: drivers unroll such loops and keep the sums in registers.
    var sums: array<array<f32, COLS>, ROWS>;
    for (var block = 0u; block < params.blocks; block++) {
        // Rows and columns past the end repeat the last one; nobody writes their results.
        for (var i = index; i < TILE_ROWS * QUADS; i += WORKGROUP) {
            let row = min(first_row + i / QUADS, rows - 1u);
            x_tile[place(i % QUADS, i / QUADS, TILE_ROWS)] = x_quad((row * params.blocks + block) * QUADS + i % QUADS);
        }
        for (var i = index; i < TILE_COLS * QUADS; i += WORKGROUP) {
            let at = min(first_col + i / QUADS, params.rows - 1u) * params.blocks + block;
            weight_tile[place(i % QUADS, i / QUADS, TILE_COLS)] = scaled_weight_quad(at, i % QUADS);
        }
        workgroupBarrier();
        for (var j = 0u; j < QUADS; j++) {
            var quads: array<vec4f, COLS>;
            for (var col = 0u; col < COLS; col++) {
                quads[col] = vec4f(weight_tile[place(j, across + ACROSS * col, TILE_COLS)]);
            }
            for (var row = 0u; row < ROWS; row++) {
                let v = vec4f(x_tile[place(j, down + DOWN * row, TILE_ROWS)]);
                for (var col = 0u; col < COLS; col++) {
                    let w = quads[col];
                    sums[row][col] = fma(w.w, v.w, fma(w.z, v.z, fma(w.y, v.y, fma(w.x, v.x, sums[row][col]))));
                }
            }
        }
        workgroupBarrier();
    }

    for (var i = 0u; i < ROWS; i++) {
        let row = first_row + down + DOWN * i;
        for (var k = 0u; k < COLS; k++) {
            let col = first_col + across + ACROSS * k;
            if row < rows && col < params.rows {
                let output = params.first_row + params.row_step * col;
                y[row * params.y_stride + output] = biased(unscaled(sums[i][k]), output);
            }
        }
    }
}

// Where quad `j` of a row lies in a tile of `rows` rows. Neighbouring rows change places by the quad's number, so that
// both the quads of a row and a quad of many rows are spread over the memory's banks: of 16 rows, quad 3 of row 6 is
// at 3 · 16 + 5.
fn place(j: u32, row: u32, rows: u32) -> u32 {
    return j * rows + (row ^ j);
}

@if(rounds_to_f16)
fn x_quad(at: u32) -> Quad {
    return saturated_f16(x[at]);
}

@else
fn x_quad(at: u32) -> Quad {
    return x[at];
}

@if(rounds_to_f16)
fn scaled_weight_quad(block: u32, j: u32) -> Quad {
    return saturated_f16(WEIGHT_SCALE * weight_quad(block, j, weight_scale(block)));
}

@else
fn scaled_weight_quad(block: u32, j: u32) -> Quad {
    return weight_quad(block, j, weight_scale(block));
}

@if(rounds_to_f16)
fn unscaled(sum: f32) -> f32 {
    return sum / WEIGHT_SCALE;
}

@else
fn unscaled(sum: f32) -> f32 {
    return sum;
}
