//! Logits of long texts, in batches of many texts, by one engine or by several in step.

use std::{collections::HashMap, ops::Range, sync::Arc};

use super::{
    Engine,
    state::{LOSSES, State},
};
use crate::{
    ErrorKind, Result,
    gpu::{Download, Gpu},
    model::{AdapterSet, Chunk, LogitRows, Sequence},
    ops::PAGE,
};

/// A text of which logits are wanted.
#[derive(Debug, Clone)]
pub struct Reading<'a> {
    /// Token ids, at least one.
    pub tokens: &'a [u32],
    /// Number of the first token whose logits are wanted; so are those of all after it.
    pub from: usize,
}

/// Neighbouring tokens of one reading, computed in one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    reading: usize,
    tokens: Range<usize>,
    logits: bool,
}

impl Piece {
    fn logit_rows(&self) -> usize {
        if self.logits { self.tokens.len() } else { 0 }
    }
}

/// Logits that one engine computed for neighbouring tokens of a reading.
#[derive(Debug)]
pub struct Logits<'a> {
    /// Number of the reading.
    pub reading: usize,
    /// The tokens, by their numbers in it.
    pub tokens: Range<usize>,
    /// `[engines][tokens.len(), stride]`; what follows the vocabulary in a row is padding.
    values: Vec<&'a [f32]>,
    stride: usize,
    vocab: usize,
}

impl Logits<'_> {
    /// Logits after token `token` of the reading, `[vocab]`, by engine `engine`.
    pub fn row(&self, engine: usize, token: usize) -> &[f32] {
        &self.values[engine][(token - self.tokens.start) * self.stride..][..self.vocab]
    }
}

/// A batch that all engines have computed.
#[derive(Debug)]
pub struct ReadingBatch {
    pieces: Vec<Piece>,
    /// `[engines][logit rows, stride]`
    values: Vec<Vec<f32>>,
    stride: usize,
    vocab: usize,
}

impl ReadingBatch {
    /// Its parts, each of another reading; those of one reading come in order.
    pub fn logits(&self) -> impl Iterator<Item = Logits<'_>> {
        let mut row = 0;
        self.pieces.iter().filter(|piece| piece.logits).map(move |piece| {
            let rows = row * self.stride..(row + piece.tokens.len()) * self.stride;
            row += piece.tokens.len();
            Logits {
                reading: piece.reading,
                tokens: piece.tokens.clone(),
                values: self.values.iter().map(|values| &values[rows.clone()]).collect(),
                stride: self.stride,
                vocab: self.vocab,
            }
        })
    }
}

/// One of the engines, with the readings that it has begun.
struct Lane {
    engine: Arc<Engine>,
    sequences: HashMap<usize, Sequence>,
}

/// Computes the logits of readings, with all of an engine's adapters, batch after batch: while one is looked at, the next is computed.
pub struct Reader<'a> {
    lanes: Vec<Lane>,
    readings: Vec<Reading<'a>>,
    batches: Vec<Vec<Piece>>,
    /// Number of the next batch to be handed out.
    next: usize,
    /// That batch, once it has been submitted: what each engine's device will bring.
    under_way: Option<Vec<Flight>>,
}

/// Logits on their way, `[rows, stride]`.
struct Flight {
    gpu: Arc<Gpu>,
    logits: Download,
    stride: usize,
}

impl<'a> Reader<'a> {
    /// A reader by `engines`, at least one, whose vocabularies are equally long.
    ///
    /// # Errors
    /// As [`Model::chunk_rows`](crate::model::Model::chunk_rows).
    pub async fn new(engines: &[Arc<Engine>], readings: Vec<Reading<'a>>) -> Result<Self> {
        let longest = readings.iter().map(|reading| reading.tokens.len()).max().unwrap_or(1) as u32;
        let (mut rows, mut logit_rows, mut width) = (u32::MAX, u32::MAX, u32::MAX);
        for engine in engines {
            let State { gpu, model, .. } = &mut *engine.state().await?;
            rows = rows.min(model.chunk_rows(gpu, longest)?);
            logit_rows = logit_rows.min(model.options.max_logit_rows);
            width = width.min(model.options.cache_tokens(&model.config) / room(longest));
        }
        let batches = plan(&readings, width.max(1) as usize, rows as usize, logit_rows as usize);
        let lane = |engine: &Arc<Engine>| Lane { engine: engine.clone(), sequences: HashMap::new() };
        let lanes = engines.iter().map(lane).collect();
        Ok(Self { lanes, readings, batches, next: 0, under_way: None })
    }

