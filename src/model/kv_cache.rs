//! The paged KV cache: the paper's rolling buffer (Mistral 7B, arXiv:2310.06825, section 2) as pages
//! that return to a pool once they have wholly left the window.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{AdapterSet, ModelConfig};
use crate::{
    Error, ErrorKind, Result,
    gpu::{Buffer, Gpu, Recording},
    ops::{AttentionShape, KvFormat, KvSegment, PAGE},
};

/// Pages that are counted by reference.
#[derive(Debug, Default)]
struct Pool {
    /// Free page numbers, lowest last, so that sequences fill the first segments first.
    free: Vec<u32>,
    references: Vec<u32>,
}

impl Pool {
    fn take(&mut self) -> Option<u32> {
        let page = self.free.pop()?;
        self.references[page as usize] = 1;
        Some(page)
    }

    fn release(&mut self, page: u32) {
        let count = &mut self.references[page as usize];
        *count -= 1;
        if *count == 0 {
            let at = self.free.partition_point(|free| *free > page);
            self.free.insert(at, page);
        }
    }
}

/// Keys and values of every layer, in pages of [`PAGE`] tokens.
#[derive(Debug)]
pub struct KvCache {
    /// Heads, and how an element is stored.
    pub shape: AttentionShape,
    /// `layers[layer][segment]`.
    pub layers: Vec<Vec<KvSegment>>,
    /// Sliding window, in tokens.
    pub window: Option<u32>,
    scratch: Buffer,
    pages_per_segment: u32,
    page_bytes: u64,
    pages: u32,
    pool: Arc<Mutex<Pool>>,
}

/// Heads of `config`, and how their keys and values are stored.
pub fn attention_shape(config: &ModelConfig, kv: KvFormat) -> AttentionShape {
    AttentionShape {
        heads: config.num_attention_heads as u32,
        kv_heads: config.num_key_value_heads as u32,
        head_dim: config.head_dim as u32,
        kv,
    }
}

impl KvCache {
    /// Bytes that a cache of `tokens` tokens takes on the device.
    pub fn bytes(config: &ModelConfig, format: KvFormat, tokens: u64) -> u64 {
        tokens.div_ceil(u64::from(PAGE))
            * attention_shape(config, format).page_bytes()
            * 2
            * config.num_hidden_layers as u64
    }

    /// Allocates room for `tokens` tokens in all, in segments of at most `segment_bytes`.
    ///
    /// # Errors
    /// As [`AttentionShape::supported`] and [`Gpu::allocate`].
    pub fn new(
        gpu: &Gpu,
        config: &ModelConfig,
        format: KvFormat,
        tokens: u32,
        segment_bytes: u64,
    ) -> Result<Self> {
        let shape = attention_shape(config, format);
        shape.supported()?;
        let page_bytes = shape.page_bytes();
        let pages = tokens.div_ceil(PAGE);
        let pages_per_segment = (segment_bytes / page_bytes).clamp(1, u64::from(pages)) as u32;
        let segment = |first: u32| -> Result<KvSegment> {
            let count = pages_per_segment.min(pages - first);
            let bytes = u64::from(count) * page_bytes;
            Ok(KvSegment {
                k: gpu.allocate("k cache", bytes)?,
                v: gpu.allocate("v cache", bytes)?,
                first_slot: first * PAGE,
                slots: count * PAGE,
            })
        };
        let layer =
            || (0..pages).step_by(pages_per_segment as usize).map(segment).collect::<Result<Vec<_>>>();
        Ok(Self {
            shape,
            layers: (0..config.num_hidden_layers).map(|_| layer()).collect::<Result<_>>()?,
            window: config.widest_window(),
            scratch: gpu.allocate("scratch page", page_bytes)?,
            pages_per_segment,
            page_bytes,
            pages,
            pool: Arc::new(Mutex::new(Pool {
                free: (0..pages).rev().collect(),
                references: vec![0; pages as usize],
            })),
        })
    }

    /// A sequence without tokens.
    pub fn sequence(&self) -> Sequence {
        Sequence {
            pool: self.pool.clone(),
            pages: VecDeque::new(),
            first_page: 0,
            length: 0,
            window: self.window,
            adapters: AdapterSet::NONE,
        }
    }

    /// Segments of the pool.
    pub fn segments(&self) -> usize {
        self.pages.div_ceil(self.pages_per_segment) as usize
    }

    /// Pages in use.
    pub fn used_pages(&self) -> usize {
        self.pages as usize - lock(&self.pool).free.len()
    }

    /// Segment of `page`, and its number within it.
    pub fn locate(&self, page: u32) -> (usize, u32) {
        ((page / self.pages_per_segment) as usize, page % self.pages_per_segment)
    }

