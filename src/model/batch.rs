//! From the chunks of a batch to the tables that its kernels read.

use super::{KvCache, Sequence};
use crate::ops::{KEY_SPLIT, PAGE, QUERY_TILE, Row, WorkItem, count};

/// Rows up to this many are computed by kernels whose results do not depend on the other rows.
pub const FEW_ROWS: usize = 8;

/// For which tokens of a chunk logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitRows {
    /// None: the chunk only fills the cache.
    None,
    /// The last token.
    Last,
    /// Every token.
    All,
}

/// The next tokens of one sequence.
#[derive(Debug)]
pub struct Chunk<'a> {
    /// Where they are appended.
    pub sequence: &'a mut Sequence,
    /// Token ids, or [`SAMPLED`](crate::ops::SAMPLED) and a slot of [`Model::sampled`](super::Model::sampled).
    pub tokens: &'a [u32],
    /// Which logits to compute. Those of all chunks follow one another in the order of the batch.
    pub logits: LogitRows,
}

impl Chunk<'_> {
    /// Number of logit rows.
    pub fn logit_rows(&self) -> usize {
        match self.logits {
            LogitRows::None => 0,
            LogitRows::Last => self.tokens.len().min(1),
            LogitRows::All => self.tokens.len(),
        }
    }
}

/// A batch as the kernels see it.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// `[classes][rows]`: alike but for the slot and the partial results.
    pub rows: Vec<Vec<Row>>,
    /// Rows whose logits are wanted.
    pub logit_rows: Vec<u32>,
    /// Page numbers within their segment.
    pub page_table: Vec<u32>,
    /// Single-row items of each segment of all classes.
    pub single_items: Vec<Vec<WorkItem>>,
    /// Tiled items of each segment.
    pub tiled_items: Vec<Vec<WorkItem>>,
    /// Partial attention results of each class.
    pub partials: Vec<u32>,
}

impl Tables {
    /// Tables for `chunks`, whose sequences already hold the pages of their new tokens.
    pub fn new(cache: &KvCache, chunks: &[Chunk]) -> Self {
        let segments = cache.segments();
        let mut tables = Self {
            single_items: vec![Vec::new(); segments],
            tiled_items: vec![Vec::new(); segments],
            rows: vec![Vec::new(); cache.classes()],
            partials: vec![0; cache.classes()],
            ..Self::default()
        };
        for chunk in chunks {
            let first_row = tables.rows[0].len() as u32;
            for class in 0..cache.classes() {
                tables.add(cache, class, chunk);
            }
            let last = tables.rows[0].len() as u32;
            tables.logit_rows.extend(match chunk.logits {
                LogitRows::None => last..last,
                LogitRows::Last => last - chunk.logit_rows() as u32..last,
                LogitRows::All => first_row..last,
            });
        }
        tables
    }

    /// What layers of a class do with a chunk.
    fn add(&mut self, cache: &KvCache, class: usize, chunk: &Chunk) {
        let sequence = &*chunk.sequence;
        let (pages, first_page) = sequence.pages(class);
        let table_start = self.page_table.len() as u32;
        self.page_table.extend(pages.map(|page| cache.locate(class, page).1));
        let pages = table_start.wrapping_sub(first_page);

        let rows = &mut self.rows[class];
        let first_row = rows.len() as u32;
        let first_position = sequence.len() - chunk.tokens.len() as u32;
        for (index, token) in chunk.tokens.iter().enumerate() {
            let position = first_position + index as u32;
            let slot = sequence.page_of(class, position) * PAGE + position % PAGE;
            let adapters = sequence.adapters().0;
            rows.push(Row { token: *token, position, slot, adapters, partial: 0, partials: 0 });
        }
        let last = rows.len() as u32;

        let single = chunk.tokens.len() <= FEW_ROWS;
        let tile = if single { 1 } else { QUERY_TILE };
        for tile_start in (first_row..last).step_by(tile as usize) {
            let rows = tile.min(last - tile_start);
            let position = first_position + tile_start - first_row;
            let begin = sequence.first_visible(class, position);
            let end = position + rows;
            let split = if single { key_split(end - begin) } else { u32::MAX };
            let ranges = key_ranges(cache, class, sequence, begin, end, split);
            for row in &mut self.rows[class][tile_start as usize..(tile_start + rows) as usize] {
                row.partial = self.partials[class];
                row.partials = ranges.len() as u32;
                self.partials[class] += row.partials;
            }
            for (index, (segment, key_begin, key_end)) in ranges.into_iter().enumerate() {
                let items = if single { &mut self.single_items } else { &mut self.tiled_items };
                let split = index as u32;
                items[segment].push(WorkItem {
                    first_row: tile_start,
                    rows,
                    pages,
                    key_begin,
                    key_end,
                    split,
                });
            }
        }
    }

    /// The counts of a replay, by the slots of [`count`].
    pub fn counts(&self) -> Vec<u64> {
        let items = self.single_items.iter().zip(&self.tiled_items);
        let items: Vec<_> = items.map(|(single, tiled)| (single.as_slice(), tiled.as_slice())).collect();
        count::table(self.rows[0].len(), self.logit_rows.len(), &items)
    }
}

/// Keys per split for a row that sees `keys`: [`KEY_SPLIT`], and longer ones past 32 of those, so that
/// no row has more than 33 partial results. It depends on the position and the window alone.
fn key_split(keys: u32) -> u32 {
    KEY_SPLIT * keys.div_ceil(32 * KEY_SPLIT)
}

/// Cuts the keys `begin..end` at multiples of `split` and wherever the pages change segment:
/// `(segment, key_begin, key_end)`.
fn key_ranges(
    cache: &KvCache,
    class: usize,
    sequence: &Sequence,
    begin: u32,
    end: u32,
    split: u32,
) -> Vec<(usize, u32, u32)> {
    let segment_of = |position| cache.locate(class, sequence.page_of(class, position)).0;
    let mut ranges = Vec::new();
    let mut at = begin;
    while at < end {
        let segment = segment_of(at);
        let limit = end.min((at / split + 1).saturating_mul(split));
        let mut stop = (at / PAGE + 1) * PAGE;
        while stop < limit && segment_of(stop) == segment {
            stop += PAGE;
        }
        let stop = stop.min(limit);
        ranges.push((segment, at, stop));
        at = stop;
    }
    ranges
}
