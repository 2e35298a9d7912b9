//! What adapters add to a product.

use super::{TuneLora, Tuner, Use};
use crate::{
    Result,
    gpu::{Gpu, Recording},
    ops::{
        LORA_DOWN, LORA_UP, Lora, LoraDownShape, LoraFactors, LoraFormat, LoraShape, Row, RowCount,
        lora::subject,
    },
    tensor::{Activation, ActivationFormat, Tensor},
};

/// Rows of a prompt.
const MANY: u32 = 32;

/// Both kernels, for one row or for many, all of them with all adapters.
pub fn lora(tuner: &mut Tuner, adapters: &TuneLora, count: RowCount) -> Result<()> {
    let TuneLora { inputs, parts, ranks, adapters } = *adapters;
    let (factors, gather, outputs) = (LoraFormat::Bf16, false, parts.outputs());
    let shape = LoraShape { ranks, factors, count, gather };
    let subject = subject(ranks, inputs, outputs, count);
    let down = LoraDownShape { shape, x: ActivationFormat::F32 };
    let downs = tuner.candidates(&LORA_DOWN, &[down], &subject, "");
    let ups = tuner.candidates(&LORA_UP, &[shape], &subject, "");
    if downs.is_empty() && ups.is_empty() {
        return Ok(());
    }
    let gpu = tuner.gpu;
    let rows = if let RowCount::Few(rows) = count { rows } else { MANY };
    let tensor = |cols| Tensor::zeros(gpu, "tuning", rows, cols);
    let (x, y) = (tensor(inputs)?, tensor(outputs)?);
    let all = adapters * ranks;
    let [a, b] = [parts.count() * x.stride(), outputs].map(|size| vec![0.0; (all * size) as usize]);
    let targets = [u32::MAX >> (32 - adapters); 3];
    let factors = LoraFactors::new(gpu, [&a, &b], adapters, targets, parts)?;
    let h = gpu.allocate("tuning", 4 * u64::from(rows * factors.all_ranks()))?;
    let row = Row { adapters: targets[0], ..bytemuck::Zeroable::zeroed() };
    let (table, counts) = (gpu.upload("rows", &vec![row; rows as usize])?, gpu.upload("counts", &[rows])?);
    let record = |gpu: &Gpu, recording: &mut Recording, _| {
        let (factors, x, rows, counts) = (&factors, Activation::F32(&x), &table, &counts);
        Lora { factors, x, h: &h, y: &y, rows, row_ids: None, count, counts }.record(gpu, recording)
    };
    let uses = [Use { record: &record, counts: vec![rows.into()], tokens: f64::from(rows) }];
    if !downs.is_empty() {
        tuner.measure(&LORA_DOWN, &subject, downs, &uses)?;
    }
    if !ups.is_empty() {
        tuner.measure(&LORA_UP, &subject, ups, &uses)?;
    }
    Ok(())
}
