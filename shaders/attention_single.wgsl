// One query row against a range of its sequence's keys: one workgroup per work item and KV head computes all query
// heads that share the KV head, WORKGROUP keys at a time with a running softmax (Milakov & Gimelshein 2018,
// arXiv:1805.02867). First each invocation has a key, then an octet of the values.
import package::attention_partial::{MASKED, partial_start, visible_keys};
import package::attention_query::q_octet;
import package::generated::{AttentionParams, GROUP, HEAD_DIM, PAGE, Row, TEAM, WORKGROUP, WorkItem};
import package::kv::cache::{first_octet, k_octet, v_octet};
import package::kv::page::OCTETS;

@group(0) @binding(0) var<uniform> params: AttentionParams;
@group(0) @binding(2) var<storage, read> rows: array<Row>;            // [rows]
@group(0) @binding(3) var<storage, read> items: array<WorkItem>;      // [items]
@group(0) @binding(4) var<storage, read> page_table: array<u32>;      // see WorkItem
@group(0) @binding(7) var<storage, read_write> partials: array<f32>;  // [partials, HEADS, PARTIAL]

// If there are more invocations than octets, the keys are shared out among slices of invocations: with 16 octets,
// invocation 35 is slice 2 of 16 and sums octet 3 over keys 2, 18, 34, …
const SLICES = WORKGROUP / OCTETS;

// Heads whose slices are added up at once: what they take does not grow with smaller workgroups.
const ROUND = min(GROUP, 256u / WORKGROUP);

var<workgroup> weights: array<f32, GROUP * WORKGROUP>;        // [GROUP, WORKGROUP]
var<workgroup> team: array<f32, GROUP * TEAM>;                // [GROUP, TEAM]
var<workgroup> slice_sums: array<vec4f, ROUND * 2u * SLICES * OCTETS>; // [ROUND, SLICES, OCTETS, 2]

// The largest of each head's values over the workgroup, in two steps: TEAM invocations take every TEAM-th value.
fn workgroup_max(values: ptr<function, array<f32, GROUP>>, index: u32) {
    for (var head = 0u; head < GROUP; head++) {
        weights[head * WORKGROUP + index] = (*values)[head];
    }
    workgroupBarrier();
    for (var i = index; i < GROUP * TEAM; i += WORKGROUP) {
        let head = i / TEAM;
        var largest = MASKED;
        for (var other = i % TEAM; other < WORKGROUP; other += TEAM) {
            largest = max(largest, weights[head * WORKGROUP + other]);
        }
        team[i] = largest;
    }
    workgroupBarrier();
    for (var head = 0u; head < GROUP; head++) {
        for (var i = 0u; i < TEAM; i++) {
            (*values)[head] = max((*values)[head], team[head * TEAM + i]);
        }
    }
}

// q · k of one key for each head of the group.
fn dots(q_start: u32, first: u32, place: u32) -> array<f32, GROUP> {
    var sums: array<vec4f, GROUP>;
    for (var octet = 0u; octet < OCTETS; octet++) {
        let k = k_octet(first, place, octet);
        for (var head = 0u; head < GROUP; head++) {
            let x = q_octet(q_start + head * HEAD_DIM, octet);
            sums[head] = fma(x[1], k[1], fma(x[0], k[0], sums[head]));
        }
    }
    var scores: array<f32, GROUP>;
    for (var head = 0u; head < GROUP; head++) {
        scores[head] = (sums[head].x + sums[head].y) + (sums[head].z + sums[head].w);
    }
    return scores;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) index: u32) {
    let item = items[workgroup.x];
    let row = rows[item.first_row];
    let kv_head = workgroup.y;
    let keys = visible_keys(item, row.position, params.window);
    let q_start = item.first_row * params.stride + kv_head * GROUP * HEAD_DIM;
    let octet = index % OCTETS;
    let slice = index / OCTETS;

    var maximum: array<f32, GROUP>;       // so far
    var sum: array<f32, GROUP>;           // of the weights of the invocation's keys
    var values: array<vec4f, 2u * GROUP>; // of the slice: [GROUP, 2]
    for (var head = 0u; head < GROUP; head++) {
        maximum[head] = MASKED;
    }

    for (var begin = keys.x; begin < keys.y; begin += WORKGROUP) {
        let key = min(begin + index, keys.y - 1u); // the last one stands in for what is beyond, and is masked
        var scores = dots(q_start, first_octet(page_table[item.pages + key / PAGE], kv_head), key % PAGE);
        for (var head = 0u; head < GROUP; head++) {
            scores[head] = select(MASKED, scores[head] * params.scale, begin + index < keys.y);
        }
        var largest = scores;
        workgroup_max(&largest, index);
        for (var head = 0u; head < GROUP; head++) {
            largest[head] = max(largest[head], maximum[head]);
            let factor = exp(maximum[head] - largest[head]);
            let weight = exp(scores[head] - largest[head]);
            maximum[head] = largest[head];
            sum[head] = fma(sum[head], factor, weight);
            values[2u * head] *= factor;
            values[2u * head + 1u] *= factor;
            weights[head * WORKGROUP + index] = weight;
        }
        workgroupBarrier();

        if slice < SLICES {
            let count = min(WORKGROUP, keys.y - begin);
            for (var i = slice; i < count; i += SLICES) {
                let place = begin + i;
                let first = first_octet(page_table[item.pages + place / PAGE], kv_head);
                let v = v_octet(first, place % PAGE, octet);
                for (var head = 0u; head < GROUP; head++) {
                    let weight = vec4f(weights[head * WORKGROUP + i]);
                    values[2u * head] = fma(weight, v[0], values[2u * head]);
                    values[2u * head + 1u] = fma(weight, v[1], values[2u * head + 1u]);
                }
            }
        }
        workgroupBarrier();
    }

    for (var head = 0u; head < GROUP; head++) {
        weights[head * WORKGROUP + index] = sum[head];
    }
    workgroupBarrier();
    for (var i = index; i < GROUP * TEAM; i += WORKGROUP) {
        var total = 0.0;
        for (var other = i % TEAM; other < WORKGROUP; other += TEAM) {
            total += weights[i / TEAM * WORKGROUP + other];
        }
        team[i] = total;
    }
    let partial = row.partial + item.split;
    for (var base = 0u; base < GROUP; base += ROUND) {
        for (var i = 0u; i < ROUND && base + i < GROUP && slice < SLICES; i++) {
            let at = 2u * (i * SLICES * OCTETS + index);
            slice_sums[at] = values[2u * (base + i)];
            slice_sums[at + 1u] = values[2u * (base + i) + 1u];
        }
        workgroupBarrier();
        for (var i = index; i < 2u * OCTETS * min(ROUND, GROUP - base); i += WORKGROUP) {
            let head = i / (2u * OCTETS);
            let quad = i % (2u * OCTETS);
            var total = vec4f(0.0);
            for (var other = 0u; other < SLICES; other++) {
                total += slice_sums[(head * SLICES + other) * 2u * OCTETS + quad];
            }
            let start = partial_start(partial, kv_head * GROUP + base + head) + 2u + 4u * quad;
            for (var dim = 0u; dim < 4u && 4u * quad + dim < HEAD_DIM; dim++) {
                partials[start + dim] = total[dim];
            }
        }
        workgroupBarrier();
    }
    for (var head = 0u; head < GROUP; head++) {
        if index == head {
            let start = partial_start(partial, kv_head * GROUP + head);
            partials[start] = maximum[head];
            var total = 0.0;
            for (var i = 0u; i < TEAM; i++) {
                total += team[head * TEAM + i];
            }
            partials[start + 1u] = total;
        }
    }
}
