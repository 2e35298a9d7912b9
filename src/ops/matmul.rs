//! Products of activations with weight matrices.

use super::{
    Epilogue, EpilogueShape, Fused, MAT_MAT, MAT_VEC, MatMatShape, MatVecShape, RouteShape, Routes, RowCount,
    Variant, Weight, epilogue::first_square, mat_mat::mat_mat_tile, mat_vec::mat_vec_workgroups,
};
use crate::{
    Result,
    gpu::{Buffer, Capability, Cost, Extent, Gpu, KernelKey, Recording, Step},
    quant::Format,
    tensor::{Activation, ActivationFormat, HALVES, Rounded, Tensor},
    uniform,
};

uniform! {
    #[derive(Default)]
    pub(super) struct MatmulParams {
        first_row: u32, row_step: u32, rows: u32, blocks: u32, y_stride: u32, slot: u32,
        /// Slots of the KV cache that an epilogue writes to.
        slots: u32,
        /// Where a norm's sums of squares begin in the tensor, and its columns and `eps`.
        first_square: u32, cols: u32, eps: f32,
    }
}

/// Flag of kernels for weights that have a matrix for each expert.
pub(super) const EXPERTS: &str = "experts";

/// `y = x · weightᵀ`, plus the bias of a weight that has one; with experts, every row of `x` times its own expert's
/// matrix.
///
/// A row of `y` has the same bits for every [`RowCount::Few`].
pub struct Matmul<'a> {
    /// `[outputs, inputs]`.
    pub weight: &'a Weight,
    /// `[rows, inputs]`, in the weight's order of columns; with experts, `[rows * chosen, inputs]` in the order of the routes.
    pub x: &'a Tensor,
    /// Room for `x` in the formats that round it, for kernels that read such. Without it, none is chosen.
    pub rounded: Option<&'a Rounded>,
    /// `[rows, outputs]`, with all outputs of the weights that write to it; with experts, `[rows * chosen, outputs]`.
    pub y: &'a Tensor,
    /// How many rows, each counted once however many experts it goes through.
    pub rows: RowCount,
    /// The counts of the replay as `u32`, which the caller writes for every batch. Read for
    /// [`RowCount::Many`] only.
    pub counts: &'a Buffer,
    /// Which rows are those of which expert; of a weight with experts.
    pub experts: Option<&'a Routes>,
    /// Name in profiles.
    pub label: &'static str,
}

/// Flag of kernels that add a bias.
pub(super) const BIAS: &str = "bias";

/// What the speed of a product depends on, as [`Operation::choose_for`](super::Operation::choose_for) wants it. The same for 1 to
/// 8 rows: one variant serves them all, or a row's bits would depend on how many others there are.
pub(super) fn subject(format: &Format, outputs: u32, inputs: u32, rows: RowCount, rounded: bool) -> String {
    let matrix = format!("{} {outputs}x{inputs}", format.name);
    match rows {
        RowCount::Few(_) if rounded => matrix,
        RowCount::Few(_) => format!("floats by {matrix}"),
        RowCount::Many { most: u32::MAX, .. } => matrix + ", many rows",
        RowCount::Many { most, .. } => format!("{matrix}, {most} rows"),
    }
}

/// What `key`'s kernel reads its activations as.
pub(super) fn reads(key: &KernelKey) -> ActivationFormat {
    if key.needs.contains(&Capability::Integer) {
        ActivationFormat::Q8
    } else if key.flags.contains(&HALVES) {
        ActivationFormat::F16
    } else {
        ActivationFormat::F32
    }
}

/// What a product of few rows with a weight of such sizes reads, where activations may be rounded.
///
/// # Errors
/// As [`Operation::variant_for`](super::Operation::variant_for).
pub fn few_read(gpu: &Gpu, format: &'static Format, outputs: u32, inputs: u32) -> Result<ActivationFormat> {
    let shape = MatVecShape::new(format, 1);
    let subject = subject(format, outputs, inputs, RowCount::Few(1), true);
    Ok(reads(&(MAT_VEC.variant_for(gpu, &shape, subject)?.key)(&shape)))
}

