// ROWS neighbouring query rows against a range of their sequence's keys, one in decoding: one workgroup per work item, KV
// head and ROWS of the item's rows computes all query heads that share the KV head, BLOCK keys at a time with a running
// softmax (Milakov & Gimelshein 2018, arXiv:1805.02867). First each invocation has KEYS keys, then an octet of the values.
//
// With `int64`, two words are read at once, and what all invocations need is read by few: see exchange.
import package::attention_partial::{MASKED, partial_start, visible_keys};
import package::attention_query::q_octet;
@if(int64) import package::attention_query::q_pair;
@if(int64) import package::exchange::{FOURS, exchanged};
import package::generated::{AttentionParams, GROUP, HEAD_DIM, KEYS, PAGE, ROWS, Row, TEAM, TILES, WORKGROUP, WorkItem};
import package::kv::cache::{first_octet, k_octet, v_octet};
import package::kv::page::OCTETS;

@group(0) @binding(0) var<uniform> params: AttentionParams;
@group(0) @binding(2) var<storage, read> rows: array<Row>;            // [rows]
@group(0) @binding(3) var<storage, read> items: array<WorkItem>;      // [items]
@group(0) @binding(4) var<storage, read> page_table: array<u32>;      // see WorkItem
@group(0) @binding(7) var<storage, read_write> partials: array<f32>;  // [partials, HEADS, PARTIAL]

// A query is a row and a head: of 2 rows with 4 heads, query 6 is head 2 of row 1.
const QUERIES = ROWS * GROUP;

// Four invocations load what is needed of a query: with eight, that of queries 2i and 2i + 1 is load i.
@if(int64) const LOADING = 4u * min(FOURS, QUERIES);
@if(int64) const LOADS = (QUERIES + FOURS - 1u) / FOURS;

// With 64 invocations of 4 keys, invocation 5 has keys 5, 69, 133 and 197 of the block.
const BLOCK = WORKGROUP * KEYS;

// If there are more invocations than octets, the values are shared out among slices of invocations: with 16 octets,
// invocation 35 is slice 2 of 16 and sums octet 3 over keys 2, 18, 34, …
const SLICES = WORKGROUP / OCTETS;

// Queries whose slices are added up at once: what they take does not grow with smaller workgroups.
const ROUND = min(QUERIES, 256u / WORKGROUP);

var<workgroup> weights: array<f32, QUERIES * BLOCK>;             // [QUERIES, BLOCK]
var<workgroup> team: array<f32, QUERIES * TEAM>;                 // [QUERIES, TEAM]
var<workgroup> slice_sums: array<vec4f, ROUND * WORKGROUP * 2u>; // [ROUND, WORKGROUP, 2]

// Nested, so that every index is a loop's own counter: drivers unroll such loops and keep the scores in registers.
alias Scores = array<array<f32, KEYS>, QUERIES>;

// Quads of dimensions, of each query.
alias Quads = array<vec4f, QUERIES>;

// The largest of each query's values over the workgroup, in two steps: TEAM invocations take every TEAM-th value.
fn workgroup_max(values: ptr<function, array<f32, QUERIES>>, index: u32) {
    for (var query = 0u; query < QUERIES; query++) {
        weights[query * WORKGROUP + index] = (*values)[query];
    }
    workgroupBarrier();
    for (var i = index; i < QUERIES * TEAM; i += WORKGROUP) {
        var largest = MASKED;
        for (var other = i % TEAM; other < WORKGROUP; other += TEAM) {
            largest = max(largest, weights[i / TEAM * WORKGROUP + other]);
        }
        team[i] = largest;
    }
    workgroupBarrier();
    for (var query = 0u; query < QUERIES; query++) {
        for (var i = 0u; i < TEAM; i++) {
            (*values)[query] = max((*values)[query], team[query * TEAM + i]);
        }
    }
}

