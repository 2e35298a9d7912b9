//! LoRA adapters against PEFT: logits, greedy texts, mixed batches, merged matrices, and what is refused.

mod device;
mod golden;
mod logits;

use std::{
    path::{Path, PathBuf},
    sync::LazyLock,
};

use device::{FLOOR, GPU, largest};
use golden::Golden;
use logits::{difference, exact_options, logits};
use mistral_wgpu::{
    ErrorKind,
    checkpoint::{Checkpoint, DType},
    gpu::{Gpu, GpuOptions},
    model::{
        Adapter, AdapterSet, AdapterSource, Chunk, LogitRows, Model, ModelConfig, ModelOptions, Weights,
        adapter_bytes, check, merge,
    },
    ops::KvFormat,
    quant::by_name,
    reference::argmax,
};
use pollster::block_on;
use rayon::prelude::*;

/// The device without kernels that round activations.
static EXACT: LazyLock<Gpu> = LazyLock::new(|| {
    let disable = "f16,integer,cooperative_matrix".parse().unwrap();
    block_on(Gpu::open(&GpuOptions { disable, ..Default::default() })).unwrap()
});

fn fixtures(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

/// One row of `cases.json`.
#[derive(serde::Deserialize)]
struct Case {
    base: String,
    adapters: Vec<(String, f32)>,
}

impl Case {
    fn all() -> Vec<(String, Self)> {
        let text = std::fs::read_to_string(fixtures("adapters/cases.json")).unwrap();
        let cases: std::collections::BTreeMap<String, Self> = serde_json::from_str(&text).unwrap();
        assert!(cases.len() >= 9);
        cases.into_iter().collect()
    }

    fn named(name: &str) -> Self {
        Self::all().into_iter().find(|(other, _)| other == name).unwrap().1
    }

    fn sources(&self) -> Vec<AdapterSource> {
        let source = |(name, scale): &(String, f32)| source(name, *scale);
        self.adapters.iter().map(source).collect()
    }

    /// The base in its own format, with the adapters.
    fn load(&self, gpu: &Gpu) -> Model {
        load(gpu, &self.base, &self.sources(), None)
    }

    fn tokens(&self, name: &str) -> Vec<u32> {
        Golden::open(&format!("models/{}/golden.safetensors", self.base)).ids(name)
    }
}

fn source(name: &str, scale: f32) -> AdapterSource {
    AdapterSource { dir: fixtures("adapters").join(name), scale }
}

fn load(gpu: &Gpu, base: &str, adapters: &[AdapterSource], format: Option<&str>) -> Model {
    let folder = fixtures("models").join(base);
    let config = ModelConfig::from_dir(&folder).unwrap();
    let checkpoint = Checkpoint::open(&folder).unwrap();
    check(&checkpoint, &config).unwrap();
    let own = checkpoint.tensor("model.embed_tokens.weight").unwrap().dtype.to_string();
    let format = by_name(format.unwrap_or(&own)).unwrap();
    let weights = Weights::load(gpu, &checkpoint, &config, format, &mut |_, _| {}).unwrap();
    let adapters: Vec<_> = adapters.iter().map(|source| Adapter::open(source, &config).unwrap()).collect();
    let options = ModelOptions { cache_tokens: Some(1024), ..exact_options() };
    let mut model = Model::new(gpu, config, weights, options).unwrap();
    model.set_adapters(gpu, &adapters).unwrap();
    model
}

#[test]
fn logits_agree_with_peft() {
    let golden = Golden::open("adapters/golden.safetensors");
    [&*EXACT, &*FLOOR].into_par_iter().for_each(|gpu| {
        for (name, case) in Case::all() {
            let mut model = case.load(gpu);
            let expected = golden.f32(&format!("{name}.logits"));
            let all = model.sequence().adapters();
            for chunk in [1, 7, 64] {
                let found = logits(gpu, &mut model, all, &case.tokens("tokens"), chunk);
                let difference = difference(&found, &expected);
                assert!(difference <= 1e-5, "{name}, chunks of {chunk}: {difference:e}");
            }
        }
    });
}

#[test]
fn greedy_text_is_that_of_peft() {
    let golden = Golden::open("adapters/golden.safetensors");
    for (name, case) in Case::all() {
        let mut model = case.load(&EXACT);
        let expected = golden.ids(&format!("{name}.greedy"));
        let (mut sequence, mut next, mut text) = (model.sequence(), case.tokens("prompt"), Vec::new());
        for _ in 0..expected.len() {
            let mut chunks = [Chunk { sequence: &mut sequence, tokens: &next, logits: LogitRows::Last }];
            model.forward(&EXACT, &mut chunks, None).unwrap();
            next = vec![argmax(&block_on(model.logits.download(&EXACT, 1)).unwrap())];
            text.push(next[0]);
        }
        assert_eq!(text, expected, "{name}");
    }
}

/// What texts with other adapters in the same batch leave of a text's logits: every bit.
#[test]
fn rows_with_different_adapters_share_a_batch() {
    // Adapters of every product, and of one.
    for (case, format) in [("sum", "f32"), ("sum", "q8_0"), ("qv", "f32")] {
        let (adapters, tokens) = (Case::named(case).sources(), Case::named(case).tokens("tokens"));
        let mut model = load(&GPU, "windowed", &adapters, Some(format));
        let chosen = |index: u32| (0..adapters.len()).filter(move |bit| index >> bit & 1 == 1);
        let set = |index: u32| chosen(index).collect::<AdapterSet>();
        let alone: Vec<_> =
            (0..8).map(|index| logits(&GPU, &mut model, set(index), &tokens[..20], 1)).collect();
        let changed = |index: &u32| difference(&alone[*index as usize], &alone[0]) > 1e-2;
        assert!((0..8).filter(|index| chosen(*index).count() > 0).all(|index| changed(&index)));

        let mut sequences: Vec<_> = (0..8).map(|index| model.sequence().anew(set(index))).collect();
        for (at, token) in tokens[..20].iter().enumerate() {
            // From all eight down to two.
            let count = 8 - at % 7;
            let vocab = model.config.vocab_size;
            let tokens = [*token];
            for part in [0..count, count..8] {
                if part.is_empty() {
                    continue;
                }
                let chunk = |sequence| Chunk { sequence, tokens: &tokens, logits: LogitRows::Last };
                let mut chunks: Vec<_> = sequences[part.clone()].iter_mut().map(chunk).collect();
                model.forward(&GPU, &mut chunks, None).unwrap();
                let found = block_on(model.logits.download(&GPU, part.len() as u32)).unwrap();
                for (index, found) in part.zip(found.chunks_exact(vocab)) {
                    assert_eq!(
                        found,
                        &alone[index][at * vocab..][..vocab],
                        "{case}, {format}, adapters {index}, token {at}"
                    );
                }
            }
        }
    }
}

/// A product that has adapters leaves the norm beside it alone, and what follows it in batches with adapters.
#[test]
fn products_without_adapters_do_what_follows_them() {
    let gpu = block_on(Gpu::open(&GpuOptions::default())).unwrap();
    let mut model = Case::named("qv").load(&gpu);
    let blocks = model.config.num_hidden_layers as u64;
    let mut dispatches = |set| {
        let mut sequence = model.sequence().anew(set);
        let before = gpu.counters();
        let mut chunks = [Chunk { sequence: &mut sequence, tokens: &[1], logits: LogitRows::Last }];
        model.forward(&gpu, &mut chunks, None).unwrap();
        gpu.wait().unwrap();
        (gpu.counters() - before).dispatches
    };
    // Beside the blocks: embedding, norm and output projection.
    assert_eq!(dispatches(AdapterSet::NONE), 7 * blocks + 3, "a norm more than without adapters");
    assert_eq!(dispatches(AdapterSet::first(1)), 10 * blocks + 3, "the adapter's two, and the rotation");
}

/// Prompts of several texts with different adapters, computed by the kernels for many rows.
#[test]
fn prompts_with_different_adapters_share_a_batch() {
    let case = Case::named("sum");
    let mut model = case.load(&GPU);
    let tokens = case.tokens("tokens");
    let sets = [AdapterSet::NONE, [0].into_iter().collect(), [1, 2].into_iter().collect()];
    let alone = sets.map(|set| logits(&GPU, &mut model, set, &tokens[..15], 15));
    let mut sequences = sets.map(|set| model.sequence().anew(set));
    let chunk = |sequence| Chunk { sequence, tokens: &tokens[..15], logits: LogitRows::All };
    let mut chunks: Vec<_> = sequences.iter_mut().map(chunk).collect();
    model.forward(&GPU, &mut chunks, None).unwrap();
    let together = block_on(model.logits.download(&GPU, 45)).unwrap();
    for (alone, together) in alone.iter().zip(together.chunks_exact(alone[0].len())) {
        assert!(difference(together, alone) < 1e-5);
    }
}

#[test]
fn adapters_take_what_was_counted() {
    let case = Case::named("sum");
    let gpu = block_on(Gpu::open(&GpuOptions::default())).unwrap();
    let mut model = load(&gpu, &case.base, &[], None);
    let open = |source: &AdapterSource| Adapter::open(source, &model.config).unwrap();
    let adapters: Vec<_> = case.sources().iter().map(open).collect();
    let before = gpu.memory_in_use();
    model.set_adapters(&gpu, &adapters).unwrap();
    assert_eq!(gpu.memory_in_use() - before, adapter_bytes(&model.config, &model.options, &adapters));
}

/// Where nothing is fused: norms are, but not those beside a product that has adapters.
#[test]
fn without_adapters_nothing_changes() {
    let case = Case::named("sum");
    let tokens = case.tokens("tokens");
    let bare = logits(&FLOOR, &mut load(&FLOOR, &case.base, &[], None), AdapterSet::NONE, &tokens, 7);
    let mut model = case.load(&FLOOR);
    assert_eq!(logits(&FLOOR, &mut model, AdapterSet::NONE, &tokens, 7), bare);
}

/// On quantized weights the adapted model is off by about as much as the model without adapter.
#[test]
fn adapters_apply_to_quantized_weights() {
    let case = Case::named("linear");
    let tokens = case.tokens("tokens");
    let bare = Golden::open("models/windowed/golden.safetensors").f32("logits");
    let adapted = Golden::open("adapters/golden.safetensors").f32("linear.logits");
    for format in ["q8_0", "q4_0"] {
        let mut model = load(&GPU, &case.base, &case.sources(), Some(format));
        for chunk in [1, 64] {
            let mut error =
                |set, expected| difference(&logits(&GPU, &mut model, set, &tokens, chunk), expected);
            let (without, with) = (error(AdapterSet::NONE, &bare), error(AdapterSet::first(1), &adapted));
            assert!(with < 3.0 * without, "{format}, chunks of {chunk}: {with:e}, without {without:e}");
        }
    }
}

#[test]
fn merged_weights_are_those_of_peft() {
    let golden = Golden::open("adapters/golden.safetensors");
    for (name, base) in
        [("linear", "windowed"), ("sum", "windowed"), ("patterns", "bf16"), ("sharded", "sharded")]
    {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("merged");
        let (case, mut last) = (Case::named(name), 0);
        merge(&fixtures("models").join(base), &case.sources(), &output, &mut |_, done| last = done).unwrap();
        let (config, checkpoint) =
            (ModelConfig::from_dir(&output).unwrap(), Checkpoint::open(&output).unwrap());
        check(&checkpoint, &config).unwrap();
        assert_eq!(last, checkpoint.tensors().map(|tensor| tensor.bytes.len() as u64).sum::<u64>());
        let original = Checkpoint::open(&fixtures("models").join(base)).unwrap();
        let values = |checkpoint: &Checkpoint, name: &str| {
            let tensor = checkpoint.tensor(name).unwrap();
            let mut values = vec![0.0; tensor.elements()];
            tensor.to_f32(0, &mut values);
            (values, tensor.dtype)
        };
        for part in ["self_attn.q_proj", "mlp.down_proj"] {
            let part = format!("model.layers.1.{part}.weight");
            let ((found, dtype), (before, own)) = (values(&checkpoint, &part), values(&original, &part));
            let key = format!("{name}.merged.{part}");
            let expected: Vec<f32> = match own {
                DType::F32 => golden.f32(&key),
                _ => {
                    let halves = golden.bytes(&key);
                    halves
                        .chunks_exact(2)
                        .map(|b| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16))
                        .collect()
                }
            };
            assert_eq!(dtype, own);
            // PEFT rounds what it adds, and then the sum.
            let bound = largest(&expected) * if own == DType::F32 { 1e-6 } else { 1.0 / 128.0 };
            assert!(device::difference(&found, &expected) <= bound, "{name}, {part}");
            assert!(device::difference(&before, &expected) > 10.0 * bound, "{name}, {part}: unchanged");
        }
        // What no adapter changes keeps its bytes.
        for part in ["model.embed_tokens.weight", "model.layers.0.input_layernorm.weight"] {
            assert_eq!(checkpoint.tensor(part).unwrap().bytes, original.tensor(part).unwrap().bytes);
        }
        // Merged or not, the model is the same.
        let merged = {
            let weights =
                Weights::load(&EXACT, &checkpoint, &config, by_name("f32").unwrap(), &mut |_, _| {}).unwrap();
            let options =
                ModelOptions { context: 64, kv_format: KvFormat::F32, max_rows: 64, ..Default::default() };
            let mut model = Model::new(&EXACT, config, weights, options).unwrap();
            logits(&EXACT, &mut model, AdapterSet::NONE, &case.tokens("tokens"), 64)
        };
        let bound = if base == "windowed" { 1e-5 } else { 0.05 };
        let difference = difference(&merged, &golden.f32(&format!("{name}.logits")));
        assert!(difference <= bound, "{name}: {difference:e}");

        let again = merge(&fixtures("models").join(base), &case.sources(), &output, &mut |_, _| ());
        assert_eq!(again.unwrap_err().kind(), ErrorKind::Argument);
        let names: Vec<_> = dir.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["merged"], "nothing else is left");
    }
}

