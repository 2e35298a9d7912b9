// KV cache in f16: word i of an octet holds dimensions 2i (low half) and 2i + 1.
import package::half::{half_bits, half_quad};
@if(int64) import package::quant::packed::two_words;

@if(int64) alias KvOctet = vec2<u64>;
@else alias KvOctet = vec4u;

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

fn kv_decode(octet: KvOctet) -> mat2x4f {
    @if(int64) return mat2x4f(half_quad(two_words(octet.x)), half_quad(two_words(octet.y)));
    @else return mat2x4f(half_quad(octet.xy), half_quad(octet.zw));
}
