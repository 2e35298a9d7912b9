//! The transformer: one forward pass for prefill, decoding and any mixture of both.

mod pass;

use std::{
    collections::HashMap,
    panic::resume_unwind,
    thread::{self, ScopedJoinHandle},
};

use super::{
    Adapter, Chunk, FEW_ROWS, KvCache, ModelConfig, ModelOptions, Sequence, Weights,
    activations::{Activations, RopeTable},
    adapters::Adapters,
    batch::Tables,
    form::Form,
};
use crate::{
    Error, ErrorKind, Result,
    gpu::{Buffer, Gpu, Profile, Recording},
    ops::{RowCount, SAMPLED, count},
    tensor::Tensor,
};

/// A model on a device: weights, adapters, KV cache, activations and the recordings made so far.
#[derive(Debug)]
pub struct Model {
    /// Shape and constants.
    pub config: ModelConfig,
    /// Sizes of the working memory.
    pub options: ModelOptions,
    /// Logits of the last batch, `[logit rows, vocab]`.
    pub logits: Tensor,
    /// Tokens sampled on the device, by slot: chunks refer to them by [`SAMPLED`].
    pub sampled: Buffer,
    weights: Weights,
    adapters: Adapters,
    cache: KvCache,
    rope: RopeTable,
    activations: Activations,
    recordings: HashMap<RecordingKey, Recording>,
    /// Of a step of few rows.
    pub(super) form: Form,
}

/// What a recording depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct RecordingKey {
    rows: RowCount,
    /// `None`: no logits.
    logit_rows: Option<RowCount>,
    hidden_states: bool,
    /// Whether any row has adapters.
    adapters: bool,
}

fn row_count(rows: usize, slot: usize) -> RowCount {
    if rows <= FEW_ROWS { RowCount::Few(rows as u32) } else { RowCount::many(slot, rows as u32) }
}

/// Takes the tokens of chunks that were not computed out of their sequences again.
fn undo(chunks: &mut [Chunk]) {
    for chunk in chunks {
        let length = chunk.sequence.len() - chunk.tokens.len() as u32;
        chunk.sequence.truncate(length).expect("nothing has left the window since");
    }
}

impl Model {
    /// Allocates everything but the weights, which are given, filled or not: see [`Model::fill`].
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub fn new(gpu: &Gpu, config: ModelConfig, weights: Weights, options: ModelOptions) -> Result<Self> {
        let segment_bytes = options.segment_bytes.min(gpu.limits().binding);
        let tokens = |window| options.tokens_within(window);
        let cache = KvCache::new(gpu, &config, options.kv_format, tokens, segment_bytes)?;
        let activations =
            Activations::new(gpu, &config, &options, cache.shape, cache.segments(), weights.reordered())?;
        let rope = RopeTable::new(gpu, &config, options.context)?;
        let logits = Tensor::zeros(gpu, "logits", options.max_logit_rows, config.vocab_size as u32)?;
        // Steps may be submitted while those before them are under way.
        let sampled = gpu.allocate("sampled", 4 * 4 * u64::from(options.max_logit_rows))?;
        let recordings = HashMap::new();
        let adapters = Adapters::default();
        let form = Form::of(gpu, &weights);
        Ok(Self {
            config,
            options,
            logits,
            sampled,
            weights,
            adapters,
            cache,
            rope,
            activations,
            recordings,
            form,
        })
    }

    /// Gives it `adapters`, the first of which is number 0, and no others. [`Model::sequence`] has all of them.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] for more than [`MAX_ADAPTERS`](crate::ops::MAX_ADAPTERS); as [`Adapter::low_rank`] and
    /// [`Gpu::allocate`].
    pub fn set_adapters(&mut self, gpu: &Gpu, adapters: &[Adapter]) -> Result<()> {
        self.adapters = Adapters::new(gpu, &self.config, &self.options, adapters)?;
        self.recordings.clear();
        Ok(())
    }

