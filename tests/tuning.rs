//! Kernels are chosen by measurement, once, and the choice is kept.

mod device;

use std::{collections::HashMap, fs, path::Path, sync::Arc, time::Duration};

use device::GPU;
use mistral_wgpu::{ErrorKind, gpu::*, model::*, ops::*, quant::by_name, tensor::ActivationFormat};
use pollster::block_on;

const NORM: &str = "rms_norm, 64";
const NORM_SHAPE: RmsNormShape =
    RmsNormShape { residual: false, gather: true, format: ActivationFormat::F32 };

/// One matrix of a tiny model, and time enough for it on a busy machine.
fn shapes() -> TuneShapes {
    let config = ModelConfig::synthetic("tiny").unwrap();
    let options = ModelOptions { context: 64, max_rows: 16, ..Default::default() };
    let mut shapes = tune_shapes(&config, &options, by_name("q8_0").unwrap());
    shapes.matrices.truncate(1);
    // However slow the driver compiles.
    shapes.budget = Duration::from_secs(600);
    shapes
}

fn open() -> Gpu {
    block_on(Gpu::open(&GpuOptions::default())).unwrap()
}

/// A device on which some variants of the norm take about a thousand times as long.
fn slow(condition: &str) -> Gpu {
    let place = "    var square_sum = 0.0;\n";
    let wasteful = format!("{place}    {condition} {{ WASTE square_sum = waste * 1e-30; }}\n");
    slow_at("rms_norm", place, &wasteful, 60_000)
}

/// A device that wastes time at a place of one shader, in so many rounds, of which llvmpipe goes through 65,535.
fn slow_at(module: &str, place: &str, wasteful: &str, rounds: u32) -> Gpu {
    let (_, text) = SHADERS.iter().find(|(name, _)| *name == module).unwrap();
    assert!(text.contains(place));
    let waste = format!(
        "var waste = 0.0;
        for (var i = 0u; i < {rounds}u; i++) {{ {} }}",
        "waste = fma(waste, 0.5, f32(i)); ".repeat(32)
    );
    let text = text.replace(place, &wasteful.replace("WASTE", &waste));
    let shaders = HashMap::from([(module.to_owned(), text)]);
    block_on(Gpu::open(&GpuOptions { shaders, ..Default::default() })).unwrap()
}

fn tune(gpu: &Gpu, tune: Tune, dir: &Path) -> Vec<TuneRow> {
    ensure_tuned(gpu, &shapes(), tune, Some(dir), &mut |_, _| {}).unwrap();
    kept_tuning(gpu, Some(dir))
}

/// The norm that `gpu` uses in a model of 64 columns.
fn norm(gpu: &Gpu) -> &'static str {
    RMS_NORM.choose_for(gpu, &NORM_SHAPE, 64).unwrap().0.name
}

/// The norm that suits the kind of device.
fn untuned(gpu: &Gpu) -> &'static str {
    if gpu.capabilities().has(&[Capability::Cpu, Capability::Int64]) { "narrow" } else { "subgroup" }
}

#[test]
fn the_fastest_is_chosen() {
    if !GPU.capabilities().has(&[Capability::Subgroup]) {
        return eprintln!("skipped: there is nothing to choose without subgroups");
    }
    let slow_ones =
        [("@if(subgroup || narrow)", "baseline"), ("@if(!subgroup)", "subgroup"), ("@if(!narrow)", "narrow")];
    let slow_ones = &slow_ones[..if untuned(&GPU) == "narrow" { 3 } else { 2 }];
    for (slow_one, fast_one) in slow_ones {
        let dir = tempfile::tempdir().unwrap();
        let gpu = slow(slow_one);
        assert_eq!(norm(&gpu), untuned(&gpu), "what suits the kind of device");
        let rows = tune(&gpu, Tune::Once, dir.path());
        assert_eq!(norm(&gpu), *fast_one);
        let row = rows.iter().find(|row| row.case == NORM).unwrap();
        let of = |name: &str| row.seconds.iter().find(|(variant, _)| variant == name).unwrap().1;
        assert!(row.variant == *fast_one && row.seconds.len() == slow_ones.len(), "{row:?}");
        assert!(
            row.seconds.iter().all(|(name, seconds)| *seconds >= of(fast_one) && !name.is_empty()),
            "{row:?}"
        );
        // What is wrong stays out, fast or not.
        gpu.reject(format!("rms_norm/{fast_one}"));
        assert_ne!(norm(&gpu), *fast_one);
    }
}

