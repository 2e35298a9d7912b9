//! The self-test passes here, finds what is broken on purpose, and is kept on disk.

mod device;
mod golden;

use std::path::Path;

use device::{FLOOR, GPU, difference, largest};
use golden::Golden;
use mistral_wgpu::{
    checkpoint::Checkpoint,
    gpu::*,
    model::{Chunk, LogitRows, Model, ModelConfig, ModelOptions, Weights},
    ops::*,
    quant::{FORMATS, by_name},
};
use pollster::block_on;

fn shapes(weights: &str, kv: KvFormat) -> SelfTestShapes {
    let head_dim = if kv.numbers().scale_halves > 0 { 32 } else { 20 };
    let attention = AttentionShape { heads: 6, kv_heads: 2, head_dim, kv };
    SelfTestShapes { weights: by_name(weights).unwrap(), attention }
}

/// What a bound may be at most: activations rounded to 8-bit codes are far from exact.
fn bound(row: &SelfTestRow) -> f32 {
    match &row.case {
        _ if row.variant.starts_with("quantize/") => 1e-2,
        case if case.ends_with("rounded to codes") => 1e-3,
        _ => 1e-5,
    }
}

#[test]
fn every_variant_passes() {
    for gpu in [&*GPU, &*FLOOR] {
        let mut variants: Vec<String> = Vec::new();
        for (format, kv) in FORMATS.into_iter().zip(KvFormat::all().collect::<Vec<_>>().into_iter().cycle()) {
            for row in block_on(self_test(gpu, &shapes(format.name, kv))).unwrap() {
                assert!(row.ok && row.error <= row.bound && row.bound <= bound(&row), "{row:?}");
                variants.push(row.variant);
            }
        }
        let shape = shapes("f32", KvFormat::F32);
        let mat_vec = MatVecShape { format: shape.weights, cols: 1, q8: true };
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
            ["attention_combine/baseline", "adjust_logits/baseline"].map(str::to_owned).into(),
        ];
        for variant in runnable.concat() {
            assert!(variants.contains(&variant), "{variant} was not tested");
        }
    }
}

/// A device on which shaders are edited: `(file, from, to)`.
fn broken(edits: &[(&str, &str, &str)]) -> Gpu {
    let mut options = GpuOptions::default();
    for (name, from, to) in edits {
        let (_, source) = SHADERS.iter().find(|(file, _)| file == name).unwrap();
        let text = options.shaders.entry((*name).to_owned()).or_insert_with(|| (*source).to_owned());
        assert!(text.contains(from), "{name} has no `{from}`");
        *text = text.replace(from, to);
    }
    block_on(Gpu::open(&options)).unwrap()
}

/// Variants that the self-test finds wrong, each once.
fn wrong(gpu: &Gpu, shapes: &SelfTestShapes) -> Vec<String> {
    let rows = block_on(self_test(gpu, shapes)).unwrap();
    assert!(rows.len() > 10);
    let mut wrong: Vec<_> = rows.into_iter().filter(|row| !row.ok).map(|row| row.variant).collect();
    assert!(wrong.iter().all(|variant| gpu.rejects(variant)));
    wrong.sort();
    wrong.dedup();
    wrong
}

/// Variants that read 16-bit floats: scales of weights, keys and values.
const HALVES: &[&str] = &[
    "attention_combine/baseline",
    "attention_single/baseline",
    "attention_single/narrow",
    "attention_tiled/baseline",
    "embedding/baseline",
    "mat_mat/baseline",
    "mat_mat/registers",
    "mat_mat/registers_integer",
    "mat_vec/baseline",
    "mat_vec/integer",
    "mat_vec/integer_subgroup",
    "mat_vec/rows",
    "mat_vec/rows_integer",
    "mat_vec/subgroup",
];

/// Variants that multiply integers, and what makes the integers.
const QUANTIZED: &[&str] = &[
    "mat_mat/registers_integer",
    "mat_vec/integer",
    "mat_vec/integer_subgroup",
    "mat_vec/rows_integer",
    "quantize/baseline",
];

/// Variants that compute attention.
const ATTENTION: &[&str] = &[
    "attention_combine/baseline",
    "attention_single/baseline",
    "attention_single/f16",
    "attention_single/narrow",
    "attention_single/narrow_f16",
    "attention_tiled/baseline",
];

