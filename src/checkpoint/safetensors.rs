//! The [safetensors](https://huggingface.co/docs/safetensors) container: eight bytes that hold the length of
//! the header, the header in JSON, then the tensors' bytes without gap or overlap.
//!
//! Parsed here rather than by the `safetensors` crate so that every error names the tensor, what was expected
//! and what was found.

use std::ops::Range;
use std::path::Path;

use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::{DType, MAX_NAME};
use crate::{Error, ErrorKind, Result};

/// The format's own bound on the header's length.
const MAX_HEADER: u64 = 100_000_000;
/// The most dimensions accepted; shapes end up in messages too.
const MAX_RANK: usize = 8;

/// A tensor as the header describes it, found to be true of the file.
pub(super) struct Entry {
    pub name: String,
    /// `None` for 32-bit integers.
    pub dtype: Option<DType>,
    pub shape: Vec<usize>,
    /// Where its bytes are in the file.
    pub bytes: Range<usize>,
}

/// What the header says about one tensor; the offsets count from the header's end.
#[derive(serde::Deserialize)]
struct Description {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

/// Lists the tensors of a safetensors file, in the order of their bytes, after checking that they are of
/// types the engine reads and cover the file exactly. `path` is for messages only.
pub(super) fn parse(path: &Path, file: &[u8]) -> Result<Vec<Entry>> {
    let (header, data) = split_header(path, file)?;
    let mut json = serde_json::Deserializer::from_slice(header);
    let mut tensors = json
        .deserialize_map(Header)
        .and_then(|tensors| json.end().map(|()| tensors))
        .map_err(|e| corrupt(path.display(), "a header in JSON that describes tensors", &e).because(e))?;
    tensors.sort_by_key(|(_, description)| description.data_offsets);

    let start = file.len() - data.len();
    let mut end = 0;
    let mut entries = Vec::with_capacity(tensors.len());
    for (name, description) in tensors {
        let entry = check(path, name, description, end, data.len())?;
        end = entry.bytes.end;
        entries.push(Entry { bytes: start + entry.bytes.start..start + entry.bytes.end, ..entry });
    }
    if end != data.len() {
        let expected = format_args!("{} bytes, as the header describes", start + end);
        return Err(corrupt(path.display(), expected, file.len()));
    }
    Ok(entries)
}

/// Splits a file into its header and its data.
fn split_header<'a>(path: &Path, file: &'a [u8]) -> Result<(&'a [u8], &'a [u8])> {
    let Some((length, rest)) = file.split_first_chunk() else {
        return Err(corrupt(path.display(), "at least 8 bytes", file.len()));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        let expected = format_args!("a header of at most {MAX_HEADER} bytes");
        return Err(corrupt(path.display(), expected, length));
    }
    rest.split_at_checked(length as usize).ok_or_else(|| {
        let found = format_args!("{} before the file ends", rest.len());
        corrupt(path.display(), format_args!("a header of {length} bytes"), found)
    })
}

/// Checks one tensor's description; `next` is where the data described so far end, `available` where they all
/// do.
fn check(path: &Path, name: String, tensor: Description, next: usize, available: usize) -> Result<Entry> {
    if name.len() > MAX_NAME || name.chars().any(char::is_control) {
        let expected = format_args!("tensor names of at most {MAX_NAME} printable bytes");
        return Err(corrupt(path.display(), expected, format_args!("{:?}", name.get(..40).unwrap_or(&name))));
    }
    let refuse = |expected: &str, found: &str| Err(corrupt(&name, expected, found).within(path.display()));
    let [begin, end] = tensor.data_offsets;
    let dtype = DType::from_safetensors(&tensor.dtype);
    if dtype.is_none() && tensor.dtype != "I32" {
        return refuse("the dtype F32, F16 or BF16", &format!("{:?}", tensor.dtype));
    }
    if tensor.shape.len() > MAX_RANK {
        return refuse(&format!("at most {MAX_RANK} dimensions"), &tensor.shape.len().to_string());
    }
    let elements = tensor.shape.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim));
    let Some(size) = elements.and_then(|count| dtype.unwrap_or(DType::F32).row_bytes(count)) else {
        return refuse("a shape whose size can be counted", &format!("{:?}", tensor.shape));
    };
    if begin != next {
        let fault = if begin < next { "overlaps" } else { "leaves a gap after" };
        return refuse(
            &format!("data from byte {next} on"),
            &format!("{begin}, which {fault} the tensor before"),
        );
    }
    if end.checked_sub(begin) != Some(size) {
        return refuse(
            &format!("{size} bytes for {} {:?}", tensor.dtype.to_lowercase(), tensor.shape),
            &format!("offsets {begin} to {end}"),
        );
    }
    if end > available {
        return refuse(
            &format!("data up to byte {end}"),
            &format!("a file that ends at byte {available} of them"),
        );
    }
    Ok(Entry { name, dtype, shape: tensor.shape, bytes: begin..end })
}

fn corrupt(
    subject: impl std::fmt::Display,
    expected: impl std::fmt::Display,
    found: impl std::fmt::Display,
) -> Error {
    Error::expected(ErrorKind::Checkpoint, subject, expected, found)
}

/// Reads the header's object in order, repeated names included; a map would drop all but one of them.
struct Header;

impl<'de> Visitor<'de> for Header {
    type Value = Vec<(String, Description)>;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("an object with one entry per tensor")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut tensors = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
            } else {
                let tensor =
                    map.next_value().map_err(|e| A::Error::custom(format_args!("tensor {name:?}: {e}")))?;
                tensors.push((name, tensor));
            }
        }
        Ok(tensors)
    }
}
