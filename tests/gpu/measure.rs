//! What is measured on the device: steps, counters, its limits.

use std::time::Instant;

use mistral_wgpu::{ErrorKind, gpu::*, ops::*, tensor::Tensor};
use pollster::block_on;

use super::{FLOOR, forward, open, pace::product, tiny};

#[test]
fn a_profile_sums_the_steps_by_label() {
    // Which steps there are depends on the variants: none of those that take steps together, or one more.
    let disable = "fused,integer".parse().unwrap();
    let gpu = &block_on(Gpu::open(&GpuOptions { disable, ..Default::default() })).unwrap();
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
    // Three passes of two blocks, each with two norms and two kinds of attention.
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
fn counters_tell_what_was_done() {
    let gpu = open(GpuOptions::default()).unwrap();
    let (recording, _) = product(&gpu);
    gpu.wait().unwrap();
    let before = gpu.counters();
    // What is replayed goes to the device with what follows.
    for _ in 0..2 {
        gpu.replay(&recording, &[1], None).unwrap();
        assert_eq!((gpu.counters() - before).submissions, 0);
    }
    gpu.wait().unwrap();
    let done = gpu.counters() - before;
    assert_eq!((done.dispatches, done.submissions), (2 * recording.dispatches() as u64, 1));
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
    let broken = |name: &str, whole: &str, half: &str| {
        let (_, text) = SHADERS.iter().find(|(shader, _)| *shader == name).unwrap();
        assert!(text.contains(whole), "{name}");
        let shaders = [(name.to_owned(), text.replace(whole, half))].into_iter().collect();
        let gpu = open(GpuOptions { shaders, ..Default::default() }).unwrap();
        pollster::block_on(Roofline::measure(&gpu))
    };
    for (name, whole, half) in [
        ("roofline/stream", "i < EACH;", "i < EACH / 2u;"),
        ("roofline/multiply", "i < CHAINS; i++) {\n        let x", "i < CHAINS / 2u; i++) {\n        let x"),
        ("roofline/chain", "+= 1u", "+= 0u"),
    ] {
        let error = broken(name, whole, half).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Device, "{name}: {error}");
    }
    // A kind of multiplication that is wrong is none that the device has.
    let kinds = |roofline: &Roofline| roofline.rates.iter().map(|(kind, _)| *kind).collect::<Vec<_>>();
    let without_integer =
        broken("roofline/multiply", "let x = chains[i];", "let x = chains[i] + 1;").unwrap();
    let expected: Vec<_> = kinds(&roofline).into_iter().filter(|kind| *kind != "integer").collect();
    assert_eq!(kinds(&without_integer), expected);
}

/// What one thread has replayed may be handed over by another, and still comes before what the first asks for next.
#[test]
fn threads_share_a_device() {
    let gpu = open(GpuOptions::default()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let gpu = &gpu;
            scope.spawn(move || {
                let x = Tensor::zeros(gpu, "x", 1, 32).unwrap();
                let delta = Tensor::zeros(gpu, "delta", 1, 32).unwrap();
                let mut recording = Recording::default();
                ResidualAdd { x: &x, delta: &delta }.record(gpu, &mut recording).unwrap();
                for step in 0..300 {
                    let value = (1000 * thread + step) as f32;
                    gpu.write(&delta.buffer, 0, &[value; 32]);
                    gpu.write(&x.buffer, 0, &[1.0f32; 32]);
                    gpu.replay(&recording, &[1], None).unwrap();
                    let found = block_on(x.download(gpu, 1)).unwrap();
                    assert_eq!(found, [value + 1.0; 32], "thread {thread}, step {step}");
                }
            });
        }
    });
}