/// A copy of an adapter with a changed config.
fn changed(name: &str, change: impl FnOnce(&mut serde_json::Value)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(fixtures("adapters").join(name).join(file), dir.path().join(file)).unwrap();
    }
    let path = dir.path().join("adapter_config.json");
    let mut config = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(&path, config.to_string()).unwrap();
    dir
}

fn refusal(dir: &Path, base: &str) -> mistral_wgpu::Error {
    let config = ModelConfig::from_dir(&fixtures("models").join(base)).unwrap();
    Adapter::open(&AdapterSource { dir: dir.into(), scale: 1.0 }, &config).unwrap_err()
}

#[test]
fn what_is_not_plain_lora_is_refused_by_name() {
    use serde_json::json;
    for (key, value) in [
        ("peft_type", json!("LOHA")),
        ("bias", json!("all")),
        ("use_dora", json!(true)),
        ("fan_in_fan_out", json!(true)),
        ("modules_to_save", json!(["lm_head"])),
        ("lora_bias", json!(true)),
        ("layer_replication", json!([[0, 1]])),
        ("trainable_token_indices", json!([1])),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("r", json!(0)),
        ("r", json!("8")),
        ("lora_alpha", json!(null)),
        ("rank_pattern", json!({"(": 1})),
        ("rank_pattern", json!({"q_proj": 0})),
        ("use_rslora", json!("yes")),
    ] {
        let dir = changed("qv", |config| config[key] = value.clone());
        let error = refusal(dir.path(), "windowed");
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.to_string().contains(key), "{error}");
    }
    for (key, value) in [("modules_to_save", json!([])), ("init_lora_weights", json!("gaussian"))] {
        let dir = changed("qv", |config| config[key] = value.clone());
        let config = ModelConfig::from_dir(&fixtures("models/windowed")).unwrap();
        Adapter::open(&AdapterSource { dir: dir.path().into(), scale: 1.0 }, &config).unwrap();
    }
}

