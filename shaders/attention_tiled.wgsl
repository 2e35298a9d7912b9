// A tile of neighbouring query rows against a range of their sequence's keys: one workgroup per work item, KV head and
// HEADS_TILE of its query heads. Page by page, K and then V pass through workgroup memory in slices of SLICE quads of
// dimensions; running softmax as in attention_rows.
import package::attention_partial::{MASKED, partial_start, visible_keys};
import package::generated::{AttentionParams, GROUP, HEADS_TILE, HEAD_DIM, PAGE, QUERY_TILE, Row, TEAM, TILES, WorkItem};
import package::attention_query::q_octet;
import package::kv::cache::{first_octet, k_octet, v_octet};
import package::kv::page::OCTETS;

@group(0) @binding(0) var<uniform> params: AttentionParams;
@group(0) @binding(2) var<storage, read> rows: array<Row>;            // [rows]
@group(0) @binding(3) var<storage, read> items: array<WorkItem>;      // [items]
@group(0) @binding(4) var<storage, read> page_table: array<u32>;      // see WorkItem
@group(0) @binding(7) var<storage, read_write> partials: array<f32>;  // [partials, HEADS, PARTIAL]

// A team of TEAM invocations works on one query, that is a row and a head. Of a page's scores each member has every
// TEAM-th key, of the values every TEAM-th quad: member 1 of 4 has keys 1, 5, 9, … and quads 1 and 5 of each slice.
const WORKGROUP = QUERY_TILE * HEADS_TILE * TEAM;
const KEYS_EACH = PAGE / TEAM;
const SLICE = 2u * TEAM;
const SLICE_OCTETS = SLICE / 2u;
const SLICES = (HEAD_DIM + 4u * SLICE - 1u) / (4u * SLICE);

// Rows of both arrays are one longer than they need be, so that neighbours lie in different memory banks.
const TILE_STRIDE = SLICE + 1u;
const WEIGHT_STRIDE = PAGE + 1u;

var<workgroup> tile: array<vec4f, PAGE * TILE_STRIDE>;                         // [PAGE, TILE_STRIDE]
var<workgroup> weights: array<f32, QUERY_TILE * HEADS_TILE * WEIGHT_STRIDE>;   // [queries, WEIGHT_STRIDE]
var<workgroup> team: array<f32, WORKGROUP>;                                    // [queries, TEAM]

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) index: u32) {
    let item = items[workgroup.x];
    let kv_head = workgroup.y / TILES;
    let member = index % TEAM;
    let query = index / TEAM;
    let head_in_group = workgroup.y % TILES * HEADS_TILE + query % HEADS_TILE;
    let busy = query / HEADS_TILE < item.rows && head_in_group < GROUP;
    let head = kv_head * GROUP + head_in_group;
    let row_index = item.first_row + min(query / HEADS_TILE, item.rows - 1u);
    let row = rows[row_index];
    let keys = select(vec2u(0u), visible_keys(item, row.position, params.window), busy);
    let q_start = row_index * params.stride + head * HEAD_DIM;

    var maximum = MASKED;
    var sum = 0.0; // of the member's keys
    var values: array<vec4f, 2u * SLICES>;

    for (var block = item.key_begin / PAGE; block * PAGE < item.key_end; block++) {
        let first = first_octet(page_table[item.pages + block], kv_head);
        let first_place = max(item.key_begin, block * PAGE) % PAGE;
        let last_place = (min(item.key_end, (block + 1u) * PAGE) - 1u) % PAGE;

        var scores = array<f32, KEYS_EACH>();
        for (var slice = 0u; slice < SLICES; slice++) {
            for (var i = index; i < PAGE * SLICE_OCTETS; i += WORKGROUP) {
                let place = i % PAGE;
                let octet = i / PAGE;
                var numbers = mat2x4f();
                if slice * SLICE_OCTETS + octet < OCTETS {
                    let near = clamp(place, first_place, last_place);
                    numbers = k_octet(first, near, slice * SLICE_OCTETS + octet);
                }
                tile[place * TILE_STRIDE + 2u * octet] = numbers[0];
                tile[place * TILE_STRIDE + 2u * octet + 1u] = numbers[1];
            }
            workgroupBarrier();
            if busy {
                for (var octet = 0u; octet < min(SLICE_OCTETS, OCTETS - slice * SLICE_OCTETS); octet++) {
                    let q_part = q_octet(q_start, slice * SLICE_OCTETS + octet);
                    for (var i = 0u; i < KEYS_EACH; i++) {
                        let at = (i * TEAM + member) * TILE_STRIDE + 2u * octet;
                        scores[i] += dot(q_part[0], tile[at]) + dot(q_part[1], tile[at + 1u]);
                    }
                }
            }
            workgroupBarrier();
        }

        var largest = maximum;
        for (var i = 0u; i < KEYS_EACH; i++) {
            let key = block * PAGE + i * TEAM + member;
            scores[i] = select(MASKED, scores[i] * params.scale, (key >= keys.x) & (key < keys.y));
            largest = max(largest, scores[i]);
        }
        team[index] = largest;
        workgroupBarrier();
        for (var i = 0u; i < TEAM; i++) {
            largest = max(largest, team[query * TEAM + i]);
        }
        let factor = exp(maximum - largest);
        maximum = largest;
        sum *= factor;
        for (var i = 0u; i < KEYS_EACH; i++) {
            let weight = select(exp(scores[i] - largest), 0.0, scores[i] == MASKED);
            weights[query * WEIGHT_STRIDE + i * TEAM + member] = weight;
            sum += weight;
        }

        for (var slice = 0u; slice < SLICES; slice++) {
            for (var i = index; i < PAGE * SLICE_OCTETS; i += WORKGROUP) {
                let place = i / SLICE_OCTETS;
                let octet = i % SLICE_OCTETS;
                var numbers = mat2x4f();
                if slice * SLICE_OCTETS + octet < OCTETS {
                    let near = clamp(place, first_place, last_place);
                    numbers = v_octet(first, near, slice * SLICE_OCTETS + octet);
                }
                tile[place * TILE_STRIDE + 2u * octet] = numbers[0];
                tile[place * TILE_STRIDE + 2u * octet + 1u] = numbers[1];
            }
            workgroupBarrier();
            if busy {
                var low = values[2u * slice] * factor;
                var high = values[2u * slice + 1u] * factor;
                for (var key = 0u; key < PAGE; key++) {
                    let weight = vec4f(weights[query * WEIGHT_STRIDE + key]);
                    low = fma(weight, tile[key * TILE_STRIDE + member], low);
                    high = fma(weight, tile[key * TILE_STRIDE + TEAM + member], high);
                }
                values[2u * slice] = low;
                values[2u * slice + 1u] = high;
            }
            workgroupBarrier();
        }
    }

    team[index] = sum;
    workgroupBarrier();
    if !busy {
        return;
    }
    let start = partial_start(row.partial + item.split, head);
    if member == 0u {
        var total = 0.0;
        for (var i = 0u; i < TEAM; i++) {
            total += team[query * TEAM + i];
        }
        partials[start] = maximum;
        partials[start + 1u] = total;
    }
    for (var i = 0u; i < 2u * SLICES; i++) {
        let dim = 4u * (i * TEAM + member);
        for (var j = 0u; j < 4u; j++) {
            if dim + j < HEAD_DIM {
                partials[start + 2u + dim + j] = values[i][j];
            }
        }
    }
}
