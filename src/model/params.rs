//! `params.json`, the configuration beside Mistral's own checkpoints, in the words of `config.json`.

use serde_json::{Map, Value, json};

use crate::{Error, ErrorKind, Result};

/// Keys of `params.json`, and what transformers calls the same; the first eight must be there.
const NAMES: [(&str, &str); 13] = [
    ("dim", "hidden_size"),
    ("hidden_dim", "intermediate_size"),
    ("n_layers", "num_hidden_layers"),
    ("n_heads", "num_attention_heads"),
    ("n_kv_heads", "num_key_value_heads"),
    ("head_dim", "head_dim"),
    ("vocab_size", "vocab_size"),
    ("norm_eps", "rms_norm_eps"),
    ("rope_theta", "rope_theta"),
    ("activation", "hidden_act"),
    ("tied_embeddings", "tie_word_embeddings"),
    ("max_seq_len", "max_position_embeddings"),
    ("max_position_embeddings", "max_position_embeddings"),
];

/// Keys that make another model of it, if they have a value.
const REFUSED: [&str; 8] = [
    "vision_encoder",
    "multimodal",
    "quantization",
    "lora",
    "llama_4_scaling",
    "qk_nope_head_dim",
    "n_groups",
    "expand",
];

/// The text of the `config.json` that says the same as this `params.json`; `subject` names it in errors.
///
/// What it leaves out is as mistral-inference takes it: no sliding window, a rotary base of 10⁶ without and 10⁴
/// with one, and room for 128,000 positions.
///
/// # Errors
/// [`ErrorKind::Config`] for text that is no JSON object, a model that is no plain transformer, windows of
/// different widths.
pub(super) fn config_json(json: &str, subject: &str) -> Result<String> {
    let params: Map<String, Value> = serde_json::from_str(json)
        .map_err(|e| Error::expected(ErrorKind::Config, subject, "a JSON object", &e).because(e))?;
    let value = |key: &str| params.get(key).filter(|value| !value.is_null());
    let refuse = |key: &str, expected: &str, found: &Value| {
        Err(Error::expected(ErrorKind::Config, key, expected, found).within(subject))
    };
    if let Some(kind) = value("model_type").filter(|kind| *kind != "transformer") {
        return refuse("model_type", "\"transformer\"", kind);
    }
    if let Some((key, found)) = REFUSED.iter().find_map(|key| Some((key, value(key)?))) {
        return refuse(key, "none, for a dense or sparse language model", found);
    }
    let mut config = json!({
        "architectures": ["MistralForCausalLM"],
        "max_position_embeddings": 128_000,
        "sliding_window": null,
    });
    for (index, (theirs, ours)) in NAMES.into_iter().enumerate() {
        match value(theirs) {
            Some(value) => config[ours] = value.clone(),
            None if index < 8 => return refuse(theirs, "a value", &Value::Null),
            None => {}
        }
    }
    if let Some(moe) = value("moe") {
        config["architectures"] = json!(["MixtralForCausalLM"]);
        config["num_local_experts"] = moe["num_experts"].clone();
        config["num_experts_per_tok"] = moe["num_experts_per_tok"].clone();
    }
    if let Some(window) = value("sliding_window").or(value("_sliding_window")) {
        let Some(keys) = windows(window, &config) else {
            let expected = "a window, or one for each of some layers: all the same or null";
            return refuse("sliding_window", expected, window);
        };
        config.as_object_mut().expect("made above").extend(keys);
    }
    if value("rope_theta").is_none() {
        config["rope_theta"] = json!(if config["sliding_window"].is_null() { 1e6 } else { 1e4 });
    }
    if let Some(yarn) = value("yarn") {
        config["rope_parameters"] = json!({
            "rope_type": "yarn",
            "rope_theta": config["rope_theta"],
            "factor": yarn["factor"],
            "original_max_position_embeddings": yarn["original_max_position_embeddings"],
            "beta_fast": yarn["beta"],
            "beta_slow": yarn["alpha"],
            "attention_factor": if yarn["apply_scale"] == false { json!(1.0) } else { Value::Null },
        });
    }
    Ok(config.to_string())
}

/// A window for all layers, or a list of windows that layers take in turns, as transformers writes it. A window
/// as long as the context is none.
fn windows(window: &Value, config: &Value) -> Option<Map<String, Value>> {
    let Value::Array(turns) = window else {
        return Some(Map::from_iter([("sliding_window".into(), window.clone())]));
    };
    let context = config["max_position_embeddings"].as_u64()?;
    let turns: Vec<_> = turns.iter().map(|w| w.as_u64().filter(|w| *w < context)).collect();
    let layers = config["num_hidden_layers"].as_u64().filter(|n| *n <= 1 << 10)? as usize;
    let width = turns.iter().flatten().next();
    if turns.is_empty()
        || !layers.is_multiple_of(turns.len())
        || turns.iter().flatten().any(|w| Some(w) != width)
    {
        return None;
    }
    let kind = |window: &Option<u64>| if window.is_some() { "sliding_attention" } else { "full_attention" };
    let kinds: Vec<_> = turns.iter().map(kind).cycle().take(layers).collect();
    Some(Map::from_iter([("sliding_window".into(), json!(width)), ("layer_types".into(), json!(kinds))]))
}
