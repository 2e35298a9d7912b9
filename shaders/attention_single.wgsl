// One query row against a range of its sequence's keys: one workgroup per work item and KV head computes all query
// heads that share the KV head, page by page with a running softmax (Milakov & Gimelshein 2018, arXiv:1805.02867).
import package::attention_partial::{MASKED, partial_start, visible_keys};
import package::generated::{AttentionParams, GROUP, HEAD_DIM, LANES, PAGE, Row, WORKGROUP, WorkItem};
import package::kv::{KvPair, kv_decode};
import package::kv::page::{PAIRS, first_pair};
import package::reduce::Invocation;

@group(0) @binding(0) var<uniform> params: AttentionParams;
@group(0) @binding(1) var<storage, read> q: array<vec2f>;             // [rows, stride / 2]
@group(0) @binding(2) var<storage, read> rows: array<Row>;            // [rows]
@group(0) @binding(3) var<storage, read> items: array<WorkItem>;      // [items]
@group(0) @binding(4) var<storage, read> page_table: array<u32>;      // see WorkItem
@group(0) @binding(5) var<storage, read> k_cache: array<KvPair>;      // [pages, KV_HEADS, PAGE, PAIRS]
@group(0) @binding(6) var<storage, read> v_cache: array<KvPair>;      // as k_cache
@group(0) @binding(7) var<storage, read_write> partials: array<f32>;  // [partials, HEADS, PARTIAL]

// Scores of one page, shared out over the workgroup: 4 heads of 32 keys leave half of 256 invocations idle,
// 16 heads give each two, number i and i + 256.
const SCORES = GROUP * PAGE;
const SCORES_EACH = (SCORES + WORKGROUP - 1u) / WORKGROUP;

// The values' pairs are shared out too, and if there are more invocations than pairs, the keys of a page as well:
// with 64 pairs, invocation 130 is slice 2 of 4 and sums pair 2 over keys 2, 6, 10, …
const SLICES = min(WORKGROUP / PAIRS, PAGE);

var<workgroup> dots: array<f32, SCORES * LANES>;         // [GROUP, PAGE, LANES]
var<workgroup> scores: array<f32, SCORES>;               // [GROUP, PAGE]
var<workgroup> weights: array<f32, SCORES>;              // [GROUP, PAGE]
var<workgroup> factors: array<f32, GROUP>;               // [GROUP]
var<workgroup> slice_sums: array<vec2f, SLICES * PAIRS>; // [SLICES, PAIRS]

