// Rotary position embedding (Su et al. 2021, arXiv:2104.09864) of q and k, neighbouring dimensions paired as in the
// paper; k and v go to the KV cache. One invocation per chunk of KV_CHUNK dimensions, one row per workgroup.x.
import package::generated::{HEADS, HEAD_DIM, KV_HEADS, KV_OCTET_WORDS, PAGE, RopeKvParams, Row, WORKGROUP};
import package::kv::{KV_CHUNK, KV_CODES, kv_encode};
import package::kv::page::{OCTETS, PAIRS, head_start, key_word, scale_word, value_word};

@group(0) @binding(0) var<uniform> params: RopeKvParams;
@group(0) @binding(1) var<storage, read> qkv: array<f32>;           // [rows, qkv_stride]: q heads, k heads, v heads
@group(0) @binding(2) var<storage, read_write> q: array<vec2f>;     // [rows, q_stride / 2]
@group(0) @binding(3) var<storage, read> rows: array<Row>;          // [rows]
@group(0) @binding(4) var<storage, read> rope: array<vec2f>;        // [positions, HEAD_DIM / 2]: cos, sin
@group(0) @binding(5) var<storage, read_write> k_cache: array<u32>; // [pages, KV_HEADS, HEAD_WORDS]
@group(0) @binding(6) var<storage, read_write> v_cache: array<u32>; // as k_cache

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
    let x_start = row_index * params.qkv_stride + head * HEAD_DIM;
    let q_start = row_index * (params.q_stride / 2u) + head * PAIRS;

    var values: array<f32, KV_CHUNK>; // zero beyond the head
    for (var i = 0u; i < KV_CHUNK / 2u; i++) {
        let pair = chunk * (KV_CHUNK / 2u) + i;
        if pair < PAIRS {
            var x = vec2f(qkv[x_start + 2u * pair], qkv[x_start + 2u * pair + 1u]);
            if head < HEADS + KV_HEADS {
                let turn = rope[row.position * PAIRS + pair];
                x = vec2f(x.x * turn.x - x.y * turn.y, x.y * turn.x + x.x * turn.y);
            }
            if head < HEADS {
                q[q_start + pair] = x;
            }
            values[2u * i] = x.x;
            values[2u * i + 1u] = x.y;
        }
    }

    let slot = row.slot - params.first_slot; // wraps around to beyond the end when below the beginning
    if head < HEADS || slot >= params.slots {
        return;
    }
    let place = slot % PAGE;
    let start = head_start(slot / PAGE, (head - HEADS) % KV_HEADS);
    var encoded = kv_encode(&values);
    for (var i = 0u; i < KV_CODES; i++) {
        let word = chunk * KV_CODES + i;
        if word < OCTETS * KV_OCTET_WORDS {
            if head < HEADS + KV_HEADS {
                k_cache[start + key_word(place, word)] = encoded.codes[i];
            } else {
                v_cache[start + value_word(place, word)] = encoded.codes[i];
            }
        }
    }
    @if(kv_scales)
    if head < HEADS + KV_HEADS {
        k_cache[start + scale_word(place, chunk)] = encoded.scales;
    } else {
        v_cache[start + scale_word(place, chunk)] = encoded.scales;
    }
}
