//! The model families this engine runs: one row each.

/// A family of models with the architecture of Mistral 7B, as `config.json` names it.
#[derive(Debug)]
pub struct Family {
    /// Its name in `architectures`.
    pub architecture: &'static str,
    /// Its name in `model_type`, which decides where `architectures` is absent.
    pub model_type: &'static str,
    /// What transformers takes for keys that `config.json` leaves out, in its own notation. The sizes of the
    /// tensors are not among them, nor the rotary base where it differs within a family: a guess there would be a
    /// wrong model.
    pub defaults: &'static str,
    /// Whether it is a language model with more around it, which is left alone: its keys lie in `text_config`.
    pub text_config: bool,
}

/// transformers 4.34 to 5.24, configuration_mistral.py and configuration_ministral.py.
const MISTRAL: &str = r#"{
    "num_key_value_heads": 8,
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "sliding_window": 4096,
    "tie_word_embeddings": false,
    "bos_token_id": 1,
    "eos_token_id": 2
}"#;

/// transformers 4.36 to 5.24, configuration_mixtral.py.
const MIXTRAL: &str = r#"{
    "num_key_value_heads": 8,
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "sliding_window": null,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "tie_word_embeddings": false,
    "bos_token_id": 1,
    "eos_token_id": 2
}"#;

/// transformers 4.28 to 5.24, configuration_llama.py. Llama 1 and 2 leave the rotary base out.
const LLAMA: &str = r#"{
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
    "tie_word_embeddings": false,
    "bos_token_id": 1,
    "eos_token_id": 2
}"#;

/// All families.
#[rustfmt::skip]
pub static FAMILIES: &[Family] = &[
    // Mistral 7B, Nemo, Small 2501, Codestral.
    Family { architecture: "MistralForCausalLM", model_type: "mistral", defaults: MISTRAL, text_config: false },
    // Ministral 8B: only some layers have the window.
    Family { architecture: "MinistralForCausalLM", model_type: "ministral", defaults: MISTRAL, text_config: false },
    // Mistral Small 3.1 and later.
    Family { architecture: "Mistral3ForConditionalGeneration", model_type: "mistral3", defaults: "{}", text_config: true },
    // Mixtral 8x7B and 8x22B.
    Family { architecture: "MixtralForCausalLM", model_type: "mixtral", defaults: MIXTRAL, text_config: false },
    // Llama 1, 2 and 3.
    Family { architecture: "LlamaForCausalLM", model_type: "llama", defaults: LLAMA, text_config: false },
];
