//! One step of several sessions in one batch: forward pass, penalties and candidates on the GPU, the
//! choice on the host.

use std::collections::BTreeMap;

use super::{Decision, Sampled, Sampler, Session};
use crate::{
    Error, ErrorKind, Result,
    gpu::{Buffer, Gpu, Recording},
    model::{Chunk, LogitRows, Model},
    ops::{AdjustLogits, Adjustments, Candidates, RowAdjustments, TopK, TopKRecord, TopKRow, count},
    reference::{Penalties, TokenAdjustment},
};

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

/// Device memory and recordings of sampling.
pub(super) struct Sampling {
    rows: Buffer,
    records: Buffer,
    adjustments: Adjustments,
    adjust: Recording,
    top_k: Recording,
}

impl Sampling {
    pub fn new(gpu: &Gpu, model: &Model) -> Result<Self> {
        let rows = model.options.max_logit_rows;
        let vocab = model.config.vocab_size as u32;
        let row_buffer = gpu.allocate("sampling rows", u64::from(rows) * size_of::<TopKRow>() as u64)?;
        let records = gpu.allocate("candidates", u64::from(rows) * size_of::<TopKRecord>() as u64)?;
        // Every lane may have seen as many tokens as the context holds, and each a few times over.
        let tokens = (model.options.context.min(vocab)).saturating_mul(rows.min(64)).max(vocab);
        let adjustments = Adjustments::new(gpu, vocab, rows, tokens, rows)?;
        let (mut adjust, mut top_k) = (Recording::default(), Recording::default());
        let sampled = &model.sampled;
        AdjustLogits { logits: &model.logits, adjustments: &adjustments, sampled }
            .record(gpu, &mut adjust)?;
        TopK { logits: &model.logits, rows: &row_buffer, records: &records }.record(gpu, &mut top_k)?;
        Ok(Self { rows: row_buffer, records, adjustments, adjust, top_k })
    }
}

/// Chooses the next token of every lane and appends it to its session. All lanes belong to one engine.
///
/// # Errors
/// As [`Model::forward`]; [`ErrorKind::NonFinite`] for logits that are no numbers.
pub async fn step(lanes: &mut [Lane<'_>]) -> Result<Vec<Sampled>> {
    let Some(first) = lanes.first() else { return Ok(Vec::new()) };
    let engine = first.session.engine().clone();
    let gpu = engine.gpu();
    let state = &mut *engine.state.lock().await;
    let model = &mut state.model;
    let most = model.options.max_logit_rows.min(model.options.max_rows) as usize;
    if lanes.len() > most {
        return Err(Error::expected(ErrorKind::Argument, "lanes", format!("at most {most}"), lanes.len()));
    }
    // What a lane may bring to the common batch; the rest of its prompt goes ahead.
    let share = (model.options.max_rows as usize / lanes.len()).max(1);
    for lane in lanes.iter_mut() {
        let rows = model.chunk_rows(gpu, lane.session.tokens().len() as u32)? as usize;
        engine.prefill(model, lane.session, share.min(rows))?;
    }
    let mut chunks: Vec<_> = lanes
        .iter_mut()
        .map(|lane| {
            let (sequence, tokens) = lane.session.pending();
            Chunk { sequence, tokens, logits: LogitRows::Last }
        })
        .collect();
    model.forward(gpu, &mut chunks, None)?;

    let mut counts = vec![0; count::KEY_VISITS + 1];
    counts[count::LOGIT_ROWS] = lanes.len() as u64;
    if lanes.iter().any(|lane| lane.sampler.adjusts() || lane.allowed.is_some()) {
        let tokens: Vec<_> = lanes.iter().map(adjusted_tokens).collect();
        let rows: Vec<_> = lanes
            .iter()
            .zip(&tokens)
            .map(|(lane, tokens)| RowAdjustments {
                tokens,
                penalties: lane.sampler.penalties(),
                mask: lane.allowed,
                newest: None,
            })
            .collect();
        state.sampling.adjustments.write(gpu, &rows)?;
        gpu.replay(&state.sampling.adjust, &counts, None)?;
    }
    let rows: Vec<_> = lanes.iter().map(|lane| lane.sampler.top_k_row()).collect();
    gpu.write(&state.sampling.rows, 0, &rows);
    gpu.replay(&state.sampling.top_k, &counts, None)?;
    let record_bytes = size_of::<TopKRecord>() as u64;
    let records = state.sampling.records.slice(0, lanes.len() as u64 * record_bytes);
    let records = gpu.download::<TopKRecord>(&[records]).await?.remove(0);

    let vocab = model.config.vocab_size as u32;
    let mut chosen = Vec::with_capacity(lanes.len());
    for (index, lane) in lanes.iter_mut().enumerate() {
        let candidates = Candidates::parse(&records[index], &rows[index], vocab)?;
        let draw = lane.sampler.draw(lane.sample, lane.session.tokens().len() as u32);
        let sampled = match lane.sampler.sample(&candidates, vocab, draw)? {
            Decision::Token(sampled) => sampled,
            Decision::NeedAll => {
                let row = u64::from(model.logits.stride()) * 4;
                let logits = model.logits.buffer.slice(index as u64 * row, row);
                let mut logits = gpu.download::<f32>(&[logits]).await?.remove(0);
                logits.truncate(vocab as usize);
                match lane.sampler.sample(&candidates.with_all(&logits), vocab, draw)? {
                    Decision::Token(sampled) => sampled,
                    Decision::NeedAll => unreachable!("all candidates were given"),
                }
            }
        };
        lane.session.push(sampled.id);
        chosen.push(sampled);
    }
    Ok(chosen)
}

/// The tokens of a lane whose logits change, by ascending id.
fn adjusted_tokens(lane: &Lane) -> Vec<TokenAdjustment> {
    let mut tokens = BTreeMap::new();
    let mut entry = |id: u32, change: &dyn Fn(&mut TokenAdjustment)| {
        change(tokens.entry(id).or_insert(TokenAdjustment { id, seen: false, count: 0, bias: 0.0 }));
    };
    if lane.sampler.penalties() != Penalties::NONE {
        let (prompt, generated) = lane.session.history();
        prompt.iter().for_each(|id| entry(*id, &|token| token.seen = true));
        generated.iter().for_each(|id| {
            entry(*id, &|token| {
                token.seen = true;
                token.count += 1;
            });
        });
    }
    lane.sampler.logit_bias().iter().for_each(|(id, bias)| entry(*id, &|token| token.bias += bias));
    tokens.into_values().collect()
}
