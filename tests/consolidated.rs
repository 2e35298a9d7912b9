//! Mistral's own layout, `params.json` and `consolidated*.safetensors`: the same model as in Hugging Face's.

mod device;
mod golden;
mod logits;

use std::{
    fs,
    path::{Path, PathBuf},
};

use device::GPU;
use golden::Golden;
use logits::{difference, exact_options};
use mistral_wgpu::{
    ErrorKind,
    checkpoint::{Checkpoint, DType, Layout, Rotary},
    generate::ModelSource,
    model::{AdapterSet, Model, ModelConfig, Weights, check},
    quant::by_name,
};
use proptest::prelude::*;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Logits of every token, by weights as exact as they are.
fn logits(dir: &Path, tokens: &[u32]) -> Vec<f32> {
    let config = ModelConfig::from_dir(dir).unwrap();
    let checkpoint = Checkpoint::open(dir).unwrap();
    check(&checkpoint, &config).unwrap();
    let weights = Weights::load(&GPU, &checkpoint, &config, by_name("f32").unwrap(), &mut |_, _| {}).unwrap();
    let mut model = Model::new(&GPU, config, weights, exact_options()).unwrap();
    logits::logits(&GPU, &mut model, AdapterSet::NONE, tokens, tokens.len())
}

#[test]
fn logits_agree_with_the_definition_of_mistral_inference() {
    let golden = Golden::open("consolidated/golden.safetensors");
    let expected = golden.f32("logits");
    let found = logits(&fixture("consolidated"), &golden.ids("tokens"));
    let error = difference(&found, &expected);
    assert!(error <= 1e-5, "{error:e}");
}

/// The name of a tensor in Mistral's files.
fn theirs(name: &str) -> String {
    let mut name = name.replace("model.", "");
    for (ours, theirs) in [
        ("self_attn.q_proj", "attention.wq"),
        ("self_attn.k_proj", "attention.wk"),
        ("self_attn.v_proj", "attention.wv"),
        ("self_attn.o_proj", "attention.wo"),
        ("input_layernorm", "attention_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.gate_proj", "feed_forward.w1"),
        ("mlp.down_proj", "feed_forward.w2"),
        ("mlp.up_proj", "feed_forward.w3"),
        ("embed_tokens", "tok_embeddings"),
        ("lm_head", "output"),
    ] {
        name = name.replace(ours, theirs);
    }
    name
}

/// A model of the fixtures written in Mistral's layout: names, keys, and the rows of each head of q and k in
/// the order that transformers' converter (`convert_mistral_weights_to_hf.py`, `permute`) begins with.
fn convert(name: &str, shards: usize) -> TempDir {
    let source = fixture("models").join(name);
    let config = ModelConfig::from_dir(&source).unwrap();
    let params = json!({
        "dim": config.hidden_size, "n_layers": config.num_hidden_layers, "head_dim": config.head_dim,
        "hidden_dim": config.intermediate_size, "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads, "norm_eps": config.rms_norm_eps,
        "vocab_size": config.vocab_size, "rope_theta": config.rope_theta,
        "sliding_window": config.sliding_window, "tied_embeddings": config.tie_word_embeddings,
    });
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("params.json"), params.to_string()).unwrap();
    let checkpoint = Checkpoint::open(&source).unwrap();
    let tensors: Vec<_> = checkpoint
        .tensors()
        .map(|tensor| {
            let dtype = match tensor.dtype {
                DType::F32 => Dtype::F32,
                DType::F16 => Dtype::F16,
                DType::BF16 => Dtype::BF16,
                DType::Blocks(_) => unreachable!("no quantized tensors"),
            };
            let mut bytes = tensor.bytes.to_vec();
            if tensor.name.contains("q_proj") || tensor.name.contains("k_proj") {
                let row = bytes.len() / tensor.shape[0];
                let half = config.head_dim / 2;
                for (index, out) in bytes.chunks_exact_mut(row).enumerate() {
                    let (head, dim) = (index / config.head_dim, index % config.head_dim);
                    let from = head * config.head_dim + dim % 2 * half + dim / 2;
                    out.copy_from_slice(&tensor.bytes[from * row..][..row]);
                }
            }
            (theirs(tensor.name), dtype, tensor.shape.to_vec(), bytes)
        })
        .collect();
    let mut map = serde_json::Map::new();
    for (index, part) in tensors.chunks(tensors.len().div_ceil(shards)).enumerate() {
        let name = match shards {
            1 => "consolidated.safetensors".to_owned(),
            _ => format!("consolidated-{:05}-of-{shards:05}.safetensors", index + 1),
        };
        map.extend(part.iter().map(|(tensor, ..)| (tensor.clone(), json!(name))));
        let views = part.iter().map(|(name, dtype, shape, bytes)| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        fs::write(dir.path().join(&name), safetensors::serialize(views, None).unwrap()).unwrap();
    }
    if shards > 1 {
        let index = json!({"metadata": {}, "weight_map": map}).to_string();
        fs::write(dir.path().join("consolidated.safetensors.index.json"), index).unwrap();
    }
    dir
}

#[test]
fn logits_are_those_of_hugging_faces_layout_to_the_bit() {
    for (name, shards) in
        [("windowed", 1), ("bf16", 3), ("odd-f16", 1), ("head-dim", 2), ("tied", 1), ("full", 1)]
    {
        let tokens = Golden::open(&format!("models/{name}/golden.safetensors")).ids("tokens");
        let dir = convert(name, shards);
        assert_eq!(Checkpoint::open(dir.path()).unwrap().rotary(), Rotary::Neighbours);
        assert_eq!(logits(dir.path(), &tokens), logits(&fixture("models").join(name), &tokens), "{name}");
    }
}

