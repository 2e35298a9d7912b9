//! Names of tensors in GGUF files.

/// Parts of a block's names in GGUF files and in Hugging Face's.
const PARTS: [(&str, &str); 12] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ffn_gate_inp", "block_sparse_moe.gate"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
];

/// The name that Hugging Face gives to a tensor that GGUF files call `name`: `blk.3.attn_q.weight` is
/// `model.layers.3.self_attn.q_proj.weight`. A name that is not known stays as it is.
pub(in crate::checkpoint) fn rename(name: &str) -> String {
    let known = match name {
        "token_embd.weight" => Some("model.embed_tokens.weight".to_owned()),
        "output_norm.weight" => Some("model.norm.weight".to_owned()),
        "output.weight" => Some("lm_head.weight".to_owned()),
        _ => name.strip_prefix("blk.").and_then(block),
    };
    known.unwrap_or_else(|| name.to_owned())
}

/// Of what follows `blk.`: `3.attn_q.weight`. Old files have a tensor for each of Mixtral's experts,
/// `3.ffn_gate.5.weight`.
fn block(name: &str) -> Option<String> {
    let (index, rest) = name.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    let dense = PARTS.iter().find(|(theirs, _)| *theirs == part).map(|(_, ours)| (*ours).to_owned());
    let expert = || {
        let (part, expert) = part.split_once('.')?;
        let matrix = match part {
            "ffn_gate" => "w1",
            "ffn_down" => "w2",
            "ffn_up" => "w3",
            _ => return None,
        };
        Some(format!("block_sparse_moe.experts.{expert}.{matrix}"))
    };
    let part = dense.or_else(expert)?;
    Some(format!("model.layers.{index}.{part}.{kind}"))
}

#[cfg(test)]
mod tests {
    use super::rename;

    #[test]
    fn names_are_those_of_hugging_face() {
        for (theirs, ours) in [
            ("output.weight", "lm_head.weight"),
            ("blk.31.attn_k.weight", "model.layers.31.self_attn.k_proj.weight"),
            ("blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight"),
            ("blk.2.attn_q.bias", "model.layers.2.self_attn.q_proj.bias"),
            ("blk.7.ffn_down.5.weight", "model.layers.7.block_sparse_moe.experts.5.w2.weight"),
            ("blk.7.ffn_gate_inp.weight", "model.layers.7.block_sparse_moe.gate.weight"),
            ("blk.0.attn_q", "blk.0.attn_q"),
            ("rope_freqs.weight", "rope_freqs.weight"),
        ] {
            assert_eq!(rename(theirs), ours);
        }
    }
}