#[test]
fn the_fastest_form_of_a_step_is_chosen() {
    let config = ModelConfig::synthetic("tiny").unwrap();
    let options = ModelOptions { context: 64, max_rows: 16, ..Default::default() };
    let place = "= silu(gate) * up;";
    // In batches of 8 rows, an eighth of whose time counts.
    let wasteful = "= silu(gate) * up; if col == 7u { WASTE y[0] += waste * 1e-30; }";
    let fused = ("epilogue/swiglu", place, wasteful, 48_000);
    let place = "return select(0.0, silu";
    let separate = ("swiglu", place, "WASTE return select(waste * 1e-30, silu", 6_000);
    let mut cases = vec![("f16", fused, "separate", 10, 2), ("f16", separate, "fused", 6, 2)];
    // Products of integers leave it to a dispatch of its own, which rounds its result.
    let q8_0 = MatVecShape::new(by_name("q8_0").unwrap(), 1);
    if MAT_VEC.choose(&GPU, &q8_0).unwrap().0.name.contains("integer") {
        cases.push(("q8_0", separate, "floats", 6, 3));
    }
    for (format, (module, place, wasteful, rounds), faster, per_block, forms) in cases {
        let format = by_name(format).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let tuned = |gpu: &Gpu| {
            // Reads what was kept, and measures nothing itself.
            let shapes = TuneShapes { budget: Duration::ZERO, ..shapes() };
            ensure_tuned(gpu, &shapes, Tune::Once, Some(dir.path()), &mut |_, _| {}).unwrap();
            ensure_form_tuned(gpu, &config, &options, format, Tune::Once, Some(dir.path())).unwrap();
        };
        let gpu = slow_at(module, place, wasteful, rounds);
        tuned(&gpu);
        let rows = kept_tuning(&gpu, Some(dir.path()));
        let case = format!("block, {} 320x64", format.name);
        let row = rows.iter().find(|row| row.case == case).unwrap();
        assert_eq!((row.variant.as_str(), row.seconds.len()), (faster, forms), "{row:?}");
        // What a model does then: one block more is so many dispatches more.
        let dispatches = |num_hidden_layers| {
            let config = ModelConfig { num_hidden_layers, ..config.clone() };
            let weights = Weights::allocate(&gpu, &config, format).unwrap();
            let mut model = Model::new(&gpu, config, weights, options).unwrap();
            let mut sequence = model.sequence();
            let before = gpu.counters().dispatches;
            let chunk = Chunk { sequence: &mut sequence, tokens: &[1], logits: LogitRows::None };
            model.forward(&gpu, &mut [chunk], None).unwrap();
            gpu.counters().dispatches - before
        };
        assert_eq!(dispatches(3) - dispatches(2), per_block, "{faster}");
        let again = slow_at(module, place, wasteful, rounds);
        tuned(&again);
        assert_eq!(again.submissions(), 0, "known");
        assert_eq!(again.preferred(&row.case).as_deref(), Some(faster));
    }
}

#[test]
fn every_choice_of_a_model_is_measured_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut told = Vec::new();
    ensure_tuned(&open(), &shapes(), Tune::Once, Some(dir.path()), &mut |done, total| {
        told.push((done, total))
    })
    .unwrap();
    assert!(
        told.windows(2).all(|two| two[0].0 < two[1].0) && told.iter().all(|(done, total)| done < total),
        "{told:?}"
    );
    let rows = kept_tuning(&GPU, Some(dir.path()));
    for case in ["mat_vec, q8_0 128x64", "mat_mat, q8_0 128x64, many rows"] {
        assert_eq!(rows.iter().filter(|row| row.case == case).count(), 1, "{case} in {rows:?}");
    }
    for row in &rows {
        assert!(row.seconds.len() > 1 && row.seconds.iter().any(|(name, _)| *name == row.variant), "{row:?}");
        assert!(row.seconds.iter().all(|(_, seconds)| *seconds > 0.0), "{row:?}");
    }
    // Of products of floats, too, by themselves.
    let of = |case: &str| rows.iter().find(|row| row.case == case);
    let shape = MatVecShape { rounded: false, ..MatVecShape::new(by_name("q8_0").unwrap(), 1) };
    let floats: Vec<_> = MAT_VEC.runnable(&GPU, &shape).map(|variant| variant.name.to_owned()).collect();
    let mut seconds = of("mat_vec, q8_0 128x64").unwrap().seconds.clone();
    seconds.retain(|(name, _)| floats.contains(name));
    let measured = of("mat_vec, floats by q8_0 128x64").map(|row| row.seconds.clone());
    assert_eq!(measured, (floats.len() > 1).then_some(seconds));
    let gpu = open();
    assert_eq!(tune(&gpu, Tune::Once, dir.path()), rows);
    assert_eq!(gpu.submissions(), 0, "known");
    assert!(rows.iter().all(|row| gpu.preferred(&row.case).as_ref() == Some(&row.variant)));
}

