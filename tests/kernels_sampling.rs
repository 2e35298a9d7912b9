//! `adjust_logits`, `top_k` and `sample` against `reference/`, on the device.

use mistral_wgpu::{
    ErrorKind,
    generate::uniform,
    gpu::{Buffer, Gpu, GpuOptions, Recording},
    ops::*,
    reference::{self, FORBIDDEN, Filters, Penalties, TokenAdjustment},
    tensor::Tensor,
};
use pollster::block_on;

const VOCABULARIES: [u32; 7] = [1, 7, 255, 257, 1000, 32000, 131_075];

fn random(seed: u64, count: u32) -> impl Iterator<Item = f64> {
    (0..count).map(move |i| uniform(seed, 0, i))
}

/// The device as it is, and with every optional path off at the limits that all devices have.
fn devices() -> Vec<(&'static str, Gpu)> {
    let open = |options| block_on(Gpu::open(&options)).unwrap();
    let gpu = open(GpuOptions::default());
    let floor = GpuOptions { floor_limits: true, disable: gpu.capabilities(), ..Default::default() };
    vec![("default", gpu), ("floor", open(floor))]
}

/// Calls `test` with each variant of `operation` as the best that the device has.
fn for_each_variant(operation: &Operation<()>, test: impl Fn(&str, &Gpu)) {
    for (device, gpu) in devices() {
        while let Some(variant) = operation.runnable(&gpu, &()).next() {
            let name = operation.full_name(variant);
            test(&format!("{name} on {device}"), &gpu);
            gpu.reject(name);
        }
    }
}

/// Counts of a replay with `rows` rows of logits.
fn counts(rows: usize) -> [u64; 2] {
    let mut counts = [0; 2];
    counts[count::LOGIT_ROWS] = rows as u64;
    counts
}

struct Finder {
    recording: Recording,
    rows: Buffer,
    records: Buffer,
}

impl Finder {
    fn new(gpu: &Gpu, logits: &Tensor) -> Self {
        let size = |each: usize| u64::from(logits.rows) * each as u64;
        let rows = gpu.allocate("rows", size(size_of::<TopKRow>())).unwrap();
        let records = gpu.allocate("records", size(size_of::<TopKRecord>())).unwrap();
        let mut recording = Recording::default();
        TopK { logits, rows: &rows, records: &records }.record(gpu, &mut recording).unwrap();
        Self { recording, rows, records }
    }

    fn run(&self, gpu: &Gpu, rows: &[TopKRow]) -> Vec<TopKRecord> {
        gpu.write(&self.rows, 0, rows);
        gpu.replay(&self.recording, &counts(rows.len()), None).unwrap();
        block_on(gpu.download(std::slice::from_ref(&self.records))).unwrap().remove(0)
    }
}

/// Rows of logits that a wrong selection would stumble over, `[cases, vocab]`.
fn hard_rows(vocab: u32) -> Vec<Vec<f32>> {
    let spread = |scale: f64, offset: f64| -> Vec<f32> {
        random(11, vocab).map(|u| ((u - 0.5) * scale + offset) as f32).collect()
    };
    let mut masked = vec![FORBIDDEN; vocab as usize];
    masked.iter_mut().step_by(97).zip(random(5, vocab)).for_each(|(logit, u)| *logit = 10.0 * u as f32);
    vec![
        spread(30.0, 0.0),
        spread(30.0, -40.0), // all below the padding's zeros
        spread(20.0, 0.0).into_iter().map(f32::round).collect(), // many ties
        spread(1e-3, 1e3),   // alike in the upper digits
        spread(6.0e38, 0.0), // differences that overflow
        spread(2e-38, 0.0),  // subnormal
        spread(4.0, 0.0).into_iter().map(|l| l.round() * 0.0).collect(), // zeros of both signs
        vec![-7.25; vocab as usize],
        vec![FORBIDDEN; vocab as usize],
        masked,
        (0..vocab).map(|id| id as f32).collect(),
        (0..vocab).map(|id| -(id as f32)).collect(),
    ]
}

