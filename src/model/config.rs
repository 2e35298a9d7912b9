//! `config.json`: the shape and constants of a model, checked.

use std::path::Path;

use serde_json::Value;

use super::families::{FAMILIES, Family};
use super::gguf::lacks_window;
use super::keys::Keys;
use super::rope::RopeScaling;
use super::tensors::expected_tensors;
use crate::Result;
use crate::checkpoint::{Checkpoint, DType, read_text};
use crate::ops::{MAX_EXPERTS, RouteShape};

/// The shape and constants of a model, by the names of transformers' `MistralConfig`.
///
/// One that was read is within bounds: no size is zero, query heads are a multiple of KV heads, and the bytes
/// of all parameters, or of a KV cache as long as the context, can be counted in 64 bits.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of transformer blocks.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads, which divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of a head: even, 16 to 256, not necessarily `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Number of token ids.
    pub vocab_size: usize,
    /// The longest context, in tokens, that the model was made for.
    pub max_position_embeddings: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f32,
    /// Base of the rotary angles: pair `i` turns by `rope_theta^(-2i / head_dim)` per position.
    pub rope_theta: f64,
    /// How these angles are scaled for contexts longer than the model was first made for.
    pub rope_scaling: Option<RopeScaling>,
    /// `Some(w)`: the query at position `i` sees the keys `i-w+1 ..= i` (arXiv 2310.06825, section 2).
    /// `None`: it sees all keys up to `i`. Of one layer, see [`window`](Self::window).
    pub sliding_window: Option<u32>,
    /// Whether each layer has the sliding window, or sees all keys; if empty, all layers have it.
    pub windowed_layers: Vec<bool>,
    /// Whether the output projection is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether a bias is added to q, k, v and o.
    pub attention_bias: bool,
    /// Whether a bias is added to gate, up and down.
    pub mlp_bias: bool,
    /// With a mixture of experts in place of the feed-forward layers, how many there are, and how many of them
    /// a token goes through.
    pub experts: Option<RouteShape>,
    /// The token that starts a text.
    pub bos_token_id: Option<u32>,
    /// The tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// The type of the weights, if the file says so; the tensors have the last word.
    pub dtype: Option<DType>,
}

