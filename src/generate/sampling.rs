//! One step of several texts in one batch: forward pass, penalties, candidates and a first choice on the
//! device; the choice that counts on the host.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{Decision, Engine, Sampled, Sampler, Session, state::State};
use crate::{
    Error, ErrorKind, Result,
    gpu::{Buffer, Download, Gpu, Recording},
    model::{Chunk, LogitRows, Model},
    ops::{
        AdjustLogits, Adjustments, Candidates, RowAdjustments, SAMPLED, Sample, SampleRow, TopK, TopKRecord,
        TopKRow, count,
    },
    reference::{Penalties, TokenAdjustment},
};

/// What a step takes to follow the tokens of a session.
#[derive(Debug, Clone, Copy)]
pub(super) enum After<'a> {
    /// Nothing: the next token is wanted.
    Nothing,
    /// The token that a step still under way leaves in this slot: the one after it is wanted.
    Slot(u32),
    /// Tokens that may turn out right: the next one is wanted, and one after each of these.
    Proposed(&'a [u32]),
}

/// A text's part of a step.
pub(super) struct Part<'a> {
    /// Has at least one token.
    pub session: &'a mut Session,
    pub after: After<'a>,
    pub sampler: &'a Sampler,
    /// Number of this sample among several of one prompt.
    pub sample: u64,
    /// Mask of allowed tokens, see [`GenerateOptions::allowed`](super::GenerateOptions::allowed).
    pub allowed: Option<&'a [u32]>,
}

impl Part<'_> {
    fn proposed(&self) -> &[u32] {
        match self.after {
            After::Proposed(tokens) => tokens,
            After::Nothing | After::Slot(_) => &[],
        }
    }

    /// Tokens that are wanted, each by a row of logits.
    fn rows(&self) -> usize {
        1 + self.proposed().len()
    }

    /// What goes into the forward pass.
    fn inputs(&mut self) -> Vec<u32> {
        match self.after {
            After::Slot(slot) => vec![SAMPLED + slot],
            After::Nothing => self.session.pending().1.to_vec(),
            After::Proposed(tokens) => [self.session.pending().1, tokens].concat(),
        }
    }

    /// Position of the first token that is wanted.
    fn position(&self) -> u32 {
        self.session.tokens().len() as u32 + u32::from(matches!(self.after, After::Slot(_)))
    }

    /// The tokens whose logits change in row `row`, by ascending id, but for the one in a slot.
    fn adjusted_tokens(&self, row: usize) -> Vec<TokenAdjustment> {
        let mut tokens = BTreeMap::new();
        let mut entry = |id: u32, change: &dyn Fn(&mut TokenAdjustment)| {
            change(tokens.entry(id).or_insert(TokenAdjustment { id, seen: false, count: 0, bias: 0.0 }));
        };
        if self.sampler.penalties() != Penalties::NONE {
            let (prompt, generated) = self.session.history();
            prompt.iter().for_each(|id| entry(*id, &|token| token.seen = true));
            generated.iter().chain(&self.proposed()[..row]).for_each(|id| {
                entry(*id, &|token| {
                    token.seen = true;
                    token.count += 1;
                });
            });
        }
        self.sampler.logit_bias().iter().for_each(|(id, bias)| entry(*id, &|token| token.bias += bias));
        tokens.into_values().collect()
    }
}

/// Device memory and recordings of sampling.
pub(super) struct Sampling {
    rows: Buffer,
    choices: Buffer,
    records: Buffer,
    adjustments: Adjustments,
    adjust: Recording,
    choose: Recording,
    /// Slots given out so far; they are used round and round.
    slots: u64,
    /// Copies of logits that no step needs any more.
    spare: Arc<Mutex<Vec<Buffer>>>,
}

