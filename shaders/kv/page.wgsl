// Where the KV cache keeps a token: pages of PAGE tokens, KV head by KV head, in octets of neighbouring dimensions and
// 32-bit words. Of a KV head's page come first the codes, of keys [OCTETS, PAGE, KV_OCTET_WORDS] and of values
// [PAGE, OCTETS, KV_OCTET_WORDS], then the scales, [KV_SCALE_WORDS, PAGE]. Invocations that have a key each, or an octet
// each of the same value, read neighbouring memory.
import package::generated::{HEAD_DIM, KV_HEADS, KV_OCTET_WORDS, KV_SCALE_WORDS, PAGE};

const PAIRS = HEAD_DIM / 2u;

// What the last octet has beyond the head is zero.
const OCTETS = (HEAD_DIM + 7u) / 8u;

// Words of a page's KV head, and those of them that are codes.
const CODE_WORDS = PAGE * OCTETS * KV_OCTET_WORDS;
const HEAD_WORDS = CODE_WORDS + PAGE * KV_SCALE_WORDS;

// First word of a page's KV head. In f16 with 8 heads of 128 dimensions and pages of 32 tokens, page 3, head 2:
// (3 * 8 + 2) * 32 * 16 * 4 = 53248.
fn head_start(page: u32, kv_head: u32) -> u32 {
    return (page * KV_HEADS + kv_head) * HEAD_WORDS;
}

// Word number `word` of a key's codes, from the head's first word on. In f16 word 6, dimensions 12 and 13, is word 2 of
// octet 1: of place 5 it is at (1 * 32 + 5) * 4 + 2 = 150.
fn key_word(place: u32, word: u32) -> u32 {
    return (word / KV_OCTET_WORDS * PAGE + place) * KV_OCTET_WORDS + word % KV_OCTET_WORDS;
}

// Word number `word` of a value's codes, from the head's first word on: of place 5, word 6 is at 5 * 16 * 4 + 6 = 326.
fn value_word(place: u32, word: u32) -> u32 {
    return place * OCTETS * KV_OCTET_WORDS + word;
}

// The word with the scales of the dimensions 64 * chunk to 64 * chunk + 63, two halves, from the head's first word on.
fn scale_word(place: u32, chunk: u32) -> u32 {
    return CODE_WORDS + chunk * PAGE + place;
}
