//! Norm, residual add, gate, and rows or columns by their numbers.

use super::{
    SelfTest,
    output::{Output, bound},
    worst,
};
use crate::{
    Result,
    gpu::Recording,
    ops::{
        Axis, GATHER, Gather, GatherShape, RESIDUAL_ADD, RMS_NORM, ResidualAdd, RmsNorm, RmsNormShape,
        RowCount, SWIGLU, Swiglu, weight::uniform_values,
    },
    reference,
    tensor::{ActivationFormat, Tensor},
};

const ROWS: usize = 3;
const COLS: usize = 1000;

/// The three forms that a model uses: the first block's, the others', the last.
pub async fn rms_norm(test: &mut SelfTest<'_>) -> Result<()> {
    let (x, delta) = (uniform_values(1, ROWS * COLS, 1.0), uniform_values(2, ROWS * COLS, 1.0));
    let (weight, eps) = (uniform_values(3, COLS, 1.0), 1e-5);
    for (residual, gather, case) in
        [(false, false, "plain"), (true, false, "residual"), (true, true, "residual, chosen rows")]
    {
        let chosen = if gather { vec![2, 0] } else { vec![0, 1, 2] };
        let rows = |values: &[f32]| -> Vec<f32> {
            chosen.iter().flat_map(|row| &values[row * COLS..][..COLS]).copied().collect()
        };
        let mut sum = rows(&x);
        let expected = reference::rms_norm(&mut sum, residual.then(|| rows(&delta)).as_deref(), &weight, eps);
        for format in ActivationFormat::ALL {
            let shape = RmsNormShape { residual, gather, format };
            // WGSL promises a square root to some 3 units in the last place.
            test.check(&RMS_NORM, &shape, format!("{case}, {format:?}"), bound(format, 2e-6), async |gpu| {
                let x = Tensor::from_values(gpu, "x", &x, COLS as u32)?;
                let delta = Tensor::from_values(gpu, "delta", &delta, COLS as u32)?;
                let y = Output::new(gpu, format, chosen.len() as u32, COLS as u32)?;
                let ids: Vec<u32> = chosen.iter().map(|row| *row as u32).collect();
                let ids = gpu.upload("row ids", &ids)?;
                let weight = Tensor::from_values(gpu, "weight", &weight, COLS as u32)?;
                let mut recording = Recording::default();
                RmsNorm {
                    x: &x,
                    delta: residual.then_some(&delta),
                    weight: &weight,
                    y: y.activation(),
                    row_ids: gather.then_some(&ids),
                    eps,
                }
                .record(gpu, &mut recording)?;
                gpu.replay(&recording, &[chosen.len() as u64; 2], None)?;
                let after = rows(&x.download(gpu, x.rows).await?);
                let error = y.error(gpu, &expected, |index| expected[index].abs()).await?;
                Ok(error.max(worst(&after, &sum, |_| 1.0)))
            })
            .await?;
        }
    }
    Ok(())
}

pub async fn residual_add(test: &mut SelfTest<'_>) -> Result<()> {
    let (x, delta) = (uniform_values(1, ROWS * COLS, 1.0), uniform_values(2, ROWS * COLS, 1.0));
    let mut expected = x.clone();
    reference::residual_add(&mut expected, &delta);
    test.check(&RESIDUAL_ADD, &(), "plain", 1e-7, async |gpu| {
        let x = Tensor::from_values(gpu, "x", &x, COLS as u32)?;
        let delta = Tensor::from_values(gpu, "delta", &delta, COLS as u32)?;
        let mut recording = Recording::default();
        ResidualAdd { x: &x, delta: &delta }.record(gpu, &mut recording)?;
        gpu.replay(&recording, &[ROWS as u64], None)?;
        Ok(worst(&x.download(gpu, x.rows).await?, &expected, |_| 1.0))
    })
    .await
}

pub async fn swiglu(test: &mut SelfTest<'_>) -> Result<()> {
    let values = uniform_values(1, ROWS * 2 * COLS, 4.0);
    let expected = reference::swiglu(&values);
    for format in ActivationFormat::ALL {
        // WGSL promises exp(x) to 3 + 2 |x| units in the last place, and |x| is 7 at most.
        test.check(&SWIGLU, &format, format!("{format:?}"), bound(format, 5e-6), async |gpu| {
            let gate_up = Tensor::from_values(gpu, "gate_up", &values, 2 * COLS as u32)?;
            let y = Output::new(gpu, format, ROWS as u32, COLS as u32)?;
            let mut recording = Recording::default();
            Swiglu { gate_up: &gate_up, y: y.activation(), per_row: 1 }.record(gpu, &mut recording)?;
            gpu.replay(&recording, &[ROWS as u64], None)?;
            y.error(gpu, &expected, |index| expected[index].abs()).await
        })
        .await?;
    }
    Ok(())
}

/// Every row twice, or every column once.
pub async fn gather(test: &mut SelfTest<'_>, axis: Axis) -> Result<()> {
    let values = uniform_values(1, ROWS * COLS, 1.0);
    // 7 has no divisor in common with either.
    let (per_row, count) = if axis == Axis::Rows { (2, ROWS) } else { (1, COLS) };
    let indices: Vec<u32> = (0..per_row * count).map(|i| ((7 * i + 2) % count) as u32).collect();
    let expected = match axis {
        Axis::Rows => reference::gather_rows(&values, COLS, &indices),
        Axis::Cols => reference::gather_cols(&values, COLS, &indices),
    };
    for format in ActivationFormat::ALL {
        let shape = GatherShape { axis, format };
        test.check(&GATHER, &shape, format!("{axis:?}, {format:?}"), bound(format, 0.0), async |gpu| {
            let x = &Tensor::from_values(gpu, "x", &values, COLS as u32)?;
            let y = Output::new(gpu, format, (ROWS * per_row) as u32, COLS as u32)?;
            let (indices, rows) = (&gpu.upload("indices", &indices)?, RowCount::Few(ROWS as u32));
            let mut recording = Recording::default();
            Gather { x, axis, indices, y: y.activation(), rows, per_row: per_row as u32 }
                .record(gpu, &mut recording)?;
            gpu.replay(&recording, &[ROWS as u64], None)?;
            y.error(gpu, &expected, |_| 1.0).await
        })
        .await?;
    }
    Ok(())
}
