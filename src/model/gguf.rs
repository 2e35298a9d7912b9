//! The configuration of a model from the metadata of its GGUF file.

use serde_json::{Map, Value, json};

use super::{ModelConfig, RopeScaling};
use crate::{
    Error, ErrorKind, Result,
    checkpoint::{Checkpoint, Metadata},
    text::GgufVocabulary,
};

/// Architectures by llama.cpp's name, and by that of transformers' class without experts and with some.
const ARCHITECTURES: [(&str, &str, &str); 2] = [
    ("llama", "MistralForCausalLM", "MixtralForCausalLM"),
    ("mistral3", "MistralForCausalLM", "MixtralForCausalLM"),
];

/// Factors of rotary frequencies, one for each pair, in files of models that scale them one by one.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The largest factor: where frequencies are divided by more, they are as good as zero.
const LARGEST_FACTOR: f32 = 1e6;

impl ModelConfig {
    /// The configuration of an opened GGUF file. It has no sliding window unless the file names one, which
    /// llama.cpp's converter does not do.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the key, as [`ModelConfig::from_json`], for metadata that are missing,
    /// impossible, or of an architecture that is not known.
    pub fn from_gguf(checkpoint: &Checkpoint) -> Result<Self> {
        let subject = checkpoint.files().next().map(|file| file.display().to_string()).unwrap_or_default();
        let read = || {
            let keys = Gguf::new(checkpoint)?.config()?;
            let mut config = Self::from_json(&keys.to_string(), "metadata")?;
            if let Some(factors) = rope_factors(checkpoint, config.head_dim)? {
                config.rope_scaling = Some(RopeScaling::Factors(factors));
            }
            Ok(config)
        };
        read().map_err(|error: Error| error.within(subject))
    }
}

/// The factors by which frequencies are divided, `[head_dim / 2]`.
fn rope_factors(checkpoint: &Checkpoint, head_dim: usize) -> Result<Option<Vec<f64>>> {
    let Some(tensor) = checkpoint.get(ROPE_FACTORS) else { return Ok(None) };
    let refuse = |expected: &str, found: String| {
        Err(Error::expected(ErrorKind::Checkpoint, ROPE_FACTORS, expected, found))
    };
    if tensor.shape != [head_dim / 2] {
        return refuse(&format!("shape [{}]", head_dim / 2), format!("{:?}", tensor.shape));
    }
    let mut factors = vec![0.0; tensor.elements()];
    tensor.to_f32(0, &mut factors);
    match factors.iter().find(|factor| !(1.0 / LARGEST_FACTOR..=LARGEST_FACTOR).contains(*factor)) {
        Some(other) => refuse("positive factors", other.to_string()),
        None => Ok(Some(factors.into_iter().map(f64::from).collect())),
    }
}

/// Metadata whose keys begin with the name of the architecture.
struct Gguf<'a> {
    checkpoint: &'a Checkpoint,
    metadata: &'a Metadata,
    architecture: &'a (&'static str, &'static str, &'static str),
}

