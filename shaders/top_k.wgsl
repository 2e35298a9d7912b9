// Per row: the k largest logits in descending order (of equal ones the lowest id first), the maximum,
// the sums of exp(logit - maximum) at temperature 1 and at the row's own, and how many logits are NaN
// or infinite. One workgroup of 256 per row: an invocation for each bin of an 8-bit digit.
import package::generated::{MAX_K, TopKHeader, TopKParams, TopKRow, WORKGROUP};
import package::reduce::{Invocation, workgroup_sum};

struct Record { header: TopKHeader, ids: array<u32, MAX_K>, logits: array<f32, MAX_K> }

@group(0) @binding(0) var<uniform> params: TopKParams;
@group(0) @binding(1) var<storage, read> logits: array<u32>;           // [logit_rows, stride], the bits of f32
@group(0) @binding(2) var<storage, read> rows: array<TopKRow>;         // [logit_rows]
@group(0) @binding(3) var<storage, read_write> records: array<Record>; // [logit_rows]

const SIGN = 0x80000000u;
const EXPONENT = 0x7f800000u;

var<workgroup> maxima: array<u32, WORKGROUP>;            // largest key of each invocation's share
var<workgroup> largest: u32;                             // largest of all
var<workgroup> bound: u32;                               // k-th largest of the maxima: at least k keys reach it
var<workgroup> histogram: array<atomic<u32>, WORKGROUP>; // keys by digit
var<workgroup> digit: u32;                               // that of the k-th largest key
var<workgroup> rank_in_bin: u32;                         // its rank among the keys with that digit
var<workgroup> sums: array<u32, WORKGROUP>;              // running sums of sum_before
var<workgroup> chosen_ids: array<u32, MAX_K>;            // the k largest: those above the k-th by id, then those equal
var<workgroup> chosen_keys: array<u32, MAX_K>;           // and their keys

// An integer that orders like the float: -2.0 (0xc0000000) → 0x3fffffff, both zeros → 0x80000000,
// 1.0 (0x3f800000) → 0xbf800000.
fn key_of(bits: u32) -> u32 {
    return select(bits | SIGN, ~bits, bits > SIGN);
}

fn logit_of(key: u32) -> f32 {
    return bitcast<f32>(select(~key, key ^ SIGN, key >= SIGN));
}

// Sum over the invocations before this one. 3 1 4 1 becomes 3 4 5 5 at distance 1, 3 4 8 9 at
// distance 2; less its own value, each has 0 3 4 8.
fn sum_before(value: u32, index: u32) -> u32 {
    var total = value;
    for (var distance = 1u; distance < WORKGROUP; distance *= 2u) {
        sums[index] = total;
        workgroupBarrier();
        if index >= distance {
            total += sums[index - distance];
        }
        workgroupBarrier();
    }
    return total - value;
}

// exp(difference / temperature), where `difference` is half that of a logit to the maximum, so that it
// is finite for any two finite logits; clamped where the result no longer counts.
fn weight(half_difference: f32, temperature: f32) -> f32 {
    return exp(max(half_difference, -44.0 * temperature) * (2.0 / temperature));
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3u,
    invocation: Invocation,
    @if(subgroup) @builtin(subgroup_size) _size: u32, // see Invocation
) {
    let index = invocation.index;
    let begin = workgroup.x * params.stride;
    let row = rows[workgroup.x];
    let k = clamp(row.k, 1u, min(params.cols, MAX_K));

    var non_finite = 0.0;
    var maximum = 0u; // below every finite logit's key
    for (var id = index; id < params.cols; id += WORKGROUP) {
        let bits = logits[begin + id];
        non_finite += select(0.0, 1.0, (bits & EXPONENT) == EXPONENT);
        maximum = max(maximum, key_of(bits));
    }
    maxima[index] = maximum;
    let non_finites = workgroup_sum(non_finite, invocation);
    var rank = 0u;
    for (var i = 0u; i < WORKGROUP; i++) {
        rank += u32(maxima[i] > maximum || (maxima[i] == maximum && i < index));
    }
    if rank == 0u {
        largest = maximum;
    }
    if rank == k - 1u {
        bound = maximum;
    }
    workgroupBarrier();

    let half_maximum = 0.5 * logit_of(largest);
    var share = 0.0;
    var share_t = 0.0;
    for (var id = index; id < params.cols; id += WORKGROUP) {
        let half_difference = 0.5 * bitcast<f32>(logits[begin + id]) - half_maximum;
        share += weight(half_difference, 1.0);
        share_t += weight(half_difference, row.temperature);
    }
    let sum = workgroup_sum(share, invocation);
    let sum_t = workgroup_sum(share_t, invocation);
    if index == 0u {
        records[workgroup.x].header = TopKHeader(2.0 * half_maximum, sum, sum_t, u32(non_finites));
    }

    // The k-th largest key, one digit after the other from the top: `wanted` is its rank among the
    // keys that agree with `threshold` in the bits `known`. With k = 1 nothing is left to find.
    var known = select(0u, ~0u, k == 1u);
    var threshold = largest & known;
    var wanted = k;
    for (var shift = 24u; known != ~0u; shift -= 8u) {
        atomicStore(&histogram[index], 0u);
        workgroupBarrier();
        for (var id = index; id < params.cols; id += WORKGROUP) {
            let key = key_of(logits[begin + id]);
            if key >= bound && (key & known) == threshold {
                atomicAdd(&histogram[(key >> shift) & 255u], 1u);
            }
        }
        workgroupBarrier();
        let bin = 255u - index;
        let count = atomicLoad(&histogram[bin]);
        let above = sum_before(count, index);
        if above < wanted && wanted <= above + count {
            digit = bin;
            rank_in_bin = wanted - above;
        }
        workgroupBarrier();
        threshold |= digit << shift;
        known |= 255u << shift;
        wanted = rank_in_bin;
    }

    // Each invocation looks through neighbouring ids, so that results come out in the order of ids.
    // 1000 ids: 4 for each of 250 invocations, none for the last six.
    let share_of_ids = (params.cols + WORKGROUP - 1u) / WORKGROUP;
    let first = index * share_of_ids;
    let end = min(first + share_of_ids, params.cols);
    var above = 0u;
    var equal = 0u;
    for (var id = first; id < end; id++) {
        let key = key_of(logits[begin + id]);
        above += u32(key > threshold);
        equal += u32(key == threshold);
    }
    var next_above = sum_before(above, index);
    var next_equal = k - wanted + sum_before(equal, index);
    for (var id = first; id < end; id++) {
        let key = key_of(logits[begin + id]);
        if key > threshold {
            chosen_ids[next_above] = id;
            chosen_keys[next_above] = key;
            next_above++;
        } else if key == threshold && next_equal < k {
            chosen_ids[next_equal] = id;
            chosen_keys[next_equal] = key;
            next_equal++;
        }
    }
    workgroupBarrier();
    if index < k {
        let key = chosen_keys[index];
        var place = 0u;
        for (var i = 0u; i < k; i++) {
            place += u32(chosen_keys[i] > key || (chosen_keys[i] == key && i < index));
        }
        records[workgroup.x].ids[place] = chosen_ids[index];
        records[workgroup.x].logits[place] = logit_of(key);
    }
}
