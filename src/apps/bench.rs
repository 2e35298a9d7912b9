//! How fast a model reads a prompt and generates: what `mistral bench` prints.

use std::{sync::Arc, time::Instant};

use crate::{
    Result,
    generate::{Engine, Lane, Sampler, SamplingParams, Session, step},
    gpu::{Capability, Profile},
    model::{Chunk, Fit, KvCache, LogitRows},
};

/// What to measure: reading a prompt, or generating, after a text of some depth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// Tokens of the prompt; 0 when generation is measured.
    pub n_prompt: u32,
    /// Tokens to generate; 0 when the prompt is measured.
    pub n_gen: u32,
    /// Tokens in the cache before that.
    pub n_depth: u32,
}

impl Case {
    /// Tokens that are timed.
    pub fn tokens(&self) -> u32 {
        self.n_prompt + self.n_gen
    }

    /// The context that it needs.
    pub fn context(&self) -> u32 {
        self.n_depth.saturating_add(self.tokens()).saturating_add(1)
    }
}

/// What was measured.
#[derive(Debug, Clone)]
pub struct Measurement {
    /// Seconds of each repetition, sampling included.
    pub seconds: Vec<f64>,
    /// Bytes of weights, keys and values that generating one token reads, on average over the case.
    pub bytes_per_token: u64,
    /// GPU time of one forward pass over the prompt, or over one generated token: label, seconds and
    /// dispatches, longest first. From a run of its own; empty without timestamps.
    pub operations: Vec<(&'static str, f64, u64)>,
}

/// How the tokens before the measured ones get into the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// They are computed.
    Prefill,
    /// Their room is taken, whatever it holds: for random weights.
    Skip,
}

/// Measures one case `repetitions` times after a warm-up. The KV cache has room for a fork of the text.
///
/// # Errors
/// As [`step`].
pub async fn measure(
    engine: &Arc<Engine>,
    case: Case,
    depth: Depth,
    repetitions: u32,
) -> Result<Measurement> {
    let sampler = Sampler::new(SamplingParams { temperature: 0.0, ..Default::default() })?;
    let base = session_at(engine, case.n_depth, depth).await?;
    let mut seconds = Vec::new();
    // The first compiles kernels and does not count.
    for repetition in 0..=repetitions {
        let mut session = base.fork();
        // Generation begins with one token to continue from.
        session.feed(&tokens(engine, case.n_prompt.max(1)));
        let start = Instant::now();
        for _ in 0..case.n_gen.max(1) {
            let lane = Lane { session: &mut session, sampler: &sampler, sample: 0, allowed: None };
            step(&mut [lane]).await?;
        }
        if repetition > 0 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    drop(base);
    let operations = profile(engine, case).await?;
    Ok(Measurement { seconds, bytes_per_token: bytes_per_token(engine, case), operations })
}

/// A session with `length` tokens in the cache.
async fn session_at(engine: &Arc<Engine>, length: u32, depth: Depth) -> Result<Session> {
    let mut session = engine.session();
    match depth {
        Depth::Skip => session.skip(&tokens(engine, length)).await?,
        Depth::Prefill if length > 0 => {
            // A prefill leaves the last token for later.
            session.feed(&tokens(engine, length + 1));
            session.prefill().await?;
            session.truncate(length as usize)?;
        }
        Depth::Prefill => {}
    }
    Ok(session)
}

/// Some tokens: which ones does not matter for the time.
fn tokens(engine: &Engine, count: u32) -> Vec<u32> {
    let vocab = engine.config().vocab_size as u32;
    (0..count).map(|index| index.wrapping_mul(2_654_435_761) % vocab).collect()
}

/// GPU time by operation, of the same forward passes with a pass for each step.
async fn profile(engine: &Arc<Engine>, case: Case) -> Result<Vec<(&'static str, f64, u64)>> {
    if !engine.gpu().capabilities().has(&[Capability::Timestamp]) {
        return Ok(Vec::new());
    }
    let all = tokens(engine, case.n_prompt.max(1));
    engine
        .with_model(async |gpu, model| {
            let mut profile = Profile::new(gpu)?;
            let mut sequence = model.sequence();
            model.skip(gpu, &mut sequence, case.n_depth)?;
            let mut left = all.as_slice();
            while !left.is_empty() {
                let rows = model.chunk_rows(gpu, sequence.len())? as usize;
                let (tokens, rest) = left.split_at(rows.min(left.len()));
                let logits = if rest.is_empty() { LogitRows::Last } else { LogitRows::None };
                let mut chunks = [Chunk { sequence: &mut sequence, tokens, logits }];
                model.forward(gpu, &mut chunks, Some(&mut profile))?;
                profile.collect(gpu).await?;
                left = rest;
            }
            Ok(profile.totals())
        })
        .await
}

/// Weights, without the embedding of which one row is read, and the visible keys and values half-way.
fn bytes_per_token(engine: &Engine, case: Case) -> u64 {
    let (config, options) = (engine.config(), engine.model_options());
    let weights = Fit::new(config, options, engine.format()).weights;
    let embedding = match config.tie_word_embeddings {
        true => Some((0, 0)),
        false => engine.format().plane_bytes(config.vocab_size, config.hidden_size),
    };
    let (codes, scales) = embedding.unwrap_or_default();
    let position = case.n_depth + case.tokens() / 2 + 1;
    let visible = position.min(config.sliding_window.unwrap_or(u32::MAX));
    weights - codes - scales + KvCache::bytes(config, options.kv_format, visible.into())
}