#[test]
fn kernels_for_cpus_are_left_alone_on_a_gpu() {
    let disable = "cpu".parse().unwrap();
    let gpu = block_on(Gpu::open(&GpuOptions { disable, ..Default::default() })).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let rows = tune(&gpu, Tune::Once, dir.path());
    let tried: Vec<_> = rows.iter().flat_map(|row| row.seconds.iter().map(|(name, _)| name)).collect();
    assert!(tried.iter().any(|name| *name == "baseline"), "{rows:?}");
    let for_cpus = ["rows", "registers", "narrow", "several"];
    assert!(tried.iter().all(|name| for_cpus.iter().all(|kind| !name.starts_with(kind))), "{tried:?}");
    let attention = AttentionShape { heads: 8, kv_heads: 2, head_dim: 64, kv: KvFormat::Q8_0 };
    let untuned = ATTENTION_SINGLE.choose(&gpu, &attention).unwrap().0.name;
    assert_eq!(untuned, "baseline", "what needs no `f16` of a cache in `q8_0`");
}

#[test]
fn what_is_kept_is_believed_and_what_is_damaged_is_not() {
    if !GPU.capabilities().has(&[Capability::Subgroup]) {
        return eprintln!("skipped: there is nothing to choose without subgroups");
    }
    let dir = tempfile::tempdir().unwrap();
    let rows = tune(&open(), Tune::Once, dir.path());
    let path = dir.path().read_dir().unwrap().next().unwrap().unwrap().path();
    let text = fs::read_to_string(&path).unwrap();
    let other = if rows.iter().find(|row| row.case == NORM).unwrap().variant == "baseline" {
        "subgroup"
    } else {
        "baseline"
    };
    let (before, after) = text.split_at(text.find(NORM).unwrap());
    let at = after.find("\"variant\": \"").unwrap() + "\"variant\": \"".len();
    let end = at + after[at..].find('"').unwrap();
    let changed = format!("{before}{}{other}{}", &after[..at], &after[end..]);
    let measures = |contents: &str, mode: Tune| {
        fs::write(&path, contents).unwrap();
        let gpu = open();
        tune(&gpu, mode, dir.path());
        (gpu.submissions() > 0, norm(&gpu))
    };
    assert_eq!(measures(&changed, Tune::Once), (false, other), "believed");
    assert_eq!(measures(&changed, Tune::Never), (false, untuned(&GPU)), "what suits the kind of device");
    assert_eq!(fs::read_to_string(&path).unwrap(), changed, "left alone");
    assert!(
        measures(&changed, Tune::Again).0 && fs::read_to_string(&path).unwrap() != changed,
        "measured anew"
    );
    let foreign = changed.replacen(GPU.description().driver.as_str(), "another driver", 1);
    for damaged in [&changed[..changed.len() / 2], "", "{}", &foreign] {
        assert!(measures(damaged, Tune::Once).0, "measured anew");
        assert_eq!(kept_tuning(&GPU, Some(dir.path())).len(), rows.len(), "replaced");
    }
}

#[test]
fn what_there_is_no_time_for_is_done_as_its_like() {
    let dir = tempfile::tempdir().unwrap();
    let rows = tune(&open(), Tune::Once, dir.path());
    let of = |rows: &[TuneRow], case: &str| {
        rows.iter().find(|row| row.case == case).map(|row| row.variant.clone())
    };
    let known = of(&rows, "mat_vec, q8_0 128x64").expect("measured");
    let gpu = open();
    let mut shapes = TuneShapes { budget: Duration::ZERO, ..shapes() };
    let complete = |shapes: &TuneShapes| {
        ensure_tuned(&gpu, shapes, Tune::Once, Some(dir.path()), &mut |_, _| {}).unwrap()
    };
    assert!(complete(&shapes), "all is known");
    let more = ["q8_0", "q4_0"].map(|format| by_name(format).unwrap());
    shapes.matrices.extend(more.map(|format| TuneMatrix { format, rows: 96, cols: 64, count: 1 }));
    assert!(!complete(&shapes), "something is left to measure");
    assert_eq!(gpu.submissions(), 0);
    assert_eq!(gpu.preferred("mat_vec, q8_0 96x64"), Some(known));
    assert_eq!(
        gpu.preferred("mat_vec, q4_0 96x64"),
        None,
        "the best kernel for one format is not that for another"
    );
    assert_eq!(of(&kept_tuning(&gpu, Some(dir.path())), "mat_vec, q8_0 96x64"), None, "to be measured");
}