    /// The next batch; `None` once all readings are done.
    ///
    /// # Errors
    /// As [`Model::forward`](crate::model::Model::forward).
    pub async fn next(&mut self) -> Result<Option<ReadingBatch>> {
        let mut losses = 0;
        loop {
            match self.try_next().await {
                Err(error) if error.kind() == ErrorKind::DeviceLost && losses < LOSSES => {
                    losses += 1;
                    self.under_way = None;
                    self.lanes.iter_mut().for_each(|lane| lane.sequences.clear());
                }
                result => return result,
            }
        }
    }

    async fn try_next(&mut self) -> Result<Option<ReadingBatch>> {
        let Some(pieces) = self.batches.get(self.next).cloned() else { return Ok(None) };
        let flights = match self.under_way.take() {
            Some(flights) => flights,
            None => self.submit(self.next).await?,
        };
        if self.next + 1 < self.batches.len() {
            self.under_way = Some(self.submit(self.next + 1).await?);
        }
        let (mut values, mut stride) = (Vec::with_capacity(flights.len()), 0);
        for flight in flights {
            values.push(flight.gpu.receive::<f32>(flight.logits).await?.remove(0));
            stride = flight.stride;
        }
        self.next += 1;
        let vocab = self.lanes[0].engine.config().vocab_size;
        Ok(Some(ReadingBatch { pieces, values, stride, vocab }))
    }

    /// Submits batch number `index` to every engine.
    async fn submit(&mut self, index: usize) -> Result<Vec<Flight>> {
        let mut flights = Vec::with_capacity(self.lanes.len());
        for lane in &mut self.lanes {
            flights.push(lane.submit(&self.readings, &self.batches[index]).await?);
        }
        Ok(flights)
    }
}

