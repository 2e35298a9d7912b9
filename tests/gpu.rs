//! The device: choice, limits, what goes wrong on it, pace and profile.

mod device;

use std::time::{Duration, Instant};

use device::{FLOOR, GPU};
use mistral_wgpu::{
    Error, ErrorKind,
    gpu::*,
    model::{Chunk, LogitRows, Model, ModelConfig, ModelOptions, Sequence, Weights},
    ops::*,
    quant::by_name,
    tensor::{ActivationFormat, Tensor},
};
use pollster::block_on;

fn open(options: GpuOptions) -> Result<Gpu, Error> {
    block_on(Gpu::open(&options))
}

fn named(gpu: &str) -> GpuOptions {
    GpuOptions { gpu: Some(gpu.to_owned()), ..Default::default() }
}

#[test]
fn adapters_are_chosen_by_index_or_part_of_the_name() {
    let adapters = block_on(list_adapters());
    for (index, adapter) in adapters.iter().enumerate() {
        let opened = open(named(&index.to_string())).unwrap();
        assert_eq!(opened.description().name, adapter.name);
        assert_eq!(opened.description().backend, adapter.backend);
        let part = adapter.name[..adapter.name.len() / 2].to_uppercase();
        let first = adapters.iter().find(|other| other.name.to_uppercase().contains(&part)).unwrap();
        assert_eq!(open(named(&part)).unwrap().description().name, first.name);
    }
    for unknown in ["no such adapter", "4711"] {
        let error = open(named(unknown)).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Argument);
        assert!(error.to_string().contains(unknown), "{error}");
        assert!(adapters.iter().all(|adapter| error.to_string().contains(&adapter.name)), "{error}");
    }
}

/// Those of the WebGPU specification, section "Limits".
#[test]
fn floor_limits_are_in_force() {
    let floor = Limits {
        buffer: 256 << 20,
        binding: 128 << 20,
        invocations: 256,
        workgroup_memory: 16 << 10,
        workgroups: 65535,
    };
    assert_eq!(FLOOR.limits(), floor);
    let error = FLOOR.allocate("too large", (256 << 20) + 4).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert_eq!(error.subject(), "too large");
    assert!(error.to_string().contains(&(256u64 << 20).to_string()), "{error}");
    FLOOR.allocate("largest", 256 << 20).unwrap();
}

#[test]
fn disabled_capabilities_are_gone() {
    let all = GPU.capabilities();
    for capability in all.iter() {
        let disable = [capability].into_iter().collect();
        let gpu = open(GpuOptions { disable, ..Default::default() }).unwrap();
        assert_eq!(gpu.capabilities(), all.without(disable), "{}", capability.name());
        assert_eq!(gpu.description().capabilities, all, "what the adapter could do");
    }
    assert_eq!(FLOOR.capabilities(), Capabilities::default());
    let key = KernelKey { needs: &[Capability::Subgroup], ..KernelKey::new("swiglu") };
    let error = FLOOR.kernel(&key).unwrap_err();
    assert_eq!((error.kind(), error.subject()), (ErrorKind::Shader, "swiglu"));
    assert!("subgroups".parse::<Capabilities>().unwrap_err().to_string().contains("f16, subgroup"));
    let both = [Capability::CooperativeMatrix8, Capability::CooperativeMatrix16].into_iter().collect();
    assert_eq!("cooperative_matrix".parse::<Capabilities>().unwrap(), both);
    let two = [Capability::Subgroup, Capability::F16].into_iter().collect();
    assert_eq!("f16, subgroup".parse::<Capabilities>().unwrap(), two);
}

#[test]
fn planned_memory_replaces_the_driver_s() {
    let gpu = open(GpuOptions { memory: Some(123 << 20), ..Default::default() }).unwrap();
    let memory = gpu.description().memory;
    assert_eq!((memory.total, memory.free), (Some(123 << 20), Some(123 << 20)));
    assert_eq!(memory.shared_with_host, GPU.description().memory.shared_with_host);
}

