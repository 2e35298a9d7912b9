// KV cache in f16: word i of an octet holds dimensions 2i (low half) and 2i + 1.
import package::half::{half_bits, half_value};

alias KvOctet = vec4u;

// Dimensions that one invocation encodes.
const KV_CHUNK = 2u;

// Words of codes that it gives.
const KV_CODES = 1u;

struct KvCodes {
    codes: array<u32, 1>,
}

fn kv_encode(values: ptr<function, array<f32, 2>>) -> KvCodes {
    return KvCodes(array<u32, 1>(half_bits((*values)[0]) | (half_bits((*values)[1]) << 16u)));
}

// The device's own conversion may flush subnormals: the self-test tells.
@if(f16)
fn kv_decode(octet: KvOctet) -> mat2x4f {
    return mat2x4f(
        vec4f(unpack2x16float(octet.x), unpack2x16float(octet.y)),
        vec4f(unpack2x16float(octet.z), unpack2x16float(octet.w)),
    );
}

@else
fn kv_decode(octet: KvOctet) -> mat2x4f {
    return mat2x4f(two_words(octet.xy), two_words(octet.zw));
}

@if(!f16)
fn two_words(words: vec2u) -> vec4f {
    let low = words & vec2u(0xffffu);
    let high = words >> vec2u(16u);
    return vec4f(half_value(low.x), half_value(high.x), half_value(low.y), half_value(high.y));
}