impl Lane {
    async fn submit(&mut self, readings: &[Reading<'_>], pieces: &[Piece]) -> Result<Flight> {
        let State { gpu, model, .. } = &mut *self.engine.state().await?;
        let mut sequences = Vec::with_capacity(pieces.len());
        for Piece { reading, tokens, .. } in pieces {
            let mut sequence = self
                .sequences
                .remove(reading)
                .unwrap_or_else(|| self.engine.empty(AdapterSet::first(self.engine.adapters().len())));
            self.engine.renew(&mut sequence);
            // After the loss of a device what came before is computed anew.
            let before = &readings[*reading].tokens[sequence.len() as usize..tokens.start];
            for tokens in before.chunks(model.options.max_rows as usize) {
                let chunk = Chunk { sequence: &mut sequence, tokens, logits: LogitRows::None };
                model.forward(gpu, &mut [chunk], None)?;
                gpu.wait()?;
            }
            sequences.push(sequence);
        }
        let mut chunks = Vec::with_capacity(pieces.len());
        for (sequence, piece) in sequences.iter_mut().zip(pieces) {
            let tokens = &readings[piece.reading].tokens[piece.tokens.clone()];
            let logits = if piece.logits { LogitRows::All } else { LogitRows::None };
            chunks.push(Chunk { sequence, tokens, logits });
        }
        model.forward(gpu, &mut chunks, None)?;
        let rows: usize = pieces.iter().map(Piece::logit_rows).sum();
        // At least a number, so that there is something to wait for.
        let bytes = 4 * (rows as u64 * u64::from(model.logits.stride())).max(1);
        let unfinished = sequences.into_iter().zip(pieces);
        let unfinished =
            unfinished.filter(|(_, piece)| piece.tokens.end < readings[piece.reading].tokens.len());
        self.sequences.extend(unfinished.map(|(sequence, piece)| (piece.reading, sequence)));
        let logits = gpu.fetch(&[model.logits.buffer.slice(0, bytes)])?;
        Ok(Flight { gpu: gpu.clone(), logits, stride: model.logits.stride() as usize })
    }
}

/// Tokens of the cache that a text of `length` tokens may take, its last page included.
pub(crate) fn room(length: u32) -> u32 {
    length.saturating_add(PAGE)
}

/// Cuts readings into batches of at most `rows` tokens, for `logit_rows` of which logits are wanted at most,
/// with at most `width` readings under way at a time. Readings begin in order.
///
/// With readings of 3 tokens, all wanted, 2 at a time and batches of 4:
/// `[0: 0..3, 1: 0..1]`, `[1: 1..3, 2: 0..2]`, `[2: 2..3]`.
fn plan(readings: &[Reading], width: usize, rows: usize, logit_rows: usize) -> Vec<Vec<Piece>> {
    let mut batches = Vec::new();
    // Readings under way, with the number of the next token of each.
    let mut active: Vec<(usize, usize)> = Vec::new();
    let mut waiting = 0..readings.len();
    loop {
        let (mut batch, mut rows, mut logit_rows) = (Vec::new(), rows, logit_rows);
        let mut at = 0;
        while rows > 0 {
            if at == active.len() {
                if active.len() == width {
                    break;
                }
                let Some(reading) = waiting.next() else { break };
                active.push((reading, 0));
            }
            let (reading, next) = &mut active[at];
            let Reading { tokens, from } = &readings[*reading];
            let logits = *next >= *from;
            let (end, most) = if logits { (tokens.len(), rows.min(logit_rows)) } else { (*from, rows) };
            let piece = Piece { reading: *reading, tokens: *next..end.min(*next + most), logits };
            at += 1;
            if !piece.tokens.is_empty() {
                *next = piece.tokens.end;
                rows -= piece.tokens.len();
                logit_rows -= piece.logit_rows();
                batch.push(piece);
            }
        }
        if batch.is_empty() {
            return batches;
        }
        active.retain(|(reading, next)| *next < readings[*reading].tokens.len());
        batches.push(batch);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_token_is_computed_once_and_in_order(
            lengths in prop::collection::vec((1usize..40, 0usize..40), 0..12),
            (width, rows, logit_rows) in (1usize..5, 1usize..20, 1usize..20),
        ) {
            let tokens = [0; 40];
            let reading = |(length, from): &(usize, usize)| Reading {
                tokens: &tokens[..*length],
                from: *from.min(&(length - 1)),
            };
            let readings: Vec<_> = lengths.iter().map(reading).collect();
            let mut done = vec![0; readings.len()];
            for batch in plan(&readings, width, rows, logit_rows) {
                prop_assert!(batch.iter().map(|piece| piece.tokens.len()).sum::<usize>() <= rows);
                prop_assert!(batch.iter().map(Piece::logit_rows).sum::<usize>() <= logit_rows);
                for piece in batch {
                    prop_assert_eq!(done[piece.reading], piece.tokens.start);
                    done[piece.reading] = piece.tokens.end;
                    prop_assert_eq!(piece.logits, piece.tokens.start >= readings[piece.reading].from);
                    prop_assert!(piece.logits || piece.tokens.end <= readings[piece.reading].from);
                }
                let begun = done.iter().zip(&readings);
                let under_way = begun.filter(|(done, reading)| **done > 0 && **done < reading.tokens.len());
                prop_assert!(under_way.count() <= width);
            }
            let lengths: Vec<_> = readings.iter().map(|reading| reading.tokens.len()).collect();
            prop_assert_eq!(done, lengths);
        }
    }
}
