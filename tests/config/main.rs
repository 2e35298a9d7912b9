//! `config.json` and `generation_config.json`: what transformers 4 and 5 write, what is refused and with
//! which words.

mod arbitrary;
mod rope;

use std::fs;
use std::path::Path;

use mistral_wgpu::ErrorKind;
use mistral_wgpu::checkpoint::DType;
use mistral_wgpu::model::{FAMILIES, GenerationConfig, ModelConfig, SYNTHETIC, expected_tensors};
use mistral_wgpu::ops::RouteShape;
use serde_json::{Value, json};

/// The `config.json` of Mistral 7B v0.1, in the words of transformers 4.
fn mistral_7b() -> Value {
    json!({
        "architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
        "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
        "max_position_embeddings": 32768, "model_type": "mistral", "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
        "sliding_window": 4096, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "transformers_version": "4.34.0.dev0", "use_cache": true, "vocab_size": 32000
    })
}

fn read(config: &Value) -> mistral_wgpu::Result<ModelConfig> {
    ModelConfig::from_json(&config.to_string(), "folder/config.json")
}

/// Mistral 7B with these keys added, replaced or (by `None`) removed.
fn changed<const N: usize>(changes: [(&str, Option<Value>); N]) -> mistral_wgpu::Result<ModelConfig> {
    let mut config = mistral_7b();
    for (key, value) in changes {
        match value {
            Some(value) => config[key] = value,
            None => drop(config.as_object_mut().unwrap().shift_remove(key)),
        }
    }
    read(&config)
}

