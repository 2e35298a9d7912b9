//! Many texts at once, continued in common batches, and never waiting for one another or for the host.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use super::{
    Engine, Finish, GenerateOptions, Piece, PromptLookup, Proposer, Session,
    continuation::Continuation,
    sampling::{After, Flight, submit},
    state::LOSSES,
};
use crate::{Error, ErrorKind, Result};

/// Texts that are continued together, at most so many in a step; as one ends, the next takes its place.
///
/// A step is submitted before the tokens of the one before it are known: the device hands them on. Whether
/// a text has ended is seen one step late, and what was computed too much is thrown away. Nothing of
/// that shows: tokens, log-probabilities and sessions are those of one step after the other.
///
/// A text that is alone in its step may go several tokens ahead, see [`Speculate`](super::Speculate).
///
/// All sessions belong to one engine.
pub struct Batch<'a> {
    width: usize,
    pushed: usize,
    waiting: VecDeque<Waiting<'a>>,
    running: Vec<(usize, Continuation<'a>)>,
    /// The step under way.
    flight: Option<Numbered>,
    /// When the tokens of the one before came.
    landed: Instant,
    /// What went wrong when a step was submitted that was not wanted yet.
    failed: Option<Error>,
}

/// A text that has not begun.
struct Waiting<'a> {
    number: usize,
    session: &'a mut Session,
    options: GenerateOptions,
    proposer: Box<dyn Proposer + Send>,
}

/// A step with the numbers of the texts that its parts belong to; `None` for those it was wrong about.
struct Numbered {
    flight: Flight,
    texts: Vec<Option<usize>>,
    submitted: Instant,
}

impl Numbered {
    fn part(&self, text: usize) -> Option<usize> {
        self.texts.iter().position(|number| *number == Some(text))
    }
}

impl<'a> Batch<'a> {
    /// No texts yet, and at most `width` in a step.
    pub fn new(width: usize) -> Self {
        let (waiting, running) = (VecDeque::new(), Vec::new());
        let landed = Instant::now();
        Self { width: width.max(1), pushed: 0, waiting, running, flight: None, landed, failed: None }
    }

    /// Adds a text. Those added are numbered from 0 on.
    pub fn push(&mut self, session: &'a mut Session, options: GenerateOptions) {
        self.push_with(session, options, Box::new(PromptLookup::default()));
    }

    /// Adds a text whose tokens are guessed by `proposer`.
    pub fn push_with(
        &mut self,
        session: &'a mut Session,
        options: GenerateOptions,
        proposer: Box<dyn Proposer + Send>,
    ) {
        self.waiting.push_back(Waiting { number: self.pushed, session, options, proposer });
        self.pushed += 1;
    }

    /// The next piece of one of the texts with its number; `None` once all have ended.
    ///
    /// # Errors
    /// As [`Session::generate`]; nothing more comes after an error.
    pub async fn next(&mut self) -> Result<Option<(usize, Piece)>> {
        let result = self.try_next().await;
        if result.is_err() {
            *self = Self::new(self.width);
        }
        result
    }

    async fn try_next(&mut self) -> Result<Option<(usize, Piece)>> {
        let mut losses = 0;
        loop {
            for (number, text) in &mut self.running {
                if let Some(piece) = text.take_piece() {
                    return Ok(Some((*number, piece?)));
                }
            }
            self.running.retain(|(_, text)| text.left() > 0);
            while self.running.len() < self.width {
                let Some(text) = self.waiting.pop_front() else { break };
                let Waiting { number, session, options, proposer } = text;
                self.running.push((number, Continuation::new(session, options, proposer)?));
            }
            let Some((_, first)) = self.running.first() else { return Ok(None) };
            let engine = first.session.engine().clone();
            match self.advance(&engine).await {
                Err(error) if error.kind() == ErrorKind::DeviceLost && losses < LOSSES => {
                    losses += 1;
                    // The next step begins with the tokens that are known.
                    (self.flight, self.failed) = (None, None);
                    self.running.iter_mut().for_each(|(_, text)| text.settle());
                }
                advanced => advanced?,
            }
        }
    }

