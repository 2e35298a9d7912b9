// Random weights: every block is a copy of one that a hash of its number picks from a pool.
import package::generated::{CODE_WORDS, FillParams, POOL, WORKGROUP};
import package::quant::layout::code_index;

@group(0) @binding(0) var<storage, read_write> codes: array<u32>;                // [blocks, CODE_WORDS]
@if(scales) @group(0) @binding(1) var<storage, read_write> scales: array<u32>;   // [blocks] halves, two a word
@group(0) @binding(2) var<uniform> params: FillParams;
@group(0) @binding(3) var<storage, read> pool_codes: array<u32>;                 // [POOL, CODE_WORDS]
@if(scales) @group(0) @binding(4) var<storage, read> pool_scales: array<u32>;    // [POOL], a half each

// Two blocks for each invocation, which share a word of scales.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) workgroups: vec3u) {
    for (var pair = id.x; pair < (params.blocks + 1u) / 2u; pair += workgroups.x * WORKGROUP) {
        var word = 0u;
        for (var i = 0u; i < 2u; i++) {
            let block = 2u * pair + i;
            if block < params.blocks {
                let source = hash(params.first_block + block) % POOL;
                for (var j = 0u; j < CODE_WORDS; j++) {
                    codes[code_index(block, j)] = pool_codes[code_index(source, j)];
                }
                @if(scales) { word |= pool_scales[source] << (16u * i); }
            }
        }
        @if(scales) { scales[pair] = word; }
    }
}

// Mixes every bit of the counter and the seed into every bit of the result, by odd multipliers and shifts.
fn hash(counter: u32) -> u32 {
    var bits = counter * 0x9e3779b9u + params.seed;
    bits = (bits ^ (bits >> 16u)) * 0x21f0aaadu;
    bits = (bits ^ (bits >> 15u)) * 0x735a2d97u;
    return bits ^ (bits >> 15u);
}
