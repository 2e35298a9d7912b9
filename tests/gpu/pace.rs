//! Submissions: as long as the device can bear, by what was measured.

use std::time::{Duration, Instant};

use mistral_wgpu::{
    gpu::*,
    model::{Chunk, LogitRows, Model, ModelConfig, ModelOptions, Sequence, Weights},
    ops::*,
    quant::by_name,
    tensor::Tensor,
};
use pollster::block_on;

use super::{forward, open, tiny};

#[test]
fn a_replay_is_cut_into_short_submissions() {
    let prompt: Vec<u32> = (0..32).collect();
    let run = |seconds: Option<f64>| {
        let gpu = open(GpuOptions { submission_seconds: seconds, ..Default::default() }).unwrap();
        let mut model = tiny(&gpu).unwrap();
        let first = forward(&gpu, &mut model, &prompt, None).unwrap();
        let before = gpu.submissions();
        assert_eq!(forward(&gpu, &mut model, &prompt, None).unwrap(), first);
        (first, gpu.submissions() - before)
    };
    let (logits, submissions) = run(None);
    assert_eq!(submissions, 1);
    let (same, submissions) = run(Some(1e-9));
    // Embedding, two blocks of eleven steps or more, norm and output: nearly every one for itself.
    assert!((15..=40).contains(&submissions), "{submissions} submissions");
    assert_eq!(same, logits);
}

/// A step over `bytes` of weights.
pub fn product(gpu: &Gpu) -> (Recording, f64) {
    let weight = Weight::allocate(gpu, "weight", by_name("f32").unwrap(), 4096, 2048).unwrap();
    let (x, y) = (Tensor::zeros(gpu, "x", 1, 2048).unwrap(), Tensor::zeros(gpu, "y", 1, 4096).unwrap());
    let counts = gpu.upload("counts", &[1u32]).unwrap();
    let mut recording = Recording::default();
    Matmul {
        weight: &weight,
        x: &x,
        rounded: None,
        y: &y,
        rows: RowCount::Few(1),
        counts: &counts,
        experts: None,
        label: "product",
    }
    .record(gpu, &mut recording)
    .unwrap();
    (recording, weight.bytes() as f64)
}

#[test]
fn the_pace_follows_what_was_measured() {
    let throttled = |throttle| {
        let options = GpuOptions { submission_seconds: Some(0.01), throttle, ..Default::default() };
        let gpu = open(options).unwrap();
        let (recording, work) = product(&gpu);
        assert_eq!(recording.heaviest(&[1]), work);
        (gpu, recording, work)
    };
    let replay = |gpu: &Gpu, recording: &Recording, work: f64| {
        gpu.wait().unwrap();
        let (rate, start) = (gpu.rate(), Instant::now());
        gpu.replay(recording, &[1], None).unwrap();
        gpu.wait().unwrap();
        (rate, gpu.rate(), work / start.elapsed().as_secs_f64())
    };
    // Work beyond the bound that took too long: the device is as slow as that.
    let (gpu, recording, work) = throttled(Some(1e8));
    let (before, after, measured) = replay(&gpu, &recording, work);
    assert!(after < before && after >= measured && after <= 1.000_001e8, "{before:e} {after:e} {measured:e}");
    assert_eq!(gpu.take_heaviest_submission(), work);
    // A single step may take ten times as long as a submission.
    assert!(gpu.too_long(0.101 * gpu.rate()) && !gpu.too_long(0.099 * gpu.rate()));

    // Little work that takes long says next to nothing.
    let (x, delta) = (Tensor::zeros(&gpu, "x", 1, 32).unwrap(), Tensor::zeros(&gpu, "delta", 1, 32).unwrap());
    let mut little = Recording::default();
    ResidualAdd { x: &x, delta: &delta }.record(&gpu, &mut little).unwrap();
    let before = gpu.rate();
    gpu.replay(&little, &[1], None).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    gpu.wait().unwrap();
    assert!(gpu.rate() > 0.999 * before, "{before:e} {:e}", gpu.rate());

    // Sooner than before: half way to that. How long a step takes here depends on what else runs.
    let (gpu, recording, work) = throttled(None);
    let faster = (0..200).map(|_| replay(&gpu, &recording, work)).find(|(before, after, _)| after > before);
    let (before, after, measured) = faster.expect("one step is faster than the one before");
    assert!(after >= (before + measured) / 2.0, "{before:e} {after:e} {measured:e}");
}

