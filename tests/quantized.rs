//! GPTQ and AWQ checkpoints: kept in their own codes, the logits those of their weights; what is refused, by name.

mod device;
mod golden;
mod logits;

use std::{
    fs,
    path::{Path, PathBuf},
};

use device::{FLOOR, GPU};
use golden::Golden;
use logits::{difference, exact_options};
use mistral_wgpu::{
    ErrorKind,
    checkpoint::Checkpoint,
    gpu::{Gpu, GpuOptions},
    model::{AdapterSet, Model, ModelConfig, WeightFormats, Weights, check},
};
use pollster::block_on;
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

const VARIANTS: [&str; 5] = ["awq", "gptq", "gptq-symmetric", "gptq-v2-act-order", "gptq-act-order"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/quantized").join(name)
}

fn logits(gpu: &Gpu, dir: &Path, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let config = ModelConfig::from_dir(dir).unwrap();
    let checkpoint = Checkpoint::open(dir).unwrap();
    check(&checkpoint, &config).unwrap();
    let formats = WeightFormats::own(&checkpoint);
    let weights = Weights::load(gpu, &checkpoint, &config, &formats, &mut |_, _| {}).unwrap();
    let mut model = Model::new(gpu, config, weights, exact_options()).unwrap();
    logits::logits(gpu, &mut model, AdapterSet::NONE, tokens, chunk)
}

#[test]
fn logits_are_those_of_the_dequantized_weights() {
    // Without kernels that round activations.
    let disable = "f16,integer,cooperative_matrix".parse().unwrap();
    let exact = block_on(Gpu::open(&GpuOptions { disable, ..Default::default() })).unwrap();
    for gpu in [&exact, &*FLOOR] {
        for name in VARIANTS {
            let golden = Golden::open(&format!("quantized/{name}/golden.safetensors"));
            let (tokens, expected) = (golden.ids("tokens"), golden.f32("logits"));
            for chunk in [1, 64] {
                let found = logits(gpu, &fixture(name), &tokens, chunk);
                let error = difference(&found, &expected);
                println!("{name}, chunks of {chunk}: {error:e}");
                assert!(error <= 1e-5, "{name}, chunks of {chunk}: {error:e}");
            }
        }
    }
}

#[test]
fn codes_stay_as_they_are() {
    for (name, format) in [
        ("awq", "int4"),
        ("gptq", "int4"),
        ("gptq-symmetric", "q4_0"),
        ("gptq-v2-act-order", "int4"),
        ("gptq-act-order", "q4_0"),
    ] {
        let checkpoint = Checkpoint::open(&fixture(name)).unwrap();
        let tensor = checkpoint.tensor("model.layers.1.mlp.down_proj.weight").unwrap();
        assert_eq!((tensor.dtype.to_string().as_str(), tensor.shape), (format, &[64, 96][..]));
        let formats = WeightFormats::own(&checkpoint);
        assert_eq!(formats.of("lm_head.weight").name, "f16");
        assert_eq!(formats.reordered(), name.ends_with("act-order"));
    }
}

/// Kernels that round activations to codes read them in the order of the columns, too.
#[test]
fn rounded_activations_are_in_the_order_of_the_columns() {
    for name in VARIANTS {
        let golden = Golden::open(&format!("quantized/{name}/golden.safetensors"));
        let found = logits(&GPU, &fixture(name), &golden.ids("tokens"), 64);
        let error = difference(&found, &golden.f32("logits"));
        println!("{name}: {error:e}");
        assert!(error <= 0.15, "{name}: {error:e}");
    }
}

/// A column more in one group and one less in another leave a block with columns of both.
#[test]
fn groups_that_no_order_makes_blocks_become_numbers() {
    let name = "model.layers.1.mlp.down_proj";
    let mut file = fs::read(fixture("gptq-act-order").join("model.safetensors")).unwrap();
    let start = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&file[8..start]).unwrap();
    let at = start + header[format!("{name}.g_idx")]["data_offsets"][0].as_u64().unwrap() as usize;
    file[at] ^= 1;
    let checkpoint = changed("gptq-act-order", |_| (), Some(&file)).unwrap();
    for (part, format) in [("down", "f32"), ("up", "q4_0")] {
        let name = format!("model.layers.1.mlp.{part}_proj.weight");
        assert_eq!(checkpoint.tensor(&name).unwrap().dtype.to_string(), format);
    }
}