/// What drivers and devices do wrong, or might, and who must be caught at it.
#[test]
fn faults_are_found() {
    let faults: [(&str, &str, &str, &[&str]); 16] = [
        // Subnormal halves become zero: as scales, and in the KV cache.
        ("half", "select(normal, subnormal, magnitude", "select(normal, 0.0, magnitude", HALVES),
        (
            "half",
            "select(subnormal, normal, magnitude >= 0x38800000u)",
            "select(0u, normal, magnitude >= 0x38800000u)",
            &["rope_kv/baseline"],
        ),
        // Halves rounded toward zero.
        ("half", "(value + (1u << (shift - 1u)) - 1u + odd)", "value", &["rope_kv/baseline"]),
        ("rope_kv", "x.x * turn.x - x.y", "x.x * turn.x + x.y", &["rope_kv/baseline"]),
        ("rms_norm", "+ params.eps", "", &["rms_norm/baseline", "rms_norm/subgroup"]),
        // The sum of one subgroup only.
        (
            "reduce",
            "total += partial_sums[i];",
            "total = partial_sums[i];",
            &["rms_norm/subgroup", "top_k/subgroup"],
        ),
        (
            "mat_vec",
            "let sum = subgroupAdd",
            "let sum = nothing",
            &["mat_vec/integer_subgroup", "mat_vec/subgroup"],
        ),
        // Products of the fourth words, and a part of the correction for codes that are stored plus 8.
        ("quant/activations", "+ dot4I8Packed(a.w, b.w)", "", &QUANTIZED[..4]),
        ("quant/activations", "+ sums.w", "", &QUANTIZED[..4]),
        ("quant/activations", "select(127.0 / largest", "select(100.0 / largest", QUANTIZED),
        ("swiglu", "/ (1.0 + small)", "/ (1.00001 + small)", &["swiglu/baseline"]),
        ("residual_add", "+= delta", "-= delta", &["residual_add/baseline"]),
        ("top_k", "chosen_keys[i] > key", "chosen_keys[i] < key", &["top_k/baseline", "top_k/subgroup"]),
        ("sample", "mass <= row.draw * total", "mass <= row.draw", &["sample/baseline"]),
        ("adjust_logits", "f32(token.count)", "1.0", &["adjust_logits/baseline"]),
        // Nothing of attention can be right without the merge.
        ("attention_combine", "sum = fma(factor,", "sum = fma(1.0,", ATTENTION),
    ];
    let runs = |variant: &str| {
        let lacks = |need, suffix| !GPU.capabilities().has(&[need]) && variant.ends_with(suffix);
        !lacks(Capability::Subgroup, "subgroup") && !lacks(Capability::F16, "f16")
    };
    for (file, from, to, expected) in faults {
        let expected: Vec<_> = expected.iter().copied().filter(|variant| runs(variant)).collect();
        let found = wrong(&broken(&[(file, from, to)]), &shapes("q4_0", KvFormat::F16));
        assert_eq!(found, expected, "{file}, `{from}`");
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

/// Two of the three ways to multiply a vector are broken, and one of the two norms: the model is wrong
/// before the self-test and right after it.
#[test]
fn a_broken_variant_is_dropped_and_the_output_stays_right() {
    let golden = Golden::open("models/full/golden.safetensors");
    let (tokens, expected) = (golden.ids("tokens"), golden.f32("logits"));
    let error = |gpu: &Gpu| difference(&logits(gpu, &tokens), &expected) / largest(&expected);
    let gpu = broken(&[
        ("mat_vec", "let sum = subgroupAdd((*sums)[row][col]);", "let sum = (*sums)[row][col];"),
        ("mat_vec", "[row][col] += partial_sums", "[row][col] = partial_sums"),
        ("reduce", "total += partial_sums[i];", "total = partial_sums[i];"),
    ]);
    let before = error(&gpu);
    assert!(before > 1e-2 || before.is_nan(), "error {before:e} of a broken device");

    let dir = tempfile::tempdir().unwrap();
    block_on(ensure_self_test(&gpu, &shapes("f32", KvFormat::F32), Some(dir.path()))).unwrap();
    let shape = MatVecShape { format: by_name("f32").unwrap(), cols: 1, q8: false };
    assert_eq!(MAT_VEC.choose(&gpu, &shape).unwrap().0.name, "rows");
    let after = error(&gpu);
    assert!(after <= 1e-5, "error {after:e} after the self-test");
}

#[test]
fn an_operation_without_a_right_variant_is_an_error() {
    let gpu = broken(&[("swiglu", "/ (1.0 + small)", "")]);
    assert_eq!(wrong(&gpu, &shapes("f32", KvFormat::F32)), ["swiglu/baseline"]);
    let error = SWIGLU.choose(&gpu, &()).err().unwrap();
    assert_eq!(error.kind(), mistral_wgpu::ErrorKind::Device);
    assert_eq!(error.subject(), "swiglu");
}

#[test]
fn results_are_kept_and_used() {
    let dir = tempfile::tempdir().unwrap();
    let (shapes, other) = (shapes("q8_0", KvFormat::F16), shapes("q4_0", KvFormat::F16));
    let files = || {
        let entries = dir.path().join("deeper").read_dir().unwrap();
        entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
    };
    let ensure = |shapes: &SelfTestShapes| {
        let gpu = block_on(Gpu::open(&GpuOptions::default())).unwrap();
        block_on(ensure_self_test(&gpu, shapes, Some(&dir.path().join("deeper")))).unwrap();
        (gpu.submissions() > 0, gpu.rejects("swiglu/baseline"))
    };
    assert_eq!(ensure(&shapes), (true, false), "tested");
    let [path] = &files()[..] else { panic!("one file") };
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(ensure(&shapes), (false, false), "known");

    // What is kept is believed.
    let row = text.find("swiglu/baseline").unwrap();
    let (before, after) = text.split_at(row);
    std::fs::write(path, before.to_owned() + &after.replacen("true", "false", 1)).unwrap();
    assert_eq!(ensure(&shapes), (false, true), "known to be wrong");

    // Damaged, empty, of another device: tested anew and replaced.
    let foreign = text.replacen(GPU.description().driver.as_str(), "another driver", 1);
    for damaged in [&text[..text.len() / 2], "", "{}", &foreign] {
        assert_ne!(damaged, text);
        std::fs::write(path, damaged).unwrap();
        assert_eq!(ensure(&shapes), (true, false), "tested anew");
        assert_eq!(std::fs::read_to_string(path).unwrap(), text, "replaced");
    }
    assert_eq!(ensure(&other), (true, false), "another format");
    assert_eq!(files().len(), 2);
}

#[test]
fn results_that_cannot_be_kept_are_no_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    block_on(ensure_self_test(&GPU, &shapes("f32", KvFormat::F32), Some(file.path()))).unwrap();
}
