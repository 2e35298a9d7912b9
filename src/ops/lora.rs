//! What low-rank adapters add to a product (LoRA, Hu et al. 2021, arXiv:2106.09685).

use half::{bf16, f16};

use super::{Operation, Row, RowCount, Variant};
use crate::{
    Result,
    gpu::{Buffer, Capability, Extent, Gpu, KernelKey, Recording, Step},
    tensor::{Activation, ActivationFormat, Tensor},
    uniform,
};

/// Adapters that a row can choose among: a bit each.
pub const MAX_ADAPTERS: usize = 32;

uniform! {
    struct LoraParams {
        quads: u32, ranks: u32, adapters: u32, parts: u32, targets_0: u32, targets_1: u32, targets_2: u32,
        first_1: u32, first_2: u32, step: u32, outputs: u32, y_stride: u32, rows: u32, slot: u32, scale: f32
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

/// How A and B are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoraFormat {
    /// `f32`.
    F32,
    /// `f16`, none of them subnormal: multiplied by a power of two before.
    F16,
    /// `bf16`.
    Bf16,
}

/// The power of two by which `f16` can hold all of `values` to the last bit, none of them subnormal.
fn f16_scale(values: &[f32]) -> Option<f32> {
    let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    // 2¹⁴ for the largest, which leaves 2⁻¹⁴ for those of 2⁻²⁸ of it.
    let exponent = 14 - (largest.to_bits() >> 23) as i32 + 127;
    let scale = 2f32.powi(exponent.clamp(-100, 100));
    let exact = |value: &f32| {
        let half = f16::from_f32(value * scale);
        *value == 0.0 || (half.is_normal() && half.to_f32() / scale == *value)
    };
    values.iter().all(exact).then_some(scale)
}

/// The adapters of one product on the device.
#[derive(Debug)]
pub struct LoraFactors {
    /// `[adapters, parts, ranks, inputs]`, inputs padded with zeros to whole blocks.
    a: Buffer,
    /// `[adapters, outputs, ranks]`.
    b: Buffer,
    /// Of both.
    format: LoraFormat,
    /// What `A · x` is multiplied by.
    scale: f32,
    /// How many there are, at most [`MAX_ADAPTERS`].
    adapters: u32,
    /// Ranks of each, a multiple of 4: those of smaller rank are padded with zeros.
    ranks: u32,
    /// Which adapters change a part, a bit each.
    targets: [u32; 3],
    /// Which outputs are whose.
    parts: LoraParts,
}

impl LoraFactors {
    /// Uploads `a`, `[adapters, parts, ranks, inputs]` with inputs padded with zeros to whole blocks, and `b`,
    /// `[adapters, outputs, ranks]`, in 16 bits where these hold every number as it is. `targets` are the adapters
    /// that change a part, a bit each.
    ///
    /// # Errors
    /// As [`Gpu::upload`].
    pub fn new(
        gpu: &Gpu,
        [a, b]: [&[f32]; 2],
        adapters: u32,
        targets: [u32; 3],
        parts: LoraParts,
    ) -> Result<Self> {
        let ranks = b.len() as u32 / parts.outputs() / adapters;
        let both = || a.iter().chain(b);
        let upload = |values: &[f32], to_bits: &dyn Fn(f32) -> u16| {
            let halves: Vec<u16> = values.iter().map(|value| to_bits(*value)).collect();
            gpu.upload("adapters", &halves)
        };
        let new = |format, scale, a, b| Self { a, b, format, scale, adapters, ranks, targets, parts };
        if both().all(|value| bf16::from_f32(*value).to_f32() == *value) {
            let to_bits = |value| bf16::from_f32(value).to_bits();
            return Ok(new(LoraFormat::Bf16, 1.0, upload(a, &to_bits)?, upload(b, &to_bits)?));
        }
        if let (Some(a_scale), Some(b_scale)) = (f16_scale(a), f16_scale(b)) {
            let [a, b] = [(a, a_scale), (b, b_scale)]
                .map(|(values, scale)| upload(values, &|value| f16::from_f32(value * scale).to_bits()));
            return Ok(new(LoraFormat::F16, 1.0 / a_scale / b_scale, a?, b?));
        }
        Ok(new(LoraFormat::F32, 1.0, gpu.upload("adapters", a)?, gpu.upload("adapters", b)?))
    }

    /// How many values A has.
    fn values(&self) -> u64 {
        self.a.size() / if self.format == LoraFormat::F32 { 4 } else { 2 }
    }

    /// How A and B are stored.
    pub fn format(&self) -> LoraFormat {
        self.format
    }

    /// Values of `A · x` for a row.
    pub fn all_ranks(&self) -> u32 {
        self.adapters * self.parts.count() * self.ranks
    }
}

/// What specialises the kernels.
#[derive(Debug, Clone, Copy)]
pub struct LoraShape {
    /// Ranks of an adapter.
    pub ranks: u32,
    /// How A and B are stored.
    pub factors: LoraFormat,
    /// How many rows.
    pub count: RowCount,
    /// For chosen rows of the batch only.
    pub gather: bool,
}

/// What specialises the kernel of `h = A · x`.
#[derive(Debug, Clone, Copy)]
pub struct LoraDownShape {
    /// What both kernels depend on.
    pub shape: LoraShape,
    /// How `x` is stored.
    pub x: ActivationFormat,
}

impl LoraShape {
    /// Rows that a workgroup computes.
    fn cols(&self) -> u32 {
        match self.count {
            RowCount::Few(rows @ 1..=2) => rows,
            _ => 4,
        }
    }

    fn key(&self, shader: &'static str, workgroup: u32) -> KernelKey {
        KernelKey::new(shader)
            .with::<LoraParams>()
            .with::<Row>()
            .flag("gather", self.gather)
            .flag("many", matches!(self.count, RowCount::Many { .. }))
            .flag("factors_f16", self.factors == LoraFormat::F16)
            .flag("factors_bf16", self.factors == LoraFormat::Bf16)
            .constant("COLS", self.cols())
            .constant("WORKGROUP", workgroup)
    }
}

/// What the speed of the kernels depends on: the same for 1 to 8 rows, or a row's bits would depend on how many others
/// there are.
pub(super) fn subject(ranks: u32, inputs: u32, outputs: u32, count: RowCount) -> String {
    let many = if let RowCount::Many { .. } = count { ", many rows" } else { "" };
    format!("{ranks} ranks {outputs}x{inputs}{many}")
}

/// Ranks that a workgroup computes at once, so that it reads `x` once for them.
fn ranks_at_once(ranks: u32, most: u32) -> u32 {
    1 << ranks.trailing_zeros().min(most.ilog2())
}

fn down(shape: &LoraDownShape, most: u32, workgroup: u32) -> KernelKey {
    let key = shape.shape.key("lora_down", workgroup);
    shape.x.specialise(key.constant("RANKS", ranks_at_once(shape.shape.ranks, most)))
}

/// The table of variants of `h = A · x`.
pub static LORA_DOWN: Operation<LoraDownShape> = Operation {
    name: "lora_down",
    variants: &[
        // A workgroup is no more than a subgroup of a CPU.
        Variant {
            name: "narrow",
            fits: |_| true,
            key: |shape| KernelKey { needs: &[Capability::Cpu, Capability::Subgroup], ..down(shape, 8, 8) },
        },
        Variant {
            name: "subgroup",
            fits: |_| true,
            key: |shape| KernelKey { needs: &[Capability::Subgroup], ..down(shape, 4, 64) },
        },
        Variant { name: "baseline", fits: |_| true, key: |shape| down(shape, 4, 64) },
    ],
};

fn up(shape: &LoraShape, outputs: u32, workgroup: u32) -> KernelKey {
    shape.key("lora_up", workgroup).constant("QUADS", shape.ranks / 4).constant("OUTPUTS", outputs)
}

/// The table of variants of `y += B · h`.
pub static LORA_UP: Operation<LoraShape> = Operation {
    name: "lora_up",
    variants: &[
        // Reads h once for several outputs.
        Variant {
            name: "several",
            fits: |_| true,
            key: |shape| KernelKey { needs: &[Capability::Cpu], ..up(shape, 4, 16) },
        },
        Variant { name: "baseline", fits: |_| true, key: |shape| up(shape, 1, 64) },
    ],
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
    /// The counts of the replay as `u32`, which the caller writes for every batch. Read for
    /// [`RowCount::Many`] only.
    pub counts: &'a Buffer,
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
        assert_eq!(factors.values(), u64::from(all_ranks) * u64::from(inputs), "A");
        assert_eq!(self.y.cols, parts.outputs(), "outputs");
        let params = gpu.uniform(&self.params())?;
        let mut common = vec![("params", &params), ("rows", self.rows), ("h", self.h)];
        common.extend(self.row_ids.map(|row_ids| ("row_ids", row_ids)));
        if let RowCount::Many { .. } = self.count {
            common.push(("counts", self.counts));
        }
        let gather = self.row_ids.is_some();
        let shape = LoraShape { ranks, factors: factors.format, count: self.count, gather };
        let subject = subject(ranks, self.x.cols(), parts.outputs(), self.count);
        let rows = self.count.tiles(shape.cols());

        let down = LoraDownShape { shape, x: self.x.format() };
        let (variant, kernel) = LORA_DOWN.choose_for(gpu, &down, &subject)?;
        let bindings = [&common, &[("a", &factors.a)][..], &self.x.inputs().collect::<Vec<_>>()];
        let at_once = (variant.key)(&down).value("RANKS");
        let grid = [Extent::Fixed(all_ranks / at_once), rows, Extent::Fixed(1)];
        let cost = self.count.cost(4.0 * f64::from(all_ranks) * f64::from(inputs));
        recording.push(Step::new(gpu, "lora_down", kernel, &bindings.concat(), grid, cost)?);

        let (variant, kernel) = LORA_UP.choose_for(gpu, &shape, &subject)?;
        let key = (variant.key)(&shape);
        common.extend([("b", &factors.b), ("y", &self.y.buffer)]);
        let workgroups = parts.longest().div_ceil(key.value("WORKGROUP") * key.value("OUTPUTS"));
        let grid = [Extent::Fixed(workgroups), rows, Extent::Fixed(parts.count())];
        let cost = self.count.cost(4.0 * f64::from(factors.adapters * ranks) * f64::from(self.y.cols));
        recording.push(Step::new(gpu, "lora_up", kernel, &common, grid, cost)?);
        Ok(())
    }

    fn params(&self) -> LoraParams {
        let LoraFactors { adapters, ranks, targets, parts, scale, .. } = *self.factors;
        let (rows, slot) = match self.count {
            RowCount::Few(rows) => (rows, 0),
            RowCount::Many { slot, .. } => (0, slot as u32),
        };
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
            rows,
            slot,
            scale,
        }
    }
}
