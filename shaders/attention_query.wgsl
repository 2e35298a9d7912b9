// The queries of attention.
import package::generated::HEAD_DIM;
import package::kv::page::PAIRS;

@if(whole_octets) @group(0) @binding(1) var<storage, read> q: array<vec4f>; // [rows, stride / 4]
@else @group(0) @binding(1) var<storage, read> q: array<vec2f>;             // [rows, stride / 2]

// Dimensions 8 * octet to 8 * octet + 7 of the query head that begins `start` floats into q. What lies beyond the head
// is zero.
@if(whole_octets)
fn q_octet(start: u32, octet: u32) -> mat2x4f {
    let quad = start / 4u + 2u * octet;
    return mat2x4f(q[quad], q[quad + 1u]);
}

@else
fn q_octet(start: u32, octet: u32) -> mat2x4f {
    let first = start / 2u;
    return mat2x4f(
        vec4f(q_pair(first, 4u * octet), q_pair(first, 4u * octet + 1u)),
        vec4f(q_pair(first, 4u * octet + 2u), q_pair(first, 4u * octet + 3u)),
    );
}

@if(!whole_octets)
fn q_pair(first: u32, pair: u32) -> vec2f {
    return select(vec2f(0.0), q[first + min(pair, PAIRS - 1u)], pair < PAIRS);
}