#[test]
fn top_k_finds_the_same_as_the_reference() {
    for_each_variant(&TOP_K, |variant, gpu| {
        for vocab in VOCABULARIES {
            let cases = hard_rows(vocab);
            let logits = Tensor::from_values(gpu, "logits", &cases.concat(), vocab).unwrap();
            let finder = Finder::new(gpu, &logits);
            for (k, temperature) in [(1, 1.0), (2, 0.5), (40, 0.7), (255, 1.5), (256, 0.001)] {
                let row = TopKRow { k, temperature };
                let records = finder.run(gpu, &vec![row; cases.len()]);
                for (case, (record, logits)) in records.iter().zip(&cases).enumerate() {
                    let at = format!("{variant}: vocabulary {vocab}, case {case}, k {k}");
                    let candidates = Candidates::parse(record, &row, vocab).unwrap();
                    let expected = reference::top_k(logits, k as usize);
                    let (ids, values): (Vec<u32>, Vec<f32>) = expected.into_iter().unzip();
                    assert_eq!(candidates.ids, ids, "{at}");
                    assert_eq!(candidates.logits, values, "{at}");
                    assert_eq!(candidates.max, values[0], "{at}");
                    for (sum, temperature) in [(record.header.sum, 1.0), (record.header.sum_t, temperature)] {
                        let exact = sum_of_exp(logits, temperature);
                        let error = (f64::from(sum) / exact - 1.0).abs();
                        assert!(error < SUM_BOUND, "{at}: sum {sum}, exactly {exact}, error {error:e}");
                    }
                }
            }
        }
    });
}

/// Relative error of a sum of exponentials: WGSL's `exp` may be off by 3 + 2 |x| units in the last place.
const SUM_BOUND: f64 = 5e-6;

fn sum_of_exp(logits: &[f32], temperature: f32) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    logits.iter().map(|l| ((f64::from(*l) - max) / f64::from(temperature)).exp()).sum()
}

#[test]
fn top_k_reads_each_row_s_own_settings() {
    let gpu = block_on(Gpu::open(&GpuOptions::default())).unwrap();
    let cases = hard_rows(1000);
    let logits = Tensor::from_values(&gpu, "logits", &cases[..3].concat(), 1000).unwrap();
    let finder = Finder::new(&gpu, &logits);
    let rows = [(3, 2.0), (256, 0.9), (1, 1.1)].map(|(k, temperature)| TopKRow { k, temperature });
    let records = finder.run(&gpu, &rows);
    for ((record, row), logits) in records.iter().zip(&rows).zip(&cases) {
        let candidates = Candidates::parse(record, row, 1000).unwrap();
        assert_eq!(candidates.ids.len(), row.k as usize);
        let expected = [1.0, 1.0 / row.temperature].map(|scale| reference::log_sum_exp(logits, scale));
        assert!((candidates.log_sum_exp - expected[0]).abs() < SUM_BOUND, "{expected:?}");
        assert!((candidates.log_sum_exp_t - expected[1]).abs() < SUM_BOUND, "{expected:?}");
    }
    // One row wanted: the others' records stay as they were.
    let again = finder.run(&gpu, &[TopKRow { k: 1, temperature: 1.0 }]);
    assert_eq!(again[1].ids, records[1].ids);
}

#[test]
fn top_k_reports_what_is_not_finite() {
    for_each_variant(&TOP_K, |variant, gpu| {
        for vocab in [1u32, 257, 32000] {
            let last = vocab as usize - 1;
            let bad = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
            let mut rows = vec![vec![0.5; vocab as usize]; 2 * bad.len() + 1];
            for (i, value) in bad.into_iter().enumerate() {
                rows[2 * i][0] = value;
                rows[2 * i + 1][last / 2] = value;
                rows[2 * i + 1][last] = value;
            }
            let logits = Tensor::from_values(gpu, "logits", &rows.concat(), vocab).unwrap();
            let row = TopKRow { k: 5, temperature: 1.0 };
            let records = Finder::new(gpu, &logits).run(gpu, &vec![row; rows.len()]);
            for (i, (record, logits)) in records.iter().zip(&rows).enumerate() {
                let expected = logits.iter().filter(|l| !l.is_finite()).count() as u32;
                assert_eq!(record.header.non_finite, expected, "{variant}: row {i} of {vocab}");
                let parsed = Candidates::parse(record, &row, vocab).map_err(|error| error.kind());
                assert_eq!(parsed.is_err(), expected > 0);
                assert!(parsed.is_ok() || parsed == Err(ErrorKind::NonFinite));
            }
        }
    });
}

