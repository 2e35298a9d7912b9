//! Shapes of models that need no file: their weights are random, for benchmarks and memory checks at true
//! size.

use super::ModelConfig;
use crate::ops::RouteShape;

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
    /// Whether each layer has the window, in turns; all have it if empty.
    windowed: &'static [bool],
    rope_theta: f64,
    experts: Option<RouteShape>,
}

const TWO_OF_EIGHT: Option<RouteShape> = Some(RouteShape { experts: 8, chosen: 2 });
const MISTRAL_7B: Synthetic = Synthetic {
    name: "mistral-7b",
    widths: [4096, 14336],
    layers: 32,
    heads: [32, 8, 128],
    vocab_size: 32000,
    context: 32768,
    window: Some(4096),
    windowed: &[],
    rope_theta: 1e4,
    experts: None,
};
const LLAMA_7B: Synthetic = Synthetic {
    name: "llama-7b",
    widths: [4096, 11008],
    layers: 32,
    heads: [32, 32, 128],
    vocab_size: 32000,
    context: 2048,
    window: None,
    windowed: &[],
    rope_theta: 1e4,
    experts: None,
};

/// All synthetic models, by the `config.json` and `params.json` that were published.
#[rustfmt::skip]
pub static SYNTHETIC: &[Synthetic] = &[
    MISTRAL_7B,
    Synthetic { name: "mistral-7b-v0.1", ..MISTRAL_7B },
    Synthetic { name: "mistral-7b-v0.2", window: None, rope_theta: 1e6, ..MISTRAL_7B },
    Synthetic { name: "mistral-7b-v0.3", window: None, rope_theta: 1e6, vocab_size: 32768, ..MISTRAL_7B },
    Synthetic { name: "mistral-nemo-12b", widths: [5120, 14336], layers: 40, vocab_size: 131_072, context: 131_072,
        window: None, rope_theta: 1e6, ..MISTRAL_7B },
    Synthetic { name: "ministral-8b", widths: [4096, 12288], layers: 36, vocab_size: 131_072, context: 131_072,
        window: Some(32768), windowed: &[false, true, true, true], rope_theta: 1e8, ..MISTRAL_7B },
    Synthetic { name: "codestral-22b", widths: [6144, 16384], layers: 56, heads: [48, 8, 128], vocab_size: 32768,
        window: None, rope_theta: 1e6, ..MISTRAL_7B },
    Synthetic { name: "mistral-small-24b", widths: [5120, 32768], layers: 40, vocab_size: 131_072, window: None,
        rope_theta: 1e8, ..MISTRAL_7B },
    Synthetic { name: "mixtral-8x7b", window: None, rope_theta: 1e6, experts: TWO_OF_EIGHT, ..MISTRAL_7B },
    Synthetic { name: "mixtral-8x40m", widths: [768, 2048], layers: 8, heads: [12, 4, 64], context: 4096, window: None,
        rope_theta: 1e6, experts: TWO_OF_EIGHT, ..MISTRAL_7B },
    LLAMA_7B,
    Synthetic { name: "llama-13b", widths: [5120, 13824], layers: 40, heads: [40, 40, 128], ..LLAMA_7B },
    Synthetic { name: "llama-33b", widths: [6656, 17920], layers: 60, heads: [52, 52, 128], ..LLAMA_7B },
    Synthetic { name: "llama2-7b", context: 4096, ..LLAMA_7B },
    Synthetic { name: "llama2-13b", widths: [5120, 13824], layers: 40, heads: [40, 40, 128], context: 4096, ..LLAMA_7B },
    Synthetic { name: "llama2-70b", widths: [8192, 28672], layers: 80, heads: [64, 8, 128], context: 4096, ..LLAMA_7B },
    Synthetic { name: "175m", widths: [768, 2048], layers: 20, heads: [12, 4, 64],
        vocab_size: 32000, context: 4096, window: Some(1024), windowed: &[], rope_theta: 1e4, experts: None },
    Synthetic { name: "demo", widths: [192, 576], layers: 4, heads: [6, 2, 32],
        vocab_size: 1280, context: 1024, window: Some(256), windowed: &[], rope_theta: 1e4, experts: None },
    Synthetic { name: "tiny", widths: [64, 160], layers: 2, heads: [4, 2, 16],
        vocab_size: 128, context: 1024, window: Some(32), windowed: &[], rope_theta: 1e4, experts: None },
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
            windowed_layers: model.windowed.iter().copied().cycle().take(model.layers).collect(),
            tie_word_embeddings: false,
            attention_bias: false,
            mlp_bias: false,
            experts: model.experts,
            bos_token_id: Some(1),
            eos_token_ids: vec![2],
            dtype: None,
        }
    }
}