#[test]
fn adapters_of_another_shape_are_refused() {
    let dir = fixtures("adapters/linear");
    for base in ["full", "f16", "head-dim"] {
        let error = refusal(&dir, base).to_string();
        assert!(error.contains("lora_") && error.contains("shape"), "{error}");
    }
    let rank = changed("qv", |config| config["r"] = 5.into());
    assert!(refusal(rank.path(), "windowed").to_string().contains("[5, 32]"));
}

#[test]
fn what_is_missing_is_named() {
    let dir = changed("qv", |_| ());
    std::fs::rename(dir.path().join("adapter_model.safetensors"), dir.path().join("adapter_model.bin"))
        .unwrap();
    let error = refusal(dir.path(), "windowed").to_string();
    assert!(error.contains("pickle") && error.contains("safe_serialization"), "{error}");
    std::fs::remove_file(dir.path().join("adapter_model.bin")).unwrap();
    assert!(refusal(dir.path(), "windowed").to_string().contains("adapter_model.safetensors"));
    std::fs::remove_file(dir.path().join("adapter_config.json")).unwrap();
    assert!(refusal(dir.path(), "windowed").to_string().contains("adapter_config.json"));
}

/// Tensors that are no pair of A and B of a linear module of the model.
#[test]
fn tensors_that_are_not_used_are_refused() {
    let bytes = [0u8; 4 * 4 * 32];
    let view = |rows: usize, cols: usize| {
        safetensors::tensor::TensorView::new(
            safetensors::Dtype::F32,
            vec![rows, cols],
            &bytes[..4 * rows * cols],
        )
        .unwrap()
    };
    let refused = |tensors: Vec<(&str, safetensors::tensor::TensorView)>| {
        let dir = changed("qv", |_| ());
        let path = dir.path().join("adapter_model.safetensors");
        safetensors::serialize_to_file(tensors, None, &path).unwrap();
        refusal(dir.path(), "windowed").to_string()
    };
    let module = "base_model.model.model.layers.0.self_attn.q_proj";
    let (a, b) = (format!("{module}.lora_A.weight"), format!("{module}.lora_B.weight"));
    for name in [
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0.block_sparse_moe.gate.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector.weight",
        "base_model.model.lm_head.weight",
    ] {
        let error = refused(vec![(&a, view(4, 32)), (&b, view(32, 4)), (name, view(4, 32))]);
        assert!(error.contains(name), "{error}");
    }
    assert!(refused(vec![(&a, view(4, 32))]).contains(&b));
    assert!(refused(vec![(&b, view(32, 4))]).contains(&b));
    assert!(refused(Vec::new()).contains("none"));
}

