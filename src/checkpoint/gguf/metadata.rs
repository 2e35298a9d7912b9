//! The metadata of a GGUF file: keys with typed values.

use std::{collections::BTreeMap, fmt::Display};

use super::{corrupt, cursor::Cursor};
use crate::{Error, ErrorKind, Result};

/// The longest key: the format's own bound.
const MAX_KEY: usize = 65_535;

/// Arrays within arrays; none are in use.
const MAX_DEPTH: u32 = 4;

/// Types of values, by the numbers of `gguf_metadata_value_type`.
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Metadata by key, such as `llama.block_count`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata(BTreeMap<String, Value>);

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Integer(i128),
    Float(f64),
    Boolean(bool),
    Text(String),
    /// Elements as the file has them, checked to be whole.
    Array {
        kind: u32,
        count: u64,
        bytes: Vec<u8>,
    },
}

impl Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Integer(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
            Self::Boolean(value) => value.fmt(f),
            Self::Text(value) => write!(f, "{:?}", value.chars().take(60).collect::<String>()),
            Self::Array { count, .. } => write!(f, "an array of {count}"),
        }
    }
}

impl Metadata {
    /// Reads so many `entries`.
    pub(super) fn parse(cursor: &mut Cursor, entries: u64) -> Result<Self> {
        let mut values = BTreeMap::new();
        for _ in 0..entries {
            let key = cursor.string("a key of metadata")?;
            if key.len() > MAX_KEY {
                return Err(corrupt("metadata", format_args!("keys of at most {MAX_KEY} bytes"), key.len()));
            }
            let kind = cursor.u32("a type of metadata")?;
            let value = value(cursor, kind).map_err(|error| error.within(key))?;
            if values.insert(key.to_owned(), value).is_some() {
                return Err(corrupt(key, "one entry of this key", "another"));
            }
        }
        Ok(Self(values))
    }

    /// A text; `None` if there is no such key.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the value is something else.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        self.read(
            key,
            "a text",
            |value| if let Value::Text(text) = value { Some(text.as_str()) } else { None },
        )
    }

    /// A whole number that is not negative, as [`text`](Self::text).
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn integer(&self, key: &str) -> Result<Option<u64>> {
        self.read(key, "a whole number", |value| match value {
            Value::Integer(value) => u64::try_from(*value).ok(),
            _ => None,
        })
    }

    /// A number, as [`text`](Self::text).
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.read(key, "a number", |value| match value {
            Value::Integer(value) => Some(*value as f64),
            Value::Float(value) => Some(*value),
            _ => None,
        })
    }

    /// True or false, as [`text`](Self::text).
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn boolean(&self, key: &str) -> Result<Option<bool>> {
        self.read(key, "true or false", |value| match value {
            Value::Boolean(value) => Some(*value),
            _ => None,
        })
    }

    /// A list of texts, as [`text`](Self::text).
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn texts(&self, key: &str) -> Result<Option<Vec<String>>> {
        self.list(key, "texts", |value| if let Value::Text(text) = value { Some(text) } else { None })
    }

    /// A list of numbers, as [`text`](Self::text).
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.list(key, "numbers", |value| match value {
            Value::Integer(value) => Some(value as f32),
            Value::Float(value) => Some(value as f32),
            _ => None,
        })
    }

    /// A list of whole numbers, as [`text`](Self::text).
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i32>>> {
        self.list(key, "whole numbers", |value| match value {
            Value::Integer(value) => i32::try_from(value).ok(),
            _ => None,
        })
    }

    /// Whether the value is a list.
    pub fn is_list(&self, key: &str) -> bool {
        matches!(self.0.get(key), Some(Value::Array { .. }))
    }

    /// How many elements the list has; `None` if there is no such list.
    pub fn count(&self, key: &str) -> Option<u64> {
        match self.0.get(key) {
            Some(Value::Array { count, .. }) => Some(*count),
            _ => None,
        }
    }

    fn list<T>(&self, key: &str, of: &str, convert: impl Fn(Value) -> Option<T>) -> Result<Option<Vec<T>>> {
        self.read(key, format_args!("a list of {of}"), |found| {
            let Value::Array { kind, count, bytes } = found else { return None };
            let mut cursor = Cursor::new(bytes);
            (0..*count).map(|_| convert(value(&mut cursor, *kind).ok()?)).collect()
        })
    }

    fn read<'a, T>(
        &'a self,
        key: &str,
        expected: impl Display,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        let refuse = || Error::expected(ErrorKind::Config, key, expected, value);
        convert(value).map(Some).ok_or_else(refuse)
    }
}

fn value(cursor: &mut Cursor, kind: u32) -> Result<Value> {
    let mut bytes = |count| cursor.bytes(count, "a value");
    let integer = |bytes: &[u8], signed: bool| {
        let negative = signed && bytes.last().is_some_and(|last| *last >= 0x80);
        let mut whole = [if negative { 0xff } else { 0 }; 16];
        whole[..bytes.len()].copy_from_slice(bytes);
        Value::Integer(i128::from_le_bytes(whole))
    };
    Ok(match kind {
        0 => integer(bytes(1)?, false),
        1 => integer(bytes(1)?, true),
        2 => integer(bytes(2)?, false),
        3 => integer(bytes(2)?, true),
        4 => integer(bytes(4)?, false),
        5 => integer(bytes(4)?, true),
        6 => Value::Float(f32::from_le_bytes(bytes(4)?.try_into().expect("four bytes")).into()),
        7 => Value::Boolean(bytes(1)?[0] != 0),
        STRING => Value::Text(cursor.string("a text")?.to_owned()),
        ARRAY => {
            let (kind, count) = (cursor.u32("a type of elements")?, cursor.u64("a number of elements")?);
            let mut end = Cursor::new(cursor.rest());
            skip(&mut end, kind, count, 1)?;
            Value::Array { kind, count, bytes: cursor.bytes(end.position(), "elements")?.to_owned() }
        }
        10 => integer(bytes(8)?, false),
        11 => integer(bytes(8)?, true),
        12 => Value::Float(f64::from_le_bytes(bytes(8)?.try_into().expect("eight bytes"))),
        other => return Err(corrupt("metadata", "a type from 0 to 12", other)),
    })
}

/// Passes over `count` values of a type.
fn skip(cursor: &mut Cursor, kind: u32, count: u64, depth: u32) -> Result<()> {
    let size: u64 = match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        STRING => {
            for _ in 0..count {
                cursor.string("a text")?;
            }
            return Ok(());
        }
        ARRAY if depth < MAX_DEPTH => {
            for _ in 0..count {
                let (kind, count) = (cursor.u32("a type of elements")?, cursor.u64("a number of elements")?);
                skip(cursor, kind, count, depth + 1)?;
            }
            return Ok(());
        }
        ARRAY => {
            return Err(corrupt("metadata", format_args!("at most {MAX_DEPTH} arrays in another"), "more"));
        }
        other => return Err(corrupt("metadata", "a type from 0 to 12", other)),
    };
    cursor.bytes(count.saturating_mul(size), "elements").map(|_| ())
}