    /// Calls `fill` with the weights, and meanwhile, on other threads, records the usual passes, which
    /// compiles the kernels that they use on this device.
    ///
    /// # Errors
    /// As `fill`, and as [`Gpu::kernel`].
    pub fn fill(&mut self, gpu: &Gpu, fill: impl FnOnce(&Weights) -> Result<()>) -> Result<()> {
        let many = RowCount::many(count::ROWS, self.options.max_rows);
        let (few, one) = (RowCount::Few(1), Some(RowCount::Few(1)));
        // The first part of a long prompt, the last, and generation.
        let usual = [(many, None), (many, one), (few, one)];
        let (hidden_states, adapters) = (false, self.adapters.count > 0);
        let usual =
            usual.map(|(rows, logit_rows)| RecordingKey { rows, logit_rows, hidden_states, adapters });
        let model = &*self;
        let recordings = thread::scope(|scope| {
            let threads = usual.map(|key| scope.spawn(move || model.record(gpu, key)));
            let filled = fill(&model.weights);
            let join =
                |thread: ScopedJoinHandle<_>| thread.join().unwrap_or_else(|panic| resume_unwind(panic));
            let recordings = threads.map(join);
            filled.map(|()| recordings)
        })?;
        for (key, recording) in usual.into_iter().zip(recordings) {
            self.recordings.insert(key, recording?);
        }
        Ok(())
    }

    /// A sequence without tokens, whose tokens are computed with all adapters.
    pub fn sequence(&self) -> Sequence {
        self.cache.sequence().anew(self.adapters.all())
    }

    /// Pages of the KV cache in use.
    pub fn used_pages(&self) -> usize {
        self.cache.used_pages()
    }

    /// As [`used_pages`](Self::used_pages), of the layers with each of [`ModelConfig::windows`].
    pub fn used_pages_by_window(&self) -> Vec<usize> {
        self.cache.used_pages_by_class()
    }

    /// Appends every chunk's tokens to its sequence, and leaves the wanted logits in
    /// [`Model::logits`], row after row in the order of the batch. Returns before the device is done.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] for a batch beyond the limits of [`ModelOptions`] or a token id beyond
    /// the vocabulary; [`ErrorKind::OutOfMemory`] when the cache is full; as [`Gpu::replay`].
    pub fn forward(&mut self, gpu: &Gpu, chunks: &mut [Chunk], profile: Option<&mut Profile>) -> Result<()> {
        self.run(gpu, chunks, false, profile)
    }

    /// As [`Model::forward`], and keeps the hidden states: [`Model::hidden_states`].
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn forward_with_hidden_states(&mut self, gpu: &Gpu, chunks: &mut [Chunk]) -> Result<()> {
        self.activations.keep_hidden_states(gpu, &self.config, &self.options)?;
        self.run(gpu, chunks, true, None)
    }

    /// Hidden states of the last batch in transformers' order: the input of every block,
    /// `[rows, hidden]` each, and the final norm's output, `[logit rows, hidden]`.
    pub fn hidden_states(&self) -> impl Iterator<Item = &Tensor> {
        self.activations.hidden_states.iter().chain([&self.activations.final_norm.f32])
    }

    /// Appends `count` tokens to `sequence` without computing them: their keys and values are whatever the
    /// cache holds. For benchmarks at a depth.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`] when the cache is full.
    pub fn skip(&mut self, gpu: &Gpu, sequence: &mut Sequence, count: u32) -> Result<()> {
        let mut copies = Recording::default();
        for first in (0..count).step_by(self.options.max_rows as usize) {
            self.cache.reserve(sequence, (count - first).min(self.options.max_rows), &mut copies)?;
            sequence.release_outside_window();
        }
        gpu.replay(&copies, &[], None)
    }

