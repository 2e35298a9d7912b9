// KV cache in f32: dimension i of an octet is word i.
@if(int64) import package::float_pair::floats;

@if(int64) alias KvOctet = vec4<u64>;
@else alias KvOctet = mat2x4f;

// Dimensions that one invocation encodes.
const KV_CHUNK = 2u;

// Words of codes that it gives.
const KV_CODES = 2u;

struct KvCodes {
    codes: array<u32, 2>,
}

fn kv_encode(values: ptr<function, array<f32, 2>>) -> KvCodes {
    return KvCodes(array<u32, 2>(bitcast<u32>((*values)[0]), bitcast<u32>((*values)[1])));
}

fn kv_decode(octet: KvOctet) -> mat2x4f {
    @if(int64) return mat2x4f(vec4f(floats(octet.x), floats(octet.y)), vec4f(floats(octet.z), floats(octet.w)));
    @else return octet;
}