impl<'a> Gguf<'a> {
    fn new(checkpoint: &'a Checkpoint) -> Result<Self> {
        let (metadata, key) = (checkpoint.metadata(), "general.architecture");
        let name = metadata.text(key)?.unwrap_or_default();
        let architecture = ARCHITECTURES.iter().find(|known| known.0 == name).ok_or_else(|| {
            let known: Vec<_> = ARCHITECTURES.iter().map(|known| known.0).collect();
            Error::expected(ErrorKind::Config, key, known.join(" or "), format_args!("{name:?}"))
        })?;
        Ok(Self { checkpoint, metadata, architecture })
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture.0)
    }

    /// A whole number; of a list with one for each block, the one that all have.
    fn integer(&self, name: &str) -> Result<Option<u64>> {
        let key = self.key(name);
        if !self.metadata.is_list(&key) {
            return self.metadata.integer(&key);
        }
        let list = self.metadata.integers(&key)?.unwrap_or_default();
        match list.first().and_then(|first| u64::try_from(*first).ok()) {
            Some(first) if list.iter().all(|other| *other == list[0]) => Ok(Some(first)),
            _ => Err(Error::expected(ErrorKind::Config, key, "the same number for all blocks", "a list")),
        }
    }

    fn number(&self, name: &str) -> Result<Option<f64>> {
        self.metadata.number(&self.key(name))
    }

    /// The keys of a `config.json`.
    fn config(&self) -> Result<Value> {
        let shape = |name: &str| self.checkpoint.get(name).map(|tensor| tensor.shape);
        let experts = self.integer("expert_count")?.filter(|experts| *experts > 0);
        let (_, dense, sparse) = self.architecture;
        let head_dim = self.head_dim()?;
        let (heads, kv_heads) =
            (self.integer("attention.head_count")?, self.integer("attention.head_count_kv")?);
        let mut keys = json!({
            "architectures": [if experts.is_some() { sparse } else { dense }],
            "hidden_size": self.integer("embedding_length")?,
            "intermediate_size": self.integer("feed_forward_length")?,
            "num_hidden_layers": self.integer("block_count")?,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads.or(heads),
            "head_dim": head_dim,
            "hidden_act": "silu",
            "vocab_size": shape("model.embed_tokens.weight").and_then(|shape| shape.first()),
            "max_position_embeddings": self.integer("context_length")?,
            "rms_norm_eps": self.number("attention.layer_norm_rms_epsilon")?,
            "sliding_window": self.integer("attention.sliding_window")?.filter(|window| *window > 0),
            "tie_word_embeddings": shape("lm_head.weight").is_none(),
            "attention_bias": shape("model.layers.0.self_attn.q_proj.bias").is_some(),
            "mlp_bias": shape("model.layers.0.mlp.gate_proj.bias").is_some(),
            "rope_parameters": self.rope()?,
            "bos_token_id": null,
            "eos_token_id": null,
        });
        if let Some(experts) = experts {
            keys["num_local_experts"] = experts.into();
            keys["num_experts_per_tok"] = json!(self.integer("expert_used_count")?);
        }
        if let Some(GgufVocabulary { bos, eos, .. }) = GgufVocabulary::read(self.metadata)? {
            keys["bos_token_id"] = json!(bos);
            keys["eos_token_id"] = json!(eos);
        }
        Ok(keys)
    }

    /// Width of a head, which keys, values and rotated pairs must agree on.
    fn head_dim(&self) -> Result<Option<u64>> {
        let key = self.integer("attention.key_length")?;
        for name in ["attention.value_length", "rope.dimension_count"] {
            let other = self.integer(name)?;
            if let (Some(key), Some(other)) = (key, other.filter(|other| Some(*other) != key)) {
                return Err(Error::expected(ErrorKind::Config, self.key(name), key, other));
            }
        }
        Ok(key.or(self.integer("rope.dimension_count")?))
    }

    /// transformers' `rope_parameters`.
    fn rope(&self) -> Result<Value> {
        // What llama.cpp takes where a file does not say.
        let mut rope = Map::new();
        rope.insert("rope_theta".into(), json!(self.number("rope.freq_base")?.unwrap_or(1e4)));
        let kind = self.metadata.text(&self.key("rope.scaling.type"))?;
        let kind = kind.filter(|kind| *kind != "none");
        let factor = match self.number("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.number("rope.scale_linear")?,
        };
        let factor = factor.filter(|factor| *factor != 0.0);
        // An old file may have no more than the factor.
        let kind = kind.or(factor.filter(|factor| *factor != 1.0).map(|_| "linear"));
        if let Some(kind) = kind {
            rope.insert("rope_type".into(), kind.into());
            rope.insert("factor".into(), json!(factor.unwrap_or(1.0)));
        }
        for (theirs, ours) in [
            ("original_context_length", "original_max_position_embeddings"),
            ("yarn_beta_fast", "beta_fast"),
            ("yarn_beta_slow", "beta_slow"),
        ] {
            if let Some(value) = self.number(&format!("rope.scaling.{theirs}"))? {
                rope.insert(ours.into(), json!(value));
            }
        }
        if let Some(beta) = self.number("attention.temperature_scale")?.filter(|beta| *beta != 0.0) {
            rope.insert("llama_4_scaling_beta".into(), json!(beta));
        }
        Ok(rope.into())
    }
}

/// Whether a file's model is likely to have a sliding window of 4096 tokens that the file does not name: Mistral 7B
/// v0.1 and what was made of it. Its name says so, or its shape, where the rotary base is that of v0.1.
pub(super) fn lacks_window(metadata: &Metadata, config: &ModelConfig) -> bool {
    let text = |key| metadata.text(key).ok().flatten().unwrap_or_default().to_lowercase();
    let name = format!("{} {}", text("general.name"), text("general.basename"));
    let named = name.contains("mistral") && !name.contains("mixtral") && {
        name.contains("v0.1") || text("general.version").contains("v0.1")
    };
    let shaped =
        (config.hidden_size, config.intermediate_size, config.num_key_value_heads) == (4096, 14336, 8);
    config.sliding_window.is_none()
        && config.rope_theta == 1e4
        && (named || shaped || name.contains("mistral"))
}
