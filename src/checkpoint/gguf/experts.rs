//! Experts whose matrices lie in one tensor.

use super::{super::safetensors::Entry, corrupt};
use crate::{Result, ops::MAX_EXPERTS};

/// A tensor as it is, or one for each expert of a tensor `[experts, outputs, inputs]`, as llama.cpp writes them since
/// 2024: `blk.3.ffn_gate_exps.weight` holds what files before had as `blk.3.ffn_gate.0.weight`,
/// `blk.3.ffn_gate.1.weight` and so on.
pub(super) fn apart(tensor: Entry) -> Result<Vec<Entry>> {
    let Some(stem) = tensor.name.strip_suffix("_exps.weight") else { return Ok(vec![tensor]) };
    let &[experts, outputs, inputs] = tensor.shape.as_slice() else {
        let expected = "a matrix for each expert, of three dimensions";
        return Err(corrupt(&tensor.name, expected, format_args!("{:?}", tensor.shape)));
    };
    if experts > MAX_EXPERTS as usize {
        return Err(corrupt(&tensor.name, format_args!("at most {MAX_EXPERTS} experts"), experts));
    }
    // Rows are whole blocks, and experts whole rows.
    let size = tensor.bytes.len() / experts;
    let expert = |expert| {
        let begin = tensor.bytes.start + expert * size;
        let name = format!("{stem}.{expert}.weight");
        Entry { name, dtype: tensor.dtype, shape: vec![outputs, inputs], bytes: begin..begin + size }
    };
    Ok((0..experts).map(expert).collect())
}
