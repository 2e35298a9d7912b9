//! Names of tensors in GGUF files.

use crate::checkpoint::names::Names;

/// `blk.3.attn_q.weight` is `model.layers.3.self_attn.q_proj.weight`.
pub(in crate::checkpoint) const NAMES: Names = Names {
    whole: [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output_norm.weight", "model.norm.weight"),
        ("output.weight", "lm_head.weight"),
    ],
    blocks: "blk.",
    parts: &[
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
    ],
    expert,
};

/// Old files have a tensor for each of Mixtral's experts, `blk.3.ffn_gate.5.weight`.
fn expert(part: &str) -> Option<String> {
    let (part, expert) = part.split_once('.')?;
    let matrix = match part {
        "ffn_gate" => "w1",
        "ffn_down" => "w2",
        "ffn_up" => "w3",
        _ => return None,
    };
    Some(format!("experts.{expert}.{matrix}"))
}

#[cfg(test)]
mod tests {
    use super::NAMES;

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
            assert_eq!(NAMES.rename(theirs), ours);
        }
    }
}
