//! Norm, residual add and gate.

use super::{SelfTest, worst};
use crate::{
    Result,
    gpu::Recording,
    ops::{
        RESIDUAL_ADD, RMS_NORM, ResidualAdd, RmsNorm, RmsNormShape, SWIGLU, Swiglu, weight::uniform_values,
    },
    reference,
    tensor::Tensor,
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
        // WGSL promises a square root to some 3 units in the last place.
        test.check(&RMS_NORM, &RmsNormShape { residual, gather }, case, 2e-6, async |gpu| {
            let x = Tensor::from_values(gpu, "x", &x, COLS as u32)?;
            let delta = Tensor::from_values(gpu, "delta", &delta, COLS as u32)?;
            let y = Tensor::zeros(gpu, "y", chosen.len() as u32, COLS as u32)?;
            let ids: Vec<u32> = chosen.iter().map(|row| *row as u32).collect();
            let ids = gpu.upload("row ids", &ids)?;
            let weight = gpu.upload("weight", &weight)?;
            let mut recording = Recording::default();
            RmsNorm {
                x: &x,
                delta: residual.then_some(&delta),
                weight: &weight,
                y: &y,
                row_ids: gather.then_some(&ids),
                eps,
            }
            .record(gpu, &mut recording)?;
            gpu.replay(&recording, &[chosen.len() as u64; 2], None)?;
            let after = rows(&x.download(gpu, x.rows).await?);
            let normed = y.download(gpu, y.rows).await?;
            Ok(worst(&normed, &expected, |index| expected[index].abs()).max(worst(&after, &sum, |_| 1.0)))
        })
        .await?;
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
    // WGSL promises exp(x) to 3 + 2 |x| units in the last place, and |x| is 7 at most.
    test.check(&SWIGLU, &(), "plain", 5e-6, async |gpu| {
        let gate_up = Tensor::from_values(gpu, "gate_up", &values, 2 * COLS as u32)?;
        let out = Tensor::zeros(gpu, "out", ROWS as u32, COLS as u32)?;
        let mut recording = Recording::default();
        Swiglu { gate_up: &gate_up, out: &out }.record(gpu, &mut recording)?;
        gpu.replay(&recording, &[ROWS as u64], None)?;
        Ok(worst(&out.download(gpu, out.rows).await?, &expected, |index| expected[index].abs()))
    })
    .await
}