// q · k of the keys at places of pages for each query; `q_starts` of the rows, `first` as first_octet. A query is read
// once for all keys of an invocation. Each octet is summed by itself first, which loses fewer bits.
fn dots(q_starts: array<u32, ROWS>, first: array<u32, KEYS>, place: array<u32, KEYS>, lane: u32) -> Scores {
    var sums: Scores;
    for (var octet = 0u; octet < OCTETS; octet++) {
        var k: array<mat2x4f, KEYS>;
        for (var i = 0u; i < KEYS; i++) {
            k[i] = k_octet(first[i], place[i], octet);
        }
        @if(int64) var own: array<vec2f, LOADS>;
        @if(int64)
        if lane < LOADING {
            for (var i = 0u; i < LOADS; i++) {
                let query = min(i * FOURS + lane / 4u, QUERIES - 1u);
                let start = q_starts[query / GROUP] + query % GROUP * HEAD_DIM;
                own[i] = q_pair(start / 2u, 4u * octet + lane % 4u);
            }
        }
        for (var query = 0u; query < QUERIES; query++) {
            @if(int64) let x = q_octet(own[query / FOURS], query % FOURS);
            @else let x = q_octet(q_starts[query / GROUP] + query % GROUP * HEAD_DIM, octet);
            for (var i = 0u; i < KEYS; i++) {
                let low = k[i][0];
                let high = k[i][1];
                let sum = fma(x[0].w, low.w, fma(x[0].z, low.z, fma(x[0].y, low.y, x[0].x * low.x)));
                sums[query][i] += fma(x[1].w, high.w, fma(x[1].z, high.z, fma(x[1].y, high.y, fma(x[1].x, high.x, sum))));
            }
        }
    }
    return sums;
}

