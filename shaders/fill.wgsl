// Random weights: every two neighbouring blocks are a copy of two that a hash of their number picks from a pool.
import package::generated::{CODE_WORDS, FillParams, POOL, SCALE_HALVES, WORKGROUP};

@group(0) @binding(0) var<storage, read_write> codes: array<u32>;              // [blocks, CODE_WORDS]
@if(scales) @group(0) @binding(1) var<storage, read_write> scales: array<u32>; // [blocks, SCALE_HALVES], two a word
@group(0) @binding(2) var<uniform> params: FillParams;
@group(0) @binding(3) var<storage, read> pool_codes: array<u32>;               // [POOL, 2, CODE_WORDS]
@if(scales) @group(0) @binding(4) var<storage, read> pool_scales: array<u32>;  // [POOL, SCALE_HALVES]

// Two blocks are whole words of either plane. Of a last block that is alone, the words are counted.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) workgroups: vec3u) {
    for (var pair = id.x; pair < (params.blocks + 1u) / 2u; pair += workgroups.x * WORKGROUP) {
        let source = hash(params.first_pair + pair) % POOL;
        for (var i = 0u; i < 2u * CODE_WORDS; i++) {
            let at = pair * 2u * CODE_WORDS + i;
            if at < params.blocks * CODE_WORDS {
                codes[at] = pool_codes[source * 2u * CODE_WORDS + i];
            }
        }
        @if(scales) {
            for (var i = 0u; i < SCALE_HALVES; i++) {
                let at = pair * SCALE_HALVES + i;
                if 2u * at < params.blocks * SCALE_HALVES {
                    scales[at] = pool_scales[source * SCALE_HALVES + i];
                }
            }
        }
    }
}

// Mixes every bit of the counter and the seed into every bit of the result, by odd multipliers and shifts.
fn hash(counter: u32) -> u32 {
    var bits = counter * 0x9e3779b9u + params.seed;
    bits = (bits ^ (bits >> 16u)) * 0x21f0aaadu;
    bits = (bits ^ (bits >> 15u)) * 0x735a2d97u;
    return bits ^ (bits >> 15u);
}
