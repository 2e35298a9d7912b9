// y = silu(gate) * up, as shaders/swiglu.wgsl: outputs 2i and 2i + 1 are gate and up of column i.
import package::bias::biased;
import package::mat_vec_task::{Task, params};
import package::silu::silu;

const UNIT = 2u;

@group(0) @binding(4) var<storage, read_write> y: array<f32>; // [rows of x, y_stride]

fn finish(task: Task, row: u32, col: u32, outputs: ptr<function, array<f32, UNIT>>) {
    if row < params.rows {
        let output = params.first_row + row;
        let gate = biased((*outputs)[0], output);
        let up = biased((*outputs)[1], output + 1u);
        y[col * params.y_stride + output / 2u] = silu(gate) * up;
    }
}
