//! Products of activations with weight matrices.

use super::{Operation, RowCount, Variant, Weight, weight::weight_key};
use crate::{
    Result,
    gpu::{Buffer, Capability, Cost, Extent, Gpu, KernelKey, Recording, Step},
    quant::Format,
    tensor::Tensor,
    uniform,
};

uniform! {
    struct MatmulParams { first_row: u32, rows: u32, blocks: u32, y_stride: u32, slot: u32 }
}

/// What specialises the matrix-vector kernel.
#[derive(Debug, Clone, Copy)]
pub struct MatVecShape {
    /// Of the weight.
    pub format: &'static Format,
    /// Rows of activations, each a column vector to the weight.
    pub cols: u32,
}

const MAT_VEC_WORKGROUP: u32 = 64;

/// Weight rows that a workgroup handles together, or an invocation by itself, such that its sums stay
/// in registers.
fn mat_vec_rows(shape: &MatVecShape) -> u32 {
    if shape.cols <= 4 { 4 } else { 2 }
}

fn mat_vec(shape: &MatVecShape) -> KernelKey {
    weight_key("mat_vec", shape.format)
        .with::<MatmulParams>()
        .constant("WORKGROUP", MAT_VEC_WORKGROUP)
        .constant("COLS", shape.cols)
        .constant("ROWS", mat_vec_rows(shape))
}

/// Whether the device's own 16-bit floats read the codes: where it has them, for codes that are such.
fn reads_f16(format: &Format) -> bool {
    format.name == "f16"
}

/// Gives every invocation rows of its own.
const WHOLE_ROWS: &str = "whole_rows";

/// The table of variants for 1 to 8 rows of activations.
pub static MAT_VEC: Operation<MatVecShape> = Operation {
    name: "mat_vec",
    variants: &[
        Variant {
            name: "f16",
            fits: |shape| reads_f16(shape.format),
            key: |shape| KernelKey { needs: &[Capability::F16, Capability::Subgroup], ..mat_vec(shape) },
        },
        Variant {
            name: "subgroup",
            fits: |_| true,
            key: |shape| KernelKey { needs: &[Capability::Subgroup], ..mat_vec(shape) },
        },
        Variant { name: "baseline", fits: |_| true, key: mat_vec },
        // Needs no barrier, but fills a large GPU only with many rows: faster on a CPU.
        Variant { name: "rows", fits: |_| true, key: |shape| mat_vec(shape).flag(WHOLE_ROWS, true) },
    ],
};

/// Workgroups that `variant` runs over `rows` rows of the weight.
fn mat_vec_workgroups(variant: &Variant<MatVecShape>, shape: &MatVecShape, rows: u32) -> u32 {
    let whole_rows = (variant.key)(shape).flags.contains(&WHOLE_ROWS);
    rows.div_ceil(mat_vec_rows(shape) * if whole_rows { MAT_VEC_WORKGROUP } else { 1 })
}

/// Outputs that a workgroup of the matrix-matrix kernel computes: rows of activations, rows of the
/// weight, and the side of each invocation's square.
const TILE_ROWS: u32 = 32;
const TILE_COLS: u32 = 64;
const SIDE: u32 = 4;

fn mat_mat(format: &'static Format) -> KernelKey {
    weight_key("mat_mat", format)
        .with::<MatmulParams>()
        .constant("TILE_ROWS", TILE_ROWS)
        .constant("TILE_COLS", TILE_COLS)
        .constant("SIDE", SIDE)
        .constant("WORKGROUP", TILE_ROWS * TILE_COLS / (SIDE * SIDE))
}

/// The table of variants for any number of rows of activations.
pub static MAT_MAT: Operation<&Format> = Operation {
    name: "mat_mat",
    variants: &[
        Variant {
            name: "f16",
            fits: |format| reads_f16(format),
            key: |format| KernelKey { needs: &[Capability::F16], ..mat_mat(format) },
        },
        Variant { name: "baseline", fits: |_| true, key: |format| mat_mat(format) },
    ],
};

/// `y = x · weightᵀ`.
///
/// A row of `y` has the same bits for every [`RowCount::Few`].
pub struct Matmul<'a> {
    /// `[outputs, inputs]`.
    pub weight: &'a Weight,
    /// `[rows, inputs]`.
    pub x: &'a Tensor,
    /// `[rows, outputs]`.
    pub y: &'a Tensor,
    /// How many rows.
    pub rows: RowCount,
    /// The counts of the replay as `u32`, which the caller writes for every batch. Read for
    /// [`RowCount::Many`] only.
    pub counts: &'a Buffer,
    /// Name in profiles.
    pub label: &'static str,
}

impl Matmul<'_> {
    /// Appends one step for each part of the weight.
    ///
    /// # Errors
    /// As [`Gpu::kernel`] and [`Step::new`].
    pub fn record(&self, gpu: &Gpu, recording: &mut Recording) -> Result<()> {
        let weight = self.weight;
        assert!(self.x.cols == weight.cols && self.y.cols == weight.rows, "shapes differ");
        let (kernel, slot, mat_vec) = match self.rows {
            RowCount::Few(cols) => {
                assert!((1..=8).contains(&cols) && cols <= self.x.rows.min(self.y.rows), "{cols} rows");
                let shape = MatVecShape { format: weight.format, cols };
                let (variant, kernel) = MAT_VEC.choose(gpu, &shape)?;
                (kernel, 0, Some((variant, shape)))
            }
            RowCount::Many(slot) => (MAT_MAT.choose(gpu, &weight.format)?.1, slot, None),
        };
        for part in &weight.parts {
            let params = gpu.uniform(&MatmulParams {
                first_row: part.first_row,
                rows: part.rows,
                blocks: weight.blocks(),
                y_stride: self.y.stride(),
                slot: slot as u32,
            })?;
            let mut bindings = vec![("params", &params), ("x", &self.x.buffer), ("y", &self.y.buffer)];
            bindings.extend(part.bindings());
            let fixed = part.bytes() as f64;
            let (grid, each) = match &mat_vec {
                Some((variant, shape)) => {
                    let workgroups = mat_vec_workgroups(variant, shape, part.rows);
                    ([workgroups, 1, 1].map(Extent::Fixed), 0.0)
                }
                None => {
                    bindings.push(("counts", self.counts));
                    let tiles = Extent::Fixed(part.rows.div_ceil(TILE_COLS));
                    let grid = [tiles, Extent::Count { slot, per: TILE_ROWS }, Extent::Fixed(1)];
                    // 16 operations take about as long as a byte from memory.
                    (grid, 2.0 * f64::from(part.rows) * f64::from(weight.cols) / 16.0)
                }
            };
            let cost = Cost { fixed, slot, each };
            recording.push(Step::new(gpu, self.label, kernel.clone(), &bindings, grid, cost)?);
        }
        Ok(())
    }
}