    /// Submits a step, and takes the tokens of the one before.
    async fn advance(&mut self, engine: &Arc<Engine>) -> Result<()> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let before = self.flight.take();
        let mut next = match self.submit(engine, before.as_ref()).await {
            Err(error) if before.is_none() => return Err(error),
            // There may be room for the token that is certain, and none for one more.
            Err(error) if error.kind() == ErrorKind::OutOfMemory => None,
            Err(error) => {
                self.failed = Some(error);
                None
            }
            Ok(next) => next,
        };
        if let Some(before) = before {
            self.land(engine, before, next.as_mut()).await?;
            next = next.filter(|next| next.texts.iter().any(Option::is_some));
            if next.is_none() && self.failed.is_none() {
                // What comes next is certain: it need not wait until the pieces are taken.
                match self.submit(engine, None).await {
                    Ok(certain) => next = certain,
                    Err(error) => self.failed = Some(error),
                }
            }
        }
        self.flight = next;
        Ok(())
    }

    /// Takes the tokens of a step, and out of the `next` one what began with wrong ones.
    async fn land(&mut self, engine: &Engine, step: Numbered, mut next: Option<&mut Numbered>) -> Result<()> {
        let Numbered { flight, texts, submitted } = step;
        let alone = (texts.len() == 1 && flight.decoding).then(|| flight.rows(0));
        let landed = flight.land().await?;
        let since = submitted.max(std::mem::replace(&mut self.landed, Instant::now()));
        let state = &mut *engine.state().await?;
        if let Some(rows) = alone {
            state.costs.learn(rows, self.landed.duration_since(since).as_secs_f64());
        }
        for (landed, number) in landed.into_iter().zip(texts) {
            let Some((number, text)) = self.running.iter_mut().find(|(n, _)| Some(*n) == number) else {
                continue;
            };
            state.counts.steps += 1;
            state.counts.proposed += landed.proposed.len() as u64;
            state.counts.tokens += landed.tokens.len() as u64;
            let in_slot = landed.in_slot;
            text.accept(landed);
            let part = next.as_ref().and_then(|next| next.part(*number));
            if text.left() == 0 || part.is_none() || !in_slot {
                text.settle();
                if let (Some(next), Some(part)) = (&mut next, part) {
                    next.texts[part] = None;
                }
            }
        }
        Ok(())
    }

    /// Submits a step of every text whose next token is known, or will be with the step `before`.
    async fn submit(&mut self, engine: &Engine, before: Option<&Numbered>) -> Result<Option<Numbered>> {
        let state = &mut *engine.state().await?;
        let mut proposed = match self.running.as_mut_slice() {
            [(_, text)] => text.propose(&state.costs),
            _ => Vec::new(),
        };
        loop {
            let (mut parts, mut texts) = (Vec::new(), Vec::new());
            for (number, text) in &mut self.running {
                let after = match before.and_then(|before| Some((before, before.part(*number)?))) {
                    None if text.left() == 0 => continue,
                    None if proposed.is_empty() || text.session.pending().1.len() > 1 => After::Nothing,
                    None => After::Proposed(&proposed),
                    // The token under way may be the last one, or tell which are proposed.
                    Some((before, part))
                        if text.left() == 1 || before.flight.rows(part) > 1 || !proposed.is_empty() =>
                    {
                        continue;
                    }
                    Some((before, part)) => match before.flight.slot(state, part) {
                        Some(slot) => After::Slot(slot),
                        None => continue,
                    },
                };
                parts.push(text.part(after));
                texts.push(Some(*number));
            }
            if parts.is_empty() {
                return Ok(None);
            }
            match submit(engine, state, &mut parts) {
                // There may be room for the certain token alone.
                Err(error) if error.kind() == ErrorKind::OutOfMemory && !proposed.is_empty() => {
                    drop(parts);
                    proposed.clear();
                }
                flight => {
                    let submitted = Instant::now();
                    return flight.map(|flight| Some(Numbered { flight, texts, submitted }));
                }
            }
        }
    }
}

/// What was generated for one session.
#[derive(Debug, Clone)]
pub struct Generation {
    /// The text.
    pub text: String,
    /// Its tokens, an end token included.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
}

/// Continues every session until it ends, at most `width` of them in a step, see [`Batch`].
///
/// # Errors
/// As [`Session::generate`].
pub async fn generate_all(
    sessions: &mut [Session],
    options: &GenerateOptions,
    width: usize,
) -> Result<Vec<Generation>> {
    let empty = Generation { text: String::new(), tokens: Vec::new(), finish: Finish::Length };
    let mut generations = vec![empty; sessions.len()];
    let mut batch = Batch::new(width);
    for session in sessions {
        batch.push(session, options.clone());
    }
    while let Some((number, piece)) = batch.next().await? {
        let generation = &mut generations[number];
        generation.tokens.push(piece.token.id);
        generation.text += &piece.text;
        generation.finish = piece.finish.unwrap_or(generation.finish);
    }
    Ok(generations)
}
