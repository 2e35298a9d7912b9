// Penalties, bias and a mask of allowed tokens, one workgroup per row. No two invocations write the
// same logit: the first loop skips forbidden tokens, the second writes those alone.
import package::generated::{AdjustLogitsParams, AdjustedRow, AdjustedToken, FORBIDDEN, NO_MASK, WORKGROUP};

@group(0) @binding(0) var<uniform> params: AdjustLogitsParams;
@group(0) @binding(1) var<storage, read_write> logits: array<f32>;        // [logit_rows, stride]
@group(0) @binding(2) var<storage, read> rows: array<AdjustedRow>;        // [logit_rows]
@group(0) @binding(3) var<storage, read> tokens: array<AdjustedToken>;    // [any]: the rows' lists, each id once a row
@group(0) @binding(4) var<storage, read> masks: array<u32>;               // [any]: the rows' masks, ceil(cols / 32) words each

// Token 70 of a row whose mask begins at word 1000: bit 6 of word 1002.
fn allowed(mask: u32, id: u32) -> bool {
    return mask == NO_MASK || ((masks[mask + id / 32u] >> (id % 32u)) & 1u) == 1u;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) index: u32) {
    let row = rows[workgroup.x];
    let begin = workgroup.x * params.stride;
    for (var i = index; i < row.count; i += WORKGROUP) {
        let token = tokens[row.first + i];
        if allowed(row.mask, token.id) {
            var logit = logits[begin + token.id];
            if token.seen != 0u {
                logit = select(logit * row.repetition, logit / row.repetition, logit > 0.0);
            }
            logit -= row.frequency * f32(token.count) + row.presence * f32(min(token.count, 1u));
            logits[begin + token.id] = logit + token.bias;
        }
    }
    if row.mask != NO_MASK {
        for (var id = index; id < params.cols; id += WORKGROUP) {
            if !allowed(row.mask, id) {
                logits[begin + id] = bitcast<f32>(FORBIDDEN);
            }
        }
    }
}
