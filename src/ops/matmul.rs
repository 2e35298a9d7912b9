//! Products of activations with weight matrices.

use super::{
    MAT_MAT, MAT_VEC, MatVecShape, RowCount, Weight,
    mat_mat::{TILE_COLS, TILE_ROWS},
    mat_vec::mat_vec_workgroups,
};
use crate::{
    Result,
    gpu::{Buffer, Cost, Extent, Gpu, Recording, Step},
    tensor::Tensor,
    uniform,
};

uniform! {
    pub(super) struct MatmulParams { first_row: u32, rows: u32, blocks: u32, y_stride: u32, slot: u32 }
}

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
