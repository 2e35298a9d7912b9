//! How likely given continuations are.

use super::{Engine, Session, state::State};
use crate::{
    Result,
    model::{Chunk, LogitRows},
    reference::log_sum_exp,
};

impl Engine {
    /// Log-probabilities of each continuation's tokens after the text of `session`, which is
    /// computed once and shared.
    ///
    /// # Errors
    /// As [`Model::forward`](crate::model::Model::forward).
    pub async fn score(&self, session: &mut Session, continuations: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        self.persist(async || self.try_score(session, continuations).await).await
    }

    async fn try_score(&self, session: &mut Session, continuations: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        let state = &mut *self.state().await?;
        self.prefill(state, session, 1)?;
        let State { gpu, model, .. } = state;
        let vocab = self.config().vocab_size;
        let most = model.options.max_logit_rows.min(model.options.max_rows) as usize;
        let last = session.tokens().last().copied();
        let mut scores = Vec::with_capacity(continuations.len());
        for continuation in continuations {
            // The token before each scored one: the text's last, then all but the continuation's own last.
            let inputs: Vec<u32> = last.into_iter().chain(continuation.iter().copied()).collect();
            let inputs = &inputs[..continuation.len()];
            let mut fork = session.fork();
            let (sequence, _) = fork.pending();
            let mut logprobs = Vec::with_capacity(continuation.len());
            for (inputs, targets) in inputs.chunks(most).zip(continuation.chunks(most)) {
                let mut chunks = [Chunk { sequence: &mut *sequence, tokens: inputs, logits: LogitRows::All }];
                model.forward(gpu, &mut chunks, None)?;
                let logits = model.logits.download(gpu, inputs.len() as u32).await?;
                for (row, target) in logits.chunks_exact(vocab).zip(targets) {
                    logprobs.push((f64::from(row[*target as usize]) - log_sum_exp(row, 1.0)) as f32);
                }
            }
            scores.push(logprobs);
        }
        Ok(scores)
    }
}
