// The KV cache as it is written: KV_CHUNK dimensions at a time.
import package::generated::{KV_HEADS, KV_OCTET_WORDS, PAGE};
import package::kv::{KV_CHUNK, KV_CODES, kv_encode};
import package::kv::page::{OCTETS, head_start, key_word, scale_word, value_word};

@group(0) @binding(10) var<storage, read_write> k_cache: array<u32>; // [pages, KV_HEADS, HEAD_WORDS]
@group(0) @binding(11) var<storage, read_write> v_cache: array<u32>; // as k_cache

// Writes dimensions KV_CHUNK * chunk and on of head number `head`, of keys and then of values, to a slot of the cache.
fn store(slot: u32, head: u32, chunk: u32, values: ptr<function, array<f32, KV_CHUNK>>) {
    let place = slot % PAGE;
    let start = head_start(slot / PAGE, head % KV_HEADS);
    var encoded = kv_encode(values);
    for (var i = 0u; i < KV_CODES; i++) {
        let word = chunk * KV_CODES + i;
        if word < OCTETS * KV_OCTET_WORDS {
            if head < KV_HEADS {
                k_cache[start + key_word(place, word)] = encoded.codes[i];
            } else {
                v_cache[start + value_word(place, word)] = encoded.codes[i];
            }
        }
    }
    @if(kv_scales)
    if head < KV_HEADS {
        k_cache[start + scale_word(place, chunk)] = encoded.scales;
    } else {
        v_cache[start + scale_word(place, chunk)] = encoded.scales;
    }
}
