// A tile of neighbouring query rows against a range of their sequence's keys, by the products of small matrices that a
// subgroup computes together: one workgroup per work item, KV head and HEADS_TILE of its query heads. Page by page, scores
// are made slice by slice of the dimensions, their weights are rounded to 16-bit floats, and the products with the values
// are added to sums that two invocations keep for a query; running softmax as in attention_rows.
import package::attention_partial::{MASKED, partial_start, visible_keys};
import package::attention_query::q_octet;
import package::generated::{
    AttentionParams, GROUP, HEADS_TILE, HEAD_DIM, PAGE, QUERY_TILE, Row, SIZE, TILES, WORKGROUP, WorkItem,
};
import package::half::saturated_f16;
import package::kv::cache::{first_octet, k_octet, v_octet};

@group(0) @binding(0) var<uniform> params: AttentionParams;
@group(0) @binding(2) var<storage, read> rows: array<Row>;            // [rows]
@group(0) @binding(3) var<storage, read> items: array<WorkItem>;      // [items]
@group(0) @binding(4) var<storage, read> page_table: array<u32>;      // see WorkItem
@group(0) @binding(7) var<storage, read_write> partials: array<f32>;  // [partials, HEADS, PARTIAL]

// Query 35 of 64 is row 3 of head 2.
const QUERIES = HEADS_TILE * QUERY_TILE;

// Dimensions in a slice: as many as keys in a page, so that scores and products with values are tiles of one size.
const SLICE = PAGE;
const SLICES = HEAD_DIM / SLICE;
const SLICE_OCTETS = SLICE / 8u;

// Values in a row of an operand: 16 bytes more than a slice, to spread the rows over the memory's banks.
const STRIDE = SLICE + 8u;

var<workgroup> left_tile: array<f16, QUERIES * STRIDE>; // [QUERIES, STRIDE]: queries, then weights of the page's keys
var<workgroup> right_tile: array<f16, PAGE * STRIDE>;   // [PAGE, STRIDE]: keys, then values
var<workgroup> products: array<f32, QUERIES * SLICE>;   // [QUERIES, SLICE]: scores, then parts of the result
var<workgroup> team: array<f32, WORKGROUP>;             // [QUERIES, 2]

@if(cooperative_matrix_8) alias Left = coop_mat8x8<f16, A>;
@if(cooperative_matrix_8) alias Right = coop_mat8x8<f16, B>;
@if(cooperative_matrix_8) alias Sum = coop_mat8x8<f32, C>;
@if(cooperative_matrix_16) alias Left = coop_mat16x16<f16, A>;
@if(cooperative_matrix_16) alias Right = coop_mat16x16<f16, B>;
@if(cooperative_matrix_16) alias Sum = coop_mat16x16<f32, C>;

// A subgroup has the rows of one head at a time: in matrices of 8, 2 down and 4 across.
const DOWN = QUERY_TILE / SIZE;
const ACROSS = SLICE / SIZE;

// Octets of a slice of the queries that an invocation brings, all slices of which it keeps.
const QUERY_TURNS = (QUERIES * SLICE_OCTETS + WORKGROUP - 1u) / WORKGROUP;
alias Queries = array<array<array<vec4<f16>, 2>, QUERY_TURNS>, SLICES>;

alias Sums = array<array<Sum, ACROSS>, DOWN>;

