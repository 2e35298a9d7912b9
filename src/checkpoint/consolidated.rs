//! Mistral's own layout: `consolidated*.safetensors` with tensor names of their own, rows of q and k in the
//! order in which neighbours turn together.

use super::names::Names;

/// `layers.3.attention.wq.weight` is `model.layers.3.self_attn.q_proj.weight`.
pub(super) const NAMES: Names = Names {
    whole: [
        ("tok_embeddings.weight", "model.embed_tokens.weight"),
        ("norm.weight", "model.norm.weight"),
        ("output.weight", "lm_head.weight"),
    ],
    blocks: "layers.",
    parts: &[
        ("attention.wq", "self_attn.q_proj"),
        ("attention.wk", "self_attn.k_proj"),
        ("attention.wv", "self_attn.v_proj"),
        ("attention.wo", "self_attn.o_proj"),
        ("attention_norm", "input_layernorm"),
        ("ffn_norm", "post_attention_layernorm"),
        ("feed_forward.w1", "mlp.gate_proj"),
        ("feed_forward.w2", "mlp.down_proj"),
        ("feed_forward.w3", "mlp.up_proj"),
    ],
    expert,
};

/// Mixtral's experts have names of their own in both layouts: `feed_forward.experts.5.w1` is
/// `block_sparse_moe.experts.5.w1`, and the router is `gate`.
fn expert(part: &str) -> Option<String> {
    let part = part.strip_prefix("feed_forward.")?;
    (part == "gate" || part.starts_with("experts.")).then(|| part.to_owned())
}

#[cfg(test)]
mod tests {
    use super::NAMES;

    #[test]
    fn names_are_those_of_hugging_face() {
        for (theirs, ours) in [
            ("output.weight", "lm_head.weight"),
            ("layers.31.attention.wk.weight", "model.layers.31.self_attn.k_proj.weight"),
            ("layers.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight"),
            ("layers.7.feed_forward.gate.weight", "model.layers.7.block_sparse_moe.gate.weight"),
            (
                "layers.7.feed_forward.experts.5.w2.weight",
                "model.layers.7.block_sparse_moe.experts.5.w2.weight",
            ),
            ("vision_encoder.ln_pre.weight", "vision_encoder.ln_pre.weight"),
            ("layers.0.attention.wq", "layers.0.attention.wq"),
            ("layers.", "layers."),
        ] {
            assert_eq!(NAMES.rename(theirs), ours);
        }
    }
}
