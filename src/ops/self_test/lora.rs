//! What adapters add to a product.

use super::{SelfTest, worst};
use crate::{
    Result,
    gpu::{Gpu, Recording},
    ops::{
        LORA_DOWN, LORA_UP, Lora, LoraDownShape, LoraFactors, LoraFormat, LoraParts, LoraShape, Row,
        RowCount, count, weight::uniform_values,
    },
    reference,
    tensor::{Activation, ActivationFormat, Rounded, Tensor},
};

const ROWS: usize = 3;
/// Whole blocks, so that codes have no padding.
const INPUTS: usize = 320;
const OUTPUTS: usize = 100;
const RANKS: usize = 8;

/// Three rows of the batch, of which the first has both adapters, the last the second alone.
const ADAPTERS: [u32; ROWS] = [0b11, 0, 0b10];

/// Two adapters of a product with three parts, of which the first leaves the second part alone.
pub async fn lora(test: &mut SelfTest<'_>) -> Result<()> {
    let ranks = RANKS as u32;
    let many = RowCount::many(count::ROWS, 3);
    for (factors, count, x, gather) in [
        (LoraFormat::F32, RowCount::Few(1), ActivationFormat::F32, false),
        (LoraFormat::F16, RowCount::Few(3), ActivationFormat::Q8, true),
        (LoraFormat::Bf16, many, ActivationFormat::F16, true),
        (LoraFormat::F32, many, ActivationFormat::Q8, false),
    ] {
        let case = Case::new(gather, factors, count);
        let name = format!("{factors:?}, {x:?}, {count:?}{}", if gather { ", chosen rows" } else { "" });
        let error = async |gpu: &Gpu| case.error(gpu, x).await;
        let shape = LoraShape { ranks, factors, count: case.count, gather };
        test.check(&LORA_DOWN, &LoraDownShape { shape, x }, &name, 2e-6, error).await?;
        test.check(&LORA_UP, &shape, &name, 2e-6, error).await?;
    }
    Ok(())
}

const PARTS: [usize; 3] = [OUTPUTS, 40, 20];
const ALL_OUTPUTS: usize = OUTPUTS + 40 + 20;
const TARGETS: [u32; 3] = [0b11, 0b10, 0b11];

struct Case {
    /// Rows of the batch that are computed.
    chosen: Vec<u32>,
    gather: bool,
    count: RowCount,
    /// `[chosen, INPUTS]`, multiples of a power of two that codes hold exactly.
    x: Vec<f32>,
    y: Vec<f32>,
    /// `[2, 3, RANKS, INPUTS]`.
    a: Vec<f32>,
    /// `[2, ALL_OUTPUTS, RANKS]`.
    b: Vec<f32>,
}

impl Case {
    fn new(gather: bool, factors: LoraFormat, count: RowCount) -> Self {
        let mut chosen: Vec<u32> = if gather { vec![2, 0] } else { vec![0, 1, 2] };
        if count == RowCount::Few(1) {
            chosen.truncate(1);
        }
        let count = if let RowCount::Few(_) = count { RowCount::Few(chosen.len() as u32) } else { count };
        // What the format holds, and no smaller one.
        let values = |seed, count, scale| {
            let values = uniform_values(seed, count, scale).into_iter();
            let rounded: Vec<f32> = match factors {
                LoraFormat::F32 => values.collect(),
                LoraFormat::F16 => values.map(|value| (value * 1024.0).round() / 1024.0).collect(),
                LoraFormat::Bf16 => values.map(|value| (value * 128.0).round() / 128.0).collect(),
            };
            rounded
        };
        let code = |(index, value): (usize, f32)| match index % 32 {
            0 => 127.0 / 64.0,
            _ => (value * 64.0).round() / 64.0,
        };
        let x = uniform_values(1, chosen.len() * INPUTS, 0.5).into_iter().enumerate().map(code).collect();
        Self {
            gather,
            x,
            y: uniform_values(2, chosen.len() * ALL_OUTPUTS, 1.0),
            a: values(3, 2 * 3 * RANKS * INPUTS, 0.1),
            b: values(4, 2 * ALL_OUTPUTS * RANKS, 0.5),
            chosen,
            count,
        }
    }

    fn expected(&self) -> Vec<f32> {
        let mut all = self.y.clone();
        let rows = all.chunks_exact_mut(ALL_OUTPUTS).zip(self.x.chunks_exact(INPUTS));
        for ((y, x), row) in rows.zip(&self.chosen) {
            for adapter in (0..2).filter(|adapter| ADAPTERS[*row as usize] >> adapter & 1 == 1) {
                let mut first = 0;
                for (part, outputs) in PARTS.into_iter().enumerate() {
                    if TARGETS[part] >> adapter & 1 == 1 {
                        let a = &self.a[(adapter * 3 + part) * RANKS * INPUTS..][..RANKS * INPUTS];
                        let b = &self.b[(adapter * ALL_OUTPUTS + first) * RANKS..][..outputs * RANKS];
                        reference::lora(&mut y[first..][..outputs], x, a, b, RANKS, 1.0);
                    }
                    first += outputs;
                }
            }
        }
        all
    }

    async fn error(&self, gpu: &Gpu, format: ActivationFormat) -> Result<f32> {
        let x = Tensor::from_values(gpu, "x", &self.x, INPUTS as u32)?;
        let rounded = Rounded::zeros(gpu, "x rounded", x.rows, x.cols)?;
        let y = Tensor::from_values(gpu, "y", &self.y, ALL_OUTPUTS as u32)?;
        let parts = LoraParts::Stacked(PARTS.map(|outputs| outputs as u32));
        let factors = LoraFactors::new(gpu, [&self.a, &self.b], 2, TARGETS, parts)?;
        let h = gpu.upload("h", &vec![f32::NAN; x.rows as usize * factors.all_ranks() as usize])?;
        let rows = ADAPTERS.map(|adapters| Row { adapters, ..bytemuck::Zeroable::zeroed() });
        let (rows, row_ids) = (gpu.upload("rows", &rows)?, gpu.upload("row ids", &self.chosen)?);
        let counts = gpu.upload("counts", &[x.rows])?;
        let mut recording = Recording::default();
        let stored = rounded.activation(format, &x);
        match stored {
            Activation::F32(_) => {}
            Activation::Q8(codes) => {
                let values: Vec<i8> = self.x.iter().map(|value| (value * 64.0) as i8).collect();
                let scales = vec![(1f32 / 64.0).to_bits(); 2 * values.len() / 32];
                gpu.write(&codes.codes, 0, &values);
                gpu.write(&codes.scales, 0, &scales);
            }
            Activation::F16(halves) => {
                let values: Vec<_> = self.x.iter().map(|value| half::f16::from_f32(*value)).collect();
                gpu.write(&halves.buffer, 0, &values);
            }
        }
        let row_ids = self.gather.then_some(&row_ids);
        let (count, counts) = (self.count, &counts);
        Lora { factors: &factors, x: stored, h: &h, y: &y, rows: &rows, row_ids, count, counts }
            .record(gpu, &mut recording)?;
        gpu.replay(&recording, &[x.rows.into()], None)?;
        // Outputs are of about that size.
        Ok(worst(&y.download(gpu, y.rows).await?, &self.expected(), |_| 10.0))
    }
}
