//! Arbitrary files: refused, or sound.

use mistral_wgpu::model::{GenerationConfig, ModelConfig, expected_tensors};
use proptest::prelude::*;
use serde_json::Value;

use super::{mistral_7b, read};

/// Any JSON, nested a little.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0u64..300).prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-zA-Z_0-9]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("rope_theta|rope_type|[a-z]{1,4}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn random_text_never_panics(text: String) {
        prop_assert!(ModelConfig::from_json(&text, "config.json").is_err());
        let _ = GenerationConfig::from_json(&text, "generation_config.json", 100);
    }

    /// Whatever keys are changed to, what is accepted keeps the promises of `ModelConfig`.
    #[test]
    fn changed_keys_are_refused_or_sound(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any_json()), 1..4)
    ) {
        let mut config = mistral_7b();
        for key in ["head_dim", "rope_parameters", "rope_scaling", "dtype", "layer_types", "attention_bias", "mlp_bias"] {
            config[key] = Value::Null;
        }
        let keys: Vec<String> = config.as_object().unwrap().keys().cloned().collect();
        for (index, value) in changes {
            config[index.get(&keys)] = value;
        }
        let _ = GenerationConfig::from_json(&config.to_string(), "generation_config.json", 100);
        if let Ok(c) = read(&config) {
            prop_assert!(c.num_attention_heads.is_multiple_of(c.num_key_value_heads));
            prop_assert!((16..=256).contains(&c.head_dim) && c.head_dim.is_multiple_of(2));
            prop_assert!(c.rope_theta.is_finite() && c.rope_theta >= 1.0 && c.rms_norm_eps > 0.0);
            let mut tokens = c.eos_token_ids.iter().chain(&c.bos_token_id);
            prop_assert!(tokens.all(|&id| (id as usize) < c.vocab_size));
            let ends = 3 - c.tie_word_embeddings as usize;
            let of_layer = 9 + 4 * c.attention_bias as usize + 3 * c.mlp_bias as usize;
            prop_assert_eq!(expected_tensors(&c).len(), of_layer * c.num_hidden_layers + ends);
            let heads = [c.num_key_value_heads, c.head_dim];
            let cache = [c.num_hidden_layers, heads[0], heads[1], c.max_position_embeddings, 8];
            prop_assert!(cache.iter().try_fold(1u64, |n, &size| n.checked_mul(size as u64)).is_some());
            prop_assert!(c.parameters().checked_mul(4).is_some());
        }
    }
}
