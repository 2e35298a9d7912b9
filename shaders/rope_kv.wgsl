// Rotary position embedding (Su et al. 2021, arXiv:2104.09864) of q and k, neighbouring dimensions paired as in the
// paper; k and v go to the KV cache. One invocation per pair, one row per workgroup.x.
import package::generated::{HEADS, HEAD_DIM, KV_HEADS, PAGE, RopeKvParams, Row, WORKGROUP};
import package::kv::{KvPair, kv_encode};
import package::kv::page::{PAIRS, first_pair};

@group(0) @binding(0) var<uniform> params: RopeKvParams;
@group(0) @binding(1) var<storage, read> qkv: array<f32>;              // [rows, qkv_stride]: q heads, k heads, v heads
@group(0) @binding(2) var<storage, read_write> q: array<vec2f>;        // [rows, q_stride / 2]
@group(0) @binding(3) var<storage, read> rows: array<Row>;             // [rows]
@group(0) @binding(4) var<storage, read> rope: array<vec2f>;           // [positions, HEAD_DIM / 2]: cos, sin
@group(0) @binding(5) var<storage, read_write> k_cache: array<KvPair>; // [pages, KV_HEADS, PAGE, HEAD_DIM / 2]
@group(0) @binding(6) var<storage, read_write> v_cache: array<KvPair>; // as k_cache

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) index: u32) {
    let row_index = workgroup.x;
    let head = (workgroup.y * WORKGROUP + index) / PAIRS;
    let pair = (workgroup.y * WORKGROUP + index) % PAIRS;
    if head >= HEADS + 2u * KV_HEADS {
        return;
    }
    let row = rows[row_index];
    let head_start = row_index * params.qkv_stride + head * HEAD_DIM;
    let slot = row.slot - params.first_slot; // wraps around to beyond the end when below the beginning
    let page = slot / PAGE;
    let place = slot % PAGE;

    let x = vec2f(qkv[head_start + 2u * pair], qkv[head_start + 2u * pair + 1u]);
    if head >= HEADS + KV_HEADS {
        if slot < params.slots {
            v_cache[first_pair(page, head - HEADS - KV_HEADS, place) + pair] = kv_encode(x);
        }
        return;
    }
    let turn = rope[row.position * PAIRS + pair];
    let turned = vec2f(x.x * turn.x - x.y * turn.y, x.y * turn.x + x.x * turn.y);
    if head < HEADS {
        q[row_index * (params.q_stride / 2u) + head * PAIRS + pair] = turned;
    } else if slot < params.slots {
        k_cache[first_pair(page, head - HEADS, place) + pair] = kv_encode(turned);
    }
}