    /// Tokens of a chunk at `position` that a batch should hold, so that no step of it outlasts a
    /// submission's time by much on this device.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn chunk_rows(&mut self, gpu: &Gpu, position: u32) -> Result<u32> {
        let rows = RowCount::many(count::ROWS, self.options.max_rows);
        let adapters = self.adapters.count > 0;
        let key = RecordingKey { rows, logit_rows: None, hidden_states: false, adapters };
        self.prepare(gpu, key)?;
        let mut counts = vec![0; count::single_items(self.cache.segments())];
        let visible = (position + 1).min(self.config.widest_window().unwrap_or(u32::MAX));
        let mut rows = self.options.max_rows;
        while rows > 1 {
            counts[count::ROWS] = u64::from(rows);
            for segment in 0..self.cache.segments() {
                counts[count::tiled_visits(segment)] = u64::from(rows) * u64::from(visible);
            }
            if !gpu.too_long(self.recordings[&key].heaviest(&counts)) {
                break;
            }
            rows /= 2;
        }
        Ok(rows)
    }

    fn run(
        &mut self,
        gpu: &Gpu,
        chunks: &mut [Chunk],
        hidden_states: bool,
        profile: Option<&mut Profile>,
    ) -> Result<()> {
        self.check(chunks)?;
        let mut copies = Recording::default();
        for index in 0..chunks.len() {
            let count = chunks[index].tokens.len() as u32;
            if let Err(error) = self.cache.reserve(chunks[index].sequence, count, &mut copies) {
                undo(&mut chunks[..index]);
                return Err(error);
            }
        }
        if let Err(error) = self.submit(gpu, chunks, &copies, hidden_states, profile) {
            undo(chunks);
            return Err(error);
        }
        for chunk in chunks {
            chunk.sequence.release_outside_window();
        }
        Ok(())
    }

    fn submit(
        &mut self,
        gpu: &Gpu,
        chunks: &[Chunk],
        copies: &Recording,
        hidden_states: bool,
        profile: Option<&mut Profile>,
    ) -> Result<()> {
        let tables = Tables::new(&self.cache, chunks);
        self.activations.write(gpu, &tables)?;
        let logit_rows = tables.logit_rows.len();
        let key = RecordingKey {
            rows: row_count(tables.rows[0].len(), count::ROWS),
            logit_rows: (logit_rows > 0).then(|| row_count(logit_rows, count::LOGIT_ROWS)),
            hidden_states,
            adapters: tables.rows[0].iter().any(|row| row.adapters != 0),
        };
        self.prepare(gpu, key)?;
        let counts = tables.counts();
        gpu.replay(copies, &counts, None)?;
        gpu.replay(&self.recordings[&key], &counts, profile)
    }

    fn check(&self, chunks: &[Chunk]) -> Result<()> {
        let refuse = |what: &str, expected: String, found: usize| {
            Err(Error::expected(ErrorKind::Argument, what, expected, found))
        };
        let rows: usize = chunks.iter().map(|chunk| chunk.tokens.len()).sum();
        if rows == 0 || rows > self.options.max_rows as usize {
            return refuse("batch", format!("1 to {} tokens", self.options.max_rows), rows);
        }
        let logit_rows: usize = chunks.iter().map(Chunk::logit_rows).sum();
        if logit_rows > self.options.max_logit_rows as usize {
            return refuse(
                "batch",
                format!("at most {} logit rows", self.options.max_logit_rows),
                logit_rows,
            );
        }
        for chunk in chunks {
            let vocab = self.config.vocab_size;
            let slots = SAMPLED..SAMPLED + (self.sampled.size() / 4) as u32;
            let unknown = |token: &&u32| **token as usize >= vocab && !slots.contains(*token);
            if let Some(token) = chunk.tokens.iter().find(unknown) {
                return refuse("token id", format!("less than the vocabulary's {vocab}"), *token as usize);
            }
            let length = chunk.sequence.len() as usize + chunk.tokens.len();
            if length > self.options.context as usize {
                return refuse("context", format!("at most {} tokens", self.options.context), length);
            }
        }
        Ok(())
    }

    fn prepare(&mut self, gpu: &Gpu, key: RecordingKey) -> Result<()> {
        if !self.recordings.contains_key(&key) {
            let recording = self.record(gpu, key)?;
            self.recordings.insert(key, recording);
        }
        Ok(())
    }
}
