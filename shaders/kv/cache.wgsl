// The KV cache as attention reads it: octets of keys and values, decoded.
import package::half::{half_of, half_value};
import package::kv::{KvOctet, kv_decode, kv_word};
import package::kv::page::{OCTETS, head_start, scale_word};
import package::generated::{KV_OCTET_WORDS, PAGE};

@group(0) @binding(5) var<storage, read> k_cache: array<KvOctet>; // [pages, KV_HEADS, OCTETS, PAGE], and scales: kv/page
@group(0) @binding(6) var<storage, read> v_cache: array<KvOctet>; // [pages, KV_HEADS, PAGE, OCTETS], and scales

// First octet of a page's KV head.
fn first_octet(page: u32, kv_head: u32) -> u32 {
    return head_start(page, kv_head) / KV_OCTET_WORDS;
}

// Dimensions 8 * octet to 8 * octet + 7 of a key.
fn k_octet(first: u32, place: u32, octet: u32) -> mat2x4f {
    let codes = kv_decode(k_cache[first + octet * PAGE + place]);
    @if(kv_scales) {
        let word = scale_word(place, octet / 8u);
        return codes * scale_of(kv_word(k_cache[first + word / KV_OCTET_WORDS], word % KV_OCTET_WORDS), octet);
    }
    @if(!kv_scales) return codes;
}

// As k_octet of a value.
fn v_octet(first: u32, place: u32, octet: u32) -> mat2x4f {
    let codes = kv_decode(v_cache[first + place * OCTETS + octet]);
    @if(kv_scales) {
        let word = scale_word(place, octet / 8u);
        return codes * scale_of(kv_word(v_cache[first + word / KV_OCTET_WORDS], word % KV_OCTET_WORDS), octet);
    }
    @if(!kv_scales) return codes;
}

// Blocks of 32 dimensions have a scale each.
@if(kv_scales)
fn scale_of(scales: u32, octet: u32) -> f32 {
    return half_value(half_of(scales, octet / 4u));
}
