//! Products with the matrices of a model.

use super::{Contender, FEW, TuneMatrix, Tuner, Use};
use crate::{
    Result,
    gpu::{Gpu, Recording},
    ops::{
        MAT_MAT, MAT_VEC, MatMatShape, MatVecShape, Matmul, Operation, RowCount, Variant, Weight, count,
        matmul::subject,
    },
    tensor::{Rounded, Tensor},
};

/// Copies of a matrix take so much at most: past the caches of any device.
const COPIES_BYTES: u64 = 256 << 20;

/// Weights of the slice that tells how much of the matrix there is time for.
const PROBE_WEIGHTS: u32 = 1 << 20;

/// How long one product, over all that it is tried with, should take at most.
const PRODUCT_SECONDS: f64 = 20e-3;

/// Slices end at whole tiles, whatever their size.
const SLICE_ROWS: u32 = 256;

/// Rows of activations that the matrix-matrix kernels are tried with at least, if batches have them.
const MANY: u32 = 128;

/// Rows of activations to try with.
struct Rows {
    count: RowCount,
    /// Where there is no time for more.
    least: u32,
    /// As many as batches have: the workgroups for fewer may not be enough for all of the device.
    most: u32,
}

pub fn mat_vec(tuner: &mut Tuner, matrix: &TuneMatrix) -> Result<()> {
    let format = matrix.format;
    let shapes = FEW.map(|cols| MatVecShape::new(format, cols));
    let rows = FEW.map(|rows| Rows { count: RowCount::Few(rows), least: rows, most: rows });
    product(tuner, &MAT_VEC, &shapes, matrix, &rows)?;
    let subject = |rounded| subject(format, matrix.rows, matrix.cols, RowCount::Few(1), rounded);
    let floats = MatVecShape { rounded: false, ..shapes[0] };
    tuner.prefer_among(&MAT_VEC, subject(true), subject(false), &floats);
    Ok(())
}

/// The matrix-matrix kernels for batches of at most `most` rows, one of [`RowCount::MANY`], which have no more than `rows`.
pub fn mat_mat(tuner: &mut Tuner, matrix: &TuneMatrix, most: u32, rows: u32) -> Result<()> {
    let (format, count, rows) = (matrix.format, RowCount::many(count::ROWS, most), rows.min(most));
    let shape = MatMatShape { format, rounded: true, most, experts: false };
    product(tuner, &MAT_MAT, &[shape], matrix, &[Rows { count, least: rows.min(MANY), most: rows }])
}

/// Some of a model's matrices, with activations for them, all zero.
struct Layers {
    weights: Vec<Weight>,
    x: Tensor,
    rounded: Rounded,
    y: Tensor,
}

impl Layers {
    fn new(gpu: &Gpu, matrix: TuneMatrix, rows: u32) -> Result<Self> {
        let TuneMatrix { format, rows: outputs, cols: inputs, count } = matrix;
        let weight = || Weight::allocate(gpu, "tuning", format, outputs, inputs);
        Ok(Self {
            weights: (0..count).map(|_| weight()).collect::<Result<_>>()?,
            x: Tensor::zeros(gpu, "x", rows, inputs)?,
            rounded: Rounded::zeros(gpu, "x", rows, inputs)?,
            y: Tensor::zeros(gpu, "y", rows, outputs)?,
        })
    }

    /// Calls `with` on the uses of these layers with each number of rows.
    fn uses<T>(
        &self,
        gpu: &Gpu,
        rows: &[(RowCount, u32)],
        with: impl FnOnce(&[Use]) -> Result<T>,
    ) -> Result<T> {
        let recorder = |&(row_count, rows): &(RowCount, u32)| {
            let counts = gpu.upload("counts", &[rows])?;
            Ok(move |gpu: &Gpu, recording: &mut Recording, index: usize| {
                let Self { weights, x, rounded, y } = self;
                let (weight, rows, label) = (&weights[index % weights.len()], row_count, "tuning");
                // What computes activations rounds them as well.
                let (rounded, counts) = (Some(rounded), &counts);
                Matmul { weight, x, rounded, y, rows, counts, experts: None, label }.record(gpu, recording)
            })
        };
        let recorders = rows.iter().map(recorder).collect::<Result<Vec<_>>>()?;
        let uses: Vec<_> = recorders
            .iter()
            .zip(rows)
            .map(|(record, (_, rows))| Use { record, counts: vec![(*rows).into()], tokens: f64::from(*rows) })
            .collect();
        with(&uses)
    }
}

fn product<S>(
    tuner: &mut Tuner,
    operation: &Operation<S>,
    shapes: &[S],
    matrix: &TuneMatrix,
    rows: &[Rows],
) -> Result<()> {
    let subject = subject(matrix.format, matrix.rows, matrix.cols, rows[0].count, true);
    let candidates = tuner.candidates(operation, shapes, &subject, &format!("{} ", matrix.format.name));
    // One that may be slow anywhere.
    let Some(baseline) = candidates.last() else { return Ok(()) };
    let gpu = tuner.gpu;
    let least: Vec<_> = rows.iter().map(|rows| (rows.count, rows.least)).collect();
    let (slice, times) = slice(gpu, operation, baseline, matrix, &least)?;
    let affordable = |rows: &Rows| (rows.count, rows.least.saturating_mul(times).min(rows.most));
    let rows: Vec<_> = rows.iter().map(affordable).collect();
    let layers = Layers::new(gpu, slice, most(&rows))?;
    layers.uses(gpu, &rows, |uses| tuner.measure(operation, subject, candidates, uses))
}

fn most(rows: &[(RowCount, u32)]) -> u32 {
    rows.iter().map(|(_, rows)| *rows).max().unwrap_or(1)
}

/// As much of `matrix` as there is time for on this device, or as many of them as caches do not hold; and for how many times as
/// many rows there is time.
fn slice<S>(
    gpu: &Gpu,
    operation: &Operation<S>,
    variant: &Variant<S>,
    matrix: &TuneMatrix,
    rows: &[(RowCount, u32)],
) -> Result<(TuneMatrix, u32)> {
    let outputs = (PROBE_WEIGHTS / matrix.cols).next_multiple_of(SLICE_ROWS).min(matrix.rows);
    let probe = Layers::new(gpu, TuneMatrix { rows: outputs, count: 1, ..*matrix }, most(rows))?;
    let only = operation.only(gpu, variant);
    let mut steps = vec![0; rows.len()];
    let mut contender = Contender::new(variant.name, rows.len());
    let ran = probe.uses(gpu, rows, |uses| {
        contender.first_run(&only, uses, &mut steps, f64::INFINITY)?;
        contender.run(gpu, uses, &steps)
    });
    ran.map_err(|error| operation.tried(variant.name, error))?;
    let of_use = contender.seconds.iter().zip(rows).map(|(seconds, (_, rows))| seconds * f64::from(*rows));
    let seconds = of_use.sum::<f64>();
    let affordable = (f64::from(outputs) * PRODUCT_SECONDS / seconds) as u32 / SLICE_ROWS * SLICE_ROWS;
    let times = (affordable / matrix.rows).max(1);
    let rows = affordable.clamp(outputs, matrix.rows);
    let (codes, scales) =
        matrix.format.plane_bytes(rows as usize, matrix.cols as usize).unwrap_or((u64::MAX, 0));
    let count = (COPIES_BYTES / codes.saturating_add(scales)).clamp(1, matrix.count.into()) as u32;
    Ok((TuneMatrix { rows, count, ..*matrix }, times))
}