#[test]
fn memory_is_counted_and_kept_to() {
    assert_eq!(GPU.memory_left().is_some(), GPU.description().memory.free.is_some());
    let gpu = open(GpuOptions { memory: Some(32 << 20), ..Default::default() }).unwrap();
    // The host's side of small downloads is kept for the next.
    block_on(gpu.download::<u32>(&[gpu.allocate("small", 1024).unwrap()])).unwrap();
    let before = gpu.memory_in_use();
    let buffer = gpu.allocate("first", 10 << 20).unwrap();
    let part = buffer.slice(256, 1024);
    let copy = buffer.clone();
    assert_eq!(gpu.memory_in_use(), before + (10 << 20), "parts and copies share the memory");
    drop((buffer, copy));
    assert_eq!(gpu.memory_in_use(), before + (10 << 20), "a part keeps it alive");
    assert_eq!(gpu.memory_left(), Some((22 << 20) - before));

    let error = gpu.allocate("second", (22 << 20) + 4).unwrap_err();
    assert_eq!((error.kind(), error.subject()), (ErrorKind::OutOfMemory, "second"));
    assert!(error.to_string().contains(&((22 << 20) - before).to_string()), "{error}");
    let error = block_on(gpu.download::<u32>(&vec![part.clone(); 40 << 10])).unwrap_err();
    assert_eq!((error.kind(), error.subject()), (ErrorKind::OutOfMemory, "download"));
    drop(gpu.allocate("second", (22 << 20) - before).unwrap());
    block_on(gpu.download::<u32>(std::slice::from_ref(&part))).unwrap();
    drop(part);
    assert_eq!((gpu.memory_in_use(), gpu.peak_memory()), (before, 32 << 20));

    // Everything of a model returns, but for what kernels share.
    let model = |gpu: &Gpu| forward(gpu, &mut tiny(gpu).unwrap(), &[1, 5, 7], None).unwrap();
    model(&gpu);
    let kept = gpu.memory_in_use();
    assert!(kept < before + (16 << 10), "{kept} bytes kept");
    model(&gpu);
    assert_eq!(gpu.memory_in_use(), kept);
}

fn residual_add() -> KernelKey {
    (RESIDUAL_ADD.variants[0].key)(&())
}

/// A step of the kernel with buffers of these sizes, in bytes.
fn step(gpu: &Gpu, names: [&str; 2], bytes: u64) -> Result<Step, Error> {
    let params = gpu.upload("params", &[0u32; 4])?;
    let [a, b] = [gpu.allocate("a", bytes)?, gpu.allocate("b", 4)?];
    let bindings = [("params", &params), (names[0], &a), (names[1], &b)];
    let grid = [Extent::Fixed(1), Extent::Fixed(1), Extent::Fixed(1)];
    Step::new(gpu, "sum", gpu.kernel(&residual_add())?, &bindings, grid, Cost::default())
}

#[test]
fn wrong_bindings_are_named() {
    step(&FLOOR, ["x", "delta"], 128 << 20).unwrap();
    let cases = [
        (["x", "other"], 4, "no buffer `other`"),
        (["x", "x"], 4, "buffer `delta` is not bound"),
        (["x", "delta"], (128 << 20) + 256, "`x` binds 134217984 bytes, the limit is 134217728"),
    ];
    for (names, bytes, message) in cases {
        let error = step(&FLOOR, names, bytes).unwrap_err();
        assert_eq!((error.kind(), error.subject()), (ErrorKind::Shader, "sum (residual_add)"));
        assert!(error.to_string().contains(message), "{error}");
    }
}

/// One buffer bound for reading and writing is refused by the device, not by this crate.
#[test]
fn a_validation_error_names_the_operation() {
    let gpu = open(GpuOptions::default()).unwrap();
    let x = Tensor::zeros(&gpu, "x", 1, 32).unwrap();
    let mut recording = Recording::default();
    ResidualAdd { x: &x, delta: &x }.record(&gpu, &mut recording).unwrap();
    let error = gpu.replay(&recording, &[1], None).and_then(|()| gpu.wait()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Device, "{error}");
    assert_eq!(error.subject(), "residual_add", "{error}");
    gpu.wait().unwrap();
}