#[test]
fn records_of_no_row_are_refused() {
    let row = TopKRow { k: 3, temperature: 0.5 };
    let header = TopKHeader { max: 2.0, sum: 1.5, sum_t: 1.25, non_finite: 0 };
    let mut record = TopKRecord { header, ids: [0; MAX_K], logits: [0.0; MAX_K] };
    record.ids[..3].copy_from_slice(&[7, 9, 8]);
    record.logits[..3].copy_from_slice(&[2.0, 1.0, 1.0]);
    Candidates::parse(&record, &row, 10).unwrap();
    let breaks: [fn(&mut TopKRecord); 9] = [
        |record| *record = bytemuck::Zeroable::zeroed(),
        |record| record.header.sum = 0.0,
        |record| record.header.sum_t = f32::NAN,
        |record| record.header.sum_t = 1e9,
        |record| record.header.max = f32::INFINITY,
        |record| record.ids[1] = 10,
        |record| record.logits[2] = 1.5,
        |record| record.logits[0] = f32::NAN,
        |record| record.logits[2] = f32::NAN,
    ];
    for (index, break_it) in breaks.into_iter().enumerate() {
        let mut broken = record;
        break_it(&mut broken);
        let kind = Candidates::parse(&broken, &row, 10).unwrap_err().kind();
        assert_eq!(kind, ErrorKind::Device, "{index}");
    }
}

/// A random list of adjusted tokens, about one in `every`.
fn random_tokens(seed: u64, vocab: u32, every: f64) -> Vec<TokenAdjustment> {
    let chosen = (0..vocab).filter(|id| uniform(seed, 1, *id) * every < 1.0);
    chosen
        .map(|id| TokenAdjustment {
            id,
            seen: uniform(seed, 2, id) < 0.7,
            count: (uniform(seed, 3, id) * 4.0) as u32,
            bias: if uniform(seed, 4, id) < 0.5 { 0.0 } else { 8.0 * uniform(seed, 5, id) as f32 - 4.0 },
        })
        .collect()
}

/// The list with one more generated token.
fn with_newest(tokens: &[TokenAdjustment], newest: Option<u32>) -> Vec<TokenAdjustment> {
    let mut tokens = tokens.to_vec();
    let Some(id) = newest.filter(|id| *id != BEYOND) else { return tokens };
    let at = tokens.iter().position(|token| token.id == id).unwrap_or_else(|| {
        tokens.push(TokenAdjustment { id, seen: true, count: 0, bias: 0.0 });
        tokens.len() - 1
    });
    tokens[at].seen = true;
    tokens[at].count += 1;
    tokens
}

const NO_PENALTIES: Penalties = Penalties { repetition: 1.0, frequency: 0.0, presence: 0.0 };

#[test]
fn adjust_logits_does_the_same_as_the_reference() {
    for_each_variant(&ADJUST_LOGITS, |variant, gpu| {
        for vocab in VOCABULARIES {
            let values: Vec<f32> = random(9, 5 * vocab).map(|u| 20.0 * u as f32 - 10.0).collect();
            let logits = Tensor::from_values(gpu, "logits", &values, vocab).unwrap();
            let unadjusted: Vec<f32> =
                block_on(gpu.download(std::slice::from_ref(&logits.buffer))).unwrap().remove(0);
            let words = vocab.div_ceil(32);
            let mask: Vec<u32> = random(4, words).map(|u| (u * 2f64.powi(32)) as u32).collect();
            let none = vec![0; words as usize];
            let lists =
                [random_tokens(1, vocab, 1.0), random_tokens(2, vocab, 3.0), random_tokens(3, vocab, 50.0)];
            let adjustments = Adjustments::new(gpu, vocab, 5, 3 * vocab, 3).unwrap();
            // Tokens generated last: in the row's list, in none, forbidden or not, and one that is none.
            let newest = [lists[0][0].id, vocab / 2, lists[2].first().map_or(0, |token| token.id), BEYOND];
            let sampled = gpu.upload("sampled", &newest).unwrap();
            let mut recording = Recording::default();
            AdjustLogits { logits: &logits, adjustments: &adjustments, sampled: &sampled }
                .record(gpu, &mut recording)
                .unwrap();

            let plain = RowAdjustments { tokens: &[], penalties: NO_PENALTIES, mask: None, newest: None };
            let strict = Penalties { repetition: 1.3, frequency: 0.2, presence: 0.7 };
            let lenient = Penalties { repetition: 0.8, ..NO_PENALTIES };
            let rows = [
                RowAdjustments { tokens: &lists[0], penalties: strict, newest: Some(0), ..plain },
                RowAdjustments { tokens: &lists[1], penalties: lenient, mask: Some(&mask), newest: Some(1) },
                RowAdjustments { mask: Some(&none), ..plain },
                RowAdjustments { tokens: &lists[2], penalties: strict, mask: Some(&mask), newest: Some(2) },
            ];
            // Replayed twice with other contents, the first time over four rows of five.
            let beyond = RowAdjustments { newest: Some(3), ..rows[3] };
            for rows in [&rows[..], &[rows[1], plain, rows[0], beyond, rows[1]]] {
                gpu.write(&logits.buffer, 0, &unadjusted);
                adjustments.write(gpu, rows).unwrap();
                gpu.replay(&recording, &counts(rows.len()), None).unwrap();
                let after = block_on(logits.download(gpu, 5)).unwrap();
                for (i, (found, before)) in
                    after.chunks(vocab as usize).zip(values.chunks(vocab as usize)).enumerate()
                {
                    let row = rows.get(i).unwrap_or(&plain);
                    let mut expected = before.to_vec();
                    let tokens = with_newest(row.tokens, row.newest.map(|slot| newest[slot as usize]));
                    reference::adjust_logits(&mut expected, &tokens, row.penalties, row.mask);
                    for (id, (found, expected)) in found.iter().zip(&expected).enumerate() {
                        // Division is good to 2.5 units in the last place of up to 12.
                        let bound = if *expected == FORBIDDEN { 0.0 } else { 4e-6 * expected.abs().max(1.0) };
                        let error = (found - expected).abs();
                        assert!(
                            error <= bound,
                            "{variant}: vocabulary {vocab}, row {i}, token {id}: {found} for {expected}"
                        );
                    }
                }
            }
        }
    });
}

