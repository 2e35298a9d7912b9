//! How likely given continuations are.

use std::collections::VecDeque;

use rayon::prelude::*;

use super::{Engine, Session, state::State};
use crate::{
    Error, ErrorKind, Result,
    gpu::{Download, Gpu},
    model::{Chunk, FEW_ROWS, LogitRows, Model, Sequence},
    reference::log_sum_exp,
};

/// A text, and how it may go on.
pub type Continued<'a> = (&'a mut Session, &'a [Vec<u32>]);

impl Engine {
    /// Log-probabilities of each continuation's tokens after the text of `session`, which is
    /// computed once and shared. So is the row of logits that all their first tokens come from; the others
    /// are computed several continuations at a time, so few that none depends on the others.
    ///
    /// # Errors
    /// As [`Model::forward`]; [`ErrorKind::Argument`] for a session without tokens.
    pub async fn score(&self, session: &mut Session, continuations: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        let scores = self.persist_score(&mut [(session, continuations)], FEW_ROWS).await?;
        Ok(scores.into_iter().flatten().collect())
    }

    /// As [`score`](Self::score), for several texts in common batches, as large as they may be: what is computed
    /// together may change scores by rounding.
    ///
    /// # Errors
    /// As [`score`](Self::score); [`ErrorKind::OutOfMemory`] where there is not room for all of the texts at once.
    pub async fn score_all(&self, texts: &mut [Continued<'_>]) -> Result<Vec<Vec<Vec<f32>>>> {
        self.persist_score(texts, usize::MAX).await
    }

    /// Scores of every text's continuations, of which `most` rows are computed together.
    async fn persist_score(&self, texts: &mut [Continued<'_>], most: usize) -> Result<Vec<Vec<Vec<f32>>>> {
        if texts.iter().any(|(session, _)| session.tokens().is_empty()) {
            return Err(Error::expected(ErrorKind::Argument, "text", "at least one token", "none"));
        }
        self.persist(async || self.try_score(texts, most).await).await
    }

    async fn try_score(&self, texts: &mut [Continued<'_>], most: usize) -> Result<Vec<Vec<Vec<f32>>>> {
        let state = &mut *self.state().await?;
        let mut scores = Vec::new();
        let mut begun = 0;
        while begun < texts.len() {
            begun += self.begin(state, &mut texts[begun..], most, &mut scores).await?;
        }
        let mut continuations = Vec::new();
        for (session, following) in texts.iter_mut() {
            let text = &*session.sequence();
            continuations.extend(following.iter().map(|tokens| Continuation { text, tokens }));
        }
        let State { gpu, model, .. } = state;
        let mut scoring = Scoring { continuations, under_way: None };
        let all = model.options.max_logit_rows.min(model.options.max_rows) as usize;
        let mut groups = groups(&scoring.continuations, all.min(most));
        while let Some(mut group) = groups.pop_front() {
            match scoring.compute(gpu, model, &group, all, &mut scores).await {
                // There may be room for one half after the other.
                Err(error) if error.kind() == ErrorKind::OutOfMemory && group.len() > 1 => {
                    let half = group.split_off(group.len() / 2);
                    groups.push_front(half);
                    groups.push_front(group);
                }
                result => result?,
            }
        }
        scoring.receive(gpu, model, &mut scores).await?;
        let mut scores = scores.into_iter();
        Ok(texts.iter().map(|(_, following)| scores.by_ref().take(following.len()).collect()).collect())
    }

    /// Computes the first of `texts` to their ends, as many as go in one batch of `most` rows, and adds the log-probability of the
    /// first token of each of their continuations to `scores`. Returns how many texts there were.
    async fn begin(
        &self,
        state: &mut State,
        texts: &mut [Continued<'_>],
        most: usize,
        scores: &mut Vec<Vec<f32>>,
    ) -> Result<usize> {
        let longest = texts.iter().map(|(session, _)| session.tokens().len()).max().unwrap_or(0);
        let mut rows = most.min(state.model.chunk_rows(&state.gpu, longest as u32)? as usize);
        let mut count = 0;
        for (session, _) in texts.iter_mut().take(state.model.options.max_logit_rows as usize) {
            if count == 0 && session.pending().1.len() > rows {
                self.prefill(state, session, 1)?;
            }
            let pending = session.pending().1.len();
            if pending > rows {
                break;
            }
            rows -= pending;
            count += 1;
        }
        let texts = &mut texts[..count];
        let State { gpu, model, .. } = state;
        let mut chunks = Vec::with_capacity(count);
        for (session, _) in texts.iter_mut() {
            let (sequence, tokens) = session.pending();
            chunks.push(Chunk { sequence, tokens, logits: LogitRows::Last });
        }
        model.forward(gpu, &mut chunks, None)?;
        let logits = model.logits.download(gpu, count as u32).await?;
        for ((_, following), logits) in texts.iter().zip(logits.chunks_exact(model.logits.cols as usize)) {
            let first = |tokens: &Vec<u32>| tokens.first().map(|id| logprob(logits, *id));
            scores.extend(following.iter().map(|tokens| first(tokens).into_iter().collect::<Vec<_>>()));
        }
        Ok(count)
    }
}

/// Numbers of the continuations that are left after their first tokens, in groups with at most `most` rows
/// together, or alone where they have more.
fn groups(continuations: &[Continuation], most: usize) -> VecDeque<Vec<usize>> {
    let (mut groups, mut rows) = (VecDeque::<Vec<usize>>::new(), usize::MAX);
    for (index, Continuation { tokens, .. }) in continuations.iter().enumerate() {
        let own = tokens.len().saturating_sub(1);
        rows = rows.saturating_add(own);
        match groups.back_mut() {
            _ if own == 0 => {}
            Some(group) if rows <= most => group.push(index),
            _ => {
                groups.push_back(vec![index]);
                rows = own;
            }
        }
    }
    groups
}

/// One way for a text to go on.
struct Continuation<'a> {
    /// The text, all of which is computed.
    text: &'a Sequence,
    /// Token ids.
    tokens: &'a [u32],
}

/// Inputs of one continuation in a batch: their number in it, and how many they are.
#[derive(Clone, Copy)]
struct Piece {
    continuation: usize,
    begin: usize,
    rows: usize,
}

struct Scoring<'a> {
    continuations: Vec<Continuation<'a>>,
    /// A batch whose logits are on their way.
    under_way: Option<(Vec<Piece>, Download)>,
}

impl Scoring<'_> {
    /// Computes a group, in batches of at most `most` rows, while the one before is on its way.
    async fn compute(
        &mut self,
        gpu: &Gpu,
        model: &mut Model,
        group: &[usize],
        most: usize,
        scores: &mut [Vec<f32>],
    ) -> Result<()> {
        let inputs = |index: usize| self.continuations[index].tokens.len() - 1;
        let mut forks: Vec<_> = group.iter().map(|index| self.continuations[*index].text.fork()).collect();
        let longest = group.iter().map(|index| inputs(*index)).max().unwrap_or(0);
        for begin in (0..longest).step_by(most) {
            let piece = |continuation: &usize| {
                let rows = (self.continuations[*continuation].tokens.len() - 1 - begin).min(most);
                Piece { continuation: *continuation, begin, rows }
            };
            let pieces: Vec<_> = group.iter().map(piece).collect();
            let mut chunks = Vec::with_capacity(pieces.len());
            for (sequence, piece) in forks.iter_mut().zip(&pieces) {
                let tokens = &self.continuations[piece.continuation].tokens[begin..][..piece.rows];
                chunks.push(Chunk { sequence, tokens, logits: LogitRows::All });
            }
            model.forward(gpu, &mut chunks, None)?;
            let rows: usize = pieces.iter().map(|piece| piece.rows).sum();
            let bytes = rows as u64 * 4 * u64::from(model.logits.stride());
            let download = gpu.fetch(&[model.logits.buffer.slice(0, bytes)])?;
            self.receive(gpu, model, scores).await?;
            self.under_way = Some((pieces, download));
        }
        Ok(())
    }

    /// Waits for the batch under way.
    async fn receive(&mut self, gpu: &Gpu, model: &Model, scores: &mut [Vec<f32>]) -> Result<()> {
        let Some((pieces, download)) = self.under_way.take() else { return Ok(()) };
        let logits = gpu.receive::<f32>(download).await?.remove(0);
        let stride = model.logits.stride() as usize;
        let mut first = 0;
        for Piece { continuation, begin, rows } in pieces {
            let targets = self.continuations[continuation].tokens[begin + 1..][..rows].par_iter();
            let rows = first..first + rows;
            first = rows.end;
            let row = |row: usize| &logits[row * stride..][..model.config.vocab_size];
            scores[continuation].par_extend(targets.zip(rows).map(|(target, at)| logprob(row(at), *target)));
        }
        Ok(())
    }
}

fn logprob(logits: &[f32], target: u32) -> f32 {
    (f64::from(logits[target as usize]) - log_sum_exp(logits, 1.0)) as f32
}
