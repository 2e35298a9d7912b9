// Which products a workgroup of the matrix-vector kernels computes.
import package::generated::{COLS, MatmulParams};

@group(0) @binding(2) var<uniform> params: MatmulParams;
// [experts + 1]: rows offsets[e] to offsets[e + 1] - 1 of x and y are those of expert e.
@if(experts) @group(0) @binding(6) var<storage, read> offsets: array<u32>;

// COLS rows of x from `first` on, as far as they lie before `end`, and the number of the matrix among those of the
// weight.
struct Task {
    first: u32,
    end: u32,
    matrix: u32,
}

// The first task of the expert, `params.slot` being that of the first matrix. Others follow COLS rows later.
@if(experts)
fn first_task(matrix: u32) -> Task {
    let expert = params.slot + matrix;
    return Task(offsets[expert], offsets[expert + 1u], matrix);
}

@else
fn first_task(matrix: u32) -> Task {
    return Task(0u, COLS, 0u);
}

// Row `col` of the task. Rows past the end repeat the last one.
@if(experts)
fn x_row(task: Task, col: u32) -> u32 {
    return min(task.first + col, task.end - 1u);
}

@else
fn x_row(task: Task, col: u32) -> u32 {
    return col;
}

// Number of a block in the weight. Rows past the end repeat the last one.
fn block_of(task: Task, row: u32, block: u32) -> u32 {
    return (task.matrix * params.rows + min(row, params.rows - 1u)) * params.blocks + block;
}

// What normalises a row of x of which the squares add up to `squares`.
fn root_scale(squares: f32) -> f32 {
    return 1.0 / sqrt(squares / f32(params.cols) + params.eps);
}
