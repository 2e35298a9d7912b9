// Scales and minima of eight blocks as src/quant/q4_k.rs packs them: 6-bit numbers times a 16-bit float each.
import package::half::half_pair;

// Of block `place`: the scale, and the minimum, negative, which is to be added. Block 5 has bits 20 to 23 of the second and
// the third word, and 10 and 11, and 26 and 27, of the fourth.
fn scale_and_offset(words: vec4u, place: u32) -> vec2f {
    let low = (words.yz >> vec2u(4u * place)) & vec2u(15u);
    let high = (vec2u(words.w) >> (vec2u(0u, 16u) + 2u * place)) & vec2u(3u);
    return half_pair(words.x) * vec2f(low | (high << vec2u(4u))) * vec2f(1.0, -1.0);
}
