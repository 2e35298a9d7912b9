// Chooses for every row the CHOSEN experts with the largest logits, the first of equal ones, and their weights, the
// softmax of these logits; and orders the chosen pairs of row and expert by expert, then by row. One workgroup, whose
// invocations have a run of rows each.
//
// Rows 0, 1, 2 that choose experts (2, 0), (2, 1), (0, 2) have the order
//   expert 0: rows 0, 2; expert 1: row 1; expert 2: rows 0, 1, 2
// so `sources` is 0, 2, 1, 0, 1, 2, `offsets` is 0, 2, 3, 6 and the places of row 1 are 4, 2.
import package::generated::{CHOSEN, EXPERTS, ExpertChoice, RouteParams, WORKGROUP};

@group(0) @binding(0) var<uniform> params: RouteParams;
@group(0) @binding(1) var<storage, read> logits: array<f32>;                // [rows, stride]
@group(0) @binding(2) var<storage, read> counts: array<u32>;                // [slots]: the number of rows is counts[slot]
@group(0) @binding(3) var<storage, read_write> choices: array<ExpertChoice>; // [rows, CHOSEN], the likeliest first
@group(0) @binding(4) var<storage, read_write> sources: array<u32>;         // [rows * CHOSEN]: row of each pair
@group(0) @binding(5) var<storage, read_write> offsets: array<u32>;         // [EXPERTS + 1]: first pair of each expert

// How many rows of each invocation have chosen an expert; then, how many of the invocations before it.
var<workgroup> chosen: array<array<u32, EXPERTS>, WORKGROUP>;
// How many have in all.
var<workgroup> totals: array<u32, EXPERTS>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(local_invocation_index) index: u32) {
    let rows = counts[params.slot];
    let run = (rows + WORKGROUP - 1u) / WORKGROUP;
    let begin = min(index * run, rows);
    let end = min(begin + run, rows);

    for (var expert = 0u; expert < EXPERTS; expert++) {
        chosen[index][expert] = 0u;
    }
    for (var row = begin; row < end; row++) {
        choose(row, index);
    }
    workgroupBarrier();

    if index < EXPERTS {
        var sum = 0u;
        for (var i = 0u; i < WORKGROUP; i++) {
            let own = chosen[i][index];
            chosen[i][index] = sum;
            sum += own;
        }
        totals[index] = sum;
    }
    workgroupBarrier();

    var offset = 0u;
    for (var expert = 0u; expert < EXPERTS; expert++) {
        if index == 0u {
            offsets[expert] = offset;
        }
        chosen[index][expert] += offset;
        offset += totals[expert];
    }
    if index == 0u {
        offsets[EXPERTS] = offset;
    }
    for (var row = begin; row < end; row++) {
        for (var i = row * CHOSEN; i < (row + 1u) * CHOSEN; i++) {
            let expert = choices[i].place;
            let place = chosen[index][expert];
            chosen[index][expert] = place + 1u;
            choices[i].place = place;
            sources[place] = row;
        }
    }
}

// Writes the choices of a row, each with the expert in place of its place, and counts them. Logits that are no numbers
// choose some expert, too.
fn choose(row: u32, index: u32) {
    let first = row * params.stride;
    var taken = 0u; // a bit for each expert
    var largest = 0.0;
    var sum = 0.0;
    for (var i = row * CHOSEN; i < (row + 1u) * CHOSEN; i++) {
        var best = firstTrailingBit(~taken);
        for (var expert = 0u; expert < EXPERTS; expert++) {
            if ((taken >> expert) & 1u) == 0u && logits[first + expert] > logits[first + best] {
                best = expert;
            }
        }
        if taken == 0u {
            largest = logits[first + best];
        }
        taken |= 1u << best;
        let weight = exp(logits[first + best] - largest);
        sum += weight;
        choices[i] = ExpertChoice(best, weight);
        chosen[index][best] += 1u;
    }
    for (var i = row * CHOSEN; i < (row + 1u) * CHOSEN; i++) {
        choices[i].weight /= sum;
    }
}