/// Asserts that Mistral 7B with this key set to this value is refused, naming file, key, expected and found.
fn assert_refused(key: &str, value: Value, expected: &str) {
    let error = changed([(key, Some(value.clone()))]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let message = error.to_string();
    assert!(message.starts_with(&format!("folder/config.json: {key}: expected ")), "{message}");
    assert!(message.contains(expected), "{message} lacks {expected}");
    let found = if value.is_array() { String::new() } else { value.to_string() };
    assert!(message.contains(&format!("found {found}")), "{message} lacks {value}");
}

#[test]
fn mistral_7b_reads_as_its_synthetic_twin() {
    let config = read(&mistral_7b()).unwrap();
    let twin = ModelConfig::synthetic("mistral-7b").unwrap();
    assert_eq!(config, ModelConfig { dtype: Some(DType::BF16), ..twin });
    // The total of the published checkpoint's index: 14,483,464,192 bytes of bfloat16.
    assert_eq!(config.parameters(), 14_483_464_192 / 2);
}

#[test]
fn golden_configurations_read_as_they_were_made() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
    type Row = (&'static str, [usize; 6], Option<u32>, f64, DType);
    let rows: [Row; 14] = [
        // hidden, intermediate, heads, KV heads, head_dim, vocab
        ("windowed", [32, 56, 2, 1, 16, 96], Some(8), 1e4, DType::F32),
        ("full", [48, 56, 3, 3, 16, 96], None, 1e6, DType::F32),
        ("f16", [64, 56, 4, 1, 16, 96], Some(12), 1e4, DType::F16),
        ("bf16", [64, 56, 4, 2, 16, 96], None, 1e6, DType::BF16),
        ("head-dim", [40, 56, 2, 1, 32, 96], Some(8), 1e4, DType::F32),
        ("odd", [51, 77, 3, 1, 18, 101], Some(9), 1e4, DType::F32),
        ("odd-f16", [43, 69, 4, 1, 22, 71], Some(11), 1e4, DType::F16),
        ("tied", [48, 56, 2, 1, 24, 96], Some(4096), 1e4, DType::F32), // no sliding_window key
        ("sharded", [48, 56, 4, 4, 16, 96], Some(10), 1e4, DType::BF16),
        ("llama", [48, 40, 3, 3, 16, 64], None, 1e4, DType::F16), // no rope_theta, no num_key_value_heads
        ("llama3", [64, 36, 4, 2, 16, 80], None, 5e5, DType::BF16),
        ("nemo", [40, 48, 4, 2, 16, 80], None, 1e4, DType::BF16),
        ("ministral", [32, 40, 2, 1, 16, 80], Some(8), 1e6, DType::BF16),
        ("mistral-small", [40, 48, 2, 1, 32, 80], None, 1e8, DType::BF16),
    ];
    for (name, sizes, window, theta, dtype) in rows {
        let c = ModelConfig::from_dir(&models.join(name)).unwrap();
        let heads = [c.num_attention_heads, c.num_key_value_heads, c.head_dim];
        assert_eq!(
            [c.hidden_size, c.intermediate_size, heads[0], heads[1], heads[2], c.vocab_size],
            sizes,
            "{name}"
        );
        assert_eq!((c.sliding_window, c.rope_theta, c.dtype), (window, theta, Some(dtype)), "{name}");
        let layers = if name == "ministral" { 4 } else { 2 };
        assert_eq!((c.num_hidden_layers, c.rms_norm_eps, c.bos_token_id), (layers, 1e-5, Some(1)), "{name}");
        assert_eq!((c.attention_bias, c.mlp_bias), (name == "llama3", name == "llama3"), "{name}");
        assert_eq!(c.rope_scaling.is_some(), ["llama", "llama3", "nemo"].contains(&name), "{name}");
        let windowed = if name == "ministral" { vec![false, true, true, true] } else { vec![] };
        assert_eq!(c.windowed_layers, windowed, "{name}");
        assert_eq!(c.tie_word_embeddings, name == "tied");
        assert_eq!(c.eos_token_ids, if name == "full" { vec![2, 3] } else { vec![2] });
        assert_eq!(c.max_position_embeddings, if name == "windowed" { 32768 } else { 256 });
    }
}

#[test]
fn layers_have_the_windows_that_their_types_say() {
    let layers = |kinds: &[&str]| Some(json!(kinds.iter().cycle().take(32).collect::<Vec<_>>()));
    let (full, sliding) = ("full_attention", "sliding_attention");
    let config = changed([("layer_types", layers(&[full, sliding, sliding, sliding]))]).unwrap();
    let windows: Vec<_> = (0..5).map(|layer| config.window(layer)).collect();
    assert_eq!(windows, [None, Some(4096), Some(4096), Some(4096), None]);
    assert_eq!((config.sliding_window, config.widest_window()), (Some(4096), None));
    assert_eq!(changed([("layer_types", layers(&[sliding]))]).unwrap(), read(&mistral_7b()).unwrap());
    assert_eq!(changed([("layer_types", layers(&[full]))]).unwrap().sliding_window, None);
    assert_refused("layer_types", json!([full]), "for each of 32 layers");
    assert_refused(
        "layer_types",
        json!(vec!["chunked_attention"; 32]),
        "\"sliding_attention\" or \"full_attention\"",
    );
    let message = changed([("layer_types", layers(&[sliding])), ("sliding_window", Some(Value::Null))]);
    assert!(
        message
            .unwrap_err()
            .to_string()
            .starts_with("folder/config.json: sliding_window: expected the window")
    );
}

#[test]
fn absent_keys_take_transformers_defaults_and_null_means_none() {
    let absent = changed([
        ("sliding_window", None),
        ("num_key_value_heads", None),
        ("rms_norm_eps", None),
        ("max_position_embeddings", None),
        ("tie_word_embeddings", None),
        ("hidden_act", None),
        ("bos_token_id", None),
        ("eos_token_id", None),
        ("torch_dtype", None),
    ])
    .unwrap();
    // What `MistralConfig()` of transformers 5.23 prints.
    let expected = ModelConfig {
        sliding_window: Some(4096),
        num_key_value_heads: 8,
        rms_norm_eps: 1e-6,
        max_position_embeddings: 131072,
        dtype: None,
        ..read(&mistral_7b()).unwrap()
    };
    assert_eq!(absent, expected);

    let null = |key| changed([(key, Some(Value::Null))]);
    assert_eq!(null("sliding_window").unwrap().sliding_window, None);
    assert_eq!(null("num_key_value_heads").unwrap().num_key_value_heads, 32);
    assert_eq!(null("head_dim").unwrap().head_dim, 128);
    assert_eq!(null("bos_token_id").unwrap().bos_token_id, None);
    assert!(null("eos_token_id").unwrap().eos_token_ids.is_empty());
    for key in ["hidden_size", "rms_norm_eps"] {
        let message = null(key).unwrap_err().to_string();
        assert_eq!(message, format!("folder/config.json: {key}: expected a value, found null"));
    }
}

#[test]
fn sizes_are_required() {
    for key in ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"]
    {
        let message = changed([(key, None)]).unwrap_err().to_string();
        assert_eq!(message, format!("folder/config.json: {key}: expected a value, found none"));
    }
}

#[test]
fn end_tokens_are_one_or_many() {
    let tokens = |value| changed([("eos_token_id", Some(value))]).unwrap().eos_token_ids;
    assert_eq!(tokens(json!(7)), [7]);
    assert_eq!(tokens(json!([2, 31999])), [2, 31999]);
    assert!(tokens(json!([])).is_empty());
}

#[test]
fn the_type_goes_by_either_name() {
    let dtype = |new: &str, old: &str| {
        changed([("dtype", Some(json!(new))), ("torch_dtype", Some(json!(old)))]).unwrap().dtype
    };
    assert_eq!(dtype("float32", "float16"), Some(DType::F32));
    assert_eq!(changed([("torch_dtype", Some(json!("float16")))]).unwrap().dtype, Some(DType::F16));
    assert_refused("dtype", json!("float64"), "float32, float16 or bfloat16");
    assert_refused("torch_dtype", json!("int8"), "float32, float16 or bfloat16");
}

#[test]
fn other_architectures_are_refused_by_name() {
    let architectures =
        |names| changed([("architectures", Some(names)), ("model_type", Some(json!("other")))]);
    let message = architectures(json!(["GemmaForCausalLM"])).unwrap_err().to_string();
    assert!(
        message.starts_with("folder/config.json: architectures: expected MistralForCausalLM or "),
        "{message}"
    );
    assert!(message.ends_with("found \"GemmaForCausalLM\""), "{message}");
    assert!(architectures(Value::Null).unwrap_err().to_string().ends_with("found \"other\""));
    assert!(architectures(json!(["MistralForCausalLM"])).is_ok());
    assert!(changed([("architectures", None)]).is_ok());
    assert!(changed([("architectures", None), ("model_type", None)]).is_err());
    assert_refused("architectures", json!([]), "a list of one name");
    assert_refused("hidden_act", json!("gelu"), "\"silu\"");
}

#[test]
fn impossible_numbers_are_refused() {
    for key in [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
        "max_position_embeddings",
        "sliding_window",
    ] {
        for value in
            [json!(0), json!(-1), json!(1.5), json!("8"), json!(u64::MAX), json!(1u64 << 32), json!(1e30)]
        {
            assert_refused(key, value, "a whole number from 1 to");
        }
    }
    for value in [json!(0), json!(3), json!(64), json!(-8), json!(u64::MAX)] {
        assert_refused("num_key_value_heads", value, "a divisor of the 32 query heads");
    }
    for value in [json!(0), json!(14), json!(17), json!(127), json!(258), json!(u64::MAX)] {
        assert_refused("head_dim", value, "an even number from 16 to 256");
    }
    for value in [json!(0), json!(-1e-5), json!(2), json!("1e-5")] {
        assert_refused("rms_norm_eps", value, "a number from 0.000000000001 to 1");
    }
    for value in [json!(32000), json!(-1), json!(u64::MAX), json!("<s>")] {
        assert_refused("bos_token_id", value.clone(), "a token id below 32000");
        assert_refused("eos_token_id", value.clone(), "token ids below 32000");
        assert_refused("eos_token_id", json!([2, value]), "token ids below 32000");
    }
    assert_refused("tie_word_embeddings", json!("yes"), "true or false");
}

#[test]
fn the_head_dimension_that_follows_from_the_width_is_checked_too() {
    let message = changed([("hidden_size", Some(json!(320)))]).unwrap_err().to_string();
    assert_eq!(
        message,
        "folder/config.json: head_dim: expected an even number from 16 to 256, found 320 / 32 heads"
    );
}

#[test]
fn a_file_that_is_no_object_is_refused() {
    for text in ["", "{", "[]", "null", "{\"rope_theta\": NaN}"] {
        let error = ModelConfig::from_json(text, "config.json").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().starts_with("config.json: expected a JSON object"), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    let error = ModelConfig::from_dir(dir.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.subject().ends_with("config.json"));
    fs::write(dir.path().join("config.json"), [0xff, 0xfe]).unwrap();
    assert_eq!(ModelConfig::from_dir(dir.path()).unwrap_err().kind(), ErrorKind::Io);
}

#[test]
fn a_file_without_end_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::File::create(dir.path().join("config.json")).unwrap().set_len(1 << 40).unwrap();
    let message = ModelConfig::from_dir(dir.path()).unwrap_err().to_string();
    assert!(message.contains("config.json: expected a text file of at most 134217728 bytes"), "{message}");
}

#[test]
fn family_defaults_complete_a_configuration_of_sizes() {
    for family in FAMILIES {
        let sizes = json!({
            "model_type": if family.text_config { "mistral" } else { family.model_type }, "hidden_size": 128, "intermediate_size": 256,
            "num_hidden_layers": 1, "num_attention_heads": 8, "vocab_size": 64, "rope_theta": 1e4
        });
        let nested = json!({ "model_type": family.model_type, "text_config": sizes });
        let whole = if family.text_config { &nested } else { &sizes };
        read(whole).unwrap();
    }
}

#[test]
fn experts_are_counted_and_checked() {
    let sizes = json!({
        "model_type": "mixtral", "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 1,
        "num_attention_heads": 8, "vocab_size": 64, "rope_theta": 1e6
    });
    let with = |changes: Value| {
        let mut config = sizes.clone();
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        read(&config)
    };
    let experts = |changes| with(changes).unwrap().experts.unwrap();
    assert_eq!(experts(json!({})), RouteShape { experts: 8, chosen: 2 });
    let four = json!({ "num_local_experts": 4, "num_experts_per_tok": 3 });
    assert_eq!(experts(four), RouteShape { experts: 4, chosen: 3 });
    for wrong in [
        json!({ "num_local_experts": 1 }),
        json!({ "num_local_experts": 33 }),
        json!({ "num_experts_per_tok": 0 }),
        json!({ "num_experts_per_tok": 9 }),
        json!({ "hidden_size": 129, "head_dim": 16 }),
    ] {
        assert_eq!(with(wrong.clone()).unwrap_err().kind(), ErrorKind::Config, "{wrong}");
    }
}

#[test]
fn synthetic_models_would_be_accepted_as_files() {
    for model in SYNTHETIC {
        let c = ModelConfig::synthetic(model.name).unwrap();
        let family = if c.experts.is_some() { "MixtralForCausalLM" } else { "MistralForCausalLM" };
        let json = json!({
            "architectures": [family], "hidden_size": c.hidden_size,
            "intermediate_size": c.intermediate_size, "num_hidden_layers": c.num_hidden_layers,
            "num_attention_heads": c.num_attention_heads, "num_key_value_heads": c.num_key_value_heads,
            "head_dim": c.head_dim, "vocab_size": c.vocab_size,
            "max_position_embeddings": c.max_position_embeddings, "rms_norm_eps": 1e-5,
            "rope_theta": c.rope_theta, "sliding_window": c.sliding_window,
            "layer_types": (0..c.num_hidden_layers).map(|layer| match c.window(layer) {
                Some(_) => "sliding_attention",
                None => "full_attention",
            }).collect::<Vec<_>>(),
        });
        assert_eq!(read(&json).unwrap(), c);
    }
    assert_eq!(ModelConfig::synthetic("mistral-8b"), None);
    // In hundreds of millions, as their makers count them.
    for (name, parameters) in [
        ("mistral-7b-v0.3", 72),
        ("mistral-nemo-12b", 122),
        ("ministral-8b", 80),
        ("mistral-small-24b", 235),
        ("codestral-22b", 222),
        ("llama-7b", 67),
        ("llama-13b", 130),
        ("llama-33b", 325),
        ("llama2-70b", 689),
    ] {
        assert_eq!(ModelConfig::synthetic(name).unwrap().parameters() / 100_000_000, parameters, "{name}");
    }
    assert_eq!(ModelConfig::synthetic("175m").unwrap().parameters() / 1_000_000, 175);
    assert_eq!(ModelConfig::synthetic("mixtral-8x7b").unwrap().parameters(), 46_702_792_704);
}

#[test]
fn a_model_has_nine_tensors_a_layer_and_two_or_three_more() {
    let config = ModelConfig { tie_word_embeddings: true, ..ModelConfig::synthetic("demo").unwrap() };
    let tensors = expected_tensors(&config);
    assert_eq!(tensors.len(), 4 * 9 + 2);
    assert!(tensors.contains(&("model.layers.3.self_attn.v_proj.weight".into(), vec![64, 192])));
    assert!(tensors.contains(&("model.layers.0.mlp.down_proj.weight".into(), vec![192, 576])));
    assert!(!tensors.iter().any(|(name, _)| name == "lm_head.weight"));
    let biased = ModelConfig { attention_bias: true, mlp_bias: true, ..config };
    let tensors = expected_tensors(&biased);
    assert_eq!(tensors.len(), 4 * (9 + 4 + 3) + 2);
    assert!(tensors.contains(&("model.layers.3.self_attn.o_proj.bias".into(), vec![192])));
    assert!(tensors.contains(&("model.layers.0.mlp.up_proj.bias".into(), vec![576])));
}

#[test]
fn generation_settings_are_all_optional() {
    let read = |json: Value| GenerationConfig::from_json(&json.to_string(), "generation_config.json", 32000);
    assert_eq!(
        read(json!({"transformers_version": "5.0", "suppress_tokens": [1]})).unwrap(),
        Default::default()
    );
    let all = json!({
        "bos_token_id": 1, "eos_token_id": [2, 5], "do_sample": true, "temperature": 0.7, "top_k": 50,
        "top_p": 1, "min_p": null, "repetition_penalty": 1.1
    });
    let expected = GenerationConfig {
        bos_token_id: Some(1),
        eos_token_ids: Some(vec![2, 5]),
        do_sample: Some(true),
        temperature: Some(0.7),
        top_k: Some(50),
        top_p: Some(1.0),
        min_p: None,
        repetition_penalty: Some(1.1),
    };
    assert_eq!(read(all).unwrap(), expected);
    assert_eq!(read(json!({"eos_token_id": 2})).unwrap().eos_token_ids, Some(vec![2]));
    for (key, value) in [
        ("eos_token_id", json!(32000)),
        ("eos_token_id", json!([2, 32000])),
        ("do_sample", json!(1)),
        ("temperature", json!(-0.1)),
        ("top_k", json!(-1)),
        ("top_p", json!(1.5)),
        ("min_p", json!("0.1")),
        ("repetition_penalty", json!(0)),
    ] {
        let error = read(json!({ key: value })).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(
            error.to_string().starts_with(&format!("generation_config.json: {key}: expected")),
            "{error}"
        );
    }
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(GenerationConfig::from_dir(dir.path(), 32000).unwrap(), Default::default());
    fs::write(dir.path().join("generation_config.json"), r#"{"top_k": 3}"#).unwrap();
    assert_eq!(GenerationConfig::from_dir(dir.path(), 32000).unwrap().top_k, Some(3));
}
