// 16-bit floats in 32-bit words, read exactly on every device.

// The low (`place` even) or high (odd) half of a word.
fn half_of(word: u32, place: u32) -> u32 {
    return (word >> (16u * (place & 1u))) & 0xffffu;
}

// A finite f16 from its bits, exactly, by integer arithmetic: drivers may flush subnormals to zero.
// The exponent's bias is 15 in f16 and 127 in f32; the mantissa has 10 and 23 bits.
// 0x3e00 = 0|01111|1000000000 is 1.5: (0x3e00 << 13) + (112 << 23) = 0x3fc00000.
// 0x8003 is subnormal: -3 × 2⁻²⁴.
fn half_value(bits: u32) -> f32 {
    let magnitude = bits & 0x7fffu;
    let normal = bitcast<f32>((magnitude << 13u) + (112u << 23u));
    let subnormal = f32(magnitude) * 5.9604644775390625e-8;
    let value = select(normal, subnormal, magnitude < 0x400u);
    return select(value, -value, bits != magnitude);
}
