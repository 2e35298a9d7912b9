//! Reading a file from its begin on.

use super::corrupt;
use crate::Result;

/// What of a file was not read yet. Nothing is read past its end.
pub(super) struct Cursor<'a> {
    file: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub fn new(file: &'a [u8]) -> Self {
        Self { file, rest: file }
    }

    /// Bytes that were read.
    pub fn position(&self) -> u64 {
        (self.file.len() - self.rest.len()) as u64
    }

    /// What was not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `count` bytes, which are `what`.
    pub fn bytes(&mut self, count: u64, what: &str) -> Result<&'a [u8]> {
        let split = usize::try_from(count).ok().and_then(|count| self.rest.split_at_checked(count));
        let Some((bytes, rest)) = split else {
            let found = format_args!("the end of the file after {}", self.rest.len());
            return Err(corrupt(what, format_args!("{count} bytes at byte {}", self.position()), found));
        };
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        Ok(self.bytes(N as u64, what)?.try_into().expect("as many bytes"))
    }

    pub fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub fn u64(&mut self, what: &str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A string after its length.
    pub fn string(&mut self, what: &str) -> Result<&'a str> {
        let length = self.u64(what)?;
        let bytes = self.bytes(length, what)?;
        std::str::from_utf8(bytes).map_err(|e| corrupt(what, "UTF-8", e).because(e))
    }
}