struct Invocation {
    @builtin(local_invocation_index) index: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, invocation: Invocation) {
    let index = invocation.index;
    let item = items[workgroup.x];
    let kv_head = workgroup.y / TILES;
    let first_head = workgroup.y % TILES * HEADS_TILE;
    let query = index / 2u;
    let member = index % 2u;
    let head = first_head + query / QUERY_TILE;
    let busy = query < QUERIES && query % QUERY_TILE < item.rows && head < GROUP;
    let row = rows[item.first_row + min(query % QUERY_TILE, item.rows - 1u)];
    let keys = select(vec2u(0u), visible_keys(item, row.position, params.window), busy);

    var queries = octets_of_queries(index, item, kv_head * GROUP + first_head);
    var maximum = MASKED;
    var sum = 0.0; // of the member's keys
    var values: array<array<vec4f, SLICE / 8u>, SLICES>; // the member's half of each slice

    for (var block = item.key_begin / PAGE; block * PAGE < item.key_end; block++) {
        let first = first_octet(page_table[item.pages + block], kv_head);
        // Keys that no row sees stand in for the nearest that one does, and are masked.
        let first_place = max(item.key_begin, block * PAGE) % PAGE;
        let last_place = (min(item.key_end, (block + 1u) * PAGE) - 1u) % PAGE;

        // With fewer subgroups than heads, several turns; with more, the rest repeat the last head.
        for (var turn = 0u; turn < HEADS_TILE; turn += invocation.subgroups) {
            let slot_row = min(turn + invocation.subgroup, HEADS_TILE - 1u) * QUERY_TILE;
            var sums: Sums;
            for (var slice = 0u; slice < SLICES; slice++) {
                leave_queries(index, &queries, slice);
                bring_keys(index, first, first_place, last_place, slice);
                workgroupBarrier();
                for (var k = 0u; k < SLICE; k += SIZE) {
                    for (var i = 0u; i < ACROSS; i++) {
                        let right = coopLoad<Right>(&right_tile[i * SIZE * STRIDE + k], STRIDE);
                        for (var j = 0u; j < DOWN; j++) {
                            let left = coopLoadT<Left>(&left_tile[(slot_row + j * SIZE) * STRIDE + k], STRIDE);
                            sums[j][i] = coopMultiplyAdd(left, right, sums[j][i]);
                        }
                    }
                }
                workgroupBarrier();
            }
            for (var j = 0u; j < DOWN; j++) {
                for (var i = 0u; i < ACROSS; i++) {
                    let product = sums[j][i];
                    coopStoreT(product, &products[(slot_row + j * SIZE) * SLICE + i * SIZE], SLICE);
                }
            }
        }
        workgroupBarrier();

        var scores: array<f32, PAGE / 2u>;
        var largest = maximum;
        for (var i = 0u; i < PAGE / 2u; i++) {
            let place = member * (PAGE / 2u) + i;
            let key = block * PAGE + place;
            let score = products[min(query, QUERIES - 1u) * SLICE + place] * params.scale;
            scores[i] = select(MASKED, score, (key >= keys.x) & (key < keys.y));
            largest = max(largest, scores[i]);
        }
        team[index] = largest;
        workgroupBarrier();
        largest = max(largest, team[index ^ 1u]);
        let factor = exp(maximum - largest);
        maximum = largest;
        sum *= factor;
        var weights: array<f16, PAGE / 2u>;
        for (var i = 0u; i < PAGE / 2u; i++) {
            // The sum is of the rounded weights, so that those of a row add up to one.
            weights[i] = f16(select(exp(scores[i] - largest), 0.0, scores[i] == MASKED));
            sum += f32(weights[i]);
        }
        if query < QUERIES {
            for (var i = 0u; i < PAGE / 2u; i++) {
                left_tile[query * STRIDE + member * (PAGE / 2u) + i] = weights[i];
            }
        }

        for (var slice = 0u; slice < SLICES; slice++) {
            bring_values(index, first, first_place, last_place, slice);
            workgroupBarrier();
            for (var turn = 0u; turn < HEADS_TILE; turn += invocation.subgroups) {
                let slot_row = min(turn + invocation.subgroup, HEADS_TILE - 1u) * QUERY_TILE;
                var sums: Sums;
                for (var k = 0u; k < PAGE; k += SIZE) {
                    for (var i = 0u; i < ACROSS; i++) {
                        let right = coopLoadT<Right>(&right_tile[k * STRIDE + i * SIZE], STRIDE);
                        for (var j = 0u; j < DOWN; j++) {
                            let left = coopLoadT<Left>(&left_tile[(slot_row + j * SIZE) * STRIDE + k], STRIDE);
                            sums[j][i] = coopMultiplyAdd(left, right, sums[j][i]);
                        }
                    }
                }
                for (var j = 0u; j < DOWN; j++) {
                    for (var i = 0u; i < ACROSS; i++) {
                        let product = sums[j][i];
                        coopStoreT(product, &products[(slot_row + j * SIZE) * SLICE + i * SIZE], SLICE);
                    }
                }
            }
            workgroupBarrier();
            for (var i = 0u; i < SLICE / 8u; i++) {
                let at = min(query, QUERIES - 1u) * SLICE + member * (SLICE / 2u) + 4u * i;
                let product = vec4f(products[at], products[at + 1u], products[at + 2u], products[at + 3u]);
                values[slice][i] = fma(values[slice][i], vec4f(factor), product);
            }
        }
    }

    team[index] = sum;
    workgroupBarrier();
    if !busy {
        return;
    }
    let start = partial_start(row.partial + item.split, kv_head * GROUP + head);
    if member == 0u {
        partials[start] = maximum;
        partials[start + 1u] = sum + team[index + 1u];
    }
    for (var slice = 0u; slice < SLICES; slice++) {
        for (var i = 0u; i < SLICE / 8u; i++) {
            let dim = slice * SLICE + member * (SLICE / 2u) + 4u * i;
            for (var j = 0u; j < 4u; j++) {
                partials[start + 2u + dim + j] = values[slice][i][j];
            }
        }
    }
}