// Every `step`-th term of q · k from the pair `first` on, for each head of the group.
fn partial_dots(q_start: u32, k_start: u32, first: u32, step: u32) -> array<f32, GROUP> {
    var sums = array<f32, GROUP>();
    for (var pair = first; pair < PAIRS; pair += step) {
        let k = kv_decode(k_cache[k_start + pair]);
        for (var head = 0u; head < GROUP; head++) {
            let q_pair = q[q_start + head * PAIRS + pair];
            sums[head] = fma(q_pair.x, k.x, fma(q_pair.y, k.y, sums[head]));
        }
    }
    return sums;
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3u,
    invocation: Invocation,
    @if(subgroup) @builtin(subgroup_size) subgroup_size: u32,
) {
    let item = items[workgroup.x];
    let row = rows[item.first_row];
    let kv_head = workgroup.y;
    let keys = visible_keys(item, row.position, params.window);
    let q_start = item.first_row * (params.stride / 2u) + kv_head * GROUP * PAIRS;
    let pair = invocation.index % PAIRS;
    let slice = invocation.index / PAIRS;

    var maximum: array<f32, SCORES_EACH>; // of the score's head so far
    var sum: array<f32, SCORES_EACH>;     // of the weights at the score's place in the page
    var values: array<vec2f, GROUP>;      // of the slice
    for (var i = 0u; i < SCORES_EACH; i++) {
        maximum[i] = MASKED;
    }

    // Pages lie at fixed positions, so a row's sums are ordered the same in every batch. Invisible keys in the first
    // and last page stand in for the nearest visible one and are masked.
    for (var block = keys.x / PAGE; block * PAGE < keys.y; block++) {
        let page = page_table[item.pages + block];
        let first_place = max(keys.x, block * PAGE) % PAGE;
        let last_place = (min(keys.y, (block + 1u) * PAGE) - 1u) % PAGE;

        @if(subgroup)
        for (var first = 0u; first < PAGE; first += invocation.subgroups) {
            let key = first + invocation.subgroup;
            let k_start = first_pair(page, kv_head, clamp(key, first_place, last_place));
            let sums = partial_dots(q_start, k_start, invocation.lane, subgroup_size);
            for (var head = 0u; head < GROUP; head++) {
                let dot = subgroupAdd(sums[head]);
                if invocation.lane == 0u && key < PAGE {
                    dots[head * PAGE + key] = dot;
                }
            }
        }
        @if(!subgroup)
        if invocation.index < PAGE * LANES {
            let key = invocation.index / LANES;
            let lane = invocation.index % LANES;
            let k_start = first_pair(page, kv_head, clamp(key, first_place, last_place));
            let sums = partial_dots(q_start, k_start, lane, LANES);
            for (var head = 0u; head < GROUP; head++) {
                dots[(head * PAGE + key) * LANES + lane] = sums[head];
            }
        }
        workgroupBarrier();

        for (var i = invocation.index; i < SCORES; i += WORKGROUP) {
            var score = 0.0;
            for (var lane = 0u; lane < LANES; lane++) {
                score += dots[i * LANES + lane];
            }
            let visible = i % PAGE >= first_place && i % PAGE <= last_place;
            scores[i] = select(MASKED, score * params.scale, visible);
        }
        workgroupBarrier();

        for (var i = 0u; i < SCORES_EACH; i++) {
            let place = i * WORKGROUP + invocation.index;
            if place < SCORES {
                let head = place / PAGE;
                var largest = maximum[i];
                for (var key = 0u; key < PAGE; key++) {
                    largest = max(largest, scores[head * PAGE + key]);
                }
                let factor = exp(maximum[i] - largest);
                let weight = exp(scores[place] - largest);
                maximum[i] = largest;
                sum[i] = fma(sum[i], factor, weight);
                weights[place] = weight;
                if place % PAGE == 0u {
                    factors[head] = factor;
                }
            }
        }
        workgroupBarrier();

        if slice < SLICES {
            for (var head = 0u; head < GROUP; head++) {
                values[head] *= factors[head];
            }
            for (var key = slice; key <= last_place; key += SLICES) {
                if key >= first_place {
                    let v = kv_decode(v_cache[first_pair(page, kv_head, key) + pair]);
                    for (var head = 0u; head < GROUP; head++) {
                        values[head] = fma(vec2f(weights[head * PAGE + key]), v, values[head]);
                    }
                }
            }
        }
    }

    for (var i = 0u; i < SCORES_EACH; i++) {
        let place = i * WORKGROUP + invocation.index;
        if place < SCORES {
            scores[place] = sum[i];
        }
    }
    workgroupBarrier();
    for (var i = 0u; i < SCORES_EACH; i++) {
        let place = i * WORKGROUP + invocation.index;
        if place < SCORES && place % PAGE == 0u {
            let start = partial_start(row.partial + item.split, kv_head * GROUP + place / PAGE);
            var total = 0.0;
            for (var key = 0u; key < PAGE; key++) {
                total += scores[place + key];
            }
            partials[start] = maximum[i];
            partials[start + 1u] = total;
        }
    }
    for (var head = 0u; head < GROUP; head++) {
        if slice < SLICES {
            slice_sums[invocation.index] = values[head];
        }
        workgroupBarrier();
        if invocation.index < PAIRS {
            var total = vec2f(0.0);
            for (var i = pair; i < SLICES * PAIRS; i += PAIRS) {
                total += slice_sums[i];
            }
            let start = partial_start(row.partial + item.split, kv_head * GROUP + head) + 2u + 2u * pair;
            partials[start] = total.x;
            partials[start + 1u] = total.y;
        }
        workgroupBarrier();
    }
}
