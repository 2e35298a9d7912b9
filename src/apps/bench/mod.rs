//! How fast a model reads prompts and generates, and how fast this device could: what `mistral bench` prints.

mod work;

use std::{sync::Arc, time::Instant};

pub use work::{Pass, Stored, Work, fits, least_seconds, passes};

use crate::{
    Result,
    generate::{Batch, Engine, GenerateOptions, SamplingParams, Session, Speculate},
    gpu::{Counters, Profile, process_time},
    model::{Chunk, LogitRows},
    ops::PAGE,
};

/// What to measure: reading a prompt, or generating, after texts of some depth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// Tokens of the prompt; 0 when generation is measured.
    pub n_prompt: u32,
    /// Tokens to generate for each text; 0 when the prompt is measured.
    pub n_gen: u32,
    /// Tokens of each text in the cache before that.
    pub n_depth: u32,
    /// Texts in a batch.
    pub n_sequences: u32,
}

impl Case {
    /// Tokens that are timed.
    pub fn tokens(&self) -> u32 {
        (self.n_prompt + self.n_gen) * self.n_sequences
    }

    /// The context that it needs.
    pub fn context(&self) -> u32 {
        self.n_depth.saturating_add(self.n_prompt + self.n_gen).saturating_add(1)
    }

    /// Tokens that the KV cache must hold: every text, and a continuation of it that moves on while the text stays.
    pub fn cache_tokens(&self, stored: &Stored) -> u32 {
        let kept = |window: u32| window.saturating_add(stored.options.max_rows).saturating_mul(2);
        let each = self.context().min(stored.config.widest_window().map_or(u32::MAX, kept));
        each.saturating_add(4 * PAGE).saturating_mul(self.n_sequences)
    }
}

/// What was measured.
#[derive(Debug, Clone)]
pub struct Measurement {
    /// Seconds of each repetition, sampling included.
    pub seconds: Vec<f64>,
    /// Processor time of each repetition on the host, in seconds, where the system tells: all of the work on a
    /// software device.
    pub host_seconds: Vec<f64>,
    /// What the device was asked to do in one repetition; the encoding time is the least of all.
    pub counters: Counters,
}

/// How the tokens before the measured ones get into the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// They are computed.
    Prefill,
    /// Their room is taken, whatever it holds: for random weights.
    Skip,
}

/// Measures one case `repetitions` times after a warm-up. The KV cache has room for
/// [`Case::cache_tokens`].
///
/// # Errors
/// As [`Batch::next`].
pub async fn measure(
    engine: &Arc<Engine>,
    case: Case,
    depth: Depth,
    repetitions: u32,
) -> Result<Measurement> {
    let options = GenerateOptions {
        max_tokens: Some(case.n_gen.max(1) as usize),
        sampling: SamplingParams { temperature: 0.0, ..Default::default() },
        ignore_eos: true,
        // What can be guessed of random or repeated tokens tells nothing.
        speculate: Speculate::Off,
        ..Default::default()
    };
    let mut texts = Vec::new();
    for _ in 0..case.n_sequences {
        texts.push(session_at(engine, case.n_depth, depth).await?);
    }
    let (mut seconds, mut host_seconds) = (Vec::new(), Vec::new());
    let mut counters = Counters::default();
    // The first compiles kernels and does not count.
    for repetition in 0..=repetitions {
        let mut sessions: Vec<_> = texts.iter().map(Session::fork).collect();
        // Generation begins with one token to continue from.
        sessions.iter_mut().for_each(|session| session.feed(&tokens(engine, case.n_prompt.max(1))));
        let before = engine.gpu().counters();
        let (start, host_start) = (Instant::now(), process_time());
        let mut batch = Batch::new(sessions.len());
        sessions.iter_mut().for_each(|session| batch.push(session, options.clone()));
        while batch.next().await?.is_some() {}
        if repetition > 0 {
            seconds.push(start.elapsed().as_secs_f64());
            let host = process_time().zip(host_start).map(|(end, start)| (end - start).as_secs_f64());
            host_seconds.extend(host);
            let done = engine.gpu().counters() - before;
            let least = if repetition == 1 { u64::MAX } else { counters.encoding_ns };
            counters = Counters { encoding_ns: done.encoding_ns.min(least), ..done };
        }
    }
    Ok(Measurement { seconds, host_seconds, counters })
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

/// GPU time of an operation in one pass: label, seconds and dispatches.
pub type Timed = (&'static str, f64, u64);

/// The last pass of a case with each step timed by itself: the pass, and its operations, longest first.
///
/// # Errors
/// Where the device has no timestamps: as [`Profile::new`]; as [`Model::forward`](crate::model::Model::forward).
pub async fn profile(engine: &Arc<Engine>, case: Case) -> Result<(Pass, Vec<Timed>)> {
    let max_rows = engine.model_options().max_rows;
    let mut pass = *passes(case, max_rows).last().expect("a case has a pass");
    let logits = if pass.logits { LogitRows::Last } else { LogitRows::None };
    let timed = engine.with_model(async |gpu, model| {
        // A slow device takes less at once.
        pass.tokens = pass.tokens.min(model.chunk_rows(gpu, pass.position)?);
        let tokens = tokens(engine, pass.tokens);
        let mut profile = Profile::new(gpu)?;
        // The first compiles kernels and does not count.
        for measured in [false, true] {
            let mut sequences = Vec::new();
            for _ in 0..pass.sequences {
                let mut sequence = model.sequence();
                model.skip(gpu, &mut sequence, pass.position)?;
                sequences.push(sequence);
            }
            let chunk = |sequence| Chunk { sequence, tokens: &tokens, logits };
            let mut chunks: Vec<_> = sequences.iter_mut().map(chunk).collect();
            model.forward(gpu, &mut chunks, measured.then_some(&mut profile))?;
            gpu.wait()?;
        }
        profile.collect(gpu).await?;
        Ok(profile.totals())
    });
    let timed = timed.await?;
    Ok((pass, timed))
}
