//! Rotary embeddings: base and scaling, what is refused, and frequencies against transformers'.

use serde_json::{Value, json};

use super::{assert_refused, changed, mistral_7b, read};

#[test]
fn the_rotary_base_is_read_from_either_place_and_never_guessed() {
    let base = |top, nested| {
        changed([("rope_theta", top), ("rope_parameters", nested)]).map(|config| config.rope_theta)
    };
    assert_eq!(base(Some(json!(1e6)), None).unwrap(), 1e6);
    assert_eq!(base(None, Some(json!({"rope_theta": 1000000, "rope_type": "default"}))).unwrap(), 1e6);
    assert_eq!(base(Some(json!(5e5)), Some(json!({"rope_type": "default"}))).unwrap(), 5e5);
    assert_eq!(base(Some(json!(1e4)), Some(json!({"rope_theta": 1e6}))).unwrap(), 1e6); // as in transformers 5
    for nested in [None, Some(Value::Null), Some(json!({})), Some(json!({"rope_type": "default"}))] {
        let message = base(None, nested).unwrap_err().to_string();
        assert!(message.starts_with("folder/config.json: rope_theta: expected a value"), "{message}");
        assert!(message.ends_with("found neither"), "{message}");
    }
    for wrong in [json!("10000"), json!(0), json!(-1e4), json!(1e300), json!([1e4]), json!(true)] {
        assert_refused("rope_theta", wrong, "a number from 1 to");
    }
    assert_refused("rope_parameters", json!([]), "an object");
}

#[test]
fn partial_and_unknown_rotary_embeddings_are_refused() {
    for (key, rope) in [
        ("rope_scaling: type", json!({"type": "longrope", "factor": 2.0})),
        ("rope_parameters: rope_type", json!({"rope_theta": 1e6, "rope_type": "proportional"})),
        ("rope_parameters: partial_rotary_factor", json!({"rope_theta": 1e6, "partial_rotary_factor": 0.5})),
        ("rope_scaling: factor", json!({"type": "linear"})),
        ("rope_scaling: factor", json!({"rope_type": "dynamic", "factor": 0.5})),
        ("rope_scaling: low_freq_factor", json!({"rope_type": "llama3", "factor": 8.0})),
        (
            "rope_scaling: high_freq_factor",
            json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}),
        ),
        (
            "rope_parameters: llama_4_scaling_beta",
            json!({"rope_type": "yarn", "factor": 16, "llama_4_scaling_beta": 0.1}),
        ),
        ("rope_scaling: truncate", json!({"rope_type": "yarn", "factor": 4, "truncate": 1})),
    ] {
        let message = changed([(key.split(':').next().unwrap(), Some(rope))]).unwrap_err().to_string();
        assert!(message.starts_with(&format!("folder/config.json: {key}: expected ")), "{message}");
    }
    let message = changed([("rope_scaling", Some(json!({"type": "longrope"})))]).unwrap_err().to_string();
    assert!(
        message.ends_with("expected default, linear, dynamic, llama3 or yarn, found \"longrope\""),
        "{message}"
    );
    assert_refused("partial_rotary_factor", json!(0.25), "from 1 to 1");
    changed([("rope_scaling", Some(Value::Null)), ("partial_rotary_factor", Some(json!(1.0)))]).unwrap();
    let unscaled = changed([("rope_scaling", Some(json!({"rope_type": "default"})))]).unwrap();
    assert_eq!(unscaled, read(&mistral_7b()).unwrap());
}

/// Frequencies of pairs 0, 8, 16, 20, 24 and 31, and the factor of cosines and sines, that transformers 5.24's
/// `ROPE_INIT_FUNCTIONS` compute.
#[test]
fn scaled_rotary_frequencies_are_those_of_transformers() {
    let yarn = json!({
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "beta_fast": 16.0,
        "beta_slow": 2.0, "mscale": 1.0, "mscale_all_dim": 0.8, "truncate": false
    });
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192
    });
    #[rustfmt::skip]
    let cases = [
        // rope_scaling, theta, head_dim, model's context, context, frequencies, factor
        (json!({"type": "linear", "factor": 8.0}), 1e4, 128, 16384, 16384,
            [0.125, 0.03952847, 0.0125, 0.007029266, 0.003952847, 0.001443477], 1.0),
        (json!({"type": "dynamic", "factor": 2.0}), 1e4, 128, 2048, 8192,
            [1.0, 0.2469938, 0.06100591, 0.030319, 0.01506808, 0.004432595], 1.0),
        (llama3, 5e5, 128, 131072, 4096,
            [1.0, 0.1939228, 0.03760603, 0.01656044, 0.007292665, 0.0008567515], 1.0),
        (json!({"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 8192}), 1e6, 128, 131072,
            4096, [1.0, 0.1778279, 0.03162278, 0.01112902, 0.00345261, 0.0002828608], 1.2772588722239782),
        (yarn, 1e4, 64, 131072, 4096,
            [1.0, 0.1, 0.01, 0.003162278, 0.0005956799, 3.333804e-05], 1.0249579607969668),
    ];
    for (scaling, theta, head_dim, model_context, context, expected, factor) in cases {
        let keys = |scaling: Value| {
            changed([
                ("rope_scaling", Some(scaling)),
                ("rope_theta", Some(json!(theta))),
                ("head_dim", Some(json!(head_dim))),
                ("max_position_embeddings", Some(json!(model_context))),
            ])
        };
        let config = keys(scaling.clone()).unwrap();
        let frequencies = config.rope_frequencies(context);
        assert_eq!(frequencies.len(), head_dim / 2);
        for (pair, expected) in [0, 8, 16, 20, 24, 31].into_iter().zip(expected) {
            let error = (frequencies[pair] / expected - 1.0).abs();
            assert!(error < 5e-7, "{scaling}: pair {pair}: {} for {expected}", frequencies[pair]);
        }
        assert!((config.rope_attention_factor() - factor).abs() < 1e-12, "{scaling}");
    }
    // Below the context it was made for, a dynamic scaling changes nothing.
    let dynamic = changed([("rope_scaling", Some(json!({"type": "dynamic", "factor": 2.0})))]).unwrap();
    assert_eq!(dynamic.rope_frequencies(32768), read(&mistral_7b()).unwrap().rope_frequencies(32768));
}
