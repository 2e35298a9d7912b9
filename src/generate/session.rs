//! One text being read and continued.

use std::sync::Arc;

use futures::{Stream, stream};

use super::{Batch, Engine, Sampled, SamplingParams, Speculate, state::State};
use crate::{
    Error, ErrorKind, Result,
    model::{AdapterSet, Sequence},
};

/// A text: its tokens, and the keys and values of those computed so far. Tokens are computed when
/// something depends on them.
pub struct Session {
    engine: Arc<Engine>,
    sequence: Sequence,
    tokens: Vec<u32>,
    /// Where the tokens begin that count as generated.
    generated_from: usize,
}

/// What to generate, and when to stop.
#[derive(Debug, Clone, Default)]
pub struct GenerateOptions {
    /// Tokens at most; `None`: as many as the context has room for.
    pub max_tokens: Option<usize>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Number of this sample among several of one prompt: each draws its own random numbers.
    pub sample: u64,
    /// Texts that end generation; they are not part of what is returned.
    pub stop: Vec<String>,
    /// Token ids that end generation beside the model's own.
    pub stop_ids: Vec<u32>,
    /// Go on past the model's own end tokens.
    pub ignore_eos: bool,
    /// Bit `id % 32` of word `id / 32` tells whether a token is allowed; `None` allows all.
    pub allowed: Option<Vec<u32>>,
    /// When to guess at tokens and check them together; the text is the same with and without.
    pub speculate: Speculate,
}

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// An end token or a stop string.
    Stop,
    /// As many tokens as asked for, or as the context has room for.
    Length,
}

/// What one step added.
#[derive(Debug, Clone)]
pub struct Piece {
    /// Text that is certain now: whole characters, and not the beginning of a stop string.
    pub text: String,
    /// The token chosen in this step.
    pub token: Sampled,
    /// Set in the last piece.
    pub finish: Option<Finish>,
}

impl Session {
    pub(super) fn new(engine: Arc<Engine>, sequence: Sequence) -> Self {
        Self { engine, sequence, tokens: Vec::new(), generated_from: 0 }
    }

    /// The engine that runs it.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// All tokens so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// How many of them are computed: their keys and values are in the cache.
    pub fn computed(&self) -> usize {
        self.sequence.len() as usize
    }

    /// The adapters that it is computed with.
    pub fn adapters(&self) -> AdapterSet {
        self.sequence.adapters()
    }

    /// Computes the text with other adapters from now on, from its beginning: keys and values depend on them.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] when the engine has not so many.
    pub fn set_adapters(&mut self, adapters: AdapterSet) -> Result<()> {
        let count = self.engine.adapters().len();
        if !adapters.is_within(count) {
            let expected = format!("some of the engine's {count}");
            return Err(Error::expected(
                ErrorKind::Argument,
                "adapters",
                expected,
                format_args!("{adapters:?}"),
            ));
        }
        if adapters != self.sequence.adapters() {
            self.sequence = self.engine.empty(adapters);
        }
        Ok(())
    }

    /// Appends tokens; they count as prompt, and so does everything before them.
    pub fn feed(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
        self.generated_from = self.tokens.len();
    }

    /// Makes `tokens` the whole text, keeping what was computed of a common beginning.
    ///
    /// # Errors
    /// As [`Session::truncate`].
    pub fn reset_to(&mut self, tokens: &[u32]) -> Result<()> {
        let common = self.tokens.iter().zip(tokens).take_while(|(old, new)| old == new).count();
        if common < self.tokens.len() && self.truncate(common).is_err() {
            // The common beginning has partly left the window: begin anew.
            *self = Self::new(self.engine.clone(), self.engine.empty(self.sequence.adapters()));
        }
        let kept = self.tokens.len();
        self.feed(&tokens[kept..]);
        Ok(())
    }

    /// Appends a token as generated.
    pub(super) fn push(&mut self, token: u32) {
        self.tokens.push(token);
    }

