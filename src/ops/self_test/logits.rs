//! From logits to candidates.

use super::{SelfTest, worst};
use crate::{
    Result,
    gpu::Recording,
    ops::{
        ADJUST_LOGITS, AdjustLogits, Adjustments, Candidates, RowAdjustments, TOP_K, TopK, TopKRecord,
        TopKRow, weight::uniform_values,
    },
    reference::{self, Penalties, TokenAdjustment},
    tensor::Tensor,
};

const VOCAB: u32 = 3000;

pub async fn adjust_logits(test: &mut SelfTest<'_>) -> Result<()> {
    let logits = uniform_values(1, VOCAB as usize, 5.0);
    let tokens: Vec<_> = (0..VOCAB)
        .step_by(7)
        .map(|id| TokenAdjustment { id, seen: id % 2 == 0, count: id % 3, bias: (id % 5) as f32 - 2.0 })
        .collect();
    let penalties = Penalties { repetition: 1.3, frequency: 0.2, presence: 0.7 };
    let mask: Vec<u32> = (0..VOCAB.div_ceil(32)).map(|word| word.wrapping_mul(0x9e37_79b9)).collect();
    let row = RowAdjustments { tokens: &tokens, penalties, mask: Some(&mask) };
    let mut expected = logits.clone();
    reference::adjust_logits(&mut expected, &tokens, penalties, Some(&mask));
    test.check(&ADJUST_LOGITS, &(), "penalties, bias and mask", 2e-6, async |gpu| {
        let logits = Tensor::from_values(gpu, "logits", &logits, VOCAB)?;
        let adjustments = Adjustments::new(gpu, VOCAB, 1, VOCAB, 1)?;
        adjustments.write(gpu, &[row])?;
        let mut recording = Recording::default();
        AdjustLogits { logits: &logits, adjustments: &adjustments }.record(gpu, &mut recording)?;
        gpu.replay(&recording, &[1, 1], None)?;
        // Logits are below 9, and adjusted by a few.
        Ok(worst(&logits.download(gpu, 1).await?, &expected, |_| 10.0))
    })
    .await
}

pub async fn top_k(test: &mut SelfTest<'_>) -> Result<()> {
    let logits = uniform_values(1, VOCAB as usize, 5.0);
    let row = TopKRow { k: 40, temperature: 0.7 };
    let (ids, largest): (Vec<u32>, Vec<f32>) = reference::top_k(&logits, row.k as usize).into_iter().unzip();
    let sums = [1.0, 1.0 / row.temperature].map(|scale| reference::log_sum_exp(&logits, scale) as f32);
    // Exact candidates; a relative error of the sums is an absolute one of their logarithms.
    test.check(&TOP_K, &(), "random logits", 1e-5, async |gpu| {
        let logits = Tensor::from_values(gpu, "logits", &logits, VOCAB)?;
        let rows = gpu.upload("rows", &[row])?;
        let records = gpu.allocate("records", size_of::<TopKRecord>() as u64)?;
        let mut recording = Recording::default();
        TopK { logits: &logits, rows: &rows, records: &records }.record(gpu, &mut recording)?;
        gpu.replay(&recording, &[1, 1], None)?;
        let record: TopKRecord = gpu.download(&[records]).await?[0][0];
        let found = Candidates::parse(&record, &row, VOCAB)?;
        if found.ids != ids || found.logits != largest {
            return Ok(f32::MAX);
        }
        Ok(worst(&[found.log_sum_exp as f32, found.log_sum_exp_t as f32], &sums, |_| 1.0))
    })
    .await
}