/// 32k tokens deep on a device ten times slower than it is taken to be at first.
#[test]
fn a_slow_device_gets_no_long_submissions() {
    const RATE: f64 = 1e8;
    const SECONDS: f64 = 0.01;
    const DEPTH: u32 = 32 << 10;
    let (throttle, submission_seconds) = (Some(RATE), Some(SECONDS));
    let gpu = open(GpuOptions { throttle, submission_seconds, ..Default::default() }).unwrap();
    let config = ModelConfig { sliding_window: None, ..ModelConfig::synthetic("tiny").unwrap() };
    let weights = Weights::random(&gpu, &config, by_name("q4_0").unwrap(), 1).unwrap();
    let cache_tokens = Some(DEPTH + 512);
    let options = ModelOptions { context: DEPTH + 256, cache_tokens, max_rows: 64, ..Default::default() };
    let mut model = Model::new(&gpu, config, weights, options).unwrap();
    let (mut deep, mut shallow) = (model.sequence(), [(); 4].map(|()| model.sequence()));
    model.skip(&gpu, &mut deep, DEPTH).unwrap();
    gpu.wait().unwrap();

    // Seconds of the longest submission as this device takes them, and the rows of the chunk.
    let mut advance = |sequence: &mut Sequence, rows: Option<u32>| {
        let rows = rows.unwrap_or(model.chunk_rows(&gpu, sequence.len()).unwrap());
        let tokens = vec![5; rows as usize];
        gpu.take_heaviest_submission();
        model
            .forward(&gpu, &mut [Chunk { sequence, tokens: &tokens, logits: LogitRows::Last }], None)
            .unwrap();
        gpu.wait().unwrap();
        (gpu.take_heaviest_submission() / RATE, rows)
    };
    // A visit of a key is work of 64 here: a row at this depth takes 21 ms in each layer, and the steps of
    // 32 rows are too long for this device but not for the one that it was taken to be.
    let (longest, rows) = advance(&mut deep, None);
    assert!(rows == 32 && longest > 0.6, "{longest} s for {rows} rows");
    for _ in 0..3 {
        let (longest, rows) = advance(&mut deep, None);
        assert!((1..=4).contains(&rows) && longest < 10.0 * SECONDS, "{longest} s for {rows} rows");
    }
    // Attention alone is longer than a submission should be.
    let (longest, _) = advance(&mut deep, Some(1));
    assert!((0.0209..0.022).contains(&longest), "{longest} s");
    // Without it all fits, and is cut no finer than that, unless something else slows down the device at that moment.
    let submissions = shallow.each_mut().map(|shallow| {
        let before = gpu.submissions();
        let (longest, rows) = advance(shallow, None);
        assert!(rows == 64 && longest <= SECONDS * 1.000_001, "{longest} s for {rows} rows");
        gpu.submissions() - before
    });
    assert!((2..20).contains(submissions.iter().min().unwrap()), "{submissions:?} submissions");
}

/// Many texts that are long: attention of one step is more than a submission may hold ten times over.
#[test]
fn a_step_that_takes_too_long_is_divided() {
    const RATE: f64 = 1e8;
    const SECONDS: f64 = 0.002;
    const DEPTH: u32 = 8 << 10;
    const TEXTS: usize = 16;
    let run = |rate: Option<f64>| {
        let submission_seconds = Some(rate.map_or(1e6, |_| SECONDS));
        let gpu = open(GpuOptions { throttle: rate, submission_seconds, ..Default::default() }).unwrap();
        // Waited for, a long step tells the device's speed. What is only found finished would not.
        let (recording, _) = product(&gpu);
        gpu.wait().unwrap();
        gpu.replay(&recording, &[1], None).unwrap();
        gpu.wait().unwrap();
        assert!(rate.is_none_or(|rate| gpu.rate() <= rate), "{:e}", gpu.rate());
        let config = ModelConfig { sliding_window: None, ..ModelConfig::synthetic("tiny").unwrap() };
        let weights = Weights::random(&gpu, &config, by_name("q4_0").unwrap(), 1).unwrap();
        let cache_tokens = Some(DEPTH + 1024);
        let options =
            ModelOptions { context: DEPTH + 256, cache_tokens, max_rows: 256, ..Default::default() };
        let mut model = Model::new(&gpu, config, weights, options).unwrap();
        let mut sequence = model.sequence();
        let keys: Vec<u32> = (0..128).collect();
        let mut chunks = [Chunk { sequence: &mut sequence, tokens: &keys, logits: LogitRows::None }];
        model.forward(&gpu, &mut chunks, None).unwrap();
        model.skip(&gpu, &mut sequence, DEPTH - 128).unwrap();
        let mut texts: Vec<_> = (0..TEXTS).map(|_| sequence.fork()).collect();
        drop(sequence);
        let mut step = || {
            let mut chunks: Vec<_> = texts
                .iter_mut()
                .map(|sequence| Chunk { sequence, tokens: &[7], logits: LogitRows::Last })
                .collect();
            gpu.wait().unwrap();
            let before = gpu.submissions();
            gpu.take_heaviest_submission();
            model.forward(&gpu, &mut chunks, None).unwrap();
            let logits = block_on(model.logits.download(&gpu, TEXTS as u32)).unwrap();
            (logits, gpu.take_heaviest_submission(), gpu.submissions() - before)
        };
        [step(), step()]
    };
    let whole = run(None);
    let divided = run(Some(RATE));
    for (index, ((logits, heaviest, submissions), (same, most, parts))) in
        whole.iter().zip(&divided).enumerate()
    {
        assert_eq!(logits, same, "step {index}");
        assert_eq!(*submissions, 1);
        assert!(*heaviest > 2.0 * (TEXTS as u32 * DEPTH * 64) as f64, "{heaviest:e}");
        // However slow the device really is, it gets no more than it was measured to bear.
        assert!(*most < RATE * SECONDS * 10.0, "{most:e} in {parts} submissions");
    }
}