impl<'a> Matmul<'a> {
    /// `x` in the form that the kernel for this product reads: what the caller fills before.
    ///
    /// # Errors
    /// As [`Gpu::kernel`].
    pub fn input(&self, gpu: &Gpu) -> Result<Activation<'a>> {
        Ok(self.input_of(&self.choose(gpu, &Fused::default())?))
    }

    fn input_of(&self, key: &KernelKey) -> Activation<'a> {
        self.rounded.map_or(Activation::F32(self.x), |rounded| rounded.activation(reads(key), self.x))
    }

    /// Rows that a matrix multiplies, on average: what kernels are made for, though right for more.
    fn rows_each(&self) -> RowCount {
        let Some(RouteShape { experts, chosen }) = self.experts.map(|routes| routes.shape) else {
            return self.rows;
        };
        let share = |rows: u32| (rows * chosen).div_ceil(experts);
        match self.rows {
            RowCount::Few(rows) => RowCount::Few(share(rows)),
            RowCount::Many { most: u32::MAX, .. } => self.rows,
            RowCount::Many { slot, most } => RowCount::many(slot, share(most)),
        }
    }

    /// The shape of a product of few rows.
    fn few(&self, cols: u32) -> MatVecShape {
        let (rounded, experts) = (self.rounded.is_some(), self.experts.is_some());
        MatVecShape { rounded, experts, ..MatVecShape::new(self.weight.format, cols) }
    }

    /// The variant for a product of few rows, whatever else it does.
    fn choose_few(&self, gpu: &Gpu, cols: u32) -> Result<&'static Variant<MatVecShape>> {
        assert!((1..=8).contains(&cols) && cols <= self.x.rows.min(self.y.rows), "{cols} rows");
        MAT_VEC.variant_for(gpu, &self.few(cols), self.subject())
    }

    fn subject(&self) -> String {
        let Weight { format, rows, cols, .. } = *self.weight;
        subject(format, rows, cols, self.rows_each(), self.rounded.is_some())
    }

    /// What computes the product, but for a bias.
    fn choose(&self, gpu: &Gpu, fused: &Fused) -> Result<KernelKey> {
        match self.rows_each() {
            RowCount::Few(cols) => {
                let epilogue = fused.epilogue.map_or(EpilogueShape::Plain, |epilogue| epilogue.shape());
                let shape = MatVecShape { normed: fused.eps.is_some(), epilogue, ..self.few(cols) };
                Ok((self.choose_few(gpu, cols)?.key)(&shape))
            }
            RowCount::Many { most, .. } => {
                let (rounded, experts) = (self.rounded.is_some(), self.experts.is_some());
                let shape = MatMatShape { format: self.weight.format, rounded, most, experts };
                Ok((MAT_MAT.variant_for(gpu, &shape, self.subject())?.key)(&shape))
            }
        }
    }

    /// Whether the kernel that would compute the product can do more.
    fn has(&self, gpu: &Gpu, normed: bool, epilogue: EpilogueShape) -> Result<bool> {
        let RowCount::Few(cols) = self.rows else { return Ok(false) };
        if self.experts.is_some() || !gpu.capabilities().has(&[Capability::Fused]) {
            return Ok(false);
        }
        let shape = MatVecShape { normed, epilogue, ..self.few(cols) };
        let variant = self.choose_few(gpu, cols)?;
        Ok(shape.operation().runnable(gpu, &shape).any(|other| other.name == variant.name))
    }

    /// Whether it can do `epilogue` with its outputs.
    ///
    /// # Errors
    /// As [`Gpu::kernel`].
    pub fn fuses(&self, gpu: &Gpu, epilogue: &Epilogue) -> Result<bool> {
        Ok(epilogue.fits(self) && self.has(gpu, false, epilogue.shape())?)
    }

    /// Whether it can read activations whose norm is unfinished.
    ///
    /// # Errors
    /// As [`Gpu::kernel`].
    pub fn finishes_norm(&self, gpu: &Gpu) -> Result<bool> {
        self.has(gpu, true, EpilogueShape::Plain)
    }

    /// Appends one step for each part of the weight.
    ///
    /// # Errors
    /// As [`Gpu::kernel`] and [`Step::new`].
    pub fn record(&self, gpu: &Gpu, recording: &mut Recording) -> Result<()> {
        self.record_fused(gpu, recording, &Fused::default())
    }

    /// As [`Matmul::record`], with what [`Matmul::fuses`] and [`Matmul::finishes_norm`] say that it can do.
    ///
    /// # Errors
    /// As [`Matmul::record`].
    pub fn record_fused(&self, gpu: &Gpu, recording: &mut Recording, fused: &Fused) -> Result<()> {
        let weight = self.weight;
        let last = weight.first_output + weight.output_step * (weight.rows - 1);
        assert!(self.x.cols == weight.cols && last < self.y.cols, "shapes differ");
        assert_eq!(self.experts.map_or(1, |routes| routes.shape.experts), weight.experts, "experts");
        let key = self.choose(gpu, fused)?.flag(BIAS, weight.bias.is_some());
        let kernel = gpu.kernel(&key)?;
        let slot = if let RowCount::Many { slot, .. } = self.rows { slot } else { 0 };
        for part in &weight.parts {
            // Whole matrices, or a part of one.
            let rows = part.rows.min(weight.rows);
            let matrices = part.rows / rows;
            let first_matrix = part.first_row / weight.rows;
            let mut params = MatmulParams {
                first_row: weight.first_output + weight.output_step * (part.first_row % weight.rows),
                row_step: weight.output_step,
                rows,
                blocks: weight.blocks(),
                y_stride: self.y.stride(),
                slot: if self.experts.is_some() { first_matrix } else { slot as u32 },
                ..MatmulParams::default()
            };
            if let Some(eps) = fused.eps {
                let first_square = first_square(Activation::F32(self.x));
                params = MatmulParams { first_square, cols: self.x.cols, eps, ..params };
            }
            if let Some(epilogue) = &fused.epilogue {
                epilogue.set(&mut params);
            }
            let params = gpu.uniform(&params)?;
            let outputs = fused.epilogue.map(|epilogue| epilogue.bindings());
            let mut bindings = outputs.unwrap_or_else(|| vec![("y", &self.y.buffer)]);
            bindings.push(("params", &params));
            bindings.extend(self.input_of(&key).inputs());
            bindings.extend(part.bindings());
            bindings.extend(weight.bias.iter().map(|bias| ("bias", bias)));
            // Of all rows, those that a matrix multiplies; of few, no more matrices than have one are read.
            let share = self
                .experts
                .map_or(1.0, |Routes { shape, .. }| f64::from(shape.chosen) / f64::from(shape.experts));
            if let Some(Routes { offsets, .. }) = self.experts {
                bindings.push(("offsets", offsets));
            }
            let bytes = part.bytes() as f64;
            let (grid, fixed, each) = match self.rows {
                RowCount::Few(count) => {
                    let grid = [mat_vec_workgroups(&key, rows), matrices, 1].map(Extent::Fixed);
                    (grid, bytes * (share * f64::from(count)).min(1.0), 0.0)
                }
                RowCount::Many { .. } => {
                    if self.experts.is_none() {
                        bindings.push(("counts", self.counts));
                    }
                    let (tile_rows, tile_cols) = mat_mat_tile(&key);
                    let tiles = Extent::Fixed(rows.div_ceil(tile_cols));
                    let grid = [tiles, Extent::Count { slot, per: tile_rows }, Extent::Fixed(matrices)];
                    // 16 operations take about as long as a byte from memory.
                    let operations = 2.0 * f64::from(part.rows) * f64::from(weight.cols);
                    (grid, bytes, share * operations / 16.0)
                }
            };
            let cost = Cost { fixed, slot, each };
            recording.push(Step::new(gpu, self.label, kernel.clone(), &bindings, grid, cost)?);
        }
        Ok(())
    }
}
