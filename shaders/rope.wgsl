// Rotary position embedding (Su et al. 2021, arXiv:2104.09864), neighbouring dimensions paired as in the paper.
import package::kv::page::PAIRS;
import package::float_pair::{Pair, floats};

@group(0) @binding(9) var<storage, read> rope: array<Pair>; // [positions, PAIRS]: cos, sin

// Pair number `pair` of a head, turned as at `position`. In explicit `fma`: the same bits in every kernel.
fn turned(x: vec2f, position: u32, pair: u32) -> vec2f {
    let turn = floats(rope[position * PAIRS + pair]);
    return vec2f(fma(x.x, turn.x, -x.y * turn.y), fma(x.y, turn.x, x.x * turn.y));
}
