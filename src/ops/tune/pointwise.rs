//! Operations whose time matters when there is a single token.

use super::{TuneShapes, Tuner, Use};
use crate::{
    Result,
    gpu::{Gpu, Recording},
    ops::{
        RMS_NORM, RmsNorm, RmsNormShape, SWIGLU, Swiglu, TOP_K, TopK, TopKRecord, TopKRow, swiglu::BLOCKS,
    },
    tensor::{Activation, ActivationFormat, Q8Tensor, Tensor},
};

pub fn rms_norm(tuner: &mut Tuner, shapes: &TuneShapes) -> Result<()> {
    let cols = shapes.hidden;
    let shape = |format| RmsNormShape { residual: true, gather: false, format };
    let formats = [ActivationFormat::F32, ActivationFormat::Q8].map(shape);
    let candidates = tuner.candidates(&RMS_NORM, &formats, &cols.to_string(), "");
    if candidates.is_empty() {
        return Ok(());
    }
    let gpu = tuner.gpu;
    let tensor = || Tensor::zeros(gpu, "tuning", 1, cols);
    let (x, delta, y, weight) = (tensor()?, tensor()?, tensor()?, tensor()?);
    let q8 = Q8Tensor::zeros(gpu, "tuning", 1, cols)?;
    let record = |gpu: &Gpu, recording: &mut Recording, step: usize| {
        let y = if step.is_multiple_of(2) { Activation::Q8(&q8) } else { Activation::F32(&y) };
        RmsNorm { x: &x, delta: Some(&delta), weight: &weight, y, row_ids: None, eps: 1e-5 }
            .record(gpu, recording)
    };
    let uses = [Use { record: &record, counts: vec![1], tokens: 1.0 }];
    tuner.measure(&RMS_NORM, cols, candidates, &uses)
}

pub fn swiglu(tuner: &mut Tuner, shapes: &TuneShapes) -> Result<()> {
    let candidates = tuner.candidates(&SWIGLU, &[ActivationFormat::Q8], BLOCKS, "");
    if candidates.is_empty() {
        return Ok(());
    }
    let gpu = tuner.gpu;
    let gate_up = Tensor::zeros(gpu, "tuning", 1, 2 * shapes.hidden)?;
    let y = Q8Tensor::zeros(gpu, "tuning", 1, shapes.hidden)?;
    let record = |gpu: &Gpu, recording: &mut Recording, _| {
        Swiglu { gate_up: &gate_up, y: Activation::Q8(&y), per_row: 1 }.record(gpu, recording)
    };
    let uses = [Use { record: &record, counts: vec![1], tokens: 1.0 }];
    tuner.measure(&SWIGLU, BLOCKS, candidates, &uses)
}

pub fn top_k(tuner: &mut Tuner, shapes: &TuneShapes) -> Result<()> {
    let cols = shapes.vocab;
    let candidates = tuner.candidates(&TOP_K, &[()], &cols.to_string(), "");
    if candidates.is_empty() {
        return Ok(());
    }
    let gpu = tuner.gpu;
    // Logits that all differ, as those of a model do.
    let values: Vec<f32> = (0..cols).map(|id| (id.wrapping_mul(2_654_435_761) >> 8) as f32).collect();
    let logits = Tensor::from_values(gpu, "logits", &values, cols)?;
    let rows = gpu.upload("rows", &[TopKRow { k: 64, temperature: 1.0 }])?;
    let records = gpu.allocate("records", size_of::<TopKRecord>() as u64)?;
    let record = |gpu: &Gpu, recording: &mut Recording, _| {
        TopK { logits: &logits, rows: &rows, records: &records }.record(gpu, recording)
    };
    let uses = [Use { record: &record, counts: vec![1, 1], tokens: 1.0 }];
    tuner.measure(&TOP_K, cols, candidates, &uses)
}
