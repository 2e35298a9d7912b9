//! The self-test passes here, finds what is broken on purpose, and is kept on disk.

#[path = "../device/mod.rs"]
mod device;
mod faults;
#[path = "../golden/mod.rs"]
mod golden;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    slice,
};

use device::{FLOOR, GPU, difference, largest, stands_for_others};
use faults::{halves, of};
use golden::Golden;
use mistral_wgpu::{
    checkpoint::Checkpoint,
    gpu::*,
    model::{Chunk, LogitRows, Model, ModelConfig, ModelOptions, Weights},
    ops::*,
    quant::{FORMATS, by_name},
    tensor::ActivationFormat,
};
use pollster::block_on;

fn heads(kv: KvFormat) -> AttentionShape {
    let head_dim = if kv.numbers().scale_halves > 0 { 32 } else { 20 };
    AttentionShape { heads: 6, kv_heads: 2, head_dim, kv }
}

fn shapes(weights: &str, kv: KvFormat) -> SelfTestShapes {
    SelfTestShapes::all(by_name(weights), |_| heads(kv))[0]
}

/// What a bound may be at most: factors rounded to 8-bit codes or 16-bit floats are far from exact.
fn bound(row: &SelfTestRow) -> f32 {
    // Errors of fewer products cancel less.
    let of_few_columns = |rounded: &str| {
        ["experts", "141 rows"]
            .iter()
            .any(|case| row.case.ends_with(&format!("{case}, rounded to {rounded}")))
    };
    match &row.case {
        case if case.ends_with("Q8") => 1e-2,
        case if case.ends_with("F16") => 5e-4,
        _ if of_few_columns("codes") => 3e-3,
        _ if of_few_columns("f16") => 6e-4,
        case if case.ends_with("rounded to codes") => 1e-3,
        // Of attention the scores, too, in the exponent.
        case if row.variant.starts_with("attention") && case.ends_with("rounded to f16") => 1e-3,
        case if case.ends_with("rounded to f16") => 2e-4,
        _ => 1e-5,
    }
}

/// Runs the self-test for weights of each size of blocks, with every format of keys and values.
fn passes(gpu: &Gpu) {
    let formats = FORMATS.into_iter().filter(|format| stands_for_others(format));
    let all = SelfTestShapes::all(formats, heads);
    let mut variants: Vec<String> = Vec::new();
    for row in block_on(self_test(gpu, &all, &mut |_, _| {})).unwrap() {
        assert!(row.ok && row.error <= row.bound && row.bound <= bound(&row), "{row:?}");
        variants.push(row.variant);
    }
    let shape = shapes("f32", KvFormat::F32);
    let mat_vec = MatVecShape::new(shape.weights, 1);
    let runnable = [
        MAT_VEC.runnable(gpu, &mat_vec).map(|variant| MAT_VEC.full_name(variant)).collect::<Vec<_>>(),
        TOP_K.runnable(gpu, &()).map(|variant| TOP_K.full_name(variant)).collect(),
        ATTENTION_SINGLE
            .runnable(gpu, &shape.attention)
            .map(|variant| ATTENTION_SINGLE.full_name(variant))
            .collect(),
        ["embedding", "mat_mat", "rms_norm", "residual_add", "swiglu", "rope_kv", "attention_tiled"]
            .map(|operation| format!("{operation}/baseline"))
            .into(),
        ["route/baseline", "gather/baseline", "expert_sum/baseline"].map(str::to_owned).into(),
        ["attention_combine/baseline", "adjust_logits/baseline", "lora_down/baseline", "lora_up/baseline"]
            .map(str::to_owned)
            .into(),
    ];
    for variant in runnable.concat() {
        assert!(variants.contains(&variant), "{variant} was not tested");
    }
}

#[test]
fn every_variant_passes() {
    passes(&GPU);
}

#[test]
fn every_variant_passes_on_floor_limits() {
    passes(&FLOOR);
}

/// Of formats with a minimum, whose two products cancel where a weight is near zero.
#[test]
fn what_integers_round_is_no_fault() {
    if !GPU.capabilities().has(&[Capability::NineBuffers]) {
        eprintln!("skipped: {} has no such product with RoPE", GPU.description().name);
        return;
    }
    let operations = [&MAT_VEC, &MAT_VEC_NORMED, &MAT_VEC_SWIGLU, &MAT_VEC_ROPE_KV, &MAT_VEC_RMS_NORM];
    let mut gpu = GPU.clone();
    for operation in operations {
        let integer = operation.variants.iter().find(|variant| variant.name == "integer").unwrap();
        gpu = operation.only(&gpu, integer);
    }
    gpu = MAT_MAT.only(&gpu, MAT_MAT.variants.last().unwrap());
    for format in ["q4_1", "q5_1", "q4_k", "q5_k"] {
        let mut shapes = shapes(format, KvFormat::F32);
        shapes.attention.head_dim = 128;
        let [tested, wrong] = tested(&gpu, &shapes);
        assert!(tested.contains(&"mat_vec_rope_kv/integer".to_owned()));
        assert!(wrong.is_empty(), "{format}: {wrong:?}");
    }
}

