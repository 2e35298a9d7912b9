//! Reading the keys of a JSON object, with errors that name the key, what was expected and what was found.

use std::fmt::Display;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::{Error, ErrorKind, Result};

/// A JSON object whose absent keys take the values of `defaults`.
pub(super) struct Keys {
    subject: String,
    object: Map<String, Value>,
    defaults: Map<String, Value>,
}

impl Keys {
    /// Parses a JSON object; `subject` is the file or place it came from, for messages.
    pub fn parse(json: &str, subject: &str) -> Result<Self> {
        let object = serde_json::from_str(json)
            .map_err(|e| Error::expected(ErrorKind::Config, subject, "a JSON object", &e).because(e))?;
        Ok(Self { subject: subject.into(), object, defaults: Map::new() })
    }

    /// Lets absent keys take the values of this JSON object, where they have no default yet.
    pub fn or(mut self, defaults: &str) -> Result<Self> {
        let known = std::mem::replace(&mut self.defaults, Self::parse(defaults, "defaults")?.object);
        self.defaults.extend(known);
        Ok(self)
    }

    /// The object under `key` as keys of its own; empty if it is absent or null.
    pub fn object(&self, key: &str) -> Result<Self> {
        let object = self.read(key, "an object", Value::as_object)?.cloned().unwrap_or_default();
        Ok(Self { subject: format!("{}: {key}", self.subject), object, defaults: Map::new() })
    }

    /// The keys under `text_config`, those of the language model in one that sees, too. It is a Mistral unless it says
    /// otherwise, and tied as the whole is.
    pub fn language_model(&self) -> Result<Self> {
        let mut keys = self.object("text_config")?;
        keys.defaults.insert("model_type".into(), "mistral".into());
        for key in ["tie_word_embeddings", "dtype", "torch_dtype"] {
            keys.defaults.extend(self.value(key).map(|value| (key.to_owned(), value.clone())));
        }
        Ok(keys)
    }

    /// The value of `key`; `None` if it is null or has neither a value nor a default.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.object.get(key).or_else(|| self.defaults.get(key)).filter(|value| !value.is_null())
    }

    /// The value of `key` as `convert` understands it; an error if it does not.
    pub fn read<'a, T>(
        &'a self,
        key: &str,
        expected: impl Display,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| self.refuse(key, expected, value))
    }

    /// A whole number within `range`.
    pub fn integer(&self, key: &str, range: RangeInclusive<u64>) -> Result<Option<u64>> {
        let expected = format_args!("a whole number from {} to {}", range.start(), range.end());
        self.read(key, expected, |value| value.as_u64().filter(|n| range.contains(n)))
    }

    /// A size within `range`, which must be given.
    pub fn size(&self, key: &str, range: RangeInclusive<usize>) -> Result<usize> {
        let range = *range.start() as u64..=*range.end() as u64;
        Ok(self.required(key, self.integer(key, range)?)? as usize)
    }

    /// A number within `range`.
    pub fn number(&self, key: &str, range: RangeInclusive<f64>) -> Result<Option<f64>> {
        let expected = format_args!("a number from {} to {}", range.start(), range.end());
        self.read(key, expected, |value| value.as_f64().filter(|x| range.contains(x)))
    }

    /// True or false.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>> {
        self.read(key, "true or false", Value::as_bool)
    }

    /// One token id below `vocab_size`.
    pub fn token(&self, key: &str, vocab_size: usize) -> Result<Option<u32>> {
        let expected = format_args!("a token id below {vocab_size}");
        self.read(key, expected, |value| token(value, vocab_size))
    }

    /// One token id below `vocab_size`, or a list of them.
    pub fn tokens(&self, key: &str, vocab_size: usize) -> Result<Option<Vec<u32>>> {
        let expected = format_args!("token ids below {vocab_size}");
        self.read(key, expected, |value| match value {
            Value::Array(ids) => ids.iter().map(|id| token(id, vocab_size)).collect(),
            id => token(id, vocab_size).map(|id| vec![id]),
        })
    }

    /// An error unless there is a value.
    pub fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.refuse(key, "a value", self.object.get(key).map_or("none", |_| "null")))
    }

    /// The error that `found` is not what `key` must be.
    pub fn refuse(&self, key: &str, expected: impl Display, found: impl Display) -> Error {
        Error::expected(ErrorKind::Config, key, expected, found).within(&self.subject)
    }
}

fn token(value: &Value, vocab_size: usize) -> Option<u32> {
    let id = value.as_u64().filter(|id| *id < vocab_size as u64)?;
    u32::try_from(id).ok()
}