impl ModelConfig {
    /// Reads `config.json` of a model folder, as transformers 4 or 5 writes it, or else Mistral's `params.json`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind) where the file cannot be read; otherwise those of
    /// [`from_json`](Self::from_json) and [`from_params`](Self::from_params).
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let (path, params) = (dir.join("config.json"), dir.join("params.json"));
        if !path.exists() && params.exists() {
            return Self::from_params(&read_text(&params)?, &params.to_string_lossy());
        }
        Self::from_json(&read_text(&path)?, &path.to_string_lossy())
    }

    /// Reads the text of Mistral's `params.json`; `subject` names it in errors, keys are called as in
    /// `config.json`.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json); also for a model that is more than a language model.
    pub fn from_params(json: &str, subject: &str) -> Result<Self> {
        let config = super::params::config_json(json, subject)?;
        Self::from_json(&config, &format!("{subject}, read as config.json"))
    }

    /// The same with another window in all layers that have one, or for 0 with none.
    pub fn with_sliding_window(self, window: u32) -> Self {
        Self { sliding_window: Some(window).filter(|window| *window > 0), ..self }
    }

    /// Warns of a GGUF file that does not name the window that its model is likely to have.
    pub fn warn_of_window(&self, checkpoint: &Checkpoint) {
        if lacks_window(checkpoint.metadata(), self) {
            tracing::warn!(
                "this looks like Mistral 7B v0.1, or a model made of it, whose sliding window GGUF files do not \
                 name: give --sliding-window 4096, or --sliding-window 0 if there is none"
            );
        }
    }

    /// Reads the text of a `config.json`; `subject` names it in errors.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind) naming the key, for a missing or impossible value, an
    /// architecture outside [`FAMILIES`], partial rotary embeddings or an unknown scaling of them, an activation
    /// other than SiLU.
    pub fn from_json(json: &str, subject: &str) -> Result<Self> {
        let keys = family_keys(Keys::parse(json, subject)?)?;
        let hidden_size = keys.size("hidden_size", 1..=1 << 17)?;
        let heads = keys.size("num_attention_heads", 1..=1 << 10)?;
        let vocab_size = keys.size("vocab_size", 1..=1 << 24)?;
        if let Some(other) = keys.value("hidden_act").filter(|act| *act != "silu") {
            return Err(keys.refuse("hidden_act", "\"silu\"", other));
        }
        let num_hidden_layers = keys.size("num_hidden_layers", 1..=1 << 10)?;
        let max_position_embeddings = keys.size("max_position_embeddings", 1..=1 << 24)?;
        let (rope_theta, rope_scaling) = rope(&keys, max_position_embeddings)?;
        let (sliding_window, windowed_layers) = windows(&keys, num_hidden_layers)?;
        Ok(Self {
            hidden_size,
            intermediate_size: keys.size("intermediate_size", 1..=1 << 20)?,
            num_hidden_layers,
            num_attention_heads: heads,
            num_key_value_heads: key_value_heads(&keys, heads)?,
            head_dim: head_dim(&keys, hidden_size, heads)?,
            vocab_size,
            max_position_embeddings,
            rms_norm_eps: keys.required("rms_norm_eps", keys.number("rms_norm_eps", 1e-12..=1.0)?)? as f32,
            rope_theta,
            rope_scaling,
            sliding_window,
            windowed_layers,
            tie_word_embeddings: keys.boolean("tie_word_embeddings")?.unwrap_or(false),
            attention_bias: keys.boolean("attention_bias")?.unwrap_or(false),
            mlp_bias: keys.boolean("mlp_bias")?.unwrap_or(false),
            experts: experts(&keys, hidden_size)?,
            bos_token_id: keys.token("bos_token_id", vocab_size)?,
            eos_token_ids: keys.tokens("eos_token_id", vocab_size)?.unwrap_or_default(),
            dtype: dtype(&keys)?,
        })
    }

    /// The sliding window of layer `layer`; `None` if it sees all keys.
    pub fn window(&self, layer: usize) -> Option<u32> {
        self.sliding_window.filter(|_| self.windowed_layers.get(layer) != Some(&false))
    }

    /// The different windows of the layers, in the order of the first that has each.
    pub fn windows(&self) -> Vec<Option<u32>> {
        let mut windows = Vec::new();
        for window in (0..self.num_hidden_layers).map(|layer| self.window(layer)) {
            if !windows.contains(&window) {
                windows.push(window);
            }
        }
        windows
    }

    /// The window beyond which no layer sees anything; `None` if one sees all keys.
    pub fn widest_window(&self) -> Option<u32> {
        self.sliding_window.filter(|_| !self.windowed_layers.contains(&false))
    }

    /// The number of parameters; tied embeddings count once.
    pub fn parameters(&self) -> u64 {
        let elements = |shape: Vec<usize>| shape.iter().map(|&size| size as u64).product::<u64>();
        expected_tensors(self).into_iter().map(|(_, shape)| elements(shape)).sum()
    }
}

/// Finds the family by `architectures`, or else `model_type`, and takes its defaults for absent keys.
fn family_keys(keys: Keys) -> Result<Keys> {
    let architecture = keys.read("architectures", "a list of one name", |list| list.get(0))?;
    let family = FAMILIES.iter().find(|family| match architecture {
        Some(name) => name == family.architecture,
        None => keys.value("model_type").is_some_and(|name| name == family.model_type),
    });
    match family {
        Some(Family { text_config: true, .. }) => family_keys(keys.language_model()?),
        Some(family) => keys.or(family.defaults),
        None => {
            let known: Vec<_> = FAMILIES.iter().map(|family| family.architecture).collect();
            let found = architecture.or(keys.value("model_type")).unwrap_or(&Value::Null);
            Err(keys.refuse("architectures", known.join(" or "), found))
        }
    }
}

