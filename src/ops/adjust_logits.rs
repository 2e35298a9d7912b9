//! Penalties, bias and allowed tokens, applied to logits where they are.

use super::{Operation, Variant, count};
use crate::{
    Error, ErrorKind, Result,
    gpu::{Buffer, Cost, Extent, Gpu, KernelKey, Recording, Step},
    reference::{FORBIDDEN, Penalties, TokenAdjustment},
    tensor::Tensor,
    uniform,
};

const NONE: u32 = u32::MAX;

uniform! {
    struct AdjustLogitsParams { cols: u32, stride: u32 }
}

uniform! {
    // One `TokenAdjustment`.
    struct AdjustedToken { id: u32, seen: u32, count: u32, bias: f32 }
}

uniform! {
    // Where a row's tokens and mask begin, its `Penalties`, and the slot of its newest token; `mask` and
    // `slot` are `NONE` without one.
    struct AdjustedRow {
        first: u32, count: u32, repetition: f32, frequency: f32, presence: f32, mask: u32, slot: u32
    }
}

/// What happens to one row of logits, as [`reference::adjust_logits`](crate::reference::adjust_logits)
/// does it.
#[derive(Debug, Clone, Copy)]
pub struct RowAdjustments<'a> {
    /// By ascending id, each at most once.
    pub tokens: &'a [TokenAdjustment],
    /// Penalties of these.
    pub penalties: Penalties,
    /// Bit `id % 32` of word `id / 32` tells whether a token is allowed, all others become
    /// [`FORBIDDEN`]; `None` allows all.
    pub mask: Option<&'a [u32]>,
    /// Slot of a token that was generated after these and is not counted among them.
    pub newest: Option<u32>,
}

/// Device memory for the adjustments of a step.
#[derive(Debug, Clone)]
pub struct Adjustments {
    vocab: u32,
    /// `[rows]` of `AdjustedRow`.
    rows: Buffer,
    /// `AdjustedToken`s of all rows, one list after the other.
    tokens: Buffer,
    /// Masks of all rows that have one, one after the other.
    masks: Buffer,
}

impl Adjustments {
    /// Room for `rows` rows over a vocabulary of `vocab` tokens, with `tokens` listed tokens and `masks`
    /// masks in all of them together.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub fn new(gpu: &Gpu, vocab: u32, rows: u32, tokens: u32, masks: u32) -> Result<Self> {
        let size = |count: u32, each: usize| u64::from(count) * each as u64;
        let words = vocab.div_ceil(u32::BITS) as usize;
        Ok(Self {
            vocab,
            rows: gpu.allocate("adjusted rows", size(rows, size_of::<AdjustedRow>()))?,
            tokens: gpu.allocate("adjusted tokens", size(tokens, size_of::<AdjustedToken>()))?,
            masks: gpu.allocate("allowed tokens", size(masks, 4 * words))?,
        })
    }

    /// Writes what the next replay shall do to its first `rows.len()` rows.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] when there is no room, ids are out of order or beyond the vocabulary, or
    /// a mask has the wrong length.
    pub fn write(&self, gpu: &Gpu, rows: &[RowAdjustments]) -> Result<()> {
        let words = self.vocab.div_ceil(u32::BITS) as usize;
        let (mut tokens, mut masks) = (Vec::new(), Vec::new());
        let mut table = Vec::with_capacity(rows.len());
        for row in rows {
            check_tokens(row.tokens, self.vocab)?;
            let mask = match row.mask {
                None => NONE,
                Some(mask) if mask.len() == words => masks.len() as u32,
                Some(mask) => {
                    let expected = format!("{words} words, a bit for each of {} tokens", self.vocab);
                    return Err(argument("allowed tokens", expected, mask.len()));
                }
            };
            table.push(AdjustedRow {
                first: tokens.len() as u32,
                count: row.tokens.len() as u32,
                repetition: row.penalties.repetition,
                frequency: row.penalties.frequency,
                presence: row.penalties.presence,
                mask,
                slot: row.newest.unwrap_or(NONE),
            });
            tokens.extend(row.tokens.iter().map(|token| AdjustedToken {
                id: token.id,
                seen: u32::from(token.seen),
                count: token.count,
                bias: token.bias,
            }));
            masks.extend_from_slice(row.mask.unwrap_or_default());
        }
        write(gpu, "adjusted rows", &self.rows, &table)?;
        write(gpu, "adjusted tokens", &self.tokens, &tokens)?;
        write(gpu, "allowed tokens", &self.masks, &masks)
    }
}

