//! Products with weights, and rows of them.

use super::{SelfTest, worst};
use crate::{
    Result,
    gpu::Recording,
    ops::{
        EMBEDDING, Embedding, MAT_MAT, MAT_VEC, MatVecShape, Matmul, Operation, Row, RowCount, Weight, count,
        weight::uniform_values,
    },
    quant::{Format, Matrix},
    reference,
    tensor::Tensor,
};

/// More than a tile in every direction, and more blocks than a workgroup has invocations.
const ROWS: usize = 70;
const COLS: usize = 2100;

/// Random weights. Those of odd rows are so small that block scales, or the weights themselves in
/// `f16`, are subnormal.
fn matrix(format: &'static Format) -> Matrix {
    let mut values = uniform_values(1, ROWS * COLS, 0.5);
    values.chunks_exact_mut(COLS).skip(1).step_by(2).flatten().for_each(|value| *value *= 1e-4);
    Matrix::encode(format, ROWS, COLS, &values)
}

pub async fn embedding(test: &mut SelfTest<'_>, format: &'static Format) -> Result<()> {
    let matrix = matrix(format);
    let tokens = [3u32, 0, ROWS as u32 - 1];
    let expected = reference::embedding(&matrix, &tokens);
    // One multiplication of few bits is exact.
    test.check(&EMBEDDING, &format, format.name, 1e-7, async |gpu| {
        let weight = Weight::from_matrix(gpu, "weight", &matrix)?;
        let rows = tokens.map(|token| Row { token, ..bytemuck::Zeroable::zeroed() });
        let rows = gpu.upload("rows", &rows)?;
        let y = Tensor::zeros(gpu, "y", tokens.len() as u32, weight.cols)?;
        let mut recording = Recording::default();
        Embedding { weight: &weight, rows: &rows, y: &y }.record(gpu, &mut recording)?;
        gpu.replay(&recording, &[tokens.len() as u64], None)?;
        Ok(worst(&y.download(gpu, y.rows).await?, &expected, |index| expected[index].abs()))
    })
    .await
}

/// Shapes of one row and of eight: other numbers of rows differ in nothing but that number.
pub async fn mat_vec(test: &mut SelfTest<'_>, format: &'static Format) -> Result<()> {
    for cols in [1, 8] {
        product(test, &MAT_VEC, &MatVecShape { format, cols }, format, RowCount::Few(cols), cols).await?;
    }
    Ok(())
}

pub async fn mat_mat(test: &mut SelfTest<'_>, format: &'static Format) -> Result<()> {
    product(test, &MAT_MAT, &format, format, RowCount::Many(count::ROWS), 37).await
}

async fn product<S>(
    test: &mut SelfTest<'_>,
    operation: &Operation<S>,
    shape: &S,
    format: &'static Format,
    row_count: RowCount,
    rows: u32,
) -> Result<()> {
    let matrix = matrix(format);
    let values = uniform_values(2, rows as usize * COLS, 1.0);
    let expected = reference::matmul(&matrix, &values);
    let weights: Vec<Vec<f32>> = (0..ROWS).map(|row| matrix.row(row)).collect();
    let magnitude = |index: usize| -> f32 {
        let x = &values[index / ROWS * COLS..][..COLS];
        weights[index % ROWS].iter().zip(x).map(|(w, x)| (w * x).abs()).sum()
    };
    test.check(operation, shape, format_args!("{}, {rows} rows", format.name), 2e-6, async |gpu| {
        let weight = Weight::from_matrix(gpu, "weight", &matrix)?;
        let x = Tensor::from_values(gpu, "x", &values, COLS as u32)?;
        let y = Tensor::zeros(gpu, "y", rows, ROWS as u32)?;
        let counts = gpu.upload("counts", &[rows])?;
        let mut recording = Recording::default();
        Matmul { weight: &weight, x: &x, y: &y, rows: row_count, counts: &counts, label: "self-test" }
            .record(gpu, &mut recording)?;
        gpu.replay(&recording, &[u64::from(rows)], None)?;
        Ok(worst(&y.download(gpu, rows).await?, &expected, magnitude))
    })
    .await
}
