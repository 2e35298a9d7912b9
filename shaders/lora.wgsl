// Adapters of one product (LoRA, Hu et al. 2021, arXiv:2106.09685): y += B · (A · x), for each adapter of a row.
//
// A product may stack several matrices that read the same input, its parts: q, k and v, or gate and up. Every part of every
// adapter has an A of its own, and all have as many ranks. `h`, which is A · x, follows that order: with 2 adapters, 3 parts
// and 8 ranks, rank 5 of adapter 1's part 2 is number (1 · 3 + 2) · 8 + 5 of 48.
import package::generated::{LoraParams, Row};

@group(0) @binding(0) var<uniform> params: LoraParams;
@group(0) @binding(1) var<storage, read> rows: array<Row>;                // [rows of the batch]
@if(gather) @group(0) @binding(2) var<storage, read> row_ids: array<u32>; // [rows]: row i is row row_ids[i] of the batch

// The adapters, one bit each, that change part `part` of row `row`.
@if(gather)
fn adapters_of(row: u32, part: u32) -> u32 {
    return rows[row_ids[row]].adapters & targets(part);
}

@else
fn adapters_of(row: u32, part: u32) -> u32 {
    return rows[row].adapters & targets(part);
}

fn targets(part: u32) -> u32 {
    return select(select(params.targets_2, params.targets_1, part == 1u), params.targets_0, part == 0u);
}