/// Absent means a dense model. The rows of experts, one after the other, begin at even ones.
fn experts(keys: &Keys, hidden_size: usize) -> Result<Option<RouteShape>> {
    let Some(experts) = keys.integer("num_local_experts", 2..=MAX_EXPERTS.into())? else { return Ok(None) };
    let chosen = keys.required("num_experts_per_tok", keys.integer("num_experts_per_tok", 1..=experts)?)?;
    if !hidden_size.is_multiple_of(2) {
        return Err(keys.refuse("hidden_size", "an even number, with experts", hidden_size));
    }
    Ok(Some(RouteShape { experts: experts as u32, chosen: chosen as u32 }))
}

/// Null means as many as query heads.
fn key_value_heads(keys: &Keys, heads: usize) -> Result<usize> {
    let key = "num_key_value_heads";
    let divides = |n: &u64| (1..=heads as u64).contains(n) && (heads as u64).is_multiple_of(*n);
    let expected = format_args!("a divisor of the {heads} query heads");
    let found = keys.read(key, expected, |value| value.as_u64().filter(divides))?;
    Ok(found.map_or(heads, |n| n as usize))
}

/// Absent or null means `hidden_size / num_attention_heads`, rounded down.
fn head_dim(keys: &Keys, hidden_size: usize, heads: usize) -> Result<usize> {
    let valid = |n: &usize| (16..=256).contains(n) && n.is_multiple_of(2);
    let expected = "an even number from 16 to 256";
    match keys.read("head_dim", expected, |value| value.as_u64().map(|n| n as usize).filter(valid))? {
        Some(n) => Ok(n),
        None => Some(hidden_size / heads)
            .filter(valid)
            .ok_or_else(|| keys.refuse("head_dim", expected, format_args!("{hidden_size} / {heads} heads"))),
    }
}

/// The window, and which layers have it: transformers' `layer_types`, by default all.
fn windows(keys: &Keys, layers: usize) -> Result<(Option<u32>, Vec<bool>)> {
    let window = keys.integer("sliding_window", 1..=u32::MAX.into())?.map(|window| window as u32);
    let expected = format_args!("\"sliding_attention\" or \"full_attention\" for each of {layers} layers");
    let windowed = |layer: &Value| match layer.as_str()? {
        "sliding_attention" => Some(true),
        "full_attention" => Some(false),
        _ => None,
    };
    let types = keys.read("layer_types", expected, |value| {
        let types = value.as_array().filter(|types| types.len() == layers)?;
        types.iter().map(windowed).collect::<Option<Vec<_>>>()
    })?;
    let types = types.unwrap_or_default();
    if window.is_none() && types.contains(&true) {
        return Err(keys.refuse("sliding_window", "the window of layers with sliding attention", "null"));
    }
    Ok(match (types.contains(&true), types.contains(&false)) {
        (true, true) => (window, types),
        (false, true) => (None, Vec::new()),
        (_, false) => (window, Vec::new()),
    })
}

/// The rotary base, which transformers 4 writes at the top and transformers 5 in `rope_parameters`, and its scaling
/// for a context of `context` tokens.
fn rope(keys: &Keys, context: usize) -> Result<(f64, Option<RopeScaling>)> {
    let scaled = keys.value("rope_scaling").is_some();
    let rope = keys.object(if scaled { "rope_scaling" } else { "rope_parameters" })?;
    for place in [&rope, keys] {
        place.number("partial_rotary_factor", 1.0..=1.0)?;
    }
    let theta = |place: &Keys| place.number("rope_theta", 1.0..=1e15);
    let theta = match theta(&rope)? {
        Some(theta) => theta,
        None => theta(keys)?
            .ok_or_else(|| keys.refuse("rope_theta", "a value, here or in rope_parameters", "neither"))?,
    };
    Ok((theta, RopeScaling::read(&rope, keys, context)?))
}

/// The type of the weights, which transformers 5 calls `dtype` and transformers 4 `torch_dtype`.
fn dtype(keys: &Keys) -> Result<Option<DType>> {
    let key = if keys.value("dtype").is_some() { "dtype" } else { "torch_dtype" };
    keys.read(key, "float32, float16 or bfloat16", |name| match name.as_str()? {
        "float32" => Some(DType::F32),
        "float16" => Some(DType::F16),
        "bfloat16" => Some(DType::BF16),
        _ => None,
    })
}
