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

/// Pages of the layers with one window, which come and go together.
#[derive(Debug, Clone, Copy)]
struct Class {
    /// Sliding window, in tokens.
    window: Option<u32>,
    /// Pages in all.
    pages: u32,
    /// Number of its first segment among those of all classes.
    first_segment: usize,
}

/// Keys and values of every layer, in pages of [`PAGE`] tokens. Layers with different windows have pools of their own.
#[derive(Debug)]
pub struct KvCache {
    /// Heads, and how an element is stored.
    pub shape: AttentionShape,
    /// `layers[layer][segment]`.
    pub layers: Vec<Vec<KvSegment>>,
    /// Numbers of the layers' classes.
    class_of: Vec<usize>,
    classes: Vec<Class>,
    scratch: Buffer,
    pages_per_segment: u32,
    page_bytes: u64,
    /// Of each class.
    pools: Pools,
}

type Pools = Arc<Mutex<Vec<Pool>>>;

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
    /// Bytes that a cache of so many tokens takes on the device, by the window of a layer.
    pub fn bytes(config: &ModelConfig, format: KvFormat, tokens: impl Fn(Option<u32>) -> u64) -> u64 {
        let pages = |layer| tokens(config.window(layer)).div_ceil(u64::from(PAGE));
        let pages: u64 = (0..config.num_hidden_layers).map(pages).sum();
        pages * attention_shape(config, format).page_bytes() * 2
    }

    /// Allocates room for so many `tokens` in all, by the window of a layer, in segments of at most `segment_bytes`.
    ///
    /// # Errors
    /// As [`AttentionShape::supported`] and [`Gpu::allocate`].
    pub fn new(
        gpu: &Gpu,
        config: &ModelConfig,
        format: KvFormat,
        tokens: impl Fn(Option<u32>) -> u32,
        segment_bytes: u64,
    ) -> Result<Self> {
        let shape = attention_shape(config, format);
        shape.supported()?;
        let page_bytes = shape.page_bytes();
        let windows = config.windows();
        let pages = windows.iter().map(|window| tokens(*window).div_ceil(PAGE)).collect::<Vec<_>>();
        let most = pages.iter().copied().max().unwrap_or(1);
        let pages_per_segment = (segment_bytes / page_bytes).clamp(1, u64::from(most)) as u32;
        let mut first_segment = 0;
        let classes: Vec<_> = windows
            .into_iter()
            .zip(pages)
            .map(|(window, pages)| {
                let class = Class { window, pages, first_segment };
                first_segment += pages.div_ceil(pages_per_segment) as usize;
                class
            })
            .collect();
        let class = |layer| classes.iter().position(|class| class.window == config.window(layer));
        let class_of: Vec<_> =
            (0..config.num_hidden_layers).map(|layer| class(layer).expect("one of its windows")).collect();
        let segment = |first: u32, pages: u32| -> Result<KvSegment> {
            let count = pages_per_segment.min(pages - first);
            let bytes = u64::from(count) * page_bytes;
            Ok(KvSegment {
                k: gpu.allocate("k cache", bytes)?,
                v: gpu.allocate("v cache", bytes)?,
                first_slot: first * PAGE,
                slots: count * PAGE,
            })
        };
        let layer = |class: &usize| {
            let pages = classes[*class].pages;
            (0..pages).step_by(pages_per_segment as usize).map(|first| segment(first, pages)).collect()
        };
        let pool = |class: &Class| Pool {
            free: (0..class.pages).rev().collect(),
            references: vec![0; class.pages as usize],
        };
        Ok(Self {
            shape,
            layers: class_of.iter().map(layer).collect::<Result<_>>()?,
            scratch: gpu.allocate("scratch page", page_bytes)?,
            pages_per_segment,
            page_bytes,
            pools: Arc::new(Mutex::new(classes.iter().map(pool).collect())),
            class_of,
            classes,
        })
    }

    /// A sequence without tokens.
    pub fn sequence(&self) -> Sequence {
        let kept = |class: &Class| Kept { window: class.window, ..Kept::default() };
        Sequence {
            pools: self.pools.clone(),
            kept: self.classes.iter().map(kept).collect(),
            length: 0,
            adapters: AdapterSet::NONE,
        }
    }

    /// Number of classes: of different windows.
    pub fn classes(&self) -> usize {
        self.classes.len()
    }

    /// Number of a layer's class, and that of the first of its segments among those of all classes.
    pub fn class_of(&self, layer: usize) -> (usize, usize) {
        let class = self.class_of[layer];
        (class, self.classes[class].first_segment)
    }

    /// Segments of all classes.
    pub fn segments(&self) -> usize {
        let last = self.classes.last().expect("a layer");
        last.first_segment + last.pages.div_ceil(self.pages_per_segment) as usize
    }

    /// Pages in use, of all classes.
    pub fn used_pages(&self) -> usize {
        self.used_pages_by_class().iter().sum()
    }

    /// Pages in use of each class, in the order of [`ModelConfig::windows`].
    pub fn used_pages_by_class(&self) -> Vec<usize> {
        let pools = lock(&self.pools);
        pools.iter().zip(&self.classes).map(|(pool, class)| class.pages as usize - pool.free.len()).collect()
    }

    /// Segment of `page` of a class among those of all, and the page's number within it.
    pub fn locate(&self, class: usize, page: u32) -> (usize, u32) {
        let segment = (page / self.pages_per_segment) as usize;
        (self.classes[class].first_segment + segment, page % self.pages_per_segment)
    }

    /// Makes room for `count` more tokens of `sequence`: takes pages, and replaces the last one by a
    /// copy when another sequence shares it. The copies are appended to `recording`, to be replayed
    /// before anything is written.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`] when the pool has not enough pages; then nothing was changed.
    pub fn reserve(&self, sequence: &mut Sequence, count: u32, recording: &mut Recording) -> Result<()> {
        let mut pools = lock(&self.pools);
        let missing = (sequence.length + count).div_ceil(PAGE) - sequence.length.div_ceil(PAGE);
        let partial = !sequence.length.is_multiple_of(PAGE);
        let shared = |kept: &Kept, pool: &Pool| {
            partial && kept.pages.back().is_some_and(|page| pool.references[*page as usize] > 1)
        };
        for ((kept, pool), class) in sequence.kept.iter().zip(&*pools).zip(&self.classes) {
            if pool.free.len() < missing as usize + usize::from(shared(kept, pool)) {
                let message = format!(
                    "no room for {count} more tokens after {}: the pool holds {} tokens, {} are free; raise --context",
                    sequence.length,
                    class.pages * PAGE,
                    pool.free.len() as u32 * PAGE
                );
                return Err(Error::new(ErrorKind::OutOfMemory, "kv cache", message));
            }
        }
        for (class, (kept, pool)) in sequence.kept.iter_mut().zip(&mut *pools).enumerate() {
            if shared(kept, pool) {
                let from = kept.pages.pop_back().expect("a shared page is there");
                let to = pool.take().expect("counted above");
                pool.release(from);
                kept.pages.push_back(to);
                for (layer, _) in self.layers.iter().zip(&self.class_of).filter(|(_, own)| **own == class) {
                    // A buffer cannot be copied to itself: by way of the scratch page.
                    for (from, to) in self.page(layer, from).iter().zip(&self.page(layer, to)) {
                        recording.copy(from, &self.scratch);
                        recording.copy(&self.scratch, to);
                    }
                }
            }
            kept.pages.extend((0..missing).map(|_| pool.take().expect("counted above")));
        }
        sequence.length += count;
        Ok(())
    }

    /// The keys and the values of a page in one layer.
    fn page(&self, layer: &[KvSegment], page: u32) -> [Buffer; 2] {
        let (segment, page) = (page / self.pages_per_segment, page % self.pages_per_segment);
        let KvSegment { k, v, .. } = &layer[segment as usize];
        [k, v].map(|buffer| buffer.slice(u64::from(page) * self.page_bytes, self.page_bytes))
    }
}

