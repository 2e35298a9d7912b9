// The outputs of a product as they are.
//
// This is what the modules of this folder have in common: the kernel that mounts one as `epilogue` calls `finish` with
// UNIT neighbouring outputs of row `col` of its task, before any bias, from row `row` of the weight on. There may be none
// of them, or fewer.
import package::bias::biased;
import package::mat_vec_task::{Task, params};

const UNIT = 1u;

@group(0) @binding(4) var<storage, read_write> y: array<f32>; // [rows of x, y_stride]

fn finish(task: Task, row: u32, col: u32, outputs: ptr<function, array<f32, UNIT>>) {
    if row < params.rows && task.first + col < task.end {
        let output = params.first_row + params.row_step * row;
        y[(task.first + col) * params.y_stride + output] = biased((*outputs)[0], output);
    }
}