    /// Makes room for `count` more tokens of `sequence`: takes pages, and replaces the last one by a
    /// copy when another sequence shares it. The copies are appended to `recording`, to be replayed
    /// before anything is written.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`] when the pool has not enough pages; then nothing was changed.
    pub fn reserve(&self, sequence: &mut Sequence, count: u32, recording: &mut Recording) -> Result<()> {
        let mut pool = lock(&self.pool);
        let shared = !sequence.length.is_multiple_of(PAGE)
            && sequence.pages.back().is_some_and(|page| pool.references[*page as usize] > 1);
        let missing = (sequence.length + count).div_ceil(PAGE) - sequence.length.div_ceil(PAGE);
        if pool.free.len() < missing as usize + usize::from(shared) {
            let message = format!(
                "no room for {count} more tokens after {}: the pool holds {} tokens, {} are free; raise --context",
                sequence.length,
                self.pages * PAGE,
                pool.free.len() as u32 * PAGE
            );
            return Err(Error::new(ErrorKind::OutOfMemory, "kv cache", message));
        }
        if shared {
            let from = sequence.pages.pop_back().expect("a shared page is there");
            let to = pool.take().expect("counted above");
            pool.release(from);
            sequence.pages.push_back(to);
            for layer in &self.layers {
                // A buffer cannot be copied to itself: by way of the scratch page.
                for (from, to) in self.page(layer, from).iter().zip(&self.page(layer, to)) {
                    recording.copy(from, &self.scratch);
                    recording.copy(&self.scratch, to);
                }
            }
        }
        for _ in 0..missing {
            sequence.pages.push_back(pool.take().expect("counted above"));
        }
        sequence.length += count;
        Ok(())
    }

    /// The keys and the values of a page in one layer.
    fn page(&self, layer: &[KvSegment], page: u32) -> [Buffer; 2] {
        let (segment, page) = self.locate(page);
        let KvSegment { k, v, .. } = &layer[segment];
        [k, v].map(|buffer| buffer.slice(u64::from(page) * self.page_bytes, self.page_bytes))
    }
}

fn lock(pool: &Mutex<Pool>) -> MutexGuard<'_, Pool> {
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The tokens of one text in the cache. Its pages return to the pool when it is dropped.
#[derive(Debug)]
pub struct Sequence {
    pool: Arc<Mutex<Pool>>,
    /// Pages of logical numbers `first_page`, `first_page + 1`, …
    pages: VecDeque<u32>,
    first_page: u32,
    length: u32,
    window: Option<u32>,
    adapters: AdapterSet,
}

impl Sequence {
    /// A sequence of the same cache without tokens, whose tokens will be computed with `adapters`.
    pub fn anew(&self, adapters: AdapterSet) -> Self {
        Self { pool: self.pool.clone(), pages: VecDeque::new(), first_page: 0, length: 0, adapters, ..*self }
    }

    /// The adapters that its tokens are computed with.
    pub fn adapters(&self) -> AdapterSet {
        self.adapters
    }

    /// Tokens so far: the position of the next one.
    pub fn len(&self) -> u32 {
        self.length
    }

    /// Whether there are no tokens yet.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Whether both are of one cache.
    pub fn shares_cache(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.pool, &other.pool)
    }

    /// The page that holds position `position`.
    pub fn page_of(&self, position: u32) -> u32 {
        self.pages[(position / PAGE - self.first_page) as usize]
    }

    /// Kept pages, and the logical number of the first.
    pub fn pages(&self) -> (impl Iterator<Item = u32>, u32) {
        (self.pages.iter().copied(), self.first_page)
    }

    /// First key position that a query at `position` sees: `position − W + 1`, or 0.
    pub fn first_visible(&self, position: u32) -> u32 {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// Returns the pages that no later query can see, nor one of the last [`PAGE`] tokens: so many can be
    /// taken back.
    pub fn release_outside_window(&mut self) {
        let keep = self.first_visible(self.length.saturating_sub(PAGE)) / PAGE;
        while self.first_page < keep && !self.pages.is_empty() {
            let page = self.pages.pop_front().expect("not empty");
            lock(&self.pool).release(page);
            self.first_page += 1;
        }
    }

    /// A sequence with the same tokens that shares the pages; the partial last one is copied when
    /// either is continued.
    pub fn fork(&self) -> Self {
        let mut pool = lock(&self.pool);
        for page in &self.pages {
            pool.references[*page as usize] += 1;
        }
        Self { pool: self.pool.clone(), pages: self.pages.clone(), ..*self }
    }

    /// Forgets the tokens from position `length` on.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] when it is longer than the sequence, or so short that it needs keys
    /// that have already left the window.
    pub fn truncate(&mut self, length: u32) -> Result<()> {
        if length > self.length || self.first_visible(length) / PAGE < self.first_page {
            let shortest =
                self.window.filter(|_| self.first_page > 0).map_or(0, |w| self.first_page * PAGE + w - 1);
            let expected = format!("a length from {shortest} to {}", self.length);
            return Err(Error::expected(ErrorKind::Argument, "truncate", expected, length));
        }
        let keep = length.div_ceil(PAGE).saturating_sub(self.first_page) as usize;
        let mut pool = lock(&self.pool);
        for page in self.pages.drain(keep..) {
            pool.release(page);
        }
        self.length = length;
        Ok(())
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        let mut pool = lock(&self.pool);
        for page in self.pages.drain(..) {
            pool.release(page);
        }
    }
}
