//! The choice of a token among the candidates of a row, so that the next step can begin before the host
//! has seen them.

use super::{MAX_K, Operation, TopKHeader, TopKRecord, Variant, count};
use crate::{
    Result,
    gpu::{Buffer, Cost, Extent, Gpu, KernelKey, Recording, Step},
    reference::Filters,
    uniform,
};

/// What stands in place of a token that lies beyond the candidates.
pub const BEYOND: u32 = u32::MAX;

uniform! {
    struct SampleParams { vocab: u32 }
}

uniform! {
    /// How the token of a row is chosen.
    pub struct SampleRow {
        /// Candidates that its [`TopKRow`](super::TopKRow) asked for.
        k: u32,
        /// Where the token goes.
        slot: u32,
        /// As in [`Filters`].
        temperature: f32,
        /// As in [`Filters`].
        top_k: u32,
        /// As in [`Filters`].
        top_p: f32,
        /// Half the largest distance to the maximum that a logit may have, below 0; `f32::MIN` for any.
        half_floor: f32,
        /// A number in [0, 1).
        draw: f32,
    }
}

impl SampleRow {
    /// The row whose `k` candidates pass through `filters`, one of them being chosen by `draw` for `slot`.
    pub fn new(k: u32, filters: &Filters, draw: f64, slot: u32) -> Self {
        let Filters { temperature, top_k, top_p, min_p } = *filters;
        let half_floor = if min_p > 0.0 { 0.5 * temperature * min_p.ln() } else { f32::MIN };
        Self { k, slot, temperature, top_k, top_p, half_floor, draw: draw as f32 }
    }
}

/// The table of variants.
pub static SAMPLE: Operation<()> = Operation {
    name: "sample",
    variants: &[Variant {
        name: "baseline",
        fits: |()| true,
        key: |()| {
            KernelKey::new("sample")
                .with::<SampleParams>()
                .with::<SampleRow>()
                .with::<TopKHeader>()
                .constant("MAX_K", MAX_K as u32)
                .constant("WORKGROUP", MAX_K as u32)
                .constant("BEYOND", BEYOND)
        },
    }],
};

/// Chooses a token for each row whose logits are wanted, as [`Filters::drawn_rank`] does it with more
/// exact numbers: the same, unless the draw lies within 1e-4 of the boundary between two tokens.
pub struct Sample<'a> {
    /// Tokens in a row of logits.
    pub vocab: u32,
    /// `[logit_rows]` of [`SampleRow`], read anew at each replay.
    pub rows: &'a Buffer,
    /// `[logit_rows]` of [`TopKRecord`].
    pub records: &'a Buffer,
    /// `[slots]`: token ids, or [`BEYOND`].
    pub sampled: &'a Buffer,
}

impl Sample<'_> {
    /// Appends the step.
    ///
    /// # Errors
    /// As [`Gpu::kernel`] and [`Step::new`].
    pub fn record(&self, gpu: &Gpu, recording: &mut Recording) -> Result<()> {
        let (_, kernel) = SAMPLE.choose(gpu, &())?;
        let params = gpu.uniform(&SampleParams { vocab: self.vocab })?;
        let bindings =
            [("params", &params), ("rows", self.rows), ("records", self.records), ("sampled", self.sampled)];
        let grid = [Extent::Count { slot: count::LOGIT_ROWS, per: 1 }, Extent::Fixed(1), Extent::Fixed(1)];
        let each = size_of::<TopKRecord>() as f64;
        let cost = Cost { fixed: 0.0, slot: count::LOGIT_ROWS, each };
        recording.push(Step::new(gpu, "sample", kernel, &bindings, grid, cost)?);
        Ok(())
    }
}
