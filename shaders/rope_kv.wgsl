// Rotary position embedding of q and k; k and v go to the KV cache. One invocation per chunk of KV_CHUNK dimensions, one row
// per workgroup.x.
import package::generated::{HEADS, HEAD_DIM, KV_HEADS, RopeKvParams, Row, WORKGROUP};
import package::kv::KV_CHUNK;
import package::kv::page::PAIRS;
import package::kv::store::store;
import package::float_pair::{Pair, floats, pair};
import package::rope::turned;

@group(0) @binding(0) var<uniform> params: RopeKvParams;
@group(0) @binding(1) var<storage, read> qkv: array<Pair>;     // [rows, qkv_stride / 2]: q heads, k heads, v heads
@group(0) @binding(2) var<storage, read_write> q: array<Pair>; // [rows, q_stride / 2]
@group(0) @binding(3) var<storage, read> rows: array<Row>;     // [rows]

// 128 dimensions are 64 chunks of f16, and 2 of q8_0.
const CHUNKS = (HEAD_DIM + KV_CHUNK - 1u) / KV_CHUNK;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) index: u32) {
    let row_index = workgroup.x;
    let head = (workgroup.y * WORKGROUP + index) / CHUNKS;
    let chunk = (workgroup.y * WORKGROUP + index) % CHUNKS;
    if head >= HEADS + 2u * KV_HEADS {
        return;
    }
    let row = rows[row_index];
    let x_start = row_index * (params.qkv_stride / 2u) + head * PAIRS;
    let q_start = row_index * (params.q_stride / 2u) + head * PAIRS;

    var values: array<f32, KV_CHUNK>; // zero beyond the head
    for (var i = 0u; i < KV_CHUNK / 2u; i++) {
        let number = chunk * (KV_CHUNK / 2u) + i;
        if number < PAIRS {
            var x = floats(qkv[x_start + number]);
            if head < HEADS + KV_HEADS {
                x = turned(x, row.position, number);
            }
            if head < HEADS {
                q[q_start + number] = pair(x);
            }
            values[2u * i] = x.x;
            values[2u * i + 1u] = x.y;
        }
    }

    let slot = row.slot - params.first_slot; // wraps around to beyond the end when below the beginning
    if head >= HEADS && slot < params.slots {
        store(slot, head - HEADS, chunk, &values);
    }
}
