//! Shapes of models that need no file: their weights are random, for benchmarks and memory checks at true
//! size.

use super::ModelConfig;

/// Shape and constants of one synthetic model.
#[derive(Debug)]
pub struct Synthetic {
    /// What follows `synthetic:`.
    pub name: &'static str,
    /// Hidden and intermediate size.
    widths: [usize; 2],
    layers: usize,
    /// Query heads, KV heads, head dimension.
    heads: [usize; 3],
    vocab_size: usize,
    context: usize,
    window: Option<u32>,
    rope_theta: f64,
}

/// All synthetic models.
#[rustfmt::skip]
pub static SYNTHETIC: &[Synthetic] = &[
    Synthetic { name: "mistral-7b", widths: [4096, 14336], layers: 32, heads: [32, 8, 128],
        vocab_size: 32000, context: 32768, window: Some(4096), rope_theta: 1e4 },
    Synthetic { name: "mistral-7b-v0.3", widths: [4096, 14336], layers: 32, heads: [32, 8, 128],
        vocab_size: 32768, context: 32768, window: None, rope_theta: 1e6 },
    Synthetic { name: "175m", widths: [768, 2048], layers: 20, heads: [12, 4, 64],
        vocab_size: 32000, context: 4096, window: Some(1024), rope_theta: 1e4 },
    Synthetic { name: "demo", widths: [192, 576], layers: 4, heads: [6, 2, 32],
        vocab_size: 1280, context: 1024, window: Some(256), rope_theta: 1e4 },
    Synthetic { name: "tiny", widths: [64, 160], layers: 2, heads: [4, 2, 16],
        vocab_size: 128, context: 1024, window: Some(32), rope_theta: 1e4 },
];

impl ModelConfig {
    /// The configuration of a model of [`SYNTHETIC`], if there is one of this name.
    pub fn synthetic(name: &str) -> Option<Self> {
        SYNTHETIC.iter().find(|model| model.name == name).map(Self::from)
    }
}

impl From<&Synthetic> for ModelConfig {
    fn from(model: &Synthetic) -> Self {
        let [hidden_size, intermediate_size] = model.widths;
        let [num_attention_heads, num_key_value_heads, head_dim] = model.heads;
        Self {
            hidden_size,
            intermediate_size,
            num_hidden_layers: model.layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            vocab_size: model.vocab_size,
            max_position_embeddings: model.context,
            rms_norm_eps: 1e-5,
            rope_theta: model.rope_theta,
            rope_scaling: None,
            sliding_window: model.window,
            windowed_layers: Vec::new(),
            tie_word_embeddings: false,
            attention_bias: false,
            mlp_bias: false,
            bos_token_id: Some(1),
            eos_token_ids: vec![2],
            dtype: None,
        }
    }
}
