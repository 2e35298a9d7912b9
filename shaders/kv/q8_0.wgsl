// KV cache in q8_0, as weights in quant/q8_0: byte i of an octet, low bytes first, is dimension i as a signed integer, to
// be multiplied with the scale of its block of 32.
import package::half::half_bits;
import package::kv::blocks::{block_scale, reciprocal};
import package::quant::packed::signed_bytes;
@if(int64) import package::quant::packed::two_words;

@if(int64) alias KvOctet = u64;
@else alias KvOctet = vec2u;

// Dimensions that one invocation encodes: two blocks, whose scales share a word.
const KV_CHUNK = 64u;

// Words of codes that it gives.
const KV_CODES = 16u;

struct KvCodes {
    codes: array<u32, 16>,
    scales: u32,
}

// Codes are made with the scale before it is rounded.
fn kv_encode(values: ptr<function, array<f32, 64>>) -> KvCodes {
    var encoded: KvCodes;
    for (var block = 0u; block < 2u; block++) {
        let scale = abs(block_scale(values, block, 127.0));
        let inverse = reciprocal(scale);
        encoded.scales |= half_bits(scale) << (16u * block);
        for (var i = 32u * block; i < 32u * block + 32u; i++) {
            // To nearest, ties away from zero.
            let code = (*values)[i] * inverse;
            let rounded = i32(sign(code) * floor(abs(code) + 0.5));
            encoded.codes[i / 4u] |= (u32(rounded) & 255u) << (8u * (i % 4u));
        }
    }
    return encoded;
}

fn kv_decode(octet: KvOctet) -> mat2x4f {
    return mat2x4f(signed_bytes(kv_word(octet, 0u)), signed_bytes(kv_word(octet, 1u)));
}

fn kv_word(octet: KvOctet, word: u32) -> u32 {
    @if(int64) return two_words(octet)[word];
    @else return octet[word];
}