/// The device, which the first replay destroys.
fn lost_by_replays(gpu: &Gpu) -> Gpu {
    gpu.with_executor(Arc::new(|gpu: &Gpu, _: &Replay| {
        gpu.destroy();
        gpu.check()
    }))
}

/// Tries kernels that lose the device at their first replay so many times.
fn losing(times: usize, dir: &Path) -> Arc<Gpu> {
    let mut left = times;
    let trial = try_kernels(Arc::new(open()), Some(dir), async |gpu| {
        let gpu = if left > 0 { lost_by_replays(gpu) } else { gpu.clone() };
        left = left.saturating_sub(1);
        ensure_tuned(&gpu, &shapes(), Tune::Once, Some(dir), &mut |_, _| {})?;
        block_on(ensure_self_test(&gpu, &self_test_shapes(), Some(dir)))
    });
    block_on(trial).unwrap()
}

fn self_test_shapes() -> SelfTestShapes {
    let attention = |kv| AttentionShape { heads: 2, kv_heads: 1, head_dim: 32, kv };
    SelfTestShapes::all(by_name("q8_0"), attention)[0]
}

#[test]
fn a_kernel_that_loses_the_device_twice_is_not_tried_again() {
    if !GPU.capabilities().has(&[Capability::Subgroup]) {
        return eprintln!("skipped: there is nothing to choose without subgroups");
    }
    let untuned = untuned(&GPU);
    let name = format!("rms_norm/{untuned}");
    for (times, rejected) in [(1, false), (2, true)] {
        let dir = tempfile::tempdir().unwrap();
        let gpu = losing(times, dir.path());
        assert!(!gpu.is_lost() && gpu.rejects(&name) == rejected, "{times}");
        let row = kept_tuning(&gpu, Some(dir.path())).into_iter().find(|row| row.case == NORM);
        let tried = row.is_some_and(|row| row.seconds.iter().any(|(variant, _)| variant == untuned));
        assert!(tried != rejected, "{times}");
        // The next start knows it, and no other.
        let next = block_on(try_kernels(Arc::new(open()), Some(dir.path()), async |_| Ok(()))).unwrap();
        assert_eq!(next.rejects(&name), rejected, "{times}");
        assert!(RMS_NORM.choose(&next, &NORM_SHAPE).is_ok());
    }
}

#[test]
fn what_loses_the_device_is_named() {
    let gpu = open();
    let shape = self_test_shapes();
    let first = block_on(self_test(&gpu, &[shape], &mut |_, _| {})).unwrap().swap_remove(0).variant;
    let error = block_on(self_test(&lost_by_replays(&gpu), &[shape], &mut |_, _| {})).unwrap_err();
    assert_eq!((error.kind(), error.subject()), (ErrorKind::DeviceLost, first.as_str()));
}

#[test]
fn a_device_that_is_lost_again_by_whatever_else_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let mut tries = 0;
    let trial = try_kernels(Arc::new(open()), Some(dir.path()), async |gpu| {
        tries += 1;
        gpu.destroy();
        gpu.check()
    });
    assert_eq!(block_on(trial).err().map(|error| error.kind()), Some(ErrorKind::DeviceLost));
    assert_eq!(tries, 2);
}

#[test]
fn a_model_is_measured_in_its_true_shapes() {
    let config = ModelConfig::synthetic("mistral-7b").unwrap();
    let shapes = tune_shapes(&config, &ModelOptions::default(), by_name("q4_0").unwrap());
    let format = by_name("q4_0").unwrap();
    let matrix = |(rows, cols, count)| TuneMatrix { format, rows, cols, count };
    // q, k and v; o; gate and up; down; the output projection.
    let expected =
        [(6144, 4096, 32), (4096, 4096, 32), (28672, 4096, 32), (4096, 14336, 32), (32000, 4096, 1)];
    assert_eq!(shapes.matrices, expected.map(matrix));
    assert_eq!((shapes.keys, shapes.hidden, shapes.vocab), (1024, 4096, 32000));
    // 128 rows for q, k and v together, as many as the vocabulary has.
    let tiny = ModelConfig::synthetic("tiny").unwrap();
    let shapes = tune_shapes(&tiny, &ModelOptions::default(), by_name("q4_0").unwrap());
    assert_eq!(shapes.matrices, [(128, 64, 3), (64, 64, 2), (320, 64, 2), (64, 160, 2)].map(matrix));
    assert_eq!(shapes.keys, 32, "the window");
}
