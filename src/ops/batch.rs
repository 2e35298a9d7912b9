//! What the host tells the kernels about a batch: small tables of plain structs.

use crate::{
    gpu::{Cost, Extent},
    uniform,
};

/// Tokens in a page of the KV cache.
pub const PAGE: u32 = 32;

/// Rows that one work item of tiled attention covers at most.
pub const QUERY_TILE: u32 = 16;

/// Keys that one work item of single-row attention covers at most. Splits begin at multiples of
/// this, so that they depend on the row's position alone and not on the rest of the batch.
pub const KEY_SPLIT: u32 = 256;

/// What a token id is not: `SAMPLED + slot` stands for the token that lies in this slot of the buffer
/// that [`Sample`](super::Sample) writes.
pub const SAMPLED: u32 = 1 << 31;

uniform! {
    /// One token of a batch.
    pub struct Row {
        /// Token id, or [`SAMPLED`] and a slot.
        token: u32,
        /// Position in its sequence.
        position: u32,
        /// Where its key and value go: page × [`PAGE`] + place in the page, over all segments.
        slot: u32,
        /// The adapters that apply to it: bit `i` stands for adapter `i`.
        adapters: u32,
        /// Its first partial attention result.
        partial: u32,
        /// Number of its partial attention results, stored one after the other.
        partials: u32,
    }
}

uniform! {
    /// Attention of neighbouring rows of one sequence over a range of keys that lie in one segment.
    ///
    /// The key at position `p` lies in page `page_table[pages + p / PAGE]` of the segment (the sum
    /// wraps around, so that `pages` may stand for a negative offset).
    pub struct WorkItem {
        /// First row in the batch.
        first_row: u32,
        /// Rows covered: 1 for single-row attention, at most [`QUERY_TILE`] for tiled.
        rows: u32,
        /// Offset into the page table.
        pages: u32,
        /// First key position.
        key_begin: u32,
        /// One past the last key position.
        key_end: u32,
        /// Which of each row's partial results this item computes.
        split: u32,
    }
}

/// How many rows an operation works on, as far as its kernel depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowCount {
    /// Exactly this many, 1 to 8: a matrix-vector kernel made for it.
    Few(u32),
    /// As many as a count says: a tiled matrix-matrix kernel.
    Many {
        /// Slot of the count.
        slot: usize,
        /// Most rows that the kernel is made for, one of [`RowCount::MANY`].
        most: u32,
    },
}

impl RowCount {
    /// Numbers of rows for which kernels may have tiles of their own.
    pub const MANY: [u32; 4] = [16, 32, 64, u32::MAX];

    /// Some number like `rows`, of which the count in `slot` says how many.
    pub fn many(slot: usize, rows: u32) -> Self {
        let most = Self::MANY.into_iter().find(|most| rows <= *most).expect("the last is the largest number");
        Self::Many { slot, most }
    }

    /// Workgroups of a grid with one for each row.
    pub(super) fn extent(self) -> Extent {
        self.tiles(1)
    }

    /// Workgroups of a grid with one for `per` rows.
    pub(super) fn tiles(self, per: u32) -> Extent {
        match self {
            Self::Few(rows) => Extent::Fixed(rows.div_ceil(per)),
            Self::Many { slot, .. } => Extent::Count { slot, per },
        }
    }

    /// Work of `each` for each row.
    pub(super) fn cost(self, each: f64) -> Cost {
        match self {
            Self::Few(rows) => Cost { fixed: f64::from(rows) * each, ..Cost::default() },
            Self::Many { slot, .. } => Cost { fixed: 0.0, slot, each },
        }
    }
}

/// The counts of a replay, by their slot: how much of each there is in the current batch.
pub mod count {
    use super::WorkItem;

    /// Tokens in the batch.
    pub const ROWS: usize = 0;
    /// Tokens whose logits are wanted.
    pub const LOGIT_ROWS: usize = 1;

    /// Single-row attention items of KV segment `segment`; of the number of segments: how many slots
    /// there are.
    pub const fn single_items(segment: usize) -> usize {
        2 + 4 * segment
    }

    /// Tiled attention items of KV segment `segment`.
    pub const fn tiled_items(segment: usize) -> usize {
        3 + 4 * segment
    }

    /// Keys that the single-row items of KV segment `segment` visit, summed over the rows.
    pub const fn single_visits(segment: usize) -> usize {
        4 + 4 * segment
    }

    /// Keys that the tiled items of KV segment `segment` visit, summed over the rows.
    pub const fn tiled_visits(segment: usize) -> usize {
        5 + 4 * segment
    }

    /// The counts of a batch: its rows, those with logits, and the single-row and tiled items of each
    /// segment.
    pub fn table(rows: usize, logit_rows: usize, items: &[(&[WorkItem], &[WorkItem])]) -> Vec<u64> {
        // An item's own range, which for some of a tile's rows begins too early or ends too late.
        let visits = |items: &[WorkItem]| -> u64 {
            items.iter().map(|item| u64::from(item.rows) * u64::from(item.key_end - item.key_begin)).sum()
        };
        let mut counts = vec![0; single_items(items.len())];
        counts[ROWS] = rows as u64;
        counts[LOGIT_ROWS] = logit_rows as u64;
        for (segment, (single, tiled)) in items.iter().enumerate() {
            counts[single_items(segment)] = single.len() as u64;
            counts[tiled_items(segment)] = tiled.len() as u64;
            counts[single_visits(segment)] = visits(single);
            counts[tiled_visits(segment)] = visits(tiled);
        }
        counts
    }
}