    /// Computes all tokens but the last, whose logits are the next thing wanted. Forks share the work.
    ///
    /// # Errors
    /// As [`Model::forward`](crate::model::Model::forward).
    pub async fn prefill(&mut self) -> Result<()> {
        let engine = self.engine.clone();
        engine.persist(async || engine.prefill(&mut *engine.state().await?, self, 1)).await
    }

    /// Appends tokens as [`Model::skip`](crate::model::Model::skip) does.
    ///
    /// # Errors
    /// As there; [`ErrorKind::Argument`] when tokens before them have not been computed.
    pub async fn skip(&mut self, tokens: &[u32]) -> Result<()> {
        let engine = self.engine.clone();
        let State { gpu, model, .. } = &mut *engine.state().await?;
        engine.renew(&mut self.sequence);
        let computed = self.sequence.len() as usize;
        if computed < self.tokens.len() {
            let expected = format!("{} computed tokens", self.tokens.len());
            return Err(Error::expected(ErrorKind::Argument, "skip", expected, computed));
        }
        self.feed(tokens);
        model.skip(gpu, &mut self.sequence, tokens.len() as u32)
    }

    /// A session with the same tokens that shares what was computed.
    pub fn fork(&self) -> Self {
        Self {
            engine: self.engine.clone(),
            sequence: self.sequence.fork(),
            tokens: self.tokens.clone(),
            generated_from: self.generated_from,
        }
    }

    /// Forgets the tokens from number `length` on.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] when it is longer than the text, or the keys it needs have left the window.
    pub fn truncate(&mut self, length: usize) -> Result<()> {
        if length > self.tokens.len() {
            let expected = format!("at most {}", self.tokens.len());
            return Err(Error::expected(ErrorKind::Argument, "truncate", expected, length));
        }
        if (length as u32) < self.sequence.len() {
            self.sequence.truncate(length as u32)?;
        }
        self.tokens.truncate(length);
        self.generated_from = self.generated_from.min(length);
        Ok(())
    }

    /// The cache, and the tokens that are not in it yet: at least the last one.
    pub(super) fn pending(&mut self) -> (&mut Sequence, &[u32]) {
        self.engine.renew(&mut self.sequence);
        if self.sequence.len() as usize == self.tokens.len() && !self.tokens.is_empty() {
            // Its logits are gone; the last page is always kept.
            let length = self.sequence.len() - 1;
            self.sequence.truncate(length).expect("the last token is within the window");
        }
        let computed = self.sequence.len() as usize;
        (&mut self.sequence, &self.tokens[computed..])
    }

    /// Prompt tokens and generated tokens.
    pub(super) fn history(&self) -> (&[u32], &[u32]) {
        self.tokens.split_at(self.generated_from)
    }

    /// The cache.
    pub(super) fn sequence(&mut self) -> &mut Sequence {
        &mut self.sequence
    }

    /// Forgets the tokens from number `length` on, and all in the cache but those before the last: what a
    /// step leaves that chose token number `length - 1`.
    pub(super) fn settle(&mut self, length: usize) {
        self.tokens.truncate(length);
        let computed = length.saturating_sub(1) as u32;
        if self.sequence.len() > computed && self.sequence.truncate(computed).is_err() {
            // Too far back for what the window has left: everything is computed anew.
            self.sequence = self.engine.empty(self.sequence.adapters());
        }
    }

    /// Continues the text, one [`Piece`] for each token. What was generated stays part of the session
    /// when the stream is dropped.
    ///
    /// # Errors
    /// The stream yields an error and ends when a step fails; [`ErrorKind::Argument`] when there is
    /// no token to continue from or an option is out of range.
    pub fn generate(&mut self, options: GenerateOptions) -> impl Stream<Item = Result<Piece>> + '_ {
        let mut batch = Batch::new(1);
        batch.push(self, options);
        stream::try_unfold(batch, |mut batch| async move {
            Ok(batch.next().await?.map(|(_, piece)| (piece, batch)))
        })
    }
}
