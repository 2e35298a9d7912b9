// The queries of attention.
@if(int64) import package::exchange::exchanged;
import package::generated::HEAD_DIM;
import package::kv::page::PAIRS;
@if(!whole_octets || int64) import package::float_pair::{Pair, floats};

@if(whole_octets && !int64) @group(0) @binding(1) var<storage, read> q: array<vec4f>; // [rows, stride / 4]
@else @group(0) @binding(1) var<storage, read> q: array<Pair>;                       // [rows, stride / 2]

// Dimensions 8 * octet to 8 * octet + 7 of the query head that begins `start` floats into q. What lies beyond the head
// is zero.
@if(whole_octets && !int64)
fn q_octet(start: u32, octet: u32) -> mat2x4f {
    let quad = start / 4u + 2u * octet;
    return mat2x4f(q[quad], q[quad + 1u]);
}

@elif(!int64)
fn q_octet(start: u32, octet: u32) -> mat2x4f {
    let first = start / 2u;
    return mat2x4f(
        vec4f(q_pair(first, 4u * octet), q_pair(first, 4u * octet + 1u)),
        vec4f(q_pair(first, 4u * octet + 2u), q_pair(first, 4u * octet + 3u)),
    );
}

// Of an octet, whose pairs the invocations of a four have.
@else
fn q_octet(own: vec2f, four: u32) -> mat2x4f {
    let even = bitcast<vec4f>(exchanged(bitcast<u32>(own.x))[four]);
    let odd = bitcast<vec4f>(exchanged(bitcast<u32>(own.y))[four]);
    return mat2x4f(vec4f(even.x, odd.x, even.y, odd.y), vec4f(even.z, odd.z, even.w, odd.w));
}

@if(!whole_octets || int64)
fn q_pair(first: u32, pair: u32) -> vec2f {
    return select(vec2f(0.0), floats(q[first + min(pair, PAIRS - 1u)]), pair < PAIRS);
}
