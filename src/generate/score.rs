//! How likely given continuations are.

use std::collections::VecDeque;

use super::{Engine, Session, state::State};
use crate::{
    Error, ErrorKind, Result,
    gpu::{Download, Gpu},
    model::{Chunk, FEW_ROWS, LogitRows, Model, Sequence},
    reference::log_sum_exp,
};

impl Engine {
    /// Log-probabilities of each continuation's tokens after the text of `session`, which is
    /// computed once and shared. So is the row of logits that all their first tokens come from; the others
    /// are computed several continuations at a time.
    ///
    /// # Errors
    /// As [`Model::forward`]; [`ErrorKind::Argument`] for a session without tokens.
    pub async fn score(&self, session: &mut Session, continuations: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        if session.tokens().is_empty() {
            return Err(Error::expected(ErrorKind::Argument, "text", "at least one token", "none"));
        }
        self.persist(async || self.try_score(session, continuations).await).await
    }

    async fn try_score(&self, session: &mut Session, continuations: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        let state = &mut *self.state().await?;
        self.prefill(state, session, 1)?;
        let State { gpu, model, .. } = state;
        let mut text = session.fork();
        let (text, last) = text.pending();
        model.forward(gpu, &mut [Chunk { sequence: text, tokens: last, logits: LogitRows::Last }], None)?;
        let logits = model.logits.download(gpu, 1).await?;
        let first = |continuation: &Vec<u32>| continuation.first().map(|id| logprob(&logits, *id));
        let mut scores: Vec<Vec<f32>> =
            continuations.iter().map(|c| first(c).into_iter().collect()).collect();

        let mut scoring = Scoring { text, continuations, under_way: None };
        let most = model.options.max_logit_rows.min(model.options.max_rows) as usize;
        let mut groups = groups(continuations, most.min(FEW_ROWS));
        while let Some(group) = groups.pop_front() {
            match scoring.compute(gpu, model, &group, most, &mut scores).await {
                // There may be room for one after the other.
                Err(error) if error.kind() == ErrorKind::OutOfMemory && group.len() > 1 => {
                    group.into_iter().rev().for_each(|index| groups.push_front(vec![index]));
                }
                result => result?,
            }
        }
        scoring.receive(gpu, model, &mut scores).await?;
        Ok(scores)
    }
}

/// Numbers of the continuations that are left after their first tokens, in groups with at most `most` rows
/// together, or alone where they have more.
fn groups(continuations: &[Vec<u32>], most: usize) -> VecDeque<Vec<usize>> {
    let (mut groups, mut rows) = (VecDeque::<Vec<usize>>::new(), usize::MAX);
    for (index, continuation) in continuations.iter().enumerate().filter(|(_, c)| c.len() > 1) {
        rows = rows.saturating_add(continuation.len() - 1);
        match groups.back_mut() {
            Some(group) if rows <= most => group.push(index),
            _ => {
                groups.push_back(vec![index]);
                rows = continuation.len() - 1;
            }
        }
    }
    groups
}

/// Inputs of one continuation in a batch: their number in it, and how many they are.
#[derive(Clone, Copy)]
struct Piece {
    continuation: usize,
    begin: usize,
    rows: usize,
}

struct Scoring<'a> {
    /// Up to and with the token before the continuations.
    text: &'a Sequence,
    continuations: &'a [Vec<u32>],
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
        let mut forks: Vec<_> = group.iter().map(|_| self.text.fork()).collect();
        let longest = group.iter().map(|index| self.continuations[*index].len() - 1).max().unwrap_or(0);
        for begin in (0..longest).step_by(most) {
            let piece = |continuation: &usize| {
                let rows = (self.continuations[*continuation].len() - 1 - begin).min(most);
                Piece { continuation: *continuation, begin, rows }
            };
            let pieces: Vec<_> = group.iter().map(piece).collect();
            let mut chunks = Vec::with_capacity(pieces.len());
            for (sequence, piece) in forks.iter_mut().zip(&pieces) {
                let tokens = &self.continuations[piece.continuation][begin..][..piece.rows];
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
        let mut rows = logits.chunks_exact(model.logits.stride() as usize);
        for Piece { continuation, begin, rows: count } in pieces {
            let targets = &self.continuations[continuation][begin + 1..][..count];
            for (target, row) in targets.iter().zip(rows.by_ref()) {
                scores[continuation].push(logprob(&row[..model.config.vocab_size], *target));
            }
        }
        Ok(())
    }
}

fn logprob(logits: &[f32], target: u32) -> f32 {
    (f64::from(logits[target as usize]) - log_sum_exp(logits, 1.0)) as f32
}
