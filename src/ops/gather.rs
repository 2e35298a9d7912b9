//! Rows or columns of activations by their numbers.

use super::{Operation, RowCount, Variant};
use crate::{
    Result,
    gpu::{Buffer, Extent, Gpu, KernelKey, Recording, Step},
    tensor::{Activation, ActivationFormat, Tensor},
    uniform,
};

uniform! {
    struct GatherParams { cols: u32, stride: u32, per_row: u32 }
}

const WORKGROUP: u32 = 256;

/// What is gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// Whole rows.
    Rows,
    /// The same columns of every row.
    Cols,
}

/// What specialises the kernel.
#[derive(Debug, Clone, Copy)]
pub struct GatherShape {
    /// What is gathered.
    pub axis: Axis,
    /// How the result is stored.
    pub format: ActivationFormat,
}

/// The table of variants.
pub static GATHER: Operation<GatherShape> = Operation {
    name: "gather",
    variants: &[Variant {
        name: "baseline",
        fits: |_| true,
        key: |shape| {
            let key = KernelKey::new("gather")
                .with::<GatherParams>()
                .constant("WORKGROUP", WORKGROUP)
                .flag("of_cols", shape.axis == Axis::Cols);
            shape.format.specialise(key)
        },
    }],
};

/// `y = x[indices]` along an axis.
pub struct Gather<'a> {
    /// `[rows, cols]`.
    pub x: &'a Tensor,
    /// What is gathered.
    pub axis: Axis,
    /// `u32`: the row of `x` that each row of `y` is, `[rows * per_row]`, or the column of `x` that each column is, `[cols]`.
    pub indices: &'a Buffer,
    /// Result, `[rows * per_row, cols]`.
    pub y: Activation<'a>,
    /// How many rows the batch has.
    pub rows: RowCount,
    /// How many rows of `y` there are for each of the batch: with experts, as many as it goes through.
    pub per_row: u32,
}

impl Gather<'_> {
    /// Appends the step.
    ///
    /// # Errors
    /// As [`Gpu::kernel`] and [`Step::new`].
    ///
    /// # Panics
    /// When the shapes contradict each other.
    pub fn record(&self, gpu: &Gpu, recording: &mut Recording) -> Result<()> {
        let (cols, stride, per_row) = (self.x.cols, self.x.stride(), self.per_row);
        assert!(cols == self.y.cols(), "shapes differ");
        assert!(self.axis == Axis::Rows || self.indices.size() == 4 * u64::from(cols), "indices");
        let (_, kernel) = GATHER.choose(gpu, &GatherShape { axis: self.axis, format: self.y.format() })?;
        let params = gpu.uniform(&GatherParams { cols, stride, per_row })?;
        let mut bindings = vec![("params", &params), ("x", &self.x.buffer), ("indices", self.indices)];
        bindings.extend(self.y.outputs());
        let cols = Extent::Fixed(stride.div_ceil(WORKGROUP));
        let grid = [self.rows.extent(), cols, Extent::Fixed(per_row)];
        let cost = self.rows.cost(12.0 * f64::from(stride * per_row));
        recording.push(Step::new(gpu, "gather", kernel, &bindings, grid, cost)?);
        Ok(())
    }
}
