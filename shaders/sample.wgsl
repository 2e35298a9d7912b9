// The token that a row's draw chooses among its candidates, or BEYOND if it may not be one of them, written
// to the row's slot of `sampled`. One workgroup of 256 per row: an invocation for each candidate.
import package::generated::{BEYOND, MAX_K, SampleParams, SampleRow, TopKHeader, WORKGROUP};

struct Record { header: TopKHeader, ids: array<u32, MAX_K>, logits: array<f32, MAX_K> }

@group(0) @binding(0) var<uniform> params: SampleParams;
@group(0) @binding(1) var<storage, read> rows: array<SampleRow>;       // [logit_rows]
@group(0) @binding(2) var<storage, read> records: array<Record>;       // [logit_rows]
@group(0) @binding(3) var<storage, read_write> sampled: array<u32>;    // [slots]

var<workgroup> masses: array<f32, WORKGROUP>; // probabilities, summed from the likeliest candidate to each
var<workgroup> counts: array<atomic<u32>, 3>; // candidates counted so far, by question

// How many invocations say `holds`; each question has its own number.
fn count(question: u32, holds: bool) -> u32 {
    if holds {
        atomicAdd(&counts[question], 1u);
    }
    workgroupBarrier();
    return atomicLoad(&counts[question]);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) index: u32) {
    let row = rows[workgroup.x];
    let header = records[workgroup.x].header;
    let k = clamp(row.k, 1u, min(params.vocab, MAX_K));
    let known = index < k;

    // Masses 5 3 1 1 become 5 8 4 2 at distance 1, 5 8 9 10 at distance 2. The largest two logits may lie
    // further apart than f32 reaches, hence the halves.
    var mass = 0.0;
    var half_difference = 0.0;
    if known {
        half_difference = 0.5 * records[workgroup.x].logits[index] - 0.5 * header.max;
        mass = exp(max(half_difference, -44.0 * row.temperature) * (2.0 / row.temperature)) / header.sum_t;
    }
    for (var distance = 1u; distance < WORKGROUP; distance *= 2u) {
        masses[index] = mass;
        workgroupBarrier();
        if index >= distance {
            mass += masses[index - distance];
        }
        workgroupBarrier();
    }
    masses[index] = mass;
    if index < 3u {
        atomicStore(&counts[index], 0u);
    }
    workgroupBarrier();

    // As many of the likeliest as pass every filter; `beyond` when that depends on tokens not known.
    let top_k = select(min(row.top_k, params.vocab), params.vocab, row.top_k == 0u);
    var kept = top_k;
    var beyond = false;
    let of_top_k = select(masses[min(top_k, k) - 1u], 1.0, top_k == params.vocab);
    let reached = 1u + count(0u, known && mass < row.top_p * of_top_k);
    if row.top_p < 1.0 {
        beyond = top_k > k && top_k < params.vocab;
        kept = min(kept, reached);
    }
    let likely = count(1u, known && half_difference >= row.half_floor);
    beyond = beyond || (row.half_floor > -1e38 && likely == k && kept > likely);
    kept = min(kept, select(params.vocab, likely, row.half_floor > -1e38));

    beyond = beyond || (kept > k && kept < params.vocab);
    let total = select(masses[min(kept, k) - 1u], 1.0, kept == params.vocab);
    let rank = count(2u, index < min(kept, k) && mass <= row.draw * total);
    beyond = beyond || (rank >= k && k < params.vocab && kept > k);
    if index == 0u {
        let id = records[workgroup.x].ids[min(rank, min(kept, k) - 1u)];
        sampled[row.slot] = select(id, BEYOND, beyond);
    }
}