fn lock(pools: &Mutex<Vec<Pool>>) -> MutexGuard<'_, Vec<Pool>> {
    pools.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a sequence keeps of the pages of one class.
#[derive(Debug, Clone, Default)]
struct Kept {
    window: Option<u32>,
    /// Pages of logical numbers `first_page`, `first_page + 1`, …
    pages: VecDeque<u32>,
    first_page: u32,
}

impl Kept {
    fn first_visible(&self, position: u32) -> u32 {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// The shortest length that the pages are enough for.
    fn shortest(&self) -> u32 {
        self.window.filter(|_| self.first_page > 0).map_or(0, |window| self.first_page * PAGE + window - 1)
    }
}

/// The tokens of one text in the cache. Its pages return to their pools when it is dropped.
#[derive(Debug)]
pub struct Sequence {
    pools: Pools,
    /// By class.
    kept: Vec<Kept>,
    length: u32,
    adapters: AdapterSet,
}

impl Sequence {
    /// A sequence of the same cache without tokens, whose tokens will be computed with `adapters`.
    pub fn anew(&self, adapters: AdapterSet) -> Self {
        let kept = |kept: &Kept| Kept { window: kept.window, ..Kept::default() };
        Self { pools: self.pools.clone(), kept: self.kept.iter().map(kept).collect(), length: 0, adapters }
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
        Arc::ptr_eq(&self.pools, &other.pools)
    }