/// A type error, an unknown name and a syntax error: told with the file, line and text.
#[test]
fn a_shader_that_does_not_compile_is_located() {
    let from = "let col = workgroup.y";
    let (_, source) = SHADERS.iter().find(|(name, _)| *name == "residual_add").unwrap();
    let line = 1 + source.lines().position(|line| line.contains(from)).unwrap();
    let edits = [
        ("let col: f32 = workgroup.y", "expected to be `f32`", "let col: f32".to_owned()),
        ("let col = nothing", "nothing", "let col = nothing".to_owned()),
        ("let let", "unexpected token `let`", format!("residual_add:{line}:")),
    ];
    for (edit, message, place) in edits {
        let shaders = [("residual_add".to_owned(), source.replace(from, edit))].into();
        let gpu = open(GpuOptions { shaders, ..Default::default() }).unwrap();
        let error = gpu.kernel(&residual_add()).unwrap_err();
        assert_eq!((error.kind(), error.subject()), (ErrorKind::Shader, "residual_add"));
        let text = error.to_string();
        assert!(text.contains(message) && text.contains(&place) && text.contains("residual_add:"), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
    }
    let error = GPU.kernel(&KernelKey::new("swiglu").mount("x", "no/such")).unwrap_err();
    assert_eq!((error.kind(), error.subject()), (ErrorKind::Shader, "swiglu"));
    assert!(error.to_string().contains("no/such"), "{error}");
}

fn tiny(gpu: &Gpu) -> Result<Model, Error> {
    let config = ModelConfig::synthetic("tiny").unwrap();
    let weights = Weights::random(gpu, &config, by_name("q4_0").unwrap(), 1)?;
    Model::new(gpu, config, weights, ModelOptions { context: 64, max_rows: 32, ..Default::default() })
}

/// Logits of all tokens of a new sequence.
fn forward(
    gpu: &Gpu,
    model: &mut Model,
    tokens: &[u32],
    profile: Option<&mut Profile>,
) -> Result<Vec<f32>, Error> {
    let mut sequence = model.sequence();
    let mut chunks = [Chunk { sequence: &mut sequence, tokens, logits: LogitRows::All }];
    model.forward(gpu, &mut chunks, profile)?;
    block_on(model.logits.download(gpu, tokens.len() as u32))
}

#[test]
fn a_lost_device_is_an_error_everywhere() {
    let gpu = open(GpuOptions::default()).unwrap();
    let mut model = tiny(&gpu).unwrap();
    let buffer = gpu.upload("buffer", &[1u32; 8]).unwrap();
    let mut recording = Recording::default();
    let x = Tensor::zeros(&gpu, "x", 1, 32).unwrap();
    let delta = Tensor::zeros(&gpu, "delta", 1, 32).unwrap();
    ResidualAdd { x: &x, delta: &delta }.record(&gpu, &mut recording).unwrap();
    gpu.destroy();
    let lost = |what: &str, error: Error| assert_eq!(error.kind(), ErrorKind::DeviceLost, "{what}: {error}");
    for _ in 0..2 {
        lost("check", gpu.check().unwrap_err());
        lost("wait", gpu.wait().unwrap_err());
        lost("flush", gpu.flush().unwrap_err());
        lost("allocate", gpu.allocate("a", 4).unwrap_err());
        lost("upload", gpu.upload("a", &[1u32]).unwrap_err());
        gpu.write(&buffer, 0, &[2u32]);
        lost("download", block_on(gpu.download::<u32>(std::slice::from_ref(&buffer))).unwrap_err());
        lost(
            "kernel",
            gpu.kernel(&(SWIGLU.variants[0].key)(&ActivationFormat::F32).flag("new", true)).unwrap_err(),
        );
        lost("replay", gpu.replay(&recording, &[1], None).unwrap_err());
        lost("step", step(&gpu, ["x", "delta"], 4).unwrap_err());
        lost("forward", forward(&gpu, &mut model, &[1, 5], None).unwrap_err());
        lost("model", tiny(&gpu).unwrap_err());
        lost("profile", Profile::new(&gpu).unwrap_err());
    }
    assert_eq!(model.used_pages(), 0, "the tokens that were not computed were taken back");
}

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
fn product(gpu: &Gpu) -> (Recording, f64) {
    let weight = Weight::allocate(gpu, "weight", by_name("f32").unwrap(), 4096, 2048).unwrap();
    let (x, y) = (Tensor::zeros(gpu, "x", 1, 2048).unwrap(), Tensor::zeros(gpu, "y", 1, 4096).unwrap());
    let counts = gpu.upload("counts", &[1u32]).unwrap();
    let mut recording = Recording::default();
    Matmul {
        weight: &weight,
        x: &x,
        x_q8: None,
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
    let (mut deep, mut shallow) = (model.sequence(), model.sequence());
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
    // Without it all fits, and is cut no finer than that.
    let before = gpu.submissions();
    let (longest, rows) = advance(&mut shallow, None);
    let submissions = gpu.submissions() - before;
    assert!(rows == 64 && longest <= SECONDS * 1.000_001, "{longest} s for {rows} rows");
    assert!((2..20).contains(&submissions), "{submissions} submissions");
}

/// Many texts that are long: attention of one step is more than a submission may hold ten times over.
#[test]
fn a_step_that_takes_too_long_is_divided() {
    const SECONDS: f64 = 0.002;
    const DEPTH: u32 = 8 << 10;
    const TEXTS: usize = 16;
    let run = |rate: Option<f64>| {
        let submission_seconds = Some(rate.map_or(1e6, |_| SECONDS));
        let gpu = open(GpuOptions { throttle: rate, submission_seconds, ..Default::default() }).unwrap();
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
            let before = gpu.submissions();
            gpu.take_heaviest_submission();
            model.forward(&gpu, &mut chunks, None).unwrap();
            let logits = block_on(model.logits.download(&gpu, TEXTS as u32)).unwrap();
            (logits, gpu.take_heaviest_submission(), gpu.submissions() - before)
        };
        // The first tells the device's speed.
        [step(), step(), step()]
    };
    let whole = run(None);
    let divided = run(Some(1e8));
    for (index, ((logits, heaviest, submissions), (same, most, parts))) in
        whole.iter().zip(&divided).enumerate()
    {
        assert_eq!(logits, same, "step {index}");
        assert_eq!(*submissions, 1);
        assert!(*heaviest > 2.0 * (TEXTS as u32 * DEPTH * 64) as f64, "{heaviest:e}");
        if index > 0 {
            assert!(*most < 1e8 * SECONDS * 10.0, "{most:e} in {parts} submissions");
        }
    }
}

#[test]
fn a_profile_sums_the_steps_by_label() {
    let gpu = &*GPU;
    if !gpu.capabilities().has(&[Capability::Timestamp]) {
        eprintln!("skipped: {} has no timestamps", gpu.description().name);
        return;
    }
    let mut model = tiny(gpu).unwrap();
    let tokens = [1, 5, 7, 9];
    let plain = forward(gpu, &mut model, &tokens, None).unwrap();
    let mut profile = Profile::new(gpu).unwrap();
    assert!(profile.totals().is_empty());
    let start = Instant::now();
    for _ in 0..3 {
        assert_eq!(forward(gpu, &mut model, &tokens, Some(&mut profile)).unwrap(), plain);
        block_on(profile.collect(gpu)).unwrap();
    }
    let elapsed = start.elapsed().as_secs_f64();
    let totals = profile.totals();
    let mut counts: Vec<_> = totals.iter().map(|(label, _, count)| (*label, *count)).collect();
    counts.sort();
    // Three passes of two blocks, each with two norms and two kinds of attention. Heads of 16 dimensions
    // are no whole blocks of codes.
    let expected = [
        ("attention_combine", 6),
        ("attention_single", 6),
        ("attention_tiled", 6),
        ("down", 6),
        ("embedding", 3),
        ("gate_up", 6),
        ("lm_head", 3),
        ("o", 6),
        ("qkv", 6),
        ("quantize", 6),
        ("rms_norm", 15),
        ("rope_kv", 6),
        ("swiglu", 6),
    ];
    assert_eq!(counts, expected);
    let sum: f64 = totals.iter().map(|(_, seconds, _)| seconds).sum();
    assert!(sum > 0.0 && sum < elapsed, "{sum} s on the device, {elapsed} s in all");
    assert!(totals.is_sorted_by(|a, b| a.1 >= b.1), "longest first: {totals:?}");

    let error = Profile::new(&FLOOR).unwrap_err();
    assert_eq!((error.kind(), error.subject()), (ErrorKind::Device, "profile"));
}

#[test]
fn threads_may_share_a_device() {
    // A thread's poll may run the callbacks of another's download.
    let gpu = open(GpuOptions::default()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let gpu = &gpu;
            scope.spawn(move || {
                let buffer = gpu.upload("numbers", &[thread; 64]).unwrap();
                for _ in 0..4000 {
                    let numbers = block_on(gpu.download::<u32>(std::slice::from_ref(&buffer))).unwrap();
                    assert_eq!(numbers, [[thread; 64]]);
                }
            });
        }
    });
}

