//! What low-rank adapters add to a product (LoRA, Hu et al. 2021, arXiv:2106.09685).

use super::{Operation, Row, RowCount, Variant};
use crate::{
    Result,
    gpu::{Buffer, Extent, Gpu, KernelKey, Recording, Step},
    tensor::{Activation, ActivationFormat, Tensor},
    uniform,
};

/// Adapters that a row can choose among: a bit each.
pub const MAX_ADAPTERS: usize = 32;

uniform! {
    struct LoraParams {
        quads: u32, ranks: u32, adapters: u32, parts: u32, targets_0: u32, targets_1: u32, targets_2: u32,
        first_1: u32, first_2: u32, step: u32, outputs: u32, y_stride: u32
    }
}

/// How the outputs of a product are those of matrices that read the same input, its parts, each with
/// adapters of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoraParts {
    /// Part `i` has so many outputs, after those of the parts before; no outputs: there is no such part.
    Stacked([u32; 3]),
    /// Two parts in turns, of so many outputs each.
    Alternating(u32),
}

impl LoraParts {
    /// How many there are.
    pub fn count(self) -> u32 {
        match self {
            Self::Stacked(outputs) => outputs.iter().filter(|outputs| **outputs > 0).count() as u32,
            Self::Alternating(_) => 2,
        }
    }

    /// Outputs of all together.
    pub fn outputs(self) -> u32 {
        match self {
            Self::Stacked(outputs) => outputs.iter().sum(),
            Self::Alternating(outputs) => 2 * outputs,
        }
    }

    /// Outputs of the largest.
    fn longest(self) -> u32 {
        match self {
            Self::Stacked(outputs) => outputs.into_iter().max().unwrap_or(0),
            Self::Alternating(outputs) => outputs,
        }
    }
}

/// The adapters of one product on the device.
#[derive(Debug)]
pub struct LoraFactors {
    /// `[adapters, parts, ranks, inputs]`, inputs padded with zeros to whole blocks.
    pub a: Buffer,
    /// `[adapters, outputs, ranks]`, scaled.
    pub b: Buffer,
    /// How many there are, at most [`MAX_ADAPTERS`].
    pub adapters: u32,
    /// Ranks of each, a multiple of 4: those of smaller rank are padded with zeros.
    pub ranks: u32,
    /// Which adapters change a part, a bit each.
    pub targets: [u32; 3],
    /// Which outputs are whose.
    pub parts: LoraParts,
}

impl LoraFactors {
    /// Values of `A · x` for a row.
    pub fn all_ranks(&self) -> u32 {
        self.adapters * self.parts.count() * self.ranks
    }
}

/// What specialises the kernel of `h = A · x`.
#[derive(Debug, Clone, Copy)]
pub struct LoraDownShape {
    /// Ranks of an adapter.
    pub ranks: u32,
    /// How `x` is stored.
    pub format: ActivationFormat,
    /// For chosen rows of the batch only.
    pub gather: bool,
}

/// What specialises the kernel of `y += B · h`.
#[derive(Debug, Clone, Copy)]
pub struct LoraUpShape {
    /// Ranks of an adapter.
    pub ranks: u32,
    /// For chosen rows of the batch only.
    pub gather: bool,
}

fn key(shader: &'static str, gather: bool, workgroup: u32) -> KernelKey {
    KernelKey::new(shader)
        .with::<LoraParams>()
        .with::<Row>()
        .flag("gather", gather)
        .constant("WORKGROUP", workgroup)
}

/// Ranks that a workgroup computes at once, so that it reads `x` once for them.
fn ranks_at_once(ranks: u32, most: u32) -> u32 {
    1 << ranks.trailing_zeros().min(most.ilog2())
}

fn down(shape: &LoraDownShape, most: u32, workgroup: u32) -> KernelKey {
    key("lora_down", shape.gather, workgroup)
        .constant("RANKS", ranks_at_once(shape.ranks, most))
        .flag("q8", shape.format == ActivationFormat::Q8)
}

/// The table of variants of `h = A · x`.
pub static LORA_DOWN: Operation<LoraDownShape> = Operation {
    name: "lora_down",
    variants: &[Variant { name: "baseline", fits: |_| true, key: |shape| down(shape, 4, 64) }],
};