    /// The page of a class that holds position `position`.
    pub fn page_of(&self, class: usize, position: u32) -> u32 {
        let Kept { pages, first_page, .. } = &self.kept[class];
        pages[(position / PAGE - first_page) as usize]
    }

    /// Kept pages of a class, and the logical number of the first.
    pub fn pages(&self, class: usize) -> (impl Iterator<Item = u32>, u32) {
        let Kept { pages, first_page, .. } = &self.kept[class];
        (pages.iter().copied(), *first_page)
    }

    /// First key position that a query at `position` sees in layers of a class: `position − W + 1`, or 0.
    pub fn first_visible(&self, class: usize, position: u32) -> u32 {
        self.kept[class].first_visible(position)
    }

    /// Returns the pages that no later query can see, nor one of the last [`PAGE`] tokens: so many can be
    /// taken back.
    pub fn release_outside_window(&mut self) {
        let mut pools = lock(&self.pools);
        for (kept, pool) in self.kept.iter_mut().zip(&mut *pools) {
            let keep = kept.first_visible(self.length.saturating_sub(PAGE)) / PAGE;
            while kept.first_page < keep && !kept.pages.is_empty() {
                pool.release(kept.pages.pop_front().expect("not empty"));
                kept.first_page += 1;
            }
        }
    }

    /// A sequence with the same tokens that shares the pages; the partial last one is copied when
    /// either is continued.
    pub fn fork(&self) -> Self {
        let mut pools = lock(&self.pools);
        for (kept, pool) in self.kept.iter().zip(&mut *pools) {
            kept.pages.iter().for_each(|page| pool.references[*page as usize] += 1);
        }
        Self { pools: self.pools.clone(), kept: self.kept.clone(), ..*self }
    }

    /// Forgets the tokens from position `length` on.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] when it is longer than the sequence, or so short that it needs keys
    /// that have already left a window.
    pub fn truncate(&mut self, length: u32) -> Result<()> {
        let gone = |kept: &Kept| kept.first_visible(length) / PAGE < kept.first_page;
        if length > self.length || self.kept.iter().any(gone) {
            let shortest = self.kept.iter().map(Kept::shortest).max().unwrap_or_default();
            let expected = format!("a length from {shortest} to {}", self.length);
            return Err(Error::expected(ErrorKind::Argument, "truncate", expected, length));
        }
        let mut pools = lock(&self.pools);
        for (kept, pool) in self.kept.iter_mut().zip(&mut *pools) {
            let keep = length.div_ceil(PAGE).saturating_sub(kept.first_page) as usize;
            kept.pages.drain(keep..).for_each(|page| pool.release(page));
        }
        self.length = length;
        Ok(())
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        let mut pools = lock(&self.pools);
        for (kept, pool) in self.kept.iter_mut().zip(&mut *pools) {
            kept.pages.drain(..).for_each(|page| pool.release(page));
        }
    }
}
