//! `q5_k`, GGML's Q5_K: as `q4_k`, with codes of 5 bits.

use super::{BLOCK, Format, Ggml, finite_halves, q4_k};

/// Weights in a block.
const BLOCK_K: usize = 8 * BLOCK;

pub(super) static Q5_K: Format = Format {
    name: "q5_k",
    block: BLOCK_K,
    code_words: BLOCK_K * 5 / 32,
    scale_halves: 8,
    encode: q4_k::encode,
    decode: q4_k::decode,
    finite: |_, scales| finite_halves(&scales[..2]),
    error_bound: q4_k::error_bound(31.0),
    ggml: Some(Ggml { id: 13, block: BLOCK_K, bytes: 176, unpack: q4_k::unpack }),
};
