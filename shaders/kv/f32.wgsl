// KV cache in f32: a pair of neighbouring dimensions is two words.
alias KvPair = vec2f;

fn kv_encode(pair: vec2f) -> KvPair {
    return pair;
}

fn kv_decode(pair: KvPair) -> vec2f {
    return pair;
}
