//! Many texts at once: continued or scored in common batches.

use super::{Engine, Finish, GenerateOptions, Session, session::Continuation, step};
use crate::{
    Result,
    model::{Chunk, LogitRows},
    reference::log_sum_exp,
};

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

/// Continues every session until it ends, at most `width` of them in a batch; as one ends, the next
/// takes its place.
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
    let mut waiting = sessions.iter_mut().enumerate();
    let mut running: Vec<(usize, Continuation)> = Vec::new();
    loop {
        while running.len() < width.max(1) {
            let Some((index, session)) = waiting.next() else { break };
            running.push((index, Continuation::new(session, options.clone())?));
        }
        if running.is_empty() {
            return Ok(generations);
        }
        let mut lanes = running.iter_mut().map(|(_, text)| text.lane()).collect::<Vec<_>>();
        let sampled = step(&mut lanes).await?;
        drop(lanes);
        let mut still_running = Vec::with_capacity(running.len());
        for ((index, mut continuation), token) in running.into_iter().zip(sampled) {
            let generation = &mut generations[index];
            let piece = continuation.accept(token)?;
            generation.tokens.push(piece.token.id);
            generation.text += &piece.text;
            match piece.finish {
                Some(finish) => generation.finish = finish,
                None => still_running.push((index, continuation)),
            }
        }
        running = still_running;
    }
}

impl Engine {
    /// Log-probabilities of each continuation's tokens after the text of `session`, which is
    /// computed once and shared.
    ///
    /// # Errors
    /// As [`Model::forward`](crate::model::Model::forward).
    pub async fn score(&self, session: &mut Session, continuations: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        session.prefill().await?;
        let model = &mut self.state.lock().await.model;
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
                model.forward(self.gpu(), &mut chunks, None)?;
                let logits = model.logits.download(self.gpu(), inputs.len() as u32).await?;
                for (row, target) in logits.chunks_exact(vocab).zip(targets) {
                    logprobs.push((f64::from(row[*target as usize]) - log_sum_exp(row, 1.0)) as f32);
                }
            }
            scores.push(logprobs);
        }
        Ok(scores)
    }
}
