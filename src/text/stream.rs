//! Text as it is generated: tokens to printable pieces, and stop strings that are never partly printed.

use super::{Tokenizer, pieces::Assembler};
use crate::Result;
use std::sync::Arc;

/// Decodes tokens one by one in constant time each. The pieces together are [`Tokenizer::decode`] of all tokens
/// with control tokens skipped; no piece holds half a character.
pub struct StreamDecoder {
    tokenizer: Arc<Tokenizer>,
    assembler: Assembler,
}

impl StreamDecoder {
    /// Starts an empty text.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { assembler: tokenizer.assembler(), tokenizer }
    }

    /// Adds a token; `None` while a character is incomplete and for tokens that print nothing.
    ///
    /// Error ([`crate::ErrorKind::Tokenizer`]) for an id outside the vocabulary, which changes nothing.
    pub fn push(&mut self, id: u32) -> Result<Option<String>> {
        let text = self.tokenizer.add(&mut self.assembler, id, false)?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    /// Ends the text: U+FFFD for a character that stayed incomplete.
    pub fn finish(&mut self) -> Option<String> {
        Some(self.assembler.finish()).filter(|text| !text.is_empty())
    }
}

/// Cuts a stream of text at the first stop string, wherever the pieces are split: text that may be the beginning
/// of a stop string is held back until it is clear whether it is one.
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
    stopped: bool,
}

impl StopStrings {
    /// Watches for any of `stops`; empty ones are ignored.
    pub fn new(stops: Vec<String>) -> Self {
        let stops = stops.into_iter().filter(|stop| !stop.is_empty()).collect();
        Self { stops, held: String::new(), stopped: false }
    }

    /// Adds a piece; returns what may be printed now, and whether a stop string has been completed. The first to
    /// be completed counts (the longest of several that end together); nothing after it is ever printed.
    pub fn push(&mut self, piece: &str) -> (String, bool) {
        if self.stopped {
            return (String::new(), true);
        }
        self.held.push_str(piece);
        let matches =
            self.stops.iter().filter_map(|stop| self.held.find(stop).map(|at| (at + stop.len(), at)));
        let certain = match matches.min() {
            Some((_, start)) => {
                self.stopped = true;
                start
            }
            None => self.held.len() - self.possible_beginning(),
        };
        let rest = self.held.split_off(certain);
        (std::mem::replace(&mut self.held, rest), self.stopped)
    }

    /// Bytes at the end of the held text that a stop string may begin with.
    fn possible_beginning(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let nearest = self.held.len().saturating_sub(longest);
        let starts = (nearest..self.held.len()).filter_map(|at| self.held.get(at..));
        let mut beginnings = starts.filter(|end| self.stops.iter().any(|stop| stop.starts_with(end)));
        beginnings.next().map_or(0, str::len)
    }

    /// The end of the stream: what was held back, unless a stop string was completed.
    pub fn finish(&mut self) -> String {
        let held = std::mem::take(&mut self.held);
        if self.stopped { String::new() } else { held }
    }
}