/// A device on which shaders are edited: `(file, from, to)`.
fn broken(edits: &[(&str, &str, &str)]) -> Gpu {
    broken_without(edits, Capabilities::default())
}

fn broken_without(edits: &[(&str, &str, &str)], disable: Capabilities) -> Gpu {
    let mut options = GpuOptions { disable, ..Default::default() };
    for (name, from, to) in edits {
        let (_, source) = SHADERS.iter().find(|(file, _)| file == name).unwrap();
        let text = options.shaders.entry((*name).to_owned()).or_insert_with(|| (*source).to_owned());
        assert!(text.contains(from), "{name} has no `{from}`");
        *text = text.replace(from, to);
    }
    block_on(Gpu::open(&options)).unwrap()
}

/// Variants that were tested, and those of them that the self-test finds wrong, each once.
fn tested(gpu: &Gpu, shapes: &SelfTestShapes) -> [Vec<String>; 2] {
    let rows = block_on(self_test(gpu, slice::from_ref(shapes), &mut |_, _| {})).unwrap();
    let names = |keep: fn(&SelfTestRow) -> bool| {
        let mut names: Vec<_> = rows.iter().filter(|row| keep(row)).map(|row| row.variant.clone()).collect();
        names.sort();
        names.dedup();
        names
    };
    let wrong = names(|row| !row.ok);
    assert!(wrong.iter().all(|variant| gpu.rejects(variant)));
    [names(|_| true), wrong]
}

/// Where a workgroup has fewer subgroups than there is work for at a time, each does several parts of it.
#[test]
fn few_subgroups_take_turns() {
    let multiplies = |matrices| GPU.capabilities().has(&[matrices]);
    if ![Capability::CooperativeMatrix8, Capability::CooperativeMatrix16].into_iter().any(multiplies) {
        eprintln!("skipped: {} multiplies no matrices", GPU.description().name);
        return;
    }
    let mut shapes = shapes("q4_0", KvFormat::F16);
    shapes.attention.head_dim = 64;
    for subgroups in ["1u", "2u"] {
        let nobody_else = format!("min(invocation.subgroup, {subgroups} - 1u),");
        let edits = ["mat_mat_matrices", "attention_matrices"].map(|file| {
            [(file, "invocation.subgroups", subgroups), (file, "invocation.subgroup,", nobody_else.as_str())]
        });
        let [tested, wrong] = tested(&broken(edits.as_flattened()), &shapes);
        assert!(tested.iter().any(|variant| variant.contains("matrices")), "{tested:?}");
        assert!(wrong.is_empty(), "{subgroups}: {wrong:?}");
    }
}

fn logits(gpu: &Gpu, tokens: &[u32]) -> Vec<f32> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/full");
    let config = ModelConfig::from_dir(&folder).unwrap();
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let f32 = by_name("f32").unwrap();
    let weights = Weights::load(gpu, &checkpoint, &config, f32, &mut |_, _| {}).unwrap();
    let options = ModelOptions { context: 128, kv_format: KvFormat::F32, max_rows: 8, ..Default::default() };
    let mut model = Model::new(gpu, config, weights, options).unwrap();
    let mut sequence = model.sequence();
    let mut all = Vec::new();
    for tokens in tokens.chunks(8) {
        let mut chunks = [Chunk { sequence: &mut sequence, tokens, logits: LogitRows::All }];
        model.forward(gpu, &mut chunks, None).unwrap();
        all.extend(block_on(model.logits.download(gpu, tokens.len() as u32)).unwrap());
    }
    all
}

/// All but one of the ways to multiply a vector are broken, and a norm, among them those that suit the kind of device: the model
/// is wrong before the self-test and right after it.
#[test]
fn a_broken_variant_is_dropped_and_the_output_stays_right() {
    if !GPU.capabilities().has(&[Capability::Subgroup]) {
        eprintln!("skipped: {} has one way to multiply", GPU.description().name);
        return;
    }
    let golden = Golden::open("models/full/golden.safetensors");
    let (tokens, expected) = (golden.ids("tokens"), golden.f32("logits"));
    let error = |gpu: &Gpu| difference(&logits(gpu, &tokens), &expected) / largest(&expected);
    let (gpu, right) = if GPU.capabilities().has(&[Capability::Cpu]) {
        let tree = ("mat_vec", "[row][col] += partial_sums", "[row][col] = partial_sums");
        let rows = ("mat_vec_rows", "fma(w.w, v.w,", "fma(w.w, v.x,");
        (broken(&[tree, rows, ("reduce", "let total = partial_sums[0]", "let total = 0.0")]), "subgroup_tall")
    } else {
        let sums = ("mat_vec", "let sum = subgroupAdd((*sums)[row][col]);", "let sum = (*sums)[row][col];");
        (broken(&[sums, ("reduce", "total += partial_sums[i];", "total = partial_sums[i];")]), "baseline")
    };
    let before = error(&gpu);
    assert!(before > 1e-2 || before.is_nan(), "error {before:e} of a broken device");

    let dir = tempfile::tempdir().unwrap();
    block_on(ensure_self_test(&gpu, &shapes("f32", KvFormat::F32), Some(dir.path()))).unwrap();
    let shape = MatVecShape { rounded: false, ..MatVecShape::new(by_name("f32").unwrap(), 1) };
    assert_eq!(MAT_VEC.choose(&gpu, &shape).unwrap().0.name, right);
    let after = error(&gpu);
    assert!(after <= 1e-5, "error {after:e} after the self-test");
}