impl Sampling {
    pub fn new(gpu: &Gpu, model: &Model) -> Result<Self> {
        let row_count = model.options.max_logit_rows;
        let vocab = model.config.vocab_size as u32;
        let allocate = |label: &str, each: usize| gpu.allocate(label, u64::from(row_count) * each as u64);
        let rows = allocate("sampling rows", size_of::<TopKRow>())?;
        let choices = allocate("choices", size_of::<SampleRow>())?;
        let records = allocate("candidates", size_of::<TopKRecord>())?;
        // Every text may have seen as many tokens as the context holds, and each a few times over.
        let tokens = (model.options.context.min(vocab)).saturating_mul(row_count.min(64)).max(vocab);
        let adjustments = Adjustments::new(gpu, vocab, row_count, tokens, row_count)?;
        let (mut adjust, mut choose) = (Recording::default(), Recording::default());
        let (logits, sampled) = (&model.logits, &model.sampled);
        AdjustLogits { logits, adjustments: &adjustments, sampled }.record(gpu, &mut adjust)?;
        TopK { logits, rows: &rows, records: &records }.record(gpu, &mut choose)?;
        Sample { vocab, rows: &choices, records: &records, sampled }.record(gpu, &mut choose)?;
        Ok(Self { rows, choices, records, adjustments, adjust, choose, slots: 0, spare: Arc::default() })
    }

    /// Takes `count` neighbouring slots out of `capacity`; the first of them, in the order of giving out.
    fn take_slots(&mut self, count: usize, capacity: u64) -> u64 {
        let count = count as u64;
        if self.slots % capacity + count > capacity {
            self.slots = self.slots.next_multiple_of(capacity);
        }
        self.slots += count;
        self.slots - count
    }

    /// Memory of at least `bytes` for a copy of logits.
    fn copy_of_logits(&self, gpu: &Gpu, bytes: u64) -> Result<Buffer> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        match spare.iter().position(|buffer| buffer.size() >= bytes) {
            Some(index) => Ok(spare.swap_remove(index)),
            None => gpu.allocate("copy of logits", bytes),
        }
    }
}

/// A step that was submitted.
pub(super) struct Flight {
    gpu: Arc<Gpu>,
    parts: Vec<FlightPart>,
    download: Download,
    /// Its logits, where a choice may need more than the candidates.
    logits: Option<Buffer>,
    row_bytes: u64,
    vocab: u32,
    first_slot: u64,
    /// Whether nothing was computed but rows of logits.
    pub decoding: bool,
    spare: Arc<Mutex<Vec<Buffer>>>,
}

struct FlightPart {
    sampler: Sampler,
    row: TopKRow,
    /// Number of its first row.
    first: usize,
    proposed: Vec<u32>,
    /// For each row.
    draws: Vec<f64>,
}

/// What a step found for a text.
pub(super) struct Landed {
    /// What was proposed.
    pub proposed: Vec<u32>,
    /// The next token, and one more for each proposed one that was right.
    pub tokens: Vec<Sampled>,
    /// Whether a step that began with the first token's slot has begun with that token.
    pub in_slot: bool,
}

/// Submits a step, whose parts belong to sessions of `engine`, after what is left of their prompts.
///
/// # Errors
/// As [`Model::forward`]; the sessions are then as they were.
pub(super) fn submit(engine: &Engine, state: &mut State, parts: &mut [Part]) -> Result<Flight> {
    let options = &state.model.options;
    let rows: usize = parts.iter().map(Part::rows).sum();
    let most = options.max_logit_rows.min(options.max_rows) as usize;
    if rows > most {
        return Err(Error::expected(ErrorKind::Argument, "lanes", format!("at most {most}"), rows));
    }
    // What a text may bring to the common batch; the rest of its prompt goes ahead.
    let share = (options.max_rows as usize / parts.len()).max(1);
    for part in parts.iter_mut().filter(|part| matches!(part.after, After::Nothing)) {
        if part.session.pending().1.len() > 1 {
            let rows = state.model.chunk_rows(&state.gpu, part.session.tokens().len() as u32)? as usize;
            engine.prefill(state, part.session, share.min(rows))?;
        }
    }
    let State { gpu, model, sampling, .. } = state;
    // Written first, so that all that is encoded below can be one submission.
    let choice = Choice::write(gpu, model, sampling, parts, rows)?;
    let inputs: Vec<_> = parts.iter_mut().map(Part::inputs).collect();
    let mut chunks = Vec::with_capacity(parts.len());
    for (part, tokens) in parts.iter_mut().zip(&inputs) {
        let logits = if part.rows() > 1 { LogitRows::All } else { LogitRows::Last };
        chunks.push(Chunk { sequence: part.session.sequence(), tokens, logits });
    }
    model.forward(gpu, &mut chunks, None)?;
    let decoding = inputs.iter().map(Vec::len).sum::<usize>() == rows;
    choice.submit(gpu, model, sampling, decoding)
}

