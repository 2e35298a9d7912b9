// KV cache in f16: a pair of neighbouring dimensions is one word, the first in its low half. Integer arithmetic alone,
// because devices may flush subnormals and pack2x16float may round any way.
import package::half::half_value;

alias KvPair = u32;

fn kv_encode(pair: vec2f) -> KvPair {
    return f16_bits(pair.x) | (f16_bits(pair.y) << 16u);
}

fn kv_decode(pair: KvPair) -> vec2f {
    return vec2f(half_value(pair & 0xffffu), half_value(pair >> 16u));
}

// Rounds to nearest even and clamps to ±65504. With f32's exponent e, the value is m * 2^(e - 150) for the 24-bit m.
// Normal in f16 from e = 113 on: drops 13 bits of m, and the bias goes from 127 to 15.
// Subnormal below, in units of 2^-24: m >> (126 - e). 2^-15 has e = 112, m = 2^23, and becomes 2^23 >> 14 = 512.
fn f16_bits(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let magnitude = min(bits & 0x7fffffffu, 0x477fe000u);
    let normal = (rounding_shift(magnitude, 13u)) - (112u << 10u);
    let subnormal = rounding_shift((magnitude & 0x7fffffu) | 0x800000u, min(126u - (magnitude >> 23u), 25u));
    return ((bits >> 16u) & 0x8000u) | select(subnormal, normal, magnitude >= 0x38800000u);
}

// value / 2^shift to nearest, ties to even: 5 >> 1 is 2, 7 >> 1 is 4.
fn rounding_shift(value: u32, shift: u32) -> u32 {
    let odd = (value >> shift) & 1u;
    return (value + (1u << (shift - 1u)) - 1u + odd) >> shift;
}
