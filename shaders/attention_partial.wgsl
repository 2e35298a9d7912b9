// What the attention kernels share: which keys a row sees, and how partial results are stored.
import package::generated::{HEADS, HEAD_DIM, WorkItem};

// The score of an invisible key and the running maximum of no key: below every real score, and still finite after
// subtracting one and changing to base 2.
const MASKED = -1.0e30;

// A partial result: running maximum, sum of exponentials, HEAD_DIM sums of weighted values.
const PARTIAL = HEAD_DIM + 2u;

// First float of a partial result. Of 32 heads with 128 dimensions, partial 3 of head 5: (3 * 32 + 5) * 130 = 13130.
fn partial_start(partial: u32, head: u32) -> u32 {
    return (partial * HEADS + head) * PARTIAL;
}

// Begin and end of the keys of `item` that a row at `position` sees; (0, 0) if none.
// With a window of 4, position 9 sees keys 6 to 9: of the item 0..8 it sees 6..8.
fn visible_keys(item: WorkItem, position: u32, window: u32) -> vec2u {
    let begin = max(item.key_begin, position + 1u - min(window, position + 1u));
    let end = min(item.key_end, position + 1u);
    return select(vec2u(0u), vec2u(begin, end), begin < end);
}
