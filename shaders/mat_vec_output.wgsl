// Where the matrix-vector kernels leave their results.
import package::bias::biased;
import package::generated::MatmulParams;

@group(0) @binding(2) var<uniform> params: MatmulParams;
@group(0) @binding(4) var<storage, read_write> y: array<f32>; // [COLS, y_stride]

// The product of the weight's row `row` with row `col` of x, before any bias. There are no rows past the end.
fn write(row: u32, col: u32, value: f32) {
    if row < params.rows {
        let output = params.first_row + params.row_step * row;
        y[col * params.y_stride + output] = biased(value, output);
    }
}

// Number of a block in the weight. Rows past the end repeat the last one.
fn block_of(row: u32, block: u32) -> u32 {
    return min(row, params.rows - 1u) * params.blocks + block;
}