/// The part of a step that follows the forward pass.
struct Choice {
    parts: Vec<FlightPart>,
    /// Rows of logits.
    rows: usize,
    first_slot: u64,
    /// Whether logits are changed.
    adjusts: bool,
    /// Whether more than the candidates may be needed.
    may_need_all: bool,
}

impl Choice {
    /// Writes the tables of a choice for `parts`, which have `rows` rows of logits.
    fn write(gpu: &Gpu, model: &Model, sampling: &mut Sampling, parts: &[Part], rows: usize) -> Result<Self> {
        let adjusts = parts.iter().any(|part| part.sampler.adjusts() || part.allowed.is_some());
        if adjusts {
            write_adjustments(gpu, sampling, parts)?;
        }
        let capacity = model.sampled.size() / 4;
        let first_slot = sampling.take_slots(rows, capacity);
        let (mut table, mut choices) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        let mut flight_parts = Vec::with_capacity(parts.len());
        for part in parts {
            let (row, filters) = (part.sampler.top_k_row(), part.sampler.filters());
            let first = table.len();
            let draws: Vec<_> =
                (part.position()..).map(|at| part.sampler.draw(part.sample, at)).take(part.rows()).collect();
            for draw in &draws {
                let slot = (first_slot + table.len() as u64) % capacity;
                choices.push(SampleRow::new(row.k, &filters, *draw, slot as u32));
                table.push(row);
            }
            let (sampler, proposed) = (part.sampler.clone(), part.proposed().to_vec());
            flight_parts.push(FlightPart { sampler, row, first, proposed, draws });
        }
        gpu.write(&sampling.rows, 0, &table);
        gpu.write(&sampling.choices, 0, &choices);
        let may_need_all = parts.iter().any(|part| part.sampler.may_need_all());
        Ok(Self { parts: flight_parts, rows, first_slot, adjusts, may_need_all })
    }

    fn submit(
        self,
        gpu: &Arc<Gpu>,
        model: &Model,
        sampling: &mut Sampling,
        decoding: bool,
    ) -> Result<Flight> {
        let Self { parts, rows, first_slot, adjusts, may_need_all } = self;
        let mut counts = vec![0; count::LOGIT_ROWS + 1];
        counts[count::LOGIT_ROWS] = rows as u64;
        if adjusts {
            gpu.replay(&sampling.adjust, &counts, None)?;
        }
        gpu.replay(&sampling.choose, &counts, None)?;
        let row_bytes = u64::from(model.logits.stride()) * 4;
        let logits = if may_need_all {
            let from = model.logits.buffer.slice(0, rows as u64 * row_bytes);
            let buffer = sampling.copy_of_logits(gpu, from.size())?;
            let mut copy = Recording::default();
            copy.copy(&from, &buffer);
            gpu.replay(&copy, &counts, None)?;
            Some(buffer)
        } else {
            None
        };
        let records = sampling.records.slice(0, (rows * size_of::<TopKRecord>()) as u64);
        let slot = first_slot % (model.sampled.size() / 4);
        let sampled = model.sampled.slice(slot * 4, rows as u64 * 4);
        let download = gpu.fetch(&[records, sampled])?;
        let (vocab, spare) = (model.config.vocab_size as u32, sampling.spare.clone());
        let gpu = gpu.clone();
        Ok(Flight { gpu, parts, download, logits, row_bytes, vocab, first_slot, decoding, spare })
    }
}

