//! One token for each of several sessions.

use super::{
    Sampled, Sampler, Session,
    sampling::{After, Part, submit},
};
use crate::Result;

/// A session's part of a step.
pub struct Lane<'a> {
    /// Has at least one token.
    pub session: &'a mut Session,
    /// How its next token is chosen.
    pub sampler: &'a Sampler,
    /// Number of this sample among several of one prompt.
    pub sample: u64,
    /// Mask of allowed tokens, see [`GenerateOptions::allowed`](super::GenerateOptions::allowed).
    pub allowed: Option<&'a [u32]>,
}

/// Chooses the next token of every lane and appends it to its session. All lanes belong to one engine.
///
/// The device rests until the next call: what a token allows may depend on the one before. [`Batch`](super::Batch)
/// does not wait like this.
///
/// # Errors
/// As [`Model::forward`](crate::model::Model::forward); [`ErrorKind::NonFinite`](crate::ErrorKind::NonFinite) for
/// logits that are no numbers.
pub async fn step(lanes: &mut [Lane<'_>]) -> Result<Vec<Sampled>> {
    let Some(first) = lanes.first() else { return Ok(Vec::new()) };
    let engine = first.session.engine().clone();
    let compute = async || {
        let mut parts = Vec::with_capacity(lanes.len());
        for Lane { session, sampler, sample, allowed } in lanes.iter_mut() {
            let (sample, allowed) = (*sample, *allowed);
            parts.push(Part { session, after: After::Nothing, sampler, sample, allowed });
        }
        let flight = submit(&engine, &mut *engine.state().await?, &mut parts)?;
        flight.land().await
    };
    let landed = engine.persist(compute).await?;
    let chosen = lanes.iter_mut().zip(landed).map(|(lane, mut landed)| {
        let sampled = landed.tokens.remove(0);
        lane.session.push(sampled.id);
        sampled
    });
    Ok(chosen.collect())
}
