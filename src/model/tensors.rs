//! The tensors a model consists of, by the names of Hugging Face checkpoints.

use std::collections::BTreeMap;

use super::{ModelConfig, gguf::ROPE_FACTORS};
use crate::checkpoint::Checkpoint;
use crate::ops::RouteShape;
use crate::{Error, ErrorKind, Result};

const LM_HEAD: &str = "lm_head.weight";

/// What the names of tensors begin with, after `model.` or nothing, by which a model sees.
const SIGHT: [&str; 2] = ["vision_tower.", "multi_modal_projector."];

/// What gives the experts' logits in a block of Mixtral.
pub(super) const ROUTER: &str = "block_sparse_moe.gate";

/// Whether a tensor is a router. These are small, and choose: they stay as exact as they are.
pub(super) fn is_router(tensor: &str) -> bool {
    tensor.ends_with(".block_sparse_moe.gate.weight")
}

/// The experts, by their numbers: each is gate `w1`, down `w2` and up `w3`.
pub(super) const EXPERTS: &str = "block_sparse_moe.experts";

/// Names and shapes of all tensors of a model, in the order of their use. Matrices are [outputs, inputs].
/// With tied embeddings there is no `lm_head.weight`.
pub fn expected_tensors(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
    let q = config.num_attention_heads * config.head_dim;
    let kv = config.num_key_value_heads * config.head_dim;
    let layer = [
        ("input_layernorm", vec![hidden]),
        ("self_attn.q_proj", vec![q, hidden]),
        ("self_attn.k_proj", vec![kv, hidden]),
        ("self_attn.v_proj", vec![kv, hidden]),
        ("self_attn.o_proj", vec![hidden, q]),
        ("post_attention_layernorm", vec![hidden]),
    ];
    let mut layer = layer.map(|(name, shape)| (name.to_owned(), shape)).to_vec();
    match config.experts {
        None => layer.extend([
            ("mlp.gate_proj".into(), vec![intermediate, hidden]),
            ("mlp.up_proj".into(), vec![intermediate, hidden]),
            ("mlp.down_proj".into(), vec![hidden, intermediate]),
        ]),
        Some(RouteShape { experts, .. }) => {
            layer.push((ROUTER.into(), vec![experts as usize, hidden]));
            for expert in 0..experts {
                let name = |part| format!("{EXPERTS}.{expert}.{part}");
                layer.extend([
                    (name("w1"), vec![intermediate, hidden]),
                    (name("w3"), vec![intermediate, hidden]),
                    (name("w2"), vec![hidden, intermediate]),
                ]);
            }
        }
    }
    let mut tensors = vec![("model.embed_tokens.weight".into(), vec![config.vocab_size, hidden])];
    for index in 0..config.num_hidden_layers {
        for (name, shape) in &layer {
            let name = format!("model.layers.{index}.{name}");
            if biased(&name, config) {
                tensors.push((format!("{name}.bias"), vec![shape[0]]));
            }
            tensors.push((name + ".weight", shape.clone()));
        }
    }
    tensors.push(("model.norm.weight".into(), vec![hidden]));
    if !config.tie_word_embeddings {
        tensors.push((LM_HEAD.into(), vec![config.vocab_size, hidden]));
    }
    tensors
}

/// Whether a product has a bias.
pub(super) fn biased(name: &str, config: &ModelConfig) -> bool {
    config.attention_bias && name.contains(".self_attn.") || config.mlp_bias && name.contains(".mlp.")
}

/// Checks that a checkpoint holds the tensors of a model, all of them and no other. Old checkpoints' rotary
/// tables (`rotary_emb.inv_freq`) are passed over, and so are an `lm_head.weight` beside tied embeddings and what
/// a model sees by.
///
/// # Errors
/// [`ErrorKind::Checkpoint`] naming the first tensor that is missing, unknown or of another shape.
pub fn check(checkpoint: &Checkpoint, config: &ModelConfig) -> Result<()> {
    let expected: BTreeMap<_, _> = expected_tensors(config).into_iter().collect();
    for (name, shape) in &expected {
        let tensor = checkpoint.tensor(name)?;
        if tensor.shape != shape {
            let error = Error::expected(
                ErrorKind::Checkpoint,
                name,
                format_args!("shape {shape:?}, by config.json"),
                format_args!("{:?}", tensor.shape),
            );
            return Err(error.within(tensor.file.display()));
        }
    }
    let known = |name: &str| {
        expected.contains_key(name)
            || name.ends_with(".rotary_emb.inv_freq")
            || name == ROPE_FACTORS
            || (name == LM_HEAD && config.tie_word_embeddings)
            || SIGHT.iter().any(|part| name.strip_prefix("model.").unwrap_or(name).starts_with(part))
    };
    match checkpoint.tensors().find(|tensor| !known(tensor.name)) {
        Some(tensor) => {
            let expected = "only tensors of the model that config.json describes";
            let error = Error::expected(ErrorKind::Checkpoint, tensor.name, expected, "one unknown to it");
            Err(error.within(tensor.file.display()))
        }
        None => Ok(()),
    }
}
