//! The model families this engine runs: one row each.

/// A family of models with the architecture of Mistral 7B, as `config.json` names it.
#[derive(Debug)]
pub struct Family {
    /// Its name in `architectures`.
    pub architecture: &'static str,
    /// Its name in `model_type`, which decides where `architectures` is absent.
    pub model_type: &'static str,
    /// What transformers takes for keys that `config.json` leaves out, in its own notation. The sizes of the
    /// tensors and the rotary base are not among them: a guess there would be a wrong model.
    pub defaults: &'static str,
}

/// All families.
pub static FAMILIES: &[Family] = &[Family {
    architecture: "MistralForCausalLM",
    model_type: "mistral",
    // transformers 4.34 to 5.23, configuration_mistral.py
    defaults: r#"{
        "num_key_value_heads": 8,
        "hidden_act": "silu",
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "sliding_window": 4096,
        "tie_word_embeddings": false,
        "bos_token_id": 1,
        "eos_token_id": 2
    }"#,
}];
