// Activations as integer products read them: blocks of 32 signed bytes, each with its scale.

struct BlockScale {
    scale: f32,
    sum: i32, // of the block's codes, with which `weight_dot` corrects for weights' codes that are all off by as much
}

// What `weight_dot` takes: sums of products with either half of a block's codes, and of what was multiplied with them.
@if(integer) alias Dots = vec2i;
@else alias Dots = vec2f;
@if(integer) alias Sum = i32;
@else alias Sum = f32;

// The words of a scale in memory.
fn block_scale(words: vec2u) -> BlockScale {
    return BlockScale(bitcast<f32>(words.x), bitcast<i32>(words.y));
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

// The codes of a block in two parts, as 4-bit weights hold them in 8 bytes each: part p is words 2p, 2p + 1, 2p + 4 and
// 2p + 5 of the block's eight.
alias Parts = array<vec4u, 2>;

// Of the words of either half.
fn parts_of(low: vec4u, high: vec4u) -> Parts {
    return Parts(vec4u(low.xy, high.xy), vec4u(low.zw, high.zw));
}

// Products of the first 16 codes and of the others, exactly.
fn dot_block(a: Parts, b: Parts) -> vec2i {
    return dot_part(a[0], b[0]) + dot_part(a[1], b[1]);
}

fn dot_part(a: vec4u, b: vec4u) -> vec2i {
    return vec2i(
        dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y),
        dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w),
    );
}