// Those past the end repeat the last row and the last head, and are not heard.
fn octets_of_queries(index: u32, item: WorkItem, first_head: u32) -> Queries {
    let last_head = first_head / GROUP * GROUP + GROUP - 1u;
    var queries: Queries;
    for (var turn = 0u; turn < QUERY_TURNS; turn++) {
        let i = turn * WORKGROUP + index;
        let row = item.first_row + min(i / SLICE_OCTETS % QUERY_TILE, item.rows - 1u);
        let head = min(first_head + i / SLICE_OCTETS / QUERY_TILE, last_head);
        for (var slice = 0u; slice < SLICES; slice++) {
            let numbers = q_octet(row * params.stride + head * HEAD_DIM, slice * SLICE_OCTETS + i % SLICE_OCTETS);
            queries[slice][turn] = array<vec4<f16>, 2>(saturated_f16(numbers[0]), saturated_f16(numbers[1]));
        }
    }
    return queries;
}

fn leave_queries(index: u32, queries: ptr<function, Queries>, slice: u32) {
    for (var turn = 0u; turn < QUERY_TURNS; turn++) {
        let i = turn * WORKGROUP + index;
        let at = i / SLICE_OCTETS * STRIDE + i % SLICE_OCTETS * 8u;
        if i < QUERIES * SLICE_OCTETS {
            for (var j = 0u; j < 4u; j++) {
                left_tile[at + j] = (*queries)[slice][turn][0][j];
                left_tile[at + 4u + j] = (*queries)[slice][turn][1][j];
            }
        }
    }
}

// A page's keys; places outside of the range repeat the nearest inside.
fn bring_keys(index: u32, first: u32, first_place: u32, last_place: u32, slice: u32) {
    for (var i = index; i < PAGE * SLICE_OCTETS; i += WORKGROUP) {
        let octet = i / PAGE;
        let near = clamp(i % PAGE, first_place, last_place);
        store_right(i % PAGE, octet, k_octet(first, near, slice * SLICE_OCTETS + octet));
    }
}

// As bring_keys, values.
fn bring_values(index: u32, first: u32, first_place: u32, last_place: u32, slice: u32) {
    for (var i = index; i < PAGE * SLICE_OCTETS; i += WORKGROUP) {
        let octet = i % SLICE_OCTETS;
        let near = clamp(i / SLICE_OCTETS, first_place, last_place);
        store_right(i / SLICE_OCTETS, octet, v_octet(first, near, slice * SLICE_OCTETS + octet));
    }
}

fn store_right(place: u32, octet: u32, numbers: mat2x4f) {
    let at = place * STRIDE + octet * 8u;
    for (var j = 0u; j < 4u; j++) {
        right_tile[at + j] = short(numbers[0][j]);
        right_tile[at + 4u + j] = short(numbers[1][j]);
    }
}

// What a cache in f16 holds is finite there, and is not converted at all; a block's scale and code may be more.
fn short(value: f32) -> f16 {
    @if(kv_scales) return clamp(f16(value), -65504.0h, 65504.0h);
    @else return f16(value);
}
