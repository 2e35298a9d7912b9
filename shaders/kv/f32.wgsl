// KV cache in f32: dimension i of an octet is word i.
alias KvOctet = mat2x4f;

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
    return octet;
}
