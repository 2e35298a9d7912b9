// The numbers that codes of iq4_nl and iq4_xs choose, NUMBERS of src/quant/iq4_nl.rs: four signed bytes in a word, low
// bytes first.
const NUMBERS = vec4u(0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u);

// Of four codes in the bytes of a word, the numbers: 0x0f080700 gives -127, -10, 1, 113.
fn numbers(codes: u32) -> vec4i {
    let code = code_bytes(codes);
    return bitcast<vec4i>(words_of_numbers(code) << (24u - 8u * (code & vec4u(3u)))) >> vec4u(24u);
}

// The same in the bytes of a word: 0x7101f681.
fn packed_numbers(codes: u32) -> u32 {
    let code = code_bytes(codes);
    let number = ((words_of_numbers(code) >> (8u * (code & vec4u(3u)))) & vec4u(255u)) << vec4u(0u, 8u, 16u, 24u);
    return number.x | number.y | number.z | number.w;
}

fn code_bytes(codes: u32) -> vec4u {
    return (vec4u(codes) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(15u);
}

fn words_of_numbers(code: vec4u) -> vec4u {
    let second = (code & vec4u(4u)) != vec4u();
    let negative = select(vec4u(NUMBERS.x), vec4u(NUMBERS.y), second);
    let positive = select(vec4u(NUMBERS.z), vec4u(NUMBERS.w), second);
    return select(negative, positive, (code & vec4u(8u)) != vec4u());
}
