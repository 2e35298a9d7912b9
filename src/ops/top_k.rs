//! The likeliest tokens of each row and what it takes to know their probabilities, so that the
//! vocabulary stays on the device.

use super::{Operation, Variant, count};
use crate::{
    Error, ErrorKind, Result,
    gpu::{Buffer, Capability, Cost, Extent, Gpu, KernelKey, Recording, Step},
    tensor::Tensor,
    uniform,
};

/// Candidates of a row at most, and invocations of its workgroup: one for each candidate.
pub const MAX_K: usize = 256;

uniform! {
    struct TopKParams { cols: u32, stride: u32 }
}

uniform! {
    /// What is wanted of a row.
    pub struct TopKRow {
        /// Candidates wanted, 1 to [`MAX_K`]; fewer come back when the vocabulary is smaller.
        k: u32,
        /// Temperature of [`Candidates::log_sum_exp_t`], above 0.
        temperature: f32,
    }
}

uniform! {
    /// The numbers at the head of a [`TopKRecord`].
    pub struct TopKHeader {
        /// Largest logit.
        max: f32,
        /// Sum of `exp(logit - max)`.
        sum: f32,
        /// Sum of `exp((logit - max) / temperature)`.
        sum_t: f32,
        /// Number of logits that are NaN or infinite.
        non_finite: u32,
    }
}

/// What the kernel finds in a row. Only the first `min(k, vocab)` candidates are written.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct TopKRecord {
    /// Maximum and sums.
    pub header: TopKHeader,
    /// Candidates, likeliest first, of equal ones the lowest id first.
    pub ids: [u32; MAX_K],
    /// Their logits.
    pub logits: [f32; MAX_K],
}

/// The likeliest tokens of a row, and the sums that turn their logits into probabilities.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidates {
    /// Token ids, likeliest first, of equal ones the lowest id first.
    pub ids: Vec<u32>,
    /// Their logits.
    pub logits: Vec<f32>,
    /// Largest logit of the row.
    pub max: f32,
    /// `ln Σ exp(logit)` over the row.
    pub log_sum_exp: f64,
    /// `ln Σ exp(logit / temperature)` over the row.
    pub log_sum_exp_t: f64,
}

impl Candidates {
    /// Reads the record that answers `row` over a vocabulary of `vocab` tokens.
    ///
    /// # Errors
    /// [`ErrorKind::NonFinite`] when a logit of the row was NaN or infinite; [`ErrorKind::Device`] when no
    /// row can have such a record.
    pub fn parse(record: &TopKRecord, row: &TopKRow, vocab: u32) -> Result<Self> {
        let TopKHeader { max, sum, sum_t, non_finite } = record.header;
        if non_finite > 0 {
            let found = format!("{non_finite} of {vocab} NaN or infinite");
            return Err(Error::expected(ErrorKind::NonFinite, "logits", "numbers", found));
        }
        let k = (row.k.max(1) as usize).min(MAX_K).min(vocab as usize);
        let (ids, logits) = (&record.ids[..k], &record.logits[..k]);
        // The largest logit alone makes a sum 1.
        let sums = [sum, sum_t].iter().all(|sum| (0.5..=2.0 * vocab as f32).contains(sum));
        let ordered = max.is_finite() && logits.is_sorted_by(|a, b| a >= b);
        if !(sums && ordered && ids.iter().all(|id| *id < vocab)) {
            let message = "the device's answer is no row's likeliest tokens";
            return Err(Error::new(ErrorKind::Device, "candidates", message));
        }
        Ok(Self {
            ids: ids.to_vec(),
            logits: logits.to_vec(),
            max,
            log_sum_exp: f64::from(max) + f64::from(sum).ln(),
            log_sum_exp_t: f64::from(max) / f64::from(row.temperature) + f64::from(sum_t).ln(),
        })
    }

    /// All tokens of a row in place of the likeliest, for sampling that reaches beyond them. Of finite `logits`
    /// any sampler chooses one.
    pub fn with_all(&self, logits: &[f32]) -> Self {
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        // Stable: equal logits stay in the order of ids.
        ids.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
        let logits = ids.iter().map(|id| logits[*id as usize]).collect();
        Self { ids, logits, ..*self }
    }
}

fn key((): &()) -> KernelKey {
    KernelKey::new("top_k")
        .with::<TopKParams>()
        .with::<TopKRow>()
        .with::<TopKHeader>()
        .constant("MAX_K", MAX_K as u32)
        .constant("WORKGROUP", MAX_K as u32)
}

/// The table of variants.
pub static TOP_K: Operation<()> = Operation {
    name: "top_k",
    variants: &[
        Variant {
            name: "subgroup",
            fits: |()| true,
            key: |shape| KernelKey { needs: &[Capability::Subgroup], ..key(shape) },
        },
        Variant { name: "baseline", fits: |()| true, key },
    ],
};

/// Finds the candidates of the rows whose logits are wanted, always the same for the same logits.
pub struct TopK<'a> {
    /// `[logit_rows, vocab]`.
    pub logits: &'a Tensor,
    /// `[logit_rows]` of [`TopKRow`], read anew at each replay.
    pub rows: &'a Buffer,
    /// `[logit_rows]` of [`TopKRecord`].
    pub records: &'a Buffer,
}

impl TopK<'_> {
    /// Appends the step.
    ///
    /// # Errors
    /// As [`Gpu::kernel`] and [`Step::new`].
    pub fn record(&self, gpu: &Gpu, recording: &mut Recording) -> Result<()> {
        let Tensor { rows, cols, .. } = *self.logits;
        let fits = |buffer: &Buffer, each: usize| buffer.size() >= u64::from(rows) * each as u64;
        assert!(fits(self.rows, size_of::<TopKRow>()) && fits(self.records, size_of::<TopKRecord>()));
        let (_, kernel) = TOP_K.choose_for(gpu, &(), cols)?;
        let params = gpu.uniform(&TopKParams { cols, stride: self.logits.stride() })?;
        let bindings = [
            ("params", &params),
            ("logits", &self.logits.buffer),
            ("rows", self.rows),
            ("records", self.records),
        ];
        let grid = [Extent::Count { slot: count::LOGIT_ROWS, per: 1 }, Extent::Fixed(1), Extent::Fixed(1)];
        let cost = Cost { fixed: 0.0, slot: count::LOGIT_ROWS, each: 32.0 * f64::from(cols) };
        recording.push(Step::new(gpu, "top_k", kernel, &bindings, grid, cost)?);
        Ok(())
    }
}
