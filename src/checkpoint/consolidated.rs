//! Mistral's own layout: `consolidated*.safetensors` with tensor names of their own, rows of q and k in the
//! order in which neighbours turn together.

/// Parts of names in Mistral's files and in Hugging Face's, each preceded and followed by a dot or an end.
const PARTS: [(&str, &str); 9] = [
    ("attention.wq", "self_attn.q_proj"),
    ("attention.wk", "self_attn.k_proj"),
    ("attention.wv", "self_attn.v_proj"),
    ("attention.wo", "self_attn.o_proj"),
    ("attention_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("feed_forward.w1", "mlp.gate_proj"),
    ("feed_forward.w2", "mlp.down_proj"),
    ("feed_forward.w3", "mlp.up_proj"),
];

/// The name that Hugging Face gives to a tensor of Mistral's: `layers.3.attention.wq.weight` is
/// `model.layers.3.self_attn.q_proj.weight`. A name that is none of Mistral's stays as it is.
pub(super) fn rename(name: &str) -> String {
    let known = match name {
        "tok_embeddings.weight" => Some("model.embed_tokens.weight".to_owned()),
        "norm.weight" => Some("model.norm.weight".to_owned()),
        "output.weight" => Some("lm_head.weight".to_owned()),
        _ => name.strip_prefix("layers.").and_then(layer),
    };
    known.unwrap_or_else(|| name.to_owned())
}

/// Of what follows `layers.`: `3.attention.wq.weight`. Mixtral's experts have names of their own in both
/// layouts: `feed_forward.experts.5.w1` is `block_sparse_moe.experts.5.w1`, and the router is `gate`.
fn layer(name: &str) -> Option<String> {
    let (index, rest) = name.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    let sparse = |part: &str| {
        let part =
            part.strip_prefix("feed_forward.").filter(|p| *p == "gate" || p.starts_with("experts."))?;
        Some(format!("block_sparse_moe.{part}"))
    };
    let dense = PARTS.iter().find(|(theirs, _)| *theirs == part).map(|(_, ours)| (*ours).to_owned());
    let part = dense.or_else(|| sparse(part))?;
    Some(format!("model.layers.{index}.{part}.{kind}"))
}

#[cfg(test)]
mod tests {
    use super::rename;

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
            assert_eq!(rename(theirs), ours);
        }
    }
}
