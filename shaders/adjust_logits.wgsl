// Penalties, bias and a mask of allowed tokens, one workgroup per row. No two invocations write the
// same logit: the loop that adjusts skips forbidden tokens, the last one writes those alone.
import package::generated::{AdjustLogitsParams, AdjustedRow, AdjustedToken, FORBIDDEN, NONE, WORKGROUP};

@group(0) @binding(0) var<uniform> params: AdjustLogitsParams;
@group(0) @binding(1) var<storage, read_write> logits: array<f32>;        // [logit_rows, stride]
@group(0) @binding(2) var<storage, read> rows: array<AdjustedRow>;        // [logit_rows]
@group(0) @binding(3) var<storage, read> tokens: array<AdjustedToken>;    // [any]: the rows' lists, each id once a row
@group(0) @binding(4) var<storage, read> masks: array<u32>;               // [any]: the rows' masks, ceil(cols / 32) words each
@group(0) @binding(5) var<storage, read> sampled: array<u32>;             // [slots]: tokens that the lists may not hold yet

var<workgroup> listed: u32; // whether the row's list holds the token of its slot

// Token 70 of a row whose mask begins at word 1000: bit 6 of word 1002.
fn allowed(mask: u32, id: u32) -> bool {
    return mask == NONE || ((masks[mask + id / 32u] >> (id % 32u)) & 1u) == 1u;
}

fn adjust(at: u32, row: AdjustedRow, token: AdjustedToken) {
    var logit = logits[at];
    if token.seen != 0u {
        logit = select(logit * row.repetition, logit / row.repetition, logit > 0.0);
    }
    logit -= row.frequency * f32(token.count) + row.presence * f32(min(token.count, 1u));
    logits[at] = logit + token.bias;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) index: u32) {
    let row = rows[workgroup.x];
    let begin = workgroup.x * params.stride;
    var newest = NONE;
    if row.slot != NONE {
        newest = sampled[row.slot];
    }
    if index == 0u {
        listed = 0u;
    }
    workgroupBarrier();
    for (var i = index; i < row.count; i += WORKGROUP) {
        if tokens[row.first + i].id == newest {
            listed = 1u;
        }
    }
    workgroupBarrier();
    // A newest token that the list lacks goes the way of the others: elsewhere a compiler might order its sums otherwise.
    let count = row.count + u32(listed == 0u && newest < params.cols);
    for (var i = index; i < count; i += WORKGROUP) {
        var token = AdjustedToken(newest, 0u, 0u, 0.0);
        if i < row.count {
            token = tokens[row.first + i];
        }
        if token.id == newest {
            token.seen = 1u;
            token.count += 1u;
        }
        if allowed(row.mask, token.id) {
            adjust(begin + token.id, row, token);
        }
    }
    if row.mask != NONE {
        for (var id = index; id < params.cols; id += WORKGROUP) {
            if !allowed(row.mask, id) {
                logits[begin + id] = bitcast<f32>(FORBIDDEN);
            }
        }
    }
}