#[test]
fn counters_tell_what_was_done() {
    let gpu = open(GpuOptions::default()).unwrap();
    let (recording, _) = product(&gpu);
    let before = gpu.counters();
    gpu.replay(&recording, &[1], None).unwrap();
    let done = gpu.counters() - before;
    assert_eq!((done.dispatches, done.submissions), (recording.dispatches() as u64, 1));
    assert!(done.encoding_ns > 0);
}

#[test]
fn the_roofline_is_measured_by_kernels_that_do_their_work() {
    let gpu = open(GpuOptions::default()).unwrap();
    let roofline = pollster::block_on(Roofline::measure(&gpu)).unwrap();
    assert!(roofline.bandwidth.windows(2).all(|pair| pair[0].0 < pair[1].0), "{roofline:?}");
    assert!(roofline.bandwidth.iter().all(|(_, rate)| (1e8..1e14).contains(rate)), "{roofline:?}");
    assert!(roofline.rates.iter().all(|(_, rate)| (1e7..1e16).contains(rate)), "{roofline:?}");
    assert_eq!(roofline.rates.last().unwrap().0, "f32");
    assert!((0.0..roofline.round_trip_seconds + 0.01).contains(&roofline.dispatch_seconds), "{roofline:?}");

    // Every kernel that leaves half of its work out is found out.
    for (name, whole, half) in [
        ("roofline/stream", "i < EACH;", "i < EACH / 2u;"),
        ("roofline/multiply", "i < CHAINS; i++) {\n        let x", "i < CHAINS / 2u; i++) {\n        let x"),
        ("roofline/chain", "+= 1u", "+= 0u"),
    ] {
        let (_, text) = SHADERS.iter().find(|(shader, _)| *shader == name).unwrap();
        assert!(text.contains(whole), "{name}");
        let shaders = [(name.to_owned(), text.replace(whole, half))].into_iter().collect();
        let gpu = open(GpuOptions { shaders, ..Default::default() }).unwrap();
        let error = pollster::block_on(Roofline::measure(&gpu)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Device, "{name}: {error}");
    }
}

