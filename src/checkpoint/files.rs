//! Opening the files of a model folder, none of which is trusted.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use memmap2::Mmap;

use crate::{Error, ErrorKind, Result};

/// The largest text file that is read into memory; the largest in use, tokenizers, take some 20 MiB.
const MAX_TEXT: u64 = 128 << 20;

/// Reads a text file of a model folder: UTF-8, a regular file (or a link to one), of bounded size.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let mut text = String::new();
    let file = open(path)?;
    file.take(MAX_TEXT + 1).read_to_string(&mut text).map_err(|e| Error::io(path, e))?;
    if text.len() as u64 > MAX_TEXT {
        let expected = format_args!("a text file of at most {MAX_TEXT} bytes");
        return Err(Error::expected(ErrorKind::Io, path.display(), expected, "a longer one"));
    }
    Ok(text)
}

/// Maps a regular file (or a link to one) into memory, read-only.
pub(super) fn map(path: &Path) -> Result<Mmap> {
    let file = open(path)?;
    // SAFETY: the map is only ever read, as bytes, for which every value is valid. What the type system
    // cannot rule out is another process writing to or truncating the file meanwhile; `Checkpoint::open` asks
    // for that not to be done, as everything that maps its weights does.
    unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))
}

/// Opens for reading what is a file: opening a named pipe would wait for ever, a directory fails only later.
fn open(path: &Path) -> Result<File> {
    if !path.metadata().map_err(|e| Error::io(path, e))?.is_file() {
        return Err(Error::expected(ErrorKind::Io, path.display(), "a regular file", "something else"));
    }
    File::open(path).map_err(|e| Error::io(path, e))
}
