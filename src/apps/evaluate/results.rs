//! Results as they come, in a file that an interrupted evaluation goes on from.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::Outcome;
use crate::{Error, ErrorKind, Result};

/// A file of JSON Lines to which results are appended, those of several runs one after another.
#[derive(Debug)]
pub struct Results {
    file: File,
    path: PathBuf,
    run: String,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line<O> {
    /// What the result depends on.
    run: String,
    #[serde(flatten)]
    outcome: O,
}

impl Results {
    /// Opens or makes the file, and returns it with the results of `run` that it holds. A last line that was not
    /// written to its end is taken off.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when it cannot be read or written, or another evaluation has it open;
    /// [`ErrorKind::Argument`], naming the line, for a file of anything else.
    pub fn open(path: &Path, run: &str) -> Result<(Self, Vec<Outcome>)> {
        let io = |error| Error::io(path, error);
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(io)?;
        file.try_lock().map_err(|error| Error::new(ErrorKind::Io, path.display(), &error).because(error))?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(io)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        if whole < text.len() {
            tracing::warn!("{}: the last line was not written to its end and is taken off", path.display());
            file.set_len(whole as u64).map_err(io)?;
            file.seek(SeekFrom::End(0)).map_err(io)?;
        }
        let mut outcomes = Vec::new();
        for (index, line) in text[..whole].lines().enumerate() {
            let wrong = |error: serde_json::Error| {
                let subject = format!("{}, line {}", path.display(), index + 1);
                Error::new(ErrorKind::Argument, subject, format_args!("not a result: {error}")).because(error)
            };
            // What other runs write need not be known here.
            let line: Line<serde_json::Value> = serde_json::from_str(line).map_err(wrong)?;
            if line.run == run {
                outcomes.push(serde_json::from_value(line.outcome).map_err(wrong)?);
            }
        }
        Ok((Self { file, path: path.to_owned(), run: run.to_owned() }, outcomes))
    }

    /// Appends results, in one piece.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub fn append(&mut self, outcomes: &[Outcome]) -> Result<()> {
        let mut lines = String::new();
        for outcome in outcomes {
            let line = Line { run: self.run.clone(), outcome };
            lines += &serde_json::to_string(&line).expect("numbers and text");
            lines.push('\n');
        }
        let written = self.file.write_all(lines.as_bytes()).and_then(|()| self.file.sync_data());
        written.map_err(|error| Error::io(&self.path, error))
    }
}