/// A fixture with another quantization_config, and perhaps other weights.
fn changed(
    name: &str,
    change: impl FnOnce(&mut Value),
    weights: Option<&[u8]>,
) -> mistral_wgpu::Result<Checkpoint> {
    let dir = TempDir::new().unwrap();
    let mut config: Value =
        serde_json::from_slice(&fs::read(fixture(name).join("config.json")).unwrap()).unwrap();
    change(&mut config);
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let own = || fs::read(fixture(name).join("model.safetensors")).unwrap();
    fs::write(dir.path().join("model.safetensors"), weights.map_or_else(own, <[u8]>::to_vec)).unwrap();
    Checkpoint::open(dir.path())
}

#[test]
fn other_schemes_are_refused_by_name() {
    for (name, key, value, part) in [
        ("gptq", "bits", json!(8), "expected 4, found 8"),
        ("gptq", "bits", json!(3), "bits"),
        ("awq", "version", json!("gemv"), "gemv"),
        ("gptq", "checkpoint_format", json!("marlin"), "marlin"),
        ("gptq", "quant_method", json!("bitsandbytes"), "bitsandbytes"),
        ("gptq", "group_size", json!(48), "group_size"),
        ("gptq", "group_size", json!(64), "scales"),
        ("awq", "group_size", json!(-1), "scales"),
        ("gptq", "quant_method", json!("awq"), "qweight"),
    ] {
        let error = changed(name, |config| config["quantization_config"][key] = value, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Checkpoint);
        assert!(error.to_string().contains(part), "{error}");
    }
    let error = changed("gptq", |config| config["quantization_config"] = Value::Null, None).unwrap_err();
    assert!(error.to_string().contains("GPTQ or AWQ"), "{error}");
}

#[test]
fn the_files_of_autogptq_and_autoawq_say_it_too() {
    for (name, file, text) in [
        ("gptq", "quantize_config.json", r#"{"bits": 4, "group_size": 32, "desc_act": false, "sym": false}"#),
        (
            "awq",
            "quant_config.json",
            r#"{"w_bit": 4, "q_group_size": 64, "zero_point": true, "version": "GEMM"}"#,
        ),
    ] {
        let dir = TempDir::new().unwrap();
        fs::copy(fixture(name).join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
        fs::write(dir.path().join(file), text).unwrap();
        assert!(Checkpoint::open(dir.path()).unwrap().get("model.layers.0.mlp.up_proj.weight").is_some());
    }
}

/// Reads all that there is.
fn read_all(checkpoint: &Checkpoint) {
    for tensor in checkpoint.tensors() {
        tensor.to_f32(0, &mut vec![0.0; tensor.elements()]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn changed_files_never_panic(
        name in prop::sample::select(VARIANTS.to_vec()),
        header in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        data in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40),
        group in prop::sample::select(vec![json!(-1), json!(32), json!(64), json!(i64::MAX), json!(0), json!("x"), Value::Null]),
        method in prop::sample::select(vec!["awq", "gptq"]),
    ) {
        let mut file = fs::read(fixture(name).join("model.safetensors")).unwrap();
        let start = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        if let Some((at, byte)) = header {
            file[8 + at.index(start - 8)] = byte;
        }
        for (at, byte) in data {
            let at = start + at.index(file.len() - start);
            file[at] = byte;
        }
        let opened = changed(name, |config| {
            config["quantization_config"]["group_size"] = group;
            config["quantization_config"]["quant_method"] = json!(method);
        }, Some(&file));
        if let Ok(checkpoint) = opened {
            read_all(&checkpoint);
        }
    }
}
