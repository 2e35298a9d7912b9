//! The [GGUF](https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) container, versions 2 and 3: metadata, the
//! descriptions of the tensors, then their data, each aligned.

mod cursor;
mod experts;
mod metadata;
mod names;
mod split;

use std::path::Path;

pub use metadata::Metadata;
pub(super) use names::NAMES;
pub(super) use split::shards;

use super::{DType, MAX_NAME, safetensors::Entry};
use crate::{Error, ErrorKind, Result, quant::by_ggml};
use cursor::Cursor;

/// The most dimensions that GGML's tensors have.
const MAX_RANK: u32 = 4;

/// Where tensors are aligned unless `general.alignment` says otherwise.
const ALIGNMENT: u64 = 32;

/// A file that was found to be sound.
pub(super) struct Gguf {
    pub metadata: Metadata,
    /// In the order of their data.
    pub tensors: Vec<Entry>,
}

/// A tensor as the file describes it.
struct Description {
    name: String,
    /// Innermost first.
    sizes: Vec<u64>,
    /// Its `ggml_type`.
    kind: u32,
    /// From the begin of the data on.
    offset: u64,
}

/// Reads metadata and the list of tensors, after checking that these are of types the engine reads, lie within
/// the file and do not overlap. `path` is for messages only.
pub(super) fn parse(path: &Path, file: &[u8]) -> Result<Gguf> {
    parse_within(file).map_err(|error| error.within(path.display()))
}

fn parse_within(file: &[u8]) -> Result<Gguf> {
    let mut cursor = Cursor::new(file);
    let [tensors, entries] = header(&mut cursor)?;
    let metadata = Metadata::parse(&mut cursor, entries)?;
    let alignment = match metadata.integer("general.alignment")? {
        None => ALIGNMENT,
        Some(alignment) if (1..=1 << 16).contains(&alignment) && alignment.is_power_of_two() => alignment,
        Some(other) => return Err(corrupt("general.alignment", "a power of two up to 65536", other)),
    };
    let mut descriptions = Vec::new();
    for _ in 0..tensors {
        descriptions.push(Description::parse(&mut cursor)?);
    }
    descriptions.sort_by_key(|tensor| tensor.offset);
    let start = cursor.position().next_multiple_of(alignment);
    let mut next = start;
    let mut checked: Vec<Entry> = Vec::with_capacity(descriptions.len());
    for tensor in descriptions {
        let entry = tensor.check(start, next, alignment, file.len() as u64)?;
        next = entry.bytes.end as u64;
        checked.extend(experts::apart(entry)?);
    }
    Ok(Gguf { metadata, tensors: checked })
}

/// Reads the counts of tensors and of metadata.
fn header(cursor: &mut Cursor) -> Result<[u64; 2]> {
    let magic = cursor.bytes(4, "the magic")?;
    if magic != b"GGUF" {
        return Err(corrupt("magic", "GGUF", format_args!("{:?}", String::from_utf8_lossy(magic))));
    }
    match cursor.u32("the version")? {
        2 | 3 => Ok([cursor.u64("the number of tensors")?, cursor.u64("the number of entries of metadata")?]),
        version if version.swap_bytes() <= 3 => {
            Err(corrupt("version", "a little-endian file", "a big-endian one"))
        }
        version => Err(corrupt("version", "2 or 3", version)),
    }
}

impl Description {
    fn parse(cursor: &mut Cursor) -> Result<Self> {
        let name = cursor.string("the name of a tensor")?;
        if name.len() > MAX_NAME || name.chars().any(char::is_control) {
            let expected = format_args!("tensor names of at most {MAX_NAME} printable bytes");
            return Err(corrupt("tensors", expected, format_args!("{:?}", name.get(..40).unwrap_or(name))));
        }
        let name = name.to_owned();
        let rank = cursor.u32("a number of dimensions")?;
        if rank > MAX_RANK {
            return Err(corrupt(name, format_args!("at most {MAX_RANK} dimensions"), rank));
        }
        let sizes = (0..rank).map(|_| cursor.u64("a dimension")).collect::<Result<_>>()?;
        let (kind, offset) = (cursor.u32("a type")?, cursor.u64("an offset")?);
        Ok(Self { name, sizes, kind, offset })
    }

    /// The tensor's place in a file of `length` bytes, whose data begin at `start`, those of this tensor not before
    /// `next`.
    fn check(self, start: u64, next: u64, alignment: u64, length: u64) -> Result<Entry> {
        let Self { name, sizes, kind, offset } = self;
        let dtype = dtype(kind).ok_or_else(|| {
            let read: Vec<_> = (0..40).filter_map(by_ggml).map(|format| format.name).collect();
            corrupt(&name, format_args!("a type of {}", read.join(", ")), type_name(kind))
        })?;
        let cols = sizes.first().copied().unwrap_or(1);
        let rows = sizes.iter().skip(1).try_fold(1u64, |rows, size| rows.checked_mul(*size));
        let bytes = usize::try_from(cols).ok().and_then(|cols| dtype.row_bytes(cols));
        // An empty tensor is of no use, and its rows could be of any length.
        let rows = rows.filter(|rows| *rows > 0 && cols > 0);
        let Some(bytes) = bytes.zip(rows).and_then(|(row, rows)| rows.checked_mul(row as u64)) else {
            let expected = format_args!("a shape that {dtype} blocks fill");
            return Err(corrupt(&name, expected, format_args!("{sizes:?}")));
        };
        if !offset.is_multiple_of(alignment) {
            return Err(corrupt(&name, format_args!("data at a multiple of {alignment} bytes"), offset));
        }
        let begin = start.saturating_add(offset);
        if begin < next {
            let expected = format_args!("data from byte {} on", next - start);
            return Err(corrupt(&name, expected, format_args!("{offset}, within another tensor")));
        }
        match begin.checked_add(bytes).filter(|end| *end <= length) {
            // A file's length, and all that is less, is a `usize`: it is mapped.
            Some(end) => {
                let shape = sizes.iter().rev().map(|size| *size as usize).collect();
                Ok(Entry { name, dtype: Some(dtype), shape, bytes: begin as usize..end as usize })
            }
            None => {
                let found = format_args!("a file of {length} bytes");
                Err(corrupt(&name, format_args!("{bytes} bytes from byte {begin} on"), found))
            }
        }
    }
}

/// The type that GGML calls by this number, if the engine reads it.
fn dtype(kind: u32) -> Option<DType> {
    let format = by_ggml(kind)?;
    Some(DType::of(format))
}

/// What GGML calls the types that may be met and are not read; numbers of types that were given up have no name.
fn type_name(kind: u32) -> String {
    const NAMES: [(u32, &str); 14] = [
        (9, "q8_1"),
        (10, "q2_k"),
        (11, "q3_k"),
        (15, "q8_k"),
        (16, "iq2_xxs"),
        (17, "iq2_xs"),
        (18, "iq3_xxs"),
        (19, "iq1_s"),
        (21, "iq3_s"),
        (22, "iq2_s"),
        (29, "iq1_m"),
        (34, "tq1_0"),
        (35, "tq2_0"),
        (39, "mxfp4"),
    ];
    let known = NAMES.iter().find(|(id, _)| *id == kind);
    known.map_or_else(|| format!("type {kind}"), |(_, name)| (*name).to_owned())
}

fn corrupt(
    subject: impl std::fmt::Display,
    expected: impl std::fmt::Display,
    found: impl std::fmt::Display,
) -> Error {
    Error::expected(ErrorKind::Checkpoint, subject, expected, found)
}
