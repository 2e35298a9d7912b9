// As shaders/rope_kv.wgsl: outputs are the heads of q, of k and of v. q and k are turned, k and v go to the KV cache.
import package::generated::{HEADS, HEAD_DIM, KV_HEADS, Row};
import package::kv::store::store;
import package::mat_vec_task::{Task, params};
import package::rope::turned;

const UNIT = 2u;

@group(0) @binding(4) var<storage, read_write> q: array<f32>; // [rows of x, y_stride]
@group(0) @binding(8) var<storage, read> rows: array<Row>;    // [rows of x]

// With 32 heads of 128 dimensions, output 4230 is dimension 6 of head 33: pair 3 of the second head of keys.
fn finish(task: Task, row: u32, col: u32, outputs: ptr<function, array<f32, UNIT>>) {
    if row >= params.rows {
        return;
    }
    let output = params.first_row + row;
    let head = output / HEAD_DIM;
    let pair = output % HEAD_DIM / 2u;
    if head < HEADS + KV_HEADS {
        let x = turned(vec2f((*outputs)[0], (*outputs)[1]), rows[col].position, pair);
        *outputs = array<f32, UNIT>(x.x, x.y);
    }
    if head < HEADS {
        q[col * params.y_stride + output] = (*outputs)[0];
        q[col * params.y_stride + output + 1u] = (*outputs)[1];
    } else if rows[col].slot < params.slots {
        store(rows[col].slot, head - HEADS, pair, outputs);
    }
}
