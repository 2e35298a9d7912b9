//! Text and token ids from arguments, files and standard input.

use std::{
    io::{BufRead, Read},
    path::Path,
};

use mistral_wgpu::{Error, ErrorKind, Result};

/// The text given as an argument; `-` or none at all is standard input, as it is.
///
/// # Errors
/// When standard input cannot be read or is not UTF-8.
pub fn text(argument: Option<&str>) -> Result<String> {
    match argument {
        Some(text) if text != "-" => Ok(text.to_owned()),
        _ => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(stdin_error)?;
            Ok(text)
        }
    }
}

/// The text in a file; `-` or none at all is standard input.
///
/// # Errors
/// When it cannot be read or is not UTF-8.
pub fn file(path: Option<&Path>) -> Result<String> {
    match path {
        Some(path) if path.as_os_str() != "-" => {
            std::fs::read_to_string(path).map_err(|error| Error::io(path, error))
        }
        _ => text(None),
    }
}

/// The lines of the text given as an argument, or of standard input as they come, each parsed as JSON.
pub fn json_lines<T: serde::de::DeserializeOwned + 'static>(
    argument: Option<&str>,
) -> Box<dyn Iterator<Item = Result<T>>> {
    let parse = |(index, line): (usize, Result<String>)| {
        let subject = format!("line {}", index + 1);
        serde_json::from_str(&line?)
            .map_err(|error| Error::new(ErrorKind::Argument, subject, &error).because(error))
    };
    match argument {
        Some(text) if text != "-" => {
            let lines: Vec<_> = text.lines().map(|line| Ok(line.to_owned())).collect();
            Box::new(lines.into_iter().enumerate().map(parse))
        }
        _ => {
            let lines = std::io::stdin().lock().lines();
            Box::new(lines.map(|line| line.map_err(stdin_error)).enumerate().map(parse))
        }
    }
}

fn stdin_error(error: std::io::Error) -> Error {
    Error::io("standard input", error)
}

/// Token ids separated by commas or white space, in brackets or not.
///
/// # Errors
/// [`ErrorKind::Argument`] naming the first word that is not an id.
pub fn ids(text: &str) -> Result<Vec<u32>> {
    let text = text.trim();
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let words = inner.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
    words
        .map(|word| {
            let refuse = |_| Error::expected(ErrorKind::Argument, "tokens", "ids", format!("`{word}`"));
            word.parse().map_err(refuse)
        })
        .collect()
}

/// The ids in a file.
///
/// # Errors
/// As [`ids`], and when the file cannot be read.
pub fn ids_of_file(path: &Path) -> Result<Vec<u32>> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
    ids(&text).map_err(|error| error.within(path.display()))
}

/// Token ids as one argument.
#[derive(Debug, Clone)]
pub struct Ids(pub Vec<u32>);

impl std::str::FromStr for Ids {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        ids(text).map(Self)
    }
}