#[test]
fn an_operation_without_a_right_variant_is_an_error() {
    let gpu = broken(&[("silu", "/ (1.0 + small)", "")]);
    let [_, wrong] = tested(&gpu, &shapes("f32", KvFormat::F32));
    assert!(wrong.iter().all(|variant| of(variant, &["swiglu", "mat_vec_swiglu"])), "{wrong:?}");
    let error = SWIGLU.choose(&gpu, &ActivationFormat::F32).err().unwrap();
    assert_eq!(error.kind(), mistral_wgpu::ErrorKind::Device);
    assert_eq!(error.subject(), "swiglu");
}

/// Subnormal halves become zero, as scales and in the KV cache.
#[test]
fn lost_subnormal_numbers_are_found() {
    let mut shapes = shapes("q4_0", KvFormat::F16);
    shapes.attention.head_dim = 64;
    let edit = ("half", "select(normal, subnormal, magnitude", "select(normal, 0.0, magnitude");
    let conversion = [Capability::F16Conversion].into_iter().collect();
    let [mut tested, wrong] = tested(&broken_without(&[edit], conversion), &shapes);
    tested.retain(|variant| halves(variant));
    assert!(!tested.is_empty());
    assert_eq!(wrong, tested);
}

/// The device goes on by integers, and nothing else is wrong.
#[test]
fn a_conversion_that_loses_subnormal_numbers_is_not_used() {
    if !GPU.capabilities().has(&[Capability::F16Conversion]) {
        eprintln!("skipped: {} has no conversion of its own", GPU.description().name);
        return;
    }
    let flushed = "unpack2x16float(select(word, 0u, (word & 0x7c007c00u) == 0u))";
    let gpu = broken(&[("half", "unpack2x16float(word)", flushed)]);
    let [_, wrong] = tested(&gpu, &shapes("f32", KvFormat::F16));
    assert_eq!(wrong, ["half/f16_conversion"]);
    assert!(!gpu.capabilities().has(&[Capability::F16Conversion]));
}

#[test]
fn results_are_kept_and_used() {
    let dir = tempfile::tempdir().unwrap();
    let (shapes, other) = (shapes("q8_0", KvFormat::F16), shapes("q4_0", KvFormat::F16));
    let files = || -> BTreeMap<PathBuf, String> {
        let entries = dir.path().join("deeper").read_dir().unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
    };
    let ensure = |shapes: &SelfTestShapes| {
        let gpu = block_on(Gpu::open(&GpuOptions::default())).unwrap();
        block_on(ensure_self_test(&gpu, shapes, Some(&dir.path().join("deeper")))).unwrap();
        (gpu.submissions() > 0, gpu.rejects("swiglu/baseline"))
    };
    assert_eq!(ensure(&shapes), (true, false), "tested");
    let known = files();
    let (path, text) = known.iter().find(|(_, text)| text.contains("\"swiglu/baseline\"")).unwrap();
    assert_eq!(ensure(&shapes), (false, false), "known");

    // What is kept is believed.
    let row = text.find("\"swiglu/baseline\"").unwrap();
    let (before, after) = text.split_at(row);
    std::fs::write(path, before.to_owned() + &after.replacen("true", "false", 1)).unwrap();
    assert_eq!(ensure(&shapes), (false, true), "known to be wrong");

    // Damaged, empty, of another device: tested anew and replaced.
    let foreign = text.replacen(GPU.description().driver.as_str(), "another driver", 1);
    for damaged in [&text[..text.len() / 2], "", "{}", &foreign] {
        assert_ne!(damaged, text);
        std::fs::write(path, damaged).unwrap();
        assert_eq!(ensure(&shapes), (true, false), "tested anew");
        assert_eq!(files(), known, "replaced");
    }

    // Of another format only what depends on it is tested.
    assert_eq!(ensure(&other), (true, false), "another format");
    let mut all = files();
    all.retain(|path, _| !known.contains_key(path));
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(all.values().all(|text| text.lines().next().unwrap().contains("q4_0")), "{all:?}");
    assert_eq!(
        ensure(&SelfTestShapes { reordered: false, adapters: false, ..other }),
        (false, false),
        "less"
    );
}

#[test]
fn results_that_cannot_be_kept_are_no_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    block_on(ensure_self_test(&GPU, &shapes("f32", KvFormat::F32), Some(file.path()))).unwrap();
}
