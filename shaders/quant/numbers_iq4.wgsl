// The numbers that codes of iq4_nl and iq4_xs choose, NUMBERS of src/quant/iq4_nl.rs.
import package::quant::packed::bytes;

// Of four codes in the bytes of a word: 0x0f080700 gives -127, -10, 1, 113. Each is the integer next to a polynomial of its code, which is
// off by 0.44 at most.
fn numbers(codes: u32) -> vec4f {
    let code = bytes(codes);
    let upper = fma(fma(code, vec4f(1.586e-3), vec4f(3.1086e-2)), code, vec4f(-1.3719));
    return round(fma(fma(upper, code, vec4f(24.174)), code, vec4f(-126.57)));
}

// Four signed bytes in a word, low bytes first.
const NUMBERS = vec4u(0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u);

// The same numbers as bytes of a word, 0x7101f681, which take more to make of floats than to choose.
fn packed_numbers(codes: u32) -> u32 {
    let code = (vec4u(codes) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(15u);
    let second = (code & vec4u(4u)) != vec4u();
    let negative = select(vec4u(NUMBERS.x), vec4u(NUMBERS.y), second);
    let positive = select(vec4u(NUMBERS.z), vec4u(NUMBERS.w), second);
    let word = select(negative, positive, (code & vec4u(8u)) != vec4u());
    let number = ((word >> ((code & vec4u(3u)) * 8u)) & vec4u(255u)) << vec4u(0u, 8u, 16u, 24u);
    return number.x | number.y | number.z | number.w;
}
