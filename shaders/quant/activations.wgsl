// Activations as integer products read them: blocks of 32 signed bytes, each with its scale.

struct BlockScale {
    scale: f32,
    sum: i32, // of the block's codes, with which `weight_dot` corrects for weights' codes that are all off by as much
}

struct Block {
    codes: array<u32, 8>, // four in a word, low bytes first: 1, -2, 0, 0 is 0x0000fe01
    scale: BlockScale,
}

// Codes are round(127 x / largest), so that a value is off by half a step of largest / 127 at most.
// The scale of a block that holds an infinity or NaN is such, too, and with it every product.
fn quantize_block(x: array<vec4f, 8>) -> Block {
    var values = x;
    // The bits of a magnitude grow with it, and those of NaN are above infinity's.
    var bits = vec4u();
    for (var j = 0u; j < 8u; j++) {
        bits = max(bits, bitcast<vec4u>(values[j]) & vec4u(0x7fffffffu));
    }
    let largest = bitcast<f32>(max(max(bits.x, bits.y), max(bits.z, bits.w)));
    // Below 1e-30 everything is zero: 127 / largest must not overflow.
    let inverse = select(127.0 / largest, 0.0, largest < 1e-30);

    var block: Block;
    var sums = vec4i();
    for (var j = 0u; j < 8u; j++) {
        let codes = vec4i(round(values[j] * inverse));
        sums += codes;
        let bytes = (bitcast<vec4u>(codes) & vec4u(0xffu)) << vec4u(0u, 8u, 16u, 24u);
        block.codes[j] = bytes.x | bytes.y | bytes.z | bytes.w;
    }
    block.scale = BlockScale(largest / 127.0, sums.x + sums.y + sums.z + sums.w);
    return block;
}

// Product of 16 codes of either factor, exactly.
fn dot16(a: vec4u, b: vec4u) -> i32 {
    return dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y) + dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w);
}