#[test]
fn of_both_layouts_hugging_faces_is_taken_unless_asked() {
    let dir = convert("windowed", 1);
    fs::copy(fixture("models/windowed/model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    assert_eq!(Layout::of(dir.path()).unwrap(), Layout::HuggingFace);
    assert_eq!(Checkpoint::open(dir.path()).unwrap().rotary(), Rotary::Halves);
    let theirs = Checkpoint::open_layout(dir.path(), Layout::Mistral).unwrap();
    assert_eq!(theirs.rotary(), Rotary::Neighbours);
    check(&theirs, &ModelConfig::from_dir(dir.path()).unwrap()).unwrap();
    let named: ModelSource = dir.path().join("consolidated.safetensors").to_str().unwrap().parse().unwrap();
    assert_eq!(named.checkpoint().unwrap().unwrap().rotary(), Rotary::Neighbours);
    assert_eq!(named.config().unwrap().hidden_size, theirs.tensor("model.norm.weight").unwrap().shape[0]);
}

#[test]
fn pickle_files_are_refused_with_advice() {
    for name in ["consolidated.00.pth", "pytorch_model-00001-of-00002.bin"] {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join(name), b"\x80\x02").unwrap();
        let error = Checkpoint::open(dir.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Checkpoint);
        for part in [name, "pickle", ".safetensors"] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}

fn params(more: Value) -> Value {
    let mut params = json!({
        "dim": 4096, "n_layers": 32, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32, "n_kv_heads": 8,
        "norm_eps": 1e-05, "vocab_size": 32000
    });
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    params
}

fn read(params: &Value) -> mistral_wgpu::Result<ModelConfig> {
    ModelConfig::from_params(&params.to_string(), "folder/params.json")
}

#[test]
fn published_params_read_as_mistral_inference_takes_them() {
    // 7B v0.1 says its window and no rotary base; v0.2 and v0.3 the other way round.
    let first = read(&params(json!({"sliding_window": 4096}))).unwrap();
    let twin = ModelConfig::synthetic("mistral-7b").unwrap();
    assert_eq!(first, ModelConfig { max_position_embeddings: 128_000, ..twin });
    let second = read(&params(json!({"rope_theta": 1000000.0, "vocab_size": 32768}))).unwrap();
    assert_eq!((second.sliding_window, second.rope_theta, second.vocab_size), (None, 1e6, 32768));
    assert_eq!(read(&params(json!({}))).unwrap().rope_theta, 1e6);
    let small = read(&params(json!({"tied_embeddings": true, "max_position_embeddings": 32768}))).unwrap();
    assert!(small.tie_word_embeddings && small.max_position_embeddings == 32768);
    // Windows that layers take in turns, as of Ministral 8B.
    for windows in [json!([null, 32768, 32768, 32768]), json!([131072, 32768, 32768, 32768])] {
        let config = read(&params(json!({"_sliding_window": windows, "rope_theta": 1e8}))).unwrap();
        let found: Vec<_> = (0..8).map(|layer| config.window(layer)).collect();
        let turn = [None, Some(32768), Some(32768), Some(32768)];
        assert_eq!(found, [turn, turn].concat());
    }
    let yarn = json!({"factor": 16, "original_max_position_embeddings": 16384, "beta": 32, "alpha": 1, "apply_scale": false});
    let scaling = read(&params(json!({"yarn": yarn, "rope_theta": 1e6}))).unwrap().rope_scaling.unwrap();
    assert_eq!(scaling.attention_factor(), 1.0);
}

#[test]
fn params_of_other_models_are_refused_by_name() {
    for (more, part) in [
        (json!({"vision_encoder": {"hidden_size": 1024}}), "vision_encoder"),
        (json!({"model_type": "mamba"}), "mamba"),
        (json!({"quantization": {"qformat_weight": "fp8_e4m3"}}), "quantization"),
        (json!({"sliding_window": [4096, 512]}), "sliding_window"),
        (json!({"sliding_window": []}), "sliding_window"),
        (json!({"n_layers": 3, "sliding_window": [null, 512]}), "sliding_window"),
        (json!({"dim": 0}), "hidden_size"),
        (json!({"n_kv_heads": null}), "n_kv_heads"),
    ] {
        let error = read(&params(more)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(part) && error.to_string().contains("params.json"), "{error}");
    }
    assert_eq!(ModelConfig::from_params("[]", "x").unwrap_err().kind(), ErrorKind::Config);
}

/// Any JSON of some size.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0u64..70_000).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| prop::collection::vec(inner, 0..4).prop_map(Value::from))
}

proptest! {
    #[test]
    fn no_params_make_it_panic(
        key in prop::sample::select(vec![
            "dim", "n_layers", "head_dim", "n_heads", "n_kv_heads", "norm_eps", "vocab_size", "rope_theta", "moe",
            "sliding_window", "_sliding_window", "yarn", "max_seq_len", "activation", "model_type",
        ]),
        first in any_json(),
        other in any_json(),
    ) {
        let mut params = params(json!({"sliding_window": first}));
        params[key] = other;
        let _ = read(&params);
    }
}