#[test]
fn adapters_that_are_no_numbers_are_refused() {
    let dir = changed("qv", |_| ());
    let path = dir.path().join("adapter_model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let config = ModelConfig::from_dir(&fixtures("models/windowed")).unwrap();
    let adapter = Adapter::open(&AdapterSource { dir: dir.path().into(), scale: 1.0 }, &config).unwrap();
    let modules = adapter.modules();
    let errors = modules.iter().filter_map(|module| adapter.low_rank(module).err()).collect::<Vec<_>>();
    assert!(matches!(errors.as_slice(), [error] if error.to_string().contains("finite")), "{errors:?}");
}

#[test]
fn scales_are_parsed() {
    let parse = |text: &str| text.parse::<AdapterSource>().map(|source| (source.dir, source.scale));
    assert_eq!(parse("some/dir").unwrap(), ("some/dir".into(), 1.0));
    assert_eq!(parse("some/dir:0.5").unwrap(), ("some/dir".into(), 0.5));
    assert_eq!(parse("dir:-2").unwrap(), ("dir".into(), -2.0));
    assert_eq!(parse(r"C:\adapter").unwrap(), (r"C:\adapter".into(), 1.0));
    assert_eq!(parse(r"C:\adapter:2").unwrap(), (r"C:\adapter".into(), 2.0));
    assert!(parse("dir:inf").is_err() && parse("dir:nan").is_err());
}
