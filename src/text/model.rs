//! What the tokenizers of our own have in common: text is cut at tokens that stand for themselves, and a model
//! turns what lies between into ids.

use std::collections::HashMap;

use crate::Result;

/// Turns text into ids by a vocabulary.
pub(super) trait Model: Send + Sync {
    /// Appends the ids of `text`, in which nothing is a control token; `begins` where no text stands before it.
    ///
    /// Error ([`crate::ErrorKind::Tokenizer`]) if the file's rules cannot encode it.
    fn encode(&self, text: &str, begins: bool, ids: &mut Vec<u32>) -> Result<()>;
}

/// Finds tokens in a text.
#[derive(Default)]
pub(super) struct Cutter {
    /// The tokens by their first character, the longest first.
    tokens: HashMap<char, Vec<(String, u32)>>,
}

/// A part of a text.
#[derive(Debug, PartialEq)]
pub(super) enum Part<'a> {
    Text(&'a str),
    Token(u32),
}

impl Cutter {
    /// Looks for `tokens`; empty ones are ignored.
    pub fn new(tokens: impl IntoIterator<Item = (String, u32)>) -> Self {
        let mut by_first: HashMap<char, Vec<(String, u32)>> = HashMap::new();
        for (token, id) in tokens {
            if let Some(first) = token.chars().next() {
                by_first.entry(first).or_default().push((token, id));
            }
        }
        for tokens in by_first.values_mut() {
            tokens.sort_by_key(|(token, _)| std::cmp::Reverse(token.len()));
        }
        Self { tokens: by_first }
    }

    /// The parts of a text, none of them empty: of tokens that overlap, the one that begins first counts, and the
    /// longest of those.
    pub fn cut<'a>(&self, text: &'a str) -> Vec<Part<'a>> {
        let mut parts = Vec::new();
        let (mut start, mut next) = (0, 0);
        for (at, first) in text.char_indices() {
            let tokens = self.tokens.get(&first).filter(|_| at >= next);
            let found =
                tokens.and_then(|tokens| tokens.iter().find(|(token, _)| text[at..].starts_with(token)));
            if let Some((token, id)) = found {
                parts.extend(Some(Part::Text(&text[start..at])).filter(|_| start < at));
                parts.push(Part::Token(*id));
                next = at + token.len();
                start = next;
            }
        }
        parts.extend(Some(Part::Text(&text[start..])).filter(|_| start < text.len()));
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_at_the_first_and_longest_token() {
        let cutter = Cutter::new([("<a>".into(), 1), ("<a>b".into(), 2), ("é<".into(), 3), ("".into(), 4)]);
        let expected = [Part::Text("x"), Part::Token(2), Part::Token(3), Part::Text("a>"), Part::Token(1)];
        assert_eq!(cutter.cut("x<a>bé<a><a>"), expected);
        assert_eq!(cutter.cut(""), []);
    }
}
