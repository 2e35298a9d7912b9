//! A text that is being continued: when to stop, and what may be shown of it.

use std::collections::VecDeque;

use super::{
    Finish, GenerateOptions, Piece, Proposer, Sampled, Sampler, Session,
    proposer::{Speculation, StepCosts},
    sampling::{After, Landed, Part},
};
use crate::{
    Error, ErrorKind, Result,
    text::{StopStrings, StreamDecoder},
};

/// A generation under way. The session holds tokens that were not handed out yet, and its cache may hold
/// more than that; when this is dropped, neither does.
pub(super) struct Continuation<'a> {
    pub session: &'a mut Session,
    options: GenerateOptions,
    sampler: Sampler,
    decoder: Option<StreamDecoder>,
    stop: StopStrings,
    /// Tokens still to come.
    left: usize,
    speculation: Speculation,
    /// What was not handed out yet: the session's last tokens.
    pieces: VecDeque<Result<Piece>>,
    /// Whether it was part of a step.
    started: bool,
}

impl<'a> Continuation<'a> {
    pub fn new(
        session: &'a mut Session,
        options: GenerateOptions,
        proposer: Box<dyn Proposer + Send>,
    ) -> Result<Self> {
        if session.tokens().is_empty() {
            let expected = "at least one token to continue from";
            return Err(Error::expected(ErrorKind::Argument, "prompt", expected, "none"));
        }
        let context = session.engine().context();
        if session.tokens().len() > context {
            let expected = format!("at most the context's {context} tokens");
            return Err(Error::expected(ErrorKind::Argument, "prompt", expected, session.tokens().len()));
        }
        let room = context + 1 - session.tokens().len();
        let left = options.max_tokens.unwrap_or(room).min(room);
        if left == 0 {
            return Err(Error::expected(ErrorKind::Argument, "max_tokens", "at least 1", 0));
        }
        let mut decoder =
            session.engine().tokenizer().ok().map(|tokenizer| StreamDecoder::new(tokenizer.clone()));
        if let (Some(decoder), Some(last)) = (&mut decoder, session.tokens().last()) {
            // The space before the first word is no text, unless there are words before it.
            decoder.push(*last)?;
        }
        let sampler = Sampler::new(options.sampling.clone())?;
        let stop = StopStrings::new(options.stop.clone());
        let speculation = Speculation::new(proposer, options.speculate);
        let pieces = VecDeque::new();
        Ok(Self { session, options, sampler, decoder, stop, left, speculation, pieces, started: false })
    }

    /// Tokens that may still come.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Its part of the next step.
    pub fn part<'b>(&'b mut self, after: After<'b>) -> Part<'b> {
        self.started = true;
        Part {
            session: self.session,
            after,
            sampler: &self.sampler,
            sample: self.options.sample,
            allowed: self.options.allowed.as_deref(),
        }
    }

    /// What to take to follow the tokens known now.
    pub fn propose(&mut self, costs: &StepCosts) -> Vec<u32> {
        self.speculation.propose(self.session.tokens(), self.left, costs)
    }

    /// Takes the tokens that a step chose, as far as the text goes.
    pub fn accept(&mut self, landed: Landed) {
        self.speculation.learn(&landed.proposed, landed.tokens.iter().map(|token| token.id));
        for token in landed.tokens {
            if self.left == 0 {
                break;
            }
            self.session.push(token.id);
            let piece = self.piece(token);
            if !matches!(piece, Ok(Piece { finish: None, .. })) {
                self.left = 0;
            }
            self.pieces.push_back(piece);
        }
    }

    /// Hands out the next piece.
    pub fn take_piece(&mut self) -> Option<Result<Piece>> {
        self.pieces.pop_front()
    }

    /// Takes tokens out of the cache that may not belong to the text.
    pub fn settle(&mut self) {
        if self.started {
            self.session.settle(self.session.tokens().len());
        }
    }

    fn piece(&mut self, token: Sampled) -> Result<Piece> {
        self.left -= 1;
        let ends = !self.options.ignore_eos && self.session.engine().eos_token_ids().contains(&token.id)
            || self.options.stop_ids.contains(&token.id);
        let decoded = match &mut self.decoder {
            Some(decoder) if !ends => decoder.push(token.id)?.unwrap_or_default(),
            _ => String::new(),
        };
        let (mut text, stopped) = self.stop.push(&decoded);
        let finish = match () {
            () if ends || stopped => Some(Finish::Stop),
            () if self.left == 0 => Some(Finish::Length),
            () => None,
        };
        if finish.is_some() && !stopped {
            let rest = self.decoder.as_mut().and_then(StreamDecoder::finish).unwrap_or_default();
            let (rest, stopped) = self.stop.push(&rest);
            text += &rest;
            if !stopped {
                text += &self.stop.finish();
            }
        }
        Ok(Piece { text, token, finish })
    }
}

impl Drop for Continuation<'_> {
    fn drop(&mut self) {
        if self.started {
            self.session.settle(self.session.tokens().len() - self.pieces.len());
        }
    }
}
