// KV cache in q4_0, numbers as of weights in quant/q4_0: byte i of an octet, low bytes first, holds dimension i (low half)
// and 4 + i (high half), plus 8, to be multiplied with the scale of their block of 32.
import package::half::half_bits;
import package::kv::blocks::{block_scale, reciprocal};

alias KvOctet = u32;

// Dimensions that one invocation encodes: two blocks, whose scales share a word.
const KV_CHUNK = 64u;

// Words of codes that it gives.
const KV_CODES = 8u;

struct KvCodes {
    codes: array<u32, 8>,
    scales: u32,
}

// The value of largest magnitude, the first of equals, becomes code 0.
fn kv_encode(values: ptr<function, array<f32, 64>>) -> KvCodes {
    var encoded: KvCodes;
    for (var block = 0u; block < 2u; block++) {
        let scale = block_scale(values, block, -8.0);
        let inverse = reciprocal(scale);
        encoded.scales |= half_bits(scale) << (16u * block);
        for (var i = 32u * block; i < 32u * block + 32u; i++) {
            let code = min(u32((*values)[i] * inverse + 8.5), 15u);
            encoded.codes[i / 8u] |= code << (8u * (i % 4u) + 4u * (i / 4u % 2u));
        }
    }
    return encoded;
}

// 0x80907060 has 0, 0, 0, 0 and 6, 7, 9, 8, less 8: -8, -8, -8, -8, -2, -1, 1, 0.
fn kv_decode(octet: KvOctet) -> mat2x4f {
    let halves = vec4u(octet) >> vec4u(0u, 8u, 16u, 24u);
    return mat2x4f(vec4f(halves & vec4u(15u)) - 8.0, vec4f((halves >> vec4u(4u)) & vec4u(15u)) - 8.0);
}

fn kv_word(octet: KvOctet, word: u32) -> u32 {
    return octet;
}