const UP_WORKGROUP: u32 = 64;

/// The table of variants of `y += B · h`.
pub static LORA_UP: Operation<LoraUpShape> = Operation {
    name: "lora_up",
    variants: &[Variant {
        name: "baseline",
        fits: |_| true,
        key: |shape| key("lora_up", shape.gather, UP_WORKGROUP).constant("QUADS", shape.ranks / 4),
    }],
};

/// `y += B · (A · x)` for every adapter of a row. Rows without adapters are left alone, and none depends on the
/// others.
pub struct Lora<'a> {
    /// A and B of every adapter.
    pub factors: &'a LoraFactors,
    /// `[rows, inputs]`.
    pub x: Activation<'a>,
    /// Room for [`LoraFactors::all_ranks`] floats for each row.
    pub h: &'a Buffer,
    /// `[rows, outputs]`.
    pub y: &'a Tensor,
    /// [`Row`] of each row of the batch.
    pub rows: &'a Buffer,
    /// Row `i` of `x` and `y` is row `row_ids[i]` of the batch; without it, row `i`.
    pub row_ids: Option<&'a Buffer>,
    /// How many rows `x` and `y` have.
    pub count: RowCount,
}

impl Lora<'_> {
    /// Appends two steps. `y` is there before.
    ///
    /// # Errors
    /// As [`Gpu::kernel`] and [`Step::new`].
    ///
    /// # Panics
    /// When the shapes contradict each other.
    pub fn record(&self, gpu: &Gpu, recording: &mut Recording) -> Result<()> {
        let (factors, parts) = (self.factors, self.factors.parts);
        let [ranks, all_ranks] = [factors.ranks, factors.all_ranks()];
        let inputs = self.x.stride();
        assert_eq!(factors.a.size(), 4 * u64::from(all_ranks) * u64::from(inputs), "A");
        assert_eq!(self.y.cols, parts.outputs(), "outputs");
        let gather = self.row_ids.is_some();
        let params = gpu.uniform(&self.params())?;
        let mut common = vec![("params", &params), ("rows", self.rows)];
        common.extend(self.row_ids.map(|row_ids| ("row_ids", row_ids)));

        let shape = LoraDownShape { ranks, format: self.x.format(), gather };
        let (variant, kernel) = LORA_DOWN.choose(gpu, &shape)?;
        let bindings =
            [common.as_slice(), &[("a", &factors.a), ("h", self.h)], &self.x.inputs().collect::<Vec<_>>()];
        let at_once = (variant.key)(&shape).value("RANKS");
        let grid = [Extent::Fixed(all_ranks / at_once), self.count.extent(), Extent::Fixed(1)];
        let cost = self.count.cost(4.0 * f64::from(all_ranks) * f64::from(inputs));
        recording.push(Step::new(gpu, "lora_down", kernel, &bindings.concat(), grid, cost)?);

        let (_, kernel) = LORA_UP.choose(gpu, &LoraUpShape { ranks, gather })?;
        common.extend([("b", &factors.b), ("h", self.h), ("y", &self.y.buffer)]);
        let workgroups = Extent::Fixed(parts.longest().div_ceil(UP_WORKGROUP));
        let grid = [workgroups, self.count.extent(), Extent::Fixed(parts.count())];
        let cost = self.count.cost(4.0 * f64::from(factors.adapters * ranks) * f64::from(self.y.cols));
        recording.push(Step::new(gpu, "lora_up", kernel, &common, grid, cost)?);
        Ok(())
    }

    fn params(&self) -> LoraParams {
        let LoraFactors { adapters, ranks, targets, parts, .. } = *self.factors;
        let (first_1, first_2, step) = match parts {
            LoraParts::Stacked([first, second, _]) => (first, first + second, 1),
            LoraParts::Alternating(_) => (1, 0, 2),
        };
        LoraParams {
            quads: self.x.stride() / 4,
            ranks,
            adapters,
            parts: parts.count(),
            targets_0: targets[0],
            targets_1: targets[1],
            targets_2: targets[2],
            first_1,
            first_2,
            step,
            outputs: parts.outputs(),
            y_stride: self.y.stride(),
        }
    }
}