// Adds the weighted values of `count` keys from `begin` on.
@if(int64)
fn add_values(
    low: ptr<function, Quads>,
    high: ptr<function, Quads>,
    item: WorkItem,
    kv_head: u32,
    begin: u32,
    count: u32,
    octet: u32,
    lane: u32,
) {
    for (var first = 0u; first < count; first += 4u) {
        var own_page = 0u;
        var own: array<f32, LOADS>;
        if lane < LOADING {
            own_page = page_table[item.pages + (begin + min(first + lane % 4u, count - 1u)) / PAGE];
            for (var i = 0u; i < LOADS; i++) {
                let query = min(i * FOURS + lane / 4u, QUERIES - 1u);
                own[i] = weights[query * BLOCK + first + lane % 4u]; // zero of a key beyond the last
            }
        }
        let pages = exchanged(own_page)[0];
        var v: array<mat2x4f, 4>;
        for (var i = 0u; i < 4u; i++) {
            let key = begin + min(first + i, count - 1u);
            v[i] = v_octet(first_octet(pages[i], kv_head), key % PAGE, octet);
        }
        for (var query = 0u; query < QUERIES; query++) {
            let four = bitcast<vec4f>(exchanged(bitcast<u32>(own[query / FOURS]))[query % FOURS]);
            for (var i = 0u; i < 4u; i++) {
                (*low)[query] = fma(vec4f(four[i]), v[i][0], (*low)[query]);
                (*high)[query] = fma(vec4f(four[i]), v[i][1], (*high)[query]);
            }
        }
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3u,
    @builtin(local_invocation_index) index: u32,
    @if(int64) @builtin(subgroup_invocation_id) lane: u32,
) {
    @if(!int64) let lane = 0u;
    let item = items[workgroup.x];
    let kv_head = workgroup.y / TILES;
    let first_row = workgroup.y % TILES * ROWS;
    if first_row >= item.rows {
        return;
    }
    var q_starts: array<u32, ROWS>;
    var visible: array<vec2u, ROWS>; // begin and end
    var begin = item.key_end;
    var end = 0u;
    for (var i = 0u; i < ROWS; i++) {
        let row = item.first_row + min(first_row + i, item.rows - 1u); // one past the last repeats it, and is not heard
        q_starts[i] = row * params.stride + kv_head * GROUP * HEAD_DIM;
        visible[i] = visible_keys(item, rows[row].position, params.window);
        begin = select(begin, min(begin, visible[i].x), visible[i].x < visible[i].y);
        end = max(end, visible[i].y);
    }
    let octet = index % OCTETS;
    // Where all sum the same values, the device shall see that. Invocations left over repeat others, and are not heard.
    @if(one_slice) let slice = 0u;
    @else let slice = min(index / OCTETS, SLICES - 1u);

    var maximum: array<f32, QUERIES>; // so far
    var sum: array<f32, QUERIES>;     // of the weights of the invocation's keys
    var low: Quads;                   // of the octet, over the slice's values
    var high: Quads;
    for (var query = 0u; query < QUERIES; query++) {
        maximum[query] = MASKED;
    }

    for (; begin < end; begin += BLOCK) {
        var first: array<u32, KEYS>;
        var place: array<u32, KEYS>;
        for (var i = 0u; i < KEYS; i++) {
            let key = min(begin + i * WORKGROUP + index, end - 1u); // the last one stands in for what is beyond
            first[i] = first_octet(page_table[item.pages + key / PAGE], kv_head);
            place[i] = key % PAGE;
        }
        var scores = dots(q_starts, first, place, lane);
        var largest: array<f32, QUERIES>;
        for (var query = 0u; query < QUERIES; query++) {
            largest[query] = MASKED;
            for (var i = 0u; i < KEYS; i++) {
                let key = begin + i * WORKGROUP + index;
                let seen = (key >= visible[query / GROUP].x) & (key < visible[query / GROUP].y);
                scores[query][i] = select(MASKED, scores[query][i] * params.scale, seen);
                largest[query] = max(largest[query], scores[query][i]);
            }
        }
        workgroup_max(&largest, index);
        for (var query = 0u; query < QUERIES; query++) {
            largest[query] = max(largest[query], maximum[query]);
            let factor = exp(maximum[query] - largest[query]);
            maximum[query] = largest[query];
            sum[query] *= factor;
            low[query] *= factor;
            high[query] *= factor;
            for (var i = 0u; i < KEYS; i++) {
                let score = scores[query][i];
                let weight = select(exp(score - largest[query]), 0.0, score == MASKED);
                sum[query] += weight;
                weights[query * BLOCK + i * WORKGROUP + index] = weight;
            }
        }
        workgroupBarrier();

        let count = min(BLOCK, end - begin);
        @if(int64) add_values(&low, &high, item, kv_head, begin, count, octet, lane);
        @else
        for (var i = slice; i < count; i += SLICES) {
            let key = begin + i;
            let v = v_octet(first_octet(page_table[item.pages + key / PAGE], kv_head), key % PAGE, octet);
            for (var query = 0u; query < QUERIES; query++) {
                let weight = vec4f(weights[query * BLOCK + i]);
                low[query] = fma(weight, v[0], low[query]);
                high[query] = fma(weight, v[1], high[query]);
            }
        }
        workgroupBarrier();
    }

    for (var query = 0u; query < QUERIES; query++) {
        weights[query * WORKGROUP + index] = sum[query];
    }
    workgroupBarrier();
    for (var i = index; i < QUERIES * TEAM; i += WORKGROUP) {
        var total = 0.0;
        for (var other = i % TEAM; other < WORKGROUP; other += TEAM) {
            total += weights[i / TEAM * WORKGROUP + other];
        }
        team[i] = total;
    }
    let queries = min(ROWS, item.rows - first_row) * GROUP;
    for (var round = 0u; round < queries; round += ROUND) {
        for (var query = 0u; query < QUERIES; query++) {
            if query >= round && query < round + ROUND {
                let at = 2u * ((query - round) * WORKGROUP + index);
                slice_sums[at] = low[query];
                slice_sums[at + 1u] = high[query];
            }
        }
        workgroupBarrier();
        for (var i = index; i < 2u * OCTETS * min(ROUND, queries - round); i += WORKGROUP) {
            let quad = i % (2u * OCTETS);
            var total = vec4f(0.0);
            for (var other = 0u; other < SLICES; other++) {
                total += slice_sums[2u * (i / (2u * OCTETS) * WORKGROUP + other * OCTETS) + quad];
            }
            let start = query_partial(item, first_row, kv_head, round + i / (2u * OCTETS)) + 2u + 4u * quad;
            for (var dim = 0u; dim < 4u && 4u * quad + dim < HEAD_DIM; dim++) {
                partials[start + dim] = total[dim];
            }
        }
        workgroupBarrier();
    }
    for (var query = 0u; query < QUERIES; query++) {
        if index == query && query < queries {
            let start = query_partial(item, first_row, kv_head, query);
            var total = 0.0;
            for (var i = 0u; i < TEAM; i++) {
                total += team[query * TEAM + i];
            }
            partials[start] = maximum[query];
            partials[start + 1u] = total;
        }
    }
}

// Where the partial result of a query begins.
fn query_partial(item: WorkItem, first_row: u32, kv_head: u32, query: u32) -> u32 {
    let row = item.first_row + first_row + query / GROUP;
    return partial_start(rows[row].partial + item.split, kv_head * GROUP + query % GROUP);
}