fn write_adjustments(gpu: &Gpu, sampling: &Sampling, parts: &[Part]) -> Result<()> {
    let each_row = || parts.iter().flat_map(|part| (0..part.rows()).map(move |row| (part, row)));
    let tokens: Vec<_> = each_row().map(|(part, row)| part.adjusted_tokens(row)).collect();
    let rows = each_row().zip(&tokens).map(|((part, _), tokens)| {
        let penalties = part.sampler.penalties();
        let newest = match part.after {
            After::Slot(slot) if penalties != Penalties::NONE => Some(slot),
            _ => None,
        };
        RowAdjustments { tokens, penalties, mask: part.allowed, newest }
    });
    sampling.adjustments.write(gpu, &rows.collect::<Vec<_>>())
}

impl Flight {
    /// The slot that the first token of part number `part` goes to, unless others may have used it since or
    /// it was lost with its device.
    pub fn slot(&self, state: &State, part: usize) -> Option<u32> {
        if !Arc::ptr_eq(&self.gpu, &state.gpu) {
            return None;
        }
        let capacity = state.model.sampled.size() / 4;
        let number = self.first_slot + self.parts[part].first as u64;
        (state.sampling.slots - number <= capacity).then_some((number % capacity) as u32)
    }

    /// Rows of logits of part number `part`.
    pub fn rows(&self, part: usize) -> usize {
        self.parts[part].draws.len()
    }

    /// Waits for the device, and chooses the tokens of every part.
    ///
    /// # Errors
    /// As [`Gpu::download`]; [`ErrorKind::NonFinite`] for logits that are no numbers.
    pub async fn land(self) -> Result<Vec<Landed>> {
        let Self { gpu, parts, download, logits, row_bytes, vocab, spare, .. } = self;
        let [records, sampled] = <[Vec<u32>; 2]>::try_from(gpu.receive::<u32>(download).await?)
            .expect("two buffers were asked for");
        let words = size_of::<TopKRecord>() / 4;
        let mut landed = Vec::with_capacity(parts.len());
        for part in parts {
            let mut tokens: Vec<Sampled> = Vec::with_capacity(part.draws.len());
            for (index, draw) in part.draws.iter().enumerate() {
                // A row counts if the tokens proposed before it were right.
                if index > 0 && tokens[index - 1].id != part.proposed[index - 1] {
                    break;
                }
                let row = part.first + index;
                let record = bytemuck::from_bytes(bytemuck::cast_slice(&records[row * words..][..words]));
                let candidates = Candidates::parse(record, &part.row, vocab)?;
                let chosen = match part.sampler.sample(&candidates, vocab, *draw)? {
                    Decision::Token(chosen) => chosen,
                    Decision::NeedAll => {
                        let logits = logits.as_ref().expect("kept for samplers that may need all");
                        let logits = logits.slice(row as u64 * row_bytes, row_bytes);
                        let mut logits = gpu.download::<f32>(&[logits]).await?.remove(0);
                        logits.truncate(vocab as usize);
                        match part.sampler.sample(&candidates.with_all(&logits), vocab, *draw)? {
                            Decision::Token(chosen) => chosen,
                            Decision::NeedAll => unreachable!("all candidates were given"),
                        }
                    }
                };
                tokens.push(chosen);
            }
            let in_slot = tokens[0].id == sampled[part.first];
            landed.push(Landed { proposed: part.proposed, tokens, in_slot });
        }
        let mut spare = spare.lock().unwrap_or_else(PoisonError::into_inner);
        spare.extend(logits);
        spare.truncate(2);
        Ok(landed)
    }
}