#[test]
fn an_executor_runs_in_place_of_the_device() {
    let x = Tensor::from_values(&GPU, "x", &[1.0, 2.0, 3.0, 4.0], 2).unwrap();
    let delta = Tensor::from_values(&GPU, "delta", &[10.0, 20.0, 30.0, 40.0], 2).unwrap();
    let mut recording = Recording::default();
    ResidualAdd { x: &x, delta: &delta }.record(&GPU, &mut recording).unwrap();
    recording.copy(&x.buffer, &delta.buffer);
    let gpu = GPU.with_executor(std::sync::Arc::new(|gpu: &Gpu, replay: &Replay| {
        let [
            ReplayAction::Dispatch { label: "residual_add", wgsl, bindings, workgroups: [2, 1, 1] },
            ReplayAction::Copy { from, to },
        ] = &replay.actions[..]
        else {
            panic!("{:?}", replay.actions)
        };
        assert!(wgsl.contains("fn main("));
        let part = |wanted| bindings.iter().find(|(_, kind, _)| *kind == wanted).unwrap().2;
        assert_eq!(part(BindingKind::ReadWrite), *from);
        assert_eq!(part(BindingKind::Read), *to);
        assert_eq!(replay.buffers.len(), 3, "parameters, x, delta");
        gpu.write(&replay.buffers[from.buffer], from.offset, &[7.0f32]);
        Ok(())
    }));
    gpu.replay(&recording, &[2], None).unwrap();
    assert_eq!(block_on(x.download(&GPU, 2)).unwrap(), [7.0, 2.0, 3.0, 4.0]);
    assert_eq!(block_on(delta.download(&GPU, 2)).unwrap(), [10.0, 20.0, 30.0, 40.0]);
}