fn argument(subject: &str, expected: impl std::fmt::Display, found: impl std::fmt::Display) -> Error {
    Error::expected(ErrorKind::Argument, subject, expected, found)
}

fn check_tokens(tokens: &[TokenAdjustment], vocab: u32) -> Result<()> {
    if let Some(pair) = tokens.windows(2).find(|pair| pair[0].id >= pair[1].id) {
        let found = format!("{} before {}", pair[0].id, pair[1].id);
        return Err(argument("adjusted tokens", "ascending ids", found));
    }
    match tokens.last() {
        Some(last) if last.id >= vocab => {
            Err(argument("adjusted tokens", format!("ids below {vocab}"), last.id))
        }
        _ => Ok(()),
    }
}

fn write<T: bytemuck::NoUninit>(gpu: &Gpu, subject: &str, buffer: &Buffer, contents: &[T]) -> Result<()> {
    let capacity = buffer.size() as usize / size_of::<T>();
    if contents.len() > capacity {
        return Err(argument(subject, format!("at most {capacity}"), contents.len()));
    }
    gpu.write(buffer, 0, contents);
    Ok(())
}

/// The table of variants.
pub static ADJUST_LOGITS: Operation<()> = Operation {
    name: "adjust_logits",
    variants: &[Variant {
        name: "baseline",
        fits: |()| true,
        key: |()| {
            KernelKey::new("adjust_logits")
                .with::<AdjustLogitsParams>()
                .with::<AdjustedRow>()
                .with::<AdjustedToken>()
                .constant("WORKGROUP", 256)
                .constant("NONE", NONE)
                .constant("FORBIDDEN", FORBIDDEN.to_bits())
        },
    }],
};

/// Applies [`Adjustments`] to the rows whose logits are wanted.
pub struct AdjustLogits<'a> {
    /// `[logit_rows, vocab]`, changed in place.
    pub logits: &'a Tensor,
    /// What to do, read anew at each replay.
    pub adjustments: &'a Adjustments,
    /// `[slots]`: token ids, where [`RowAdjustments::newest`] lies.
    pub sampled: &'a Buffer,
}

impl AdjustLogits<'_> {
    /// Appends the step.
    ///
    /// # Errors
    /// As [`Gpu::kernel`] and [`Step::new`].
    pub fn record(&self, gpu: &Gpu, recording: &mut Recording) -> Result<()> {
        let cols = self.logits.cols;
        let rows = self.adjustments.rows.size() / size_of::<AdjustedRow>() as u64;
        assert!(cols == self.adjustments.vocab && u64::from(self.logits.rows) <= rows, "shapes differ");
        let (_, kernel) = ADJUST_LOGITS.choose(gpu, &())?;
        let params = gpu.uniform(&AdjustLogitsParams { cols, stride: self.logits.stride() })?;
        let bindings = [
            ("params", &params),
            ("logits", &self.logits.buffer),
            ("rows", &self.adjustments.rows),
            ("tokens", &self.adjustments.tokens),
            ("masks", &self.adjustments.masks),
            ("sampled", self.sampled),
        ];
        let grid = [Extent::Count { slot: count::LOGIT_ROWS, per: 1 }, Extent::Fixed(1), Extent::Fixed(1)];
        let cost = Cost { fixed: 0.0, slot: count::LOGIT_ROWS, each: 8.0 * f64::from(cols) };
        recording.push(Step::new(gpu, "adjust_logits", kernel, &bindings, grid, cost)?);
        Ok(())
    }
}
