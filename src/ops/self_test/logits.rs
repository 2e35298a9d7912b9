//! From logits to candidates.

use super::{SelfTest, worst};
use crate::{
    Result,
    gpu::Recording,
    ops::{
        ADJUST_LOGITS, AdjustLogits, Adjustments, Candidates, MAX_K, RowAdjustments, SAMPLE, Sample,
        SampleRow, TOP_K, TopK, TopKHeader, TopKRecord, TopKRow, weight::uniform_values,
    },
    reference::{self, Filters, Penalties, TokenAdjustment},
    tensor::Tensor,
};

const VOCAB: u32 = 3000;

/// Rows of the sampling test.
const ROWS: usize = 16;

pub async fn adjust_logits(test: &mut SelfTest<'_>) -> Result<()> {
    let logits = uniform_values(1, VOCAB as usize, 5.0);
    let tokens: Vec<_> = (0..VOCAB)
        .step_by(7)
        .map(|id| TokenAdjustment { id, seen: id % 2 == 0, count: id % 3, bias: (id % 5) as f32 - 2.0 })
        .collect();
    let penalties = Penalties { repetition: 1.3, frequency: 0.2, presence: 0.7 };
    let mask: Vec<u32> = (0..VOCAB.div_ceil(32)).map(|word| word.wrapping_mul(0x9e37_79b9)).collect();
    let row = RowAdjustments { tokens: &tokens, penalties, mask: Some(&mask), newest: Some(1) };
    let newest = 700;
    let mut all = tokens.clone();
    all.iter_mut().filter(|token| token.id == newest).for_each(|token| {
        token.seen = true;
        token.count += 1;
    });
    let mut expected = logits.clone();
    reference::adjust_logits(&mut expected, &all, penalties, Some(&mask));
    test.check(&ADJUST_LOGITS, &(), "penalties, bias and mask", 2e-6, async |gpu| {
        let logits = Tensor::from_values(gpu, "logits", &logits, VOCAB)?;
        let adjustments = Adjustments::new(gpu, VOCAB, 1, VOCAB, 1)?;
        adjustments.write(gpu, &[row])?;
        let sampled = gpu.upload("sampled", &[0, newest])?;
        let mut recording = Recording::default();
        AdjustLogits { logits: &logits, adjustments: &adjustments, sampled: &sampled }
            .record(gpu, &mut recording)?;
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

pub async fn sample(test: &mut SelfTest<'_>) -> Result<()> {
    let logits = uniform_values(1, VOCAB as usize, 5.0);
    let row = TopKRow { k: 40, temperature: 0.7 };
    let filters = Filters { temperature: row.temperature, top_k: row.k, top_p: 0.9, min_p: 0.02 };
    let (ids, largest): (Vec<u32>, Vec<f32>) = reference::top_k(&logits, row.k as usize).into_iter().unzip();
    let log_sum_exp_t = reference::log_sum_exp(&logits, 1.0 / row.temperature);
    let draws: Vec<f64> = (0..ROWS).map(|index| (index as f64 + 0.5) / ROWS as f64).collect();
    // Where a hair's breadth decides, either token is right.
    let ranks = |draw: f64| {
        let rank = |draw| filters.drawn_rank(&largest, log_sum_exp_t, VOCAB as usize, draw);
        [rank(draw - 1e-4), rank(draw + 1e-4)].map(|rank| rank.map(|rank| ids[rank]))
    };
    // What `TopK` finds in each row.
    let sum = |temperature: f32| {
        let share = |logit: &f32| f64::from((logit - largest[0]) / temperature).exp();
        logits.iter().map(share).sum::<f64>() as f32
    };
    let header = TopKHeader { max: largest[0], sum: sum(1.0), sum_t: sum(row.temperature), non_finite: 0 };
    let mut record = TopKRecord { header, ids: [0; MAX_K], logits: [0.0; MAX_K] };
    record.ids[..ids.len()].copy_from_slice(&ids);
    record.logits[..ids.len()].copy_from_slice(&largest);
    test.check(&SAMPLE, &(), "top-k, top-p and min-p", 0.0, async |gpu| {
        let records = gpu.upload("records", &[record; ROWS])?;
        let rows = draws.iter().zip(0..).map(|(draw, slot)| SampleRow::new(row.k, &filters, *draw, slot));
        let rows = gpu.upload("rows", &rows.collect::<Vec<_>>())?;
        let sampled = gpu.allocate("sampled", 4 * ROWS as u64)?;
        let mut recording = Recording::default();
        Sample { vocab: VOCAB, rows: &rows, records: &records, sampled: &sampled }
            .record(gpu, &mut recording)?;
        gpu.replay(&recording, &[1, ROWS as u64], None)?;
        let sampled = gpu.download::<u32>(&[sampled]).await?.remove(0);
        let wrong = sampled.iter().zip(&draws).filter(|(id, draw)| !ranks(**draw).contains(&Some(**id)));
        Ok(wrong.count() as f32)
    })
    .await
}
