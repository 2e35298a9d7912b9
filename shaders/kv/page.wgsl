// Where the KV cache keeps a token: pages of PAGE tokens, KV head by KV head.
import package::generated::{HEAD_DIM, KV_HEADS, PAGE};

const PAIRS = HEAD_DIM / 2u;

// First pair of a token's head. With 8 heads of 128 dimensions and pages of 32 tokens, page 3, head 2, place 5:
// ((3 * 8 + 2) * 32 + 5) * 64 = 53568.
fn first_pair(page: u32, kv_head: u32, place: u32) -> u32 {
    return ((page * KV_HEADS + kv_head) * PAGE + place) * PAIRS;
}
