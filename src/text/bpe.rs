//! Merging by rank: the greedy algorithm that SentencePiece, tiktoken and llama.cpp have in common.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

/// No neighbour.
const NONE: usize = usize::MAX;

/// Merges neighbouring parts of a text until no pair has a rank: always the pair of the lowest rank, the leftmost
/// of equals. `ends` are the ends of the parts, ascending; `rank` is asked for the two ranges of a pair.
///
/// `n log n` for `n` parts, however often they merge. For parts `a b c b c` and the ranks `bc` 0, `abc` 1:
/// `a bc b c`, `a bc bc`, `abc bc`.
pub(super) fn merge<R: Ord>(
    ends: impl Iterator<Item = usize>,
    rank: impl Fn(Range<usize>, Range<usize>) -> Option<R>,
) -> impl Iterator<Item = Range<usize>> {
    let mut parts: Vec<Part> = Vec::new();
    for end in ends {
        let at = parts.len();
        let (start, previous) = parts.last().map_or((0, NONE), |last| (last.end, at - 1));
        parts.push(Part { start, end, previous, next: at + 1 });
    }
    if let Some(last) = parts.last_mut() {
        last.next = NONE;
    }
    let mut queue = BinaryHeap::new();
    let offer = |queue: &mut BinaryHeap<_>, parts: &[Part], left: usize| {
        let Some(right) = parts.get(left).and_then(|part| parts.get(part.next)) else { return };
        if let Some(rank) = rank(parts[left].range(), right.range()) {
            queue.push(Reverse((rank, left, right.end)));
        }
    };
    for left in 0..parts.len() {
        offer(&mut queue, &parts, left);
    }
    while let Some(Reverse((_, left, end))) = queue.pop() {
        let right = parts[left].next;
        // The pair as it was when it was offered, or it has merged with others meanwhile.
        if parts[left].is_merged() || right == NONE || parts[right].end != end {
            continue;
        }
        let next = parts[right].next;
        parts[left].end = end;
        parts[left].next = next;
        parts[right].start = end;
        if next != NONE {
            parts[next].previous = left;
        }
        let previous = parts[left].previous;
        offer(&mut queue, &parts, previous);
        offer(&mut queue, &parts, left);
    }
    parts.into_iter().filter(|part| !part.is_merged()).map(|part| part.range())
}

struct Part {
    start: usize,
    end: usize,
    previous: usize,
    next: usize,
}

impl Part {
    fn range(&self) -> Range<usize> {
        self.start..self.end
    }

    /// Whether the part has become the end of the one before.
    fn is_merged(&self) -> bool {
        self.start == self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_merge_by_rank_and_from_the_left() {
        let merged = |text: &str, words: &[&str]| -> Vec<String> {
            let rank = |a: Range<usize>, b: Range<usize>| {
                words.iter().position(|word| *word == &text[a.start..b.end])
            };
            merge(1..=text.len(), rank).map(|part| text[part].to_owned()).collect()
        };
        assert_eq!(merged("abcbc", &["bc", "abc"]), ["abc", "bc"]);
        assert_eq!(merged("aaaaa", &["aa", "aaaa"]), ["aaaa", "a"]);
        assert_eq!(merged("aaa", &["aa", "aaa"]), ["aaa"]);
        assert_eq!(merged("", &["a"]), [""; 0]);
    }
}