#[test]
fn repetition_penalty_agrees_with_transformers() {
    let golden: serde_json::Value =
        serde_json::from_str(include_str!("fixtures/sampling/golden.json")).unwrap();
    let floats = |value: &serde_json::Value| -> Vec<f32> {
        value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
    };
    let penalised = &golden["repetition"];
    let before = floats(&golden["rows"][penalised["row"].as_str().unwrap()]);
    let mut seen: Vec<u32> = floats(&penalised["seen"]).into_iter().map(|id| id as u32).collect();
    seen.sort();
    seen.dedup();
    let tokens: Vec<_> =
        seen.into_iter().map(|id| TokenAdjustment { id, seen: true, count: 0, bias: 0.0 }).collect();
    let repetition = penalised["penalty"].as_f64().unwrap() as f32;

    let gpu = block_on(Gpu::open(&GpuOptions::default())).unwrap();
    let vocab = before.len() as u32;
    let logits = Tensor::from_values(&gpu, "logits", &before, vocab).unwrap();
    let adjustments = Adjustments::new(&gpu, vocab, 1, vocab, 0).unwrap();
    let mut recording = Recording::default();
    let sampled = gpu.upload("sampled", &[0]).unwrap();
    AdjustLogits { logits: &logits, adjustments: &adjustments, sampled: &sampled }
        .record(&gpu, &mut recording)
        .unwrap();
    let penalties = Penalties { repetition, ..NO_PENALTIES };
    let row = RowAdjustments { tokens: &tokens, penalties, mask: None, newest: None };
    adjustments.write(&gpu, &[row]).unwrap();
    gpu.replay(&recording, &counts(1), None).unwrap();
    let after = block_on(logits.download(&gpu, 1)).unwrap();
    for (found, expected) in after.iter().zip(floats(&penalised["logits"])) {
        assert!((found - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{found} for {expected}");
    }
}

#[test]
fn adjustments_out_of_range_are_refused() {
    let gpu = block_on(Gpu::open(&GpuOptions::default())).unwrap();
    let adjustments = Adjustments::new(&gpu, 100, 2, 3, 1).unwrap();
    let tokens = |ids: &[u32]| -> Vec<TokenAdjustment> {
        ids.iter().map(|id| TokenAdjustment { id: *id, seen: true, count: 1, bias: 0.0 }).collect()
    };
    let (good, twice, beyond) = (tokens(&[5, 99]), tokens(&[5, 5]), tokens(&[5, 100]));
    let row = |tokens, mask| RowAdjustments { tokens, penalties: NO_PENALTIES, mask, newest: None };
    let mask: &[u32] = &[0; 4];
    adjustments.write(&gpu, &[row(&good, Some(mask)), row(&good[..1], None)]).unwrap();
    let refused = [
        ("ascending ids", vec![row(&twice, None)]),
        ("ids below 100", vec![row(&beyond, None)]),
        ("4 words", vec![row(&good, Some(&mask[..3]))]),
        ("at most 3", vec![row(&good, None); 2]),
        ("at most 2", vec![row(&[], None); 3]),
        ("at most 4", vec![row(&[], Some(mask)); 2]),
    ];
    for (expected, rows) in refused {
        let error = adjustments.write(&gpu, &rows).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Argument);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// Draws at every boundary between two tokens of `logits`, a little below and above, and in between.
fn telling_draws(logits: &[f32], temperature: f32) -> Vec<f64> {
    let log_sum_exp = reference::log_sum_exp(logits, 1.0 / temperature);
    let mut mass = 0.0;
    let mut draws: Vec<f64> = random(17, 200).collect();
    for (_, logit) in reference::top_k(logits, 12) {
        mass += (f64::from(logit) / f64::from(temperature) - log_sum_exp).exp();
        draws.extend([mass - 2e-4, mass + 2e-4].iter().filter(|draw| (0.0..1.0).contains(*draw)));
    }
    draws
}

#[test]
fn sample_chooses_as_the_reference_but_for_a_hair_s_breadth() {
    // (deviation of the logits, temperature, top_k, top_p, min_p)
    let settings = [
        (4.0, 1.0, 0, 1.0, 0.0),
        (4.0, 0.7, 0, 0.9, 0.0),
        (1.0, 1.0, 40, 0.9, 0.0),
        (1.0, 1.3, 256, 1.0, 0.0),
        (1.0, 1.0, 300, 0.9, 0.0),
        (1.0, 1.0, 0, 1.0, 0.3),
        (1.0, 1.0, 50, 0.95, 0.1),
        (0.1, 1.0, 0, 1.0, 0.001),
        (0.1, 1.0, 0, 0.9, 0.0),
        (0.1, 50.0, 40, 0.9, 0.0),
        (8.0, 0.001, 0, 0.9, 0.5),
        (4.0, 1.0, 1, 1.0, 0.0),
    ];
    for_each_variant(&SAMPLE, |variant, gpu| {
        for vocab in [1u32, 7, 257, 3000] {
            let mut known = 0;
            let mut unknown = 0;
            for (seed, (deviation, temperature, top_k, top_p, min_p)) in settings.into_iter().enumerate() {
                let logits: Vec<f32> = random(30 + seed as u64, 2 * vocab)
                    .zip(random(60 + seed as u64, 2 * vocab))
                    .take(vocab as usize)
                    .map(|(a, b)| {
                        deviation
                            * ((-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos()) as f32
                    })
                    .collect();
                let filters = Filters { temperature, top_k, top_p, min_p };
                let row = TopKRow { k: if top_k == 0 { 256 } else { top_k.min(256) }, temperature };
                let draws = telling_draws(&logits, temperature);
                let count = draws.len();
                let values = Tensor::from_values(gpu, "logits", &logits, vocab).unwrap();
                let record = Finder::new(gpu, &values).run(gpu, &[row])[0];

                let records = gpu.upload("records", &vec![record; count]).unwrap();
                // Slots in reverse.
                let slot = |index: usize| (count - 1 - index) as u32;
                let rows = draws.iter().enumerate();
                let rows = rows.map(|(i, draw)| SampleRow::new(row.k, &filters, *draw, slot(i)));
                let rows = gpu.upload("rows", &rows.collect::<Vec<_>>()).unwrap();
                let sampled = gpu.allocate("sampled", 4 * count as u64).unwrap();
                let mut recording = Recording::default();
                Sample { vocab, rows: &rows, records: &records, sampled: &sampled }
                    .record(gpu, &mut recording)
                    .unwrap();
                gpu.replay(&recording, &counts(count), None).unwrap();
                let sampled: Vec<u32> = block_on(gpu.download(&[sampled])).unwrap().remove(0);

                let candidates = Candidates::parse(&record, &row, vocab).unwrap();
                for (index, draw) in draws.iter().enumerate() {
                    let expected = |draw: f64| {
                        let Candidates { logits, log_sum_exp_t, .. } = &candidates;
                        let rank = filters.drawn_rank(logits, *log_sum_exp_t, vocab as usize, draw);
                        rank.map_or(BEYOND, |rank| candidates.ids[rank])
                    };
                    let found = sampled[slot(index) as usize];
                    let right = [draw - 1e-4, *draw, draw + 1e-4].map(expected);
                    assert!(right.contains(&found), "{variant}: {filters:?}, {vocab}: {found} for {right:?}");
                    let plain = right[0] == right[1] && right[1] == right[2];
                    known += usize::from(plain && found != BEYOND);
                    unknown += usize::from(plain && found == BEYOND);
                }
            }
            assert!(known > 1000, "{known} plain cases of {vocab} tokens");
            assert!((unknown > 100) == (vocab > 256), "{unknown} beyond the candidates of {vocab} tokens");
        }
    });
}
