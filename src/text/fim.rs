//! Filling in the middle: ids of a text with a gap, as mistral-common 1.13 encodes them for Codestral.

use super::{Encode, Tokenizer};
use crate::{Error, ErrorKind, Result};

/// A text of its own word, so that the suffix begins within a text and no tokenizer puts a space before it.
const BEFORE: &str = "☺";

impl Tokenizer {
    /// The ids that ask for what stands between `prefix` and `suffix`: `<s>[SUFFIX]suffix[PREFIX]prefix`. An empty
    /// suffix asks for what follows.
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`] naming the control tokens that the vocabulary lacks; as
    /// [`encode`](Self::encode).
    pub fn encode_fim(&self, prefix: &str, suffix: &str) -> Result<Vec<u32>> {
        let [suffix_id, prefix_id] = ["[SUFFIX]", "[PREFIX]"].map(|token| self.control_id(token));
        let (Some(suffix_id), Some(prefix_id)) = (suffix_id, prefix_id) else {
            let expected = "the control tokens [SUFFIX] and [PREFIX], as Codestral has them";
            let found = "a vocabulary without, of a model that cannot fill in";
            return Err(Error::expected(ErrorKind::Tokenizer, "suffix", expected, found));
        };
        let mut ids: Vec<u32> = self.bos().into_iter().chain([suffix_id]).collect();
        if !suffix.is_empty() {
            // Two tokens in all published vocabularies.
            let marked = self.encode(&format!("{BEFORE}{suffix}"), Encode::default())?;
            ids.extend(marked.into_iter().skip(2));
        }
        ids.push(prefix_id);
        ids.extend(self.encode(prefix, Encode::default())?);
        Ok(ids)
    }
}
