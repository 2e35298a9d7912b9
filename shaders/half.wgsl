// 16-bit floats in 32-bit words, read and written exactly on every device.

// The low (`place` even) or high (odd) half of a word.
fn half_of(word: u32, place: u32) -> u32 {
    return (word >> (16u * (place & 1u))) & 0xffffu;
}

// A finite f16 from its bits: by the device's own conversion, where that takes no subnormal number for zero.
@if(f16_conversion)
fn half_value(bits: u32) -> f32 {
    return unpack2x16float(bits).x;
}

// Or by integer arithmetic. The exponent's bias is 15 in f16 and 127 in f32; the mantissa has 10 and 23 bits.
// 0x3e00 = 0|01111|1000000000 is 1.5: (0x3e00 << 13) + (112 << 23) = 0x3fc00000.
// 0x8003 is subnormal: -3 × 2⁻²⁴.
@else
fn half_value(bits: u32) -> f32 {
    let magnitude = bits & 0x7fffu;
    let normal = bitcast<f32>((magnitude << 13u) + (112u << 23u));
    let subnormal = f32(magnitude) * 5.9604644775390625e-8;
    let value = select(normal, subnormal, magnitude < 0x400u);
    return select(value, -value, bits != magnitude);
}

// The low and the high half of a word.
fn half_pair(word: u32) -> vec2f {
    @if(f16_conversion) return unpack2x16float(word);
    @else return vec2f(half_value(half_of(word, 0u)), half_value(half_of(word, 1u)));
}

// Of two words.
fn half_quad(words: vec2u) -> vec4f {
    return vec4f(half_pair(words.x), half_pair(words.y));
}

// Rounds to nearest even and clamps to ±65504, by integer arithmetic as well: pack2x16float may round any way.
// With f32's exponent e, the value is m * 2^(e - 150) for the 24-bit m.
// Normal in f16 from e = 113 on: drops 13 bits of m, and the bias goes from 127 to 15.
// Subnormal below, in units of 2^-24: m >> (126 - e). 2^-15 has e = 112, m = 2^23, and becomes 2^23 >> 14 = 512.
fn half_bits(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let magnitude = min(bits & 0x7fffffffu, 0x477fe000u);
    let normal = (rounding_shift(magnitude, 13u)) - (112u << 10u);
    let subnormal = rounding_shift((magnitude & 0x7fffffu) | 0x800000u, min(126u - (magnitude >> 23u), 25u));
    return ((bits >> 16u) & 0x8000u) | select(subnormal, normal, magnitude >= 0x38800000u);
}

// Two values in a word, infinity and NaN as such.
fn short_bits(values: vec2f) -> u32 {
    return short(values.x) | (short(values.y) << 16u);
}

fn short(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let magnitude = bits & 0x7fffffffu;
    let special = ((bits >> 16u) & 0x8000u) | select(0x7c00u, 0x7e00u, magnitude > 0x7f800000u);
    return select(half_bits(value), special, magnitude >= 0x7f800000u);
}

// value / 2^shift to nearest, ties to even: 5 >> 1 is 2, 7 >> 1 is 4.
fn rounding_shift(value: u32, shift: u32) -> u32 {
    let odd = (value >> shift) & 1u;
    return (value + (1u << (shift - 1u)) - 1u + odd) >> shift;
}

// Weights that are rounded to 16 bits are multiplied by a power of two before, so that small ones keep their bits:
// below 2⁻¹⁴ a 16-bit float has fewer, and a driver may take it for zero.
const WEIGHT_SCALE = 64.0;

// As 16-bit floats, where what is finite stays so: 1e6 becomes 65504. Infinity and NaN stay what they are.
@if(f16)
fn saturated_f16(values: vec4f) -> vec4<f16> {
    let finite = abs(values) < vec4f(3.4e38);
    return vec4<f16>(select(values, clamp(values, vec4f(-65504.0), vec4f(65504.0)), finite));
}

// The same of weights, which are finite, times WEIGHT_SCALE.
@if(f16)
fn short_weights(values: vec4f) -> vec4<f16> {
    return vec4<f16>(clamp(WEIGHT_SCALE * values, vec4f(-65504.0), vec4f(65504.0)));
}
