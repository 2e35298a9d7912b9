// The first half of shaders/rms_norm.wgsl: x += outputs, and y = x * weight. What is left, a factor for each row, is up to
// the kernel that reads y (`normed`): after the rows of y lie sums of squares of x, one for every UNIT columns.
import package::bias::biased;
import package::mat_vec_task::{Task, params};

const UNIT = 4u;

@group(0) @binding(4) var<storage, read_write> y: array<f32>;      // [rows, y_stride], then [rows of x, y_stride / UNIT]
@group(0) @binding(8) var<storage, read_write> stream: array<f32>; // x, [rows, y_stride]
@group(0) @binding(9) var<storage, read> norm_weight: array<f32>;  // [outputs]

fn finish(task: Task, row: u32, col: u32, outputs: ptr<function, array<f32, UNIT>>) {
    if row >= params.rows {
        return;
    }
    let first = params.first_row + row;
    var squares = 0.0;
    for (var i = 0u; i < min(UNIT, params.rows - row); i++) {
        let at = col * params.y_stride + first + i;
        let value = stream[at] + biased((*outputs)[i], first + i);
        stream[at] = value;
        y[at] = value * norm_weight[first + i];
        squares = fma(value, value, squares);
    }
    y[params.first_square + (col * params.y_stride + first) / UNIT] = squares;
}
