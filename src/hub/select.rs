//! Which files of a repository make a model.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{HubModel, is_plain};
use crate::{Error, ErrorKind, Result};

/// Files that a folder of safetensors needs beside the weights, where the repository has them.
const COMPANIONS: [&str; 15] = [
    "config.json",
    "params.json",
    "generation_config.json",
    "quantize_config.json",
    "quant_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "tekken.json",
    "model.safetensors.index.json",
    "consolidated.safetensors.index.json",
    "adapter_config.json",
];

/// The files of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// What is small and comes first.
    pub companions: Vec<String>,
    /// All that may be weights; an index among the companions says which are.
    candidates: Vec<String>,
    /// What is opened: a file, or with `None` the folder.
    file: Option<String>,
}

/// Chooses among the files of a repository. Of two layouts in safetensors, Hugging Face's; of GGUF files that of
/// the quantization asked for, with all its parts.
///
/// # Errors
/// [`ErrorKind::Hub`] when there is nothing to choose or too much, which tells what there is.
pub fn select(names: &[String], model: &HubModel) -> Result<Selection> {
    let names: Vec<&str> =
        names.iter().map(String::as_str).filter(|name| name.split('/').all(is_plain)).collect();
    let refuse = |message: String| Err(Error::new(ErrorKind::Hub, model, message));
    if let Some(choice) = &model.choice {
        if let Some(name) = names.iter().find(|name| **name == choice.as_str()) {
            return match shard_stem(name) {
                _ if name.ends_with(".gguf") => gguf(&names, name, model),
                // By its name, for the folder may have the other layout too.
                Some("consolidated") => {
                    Ok(Selection { file: Some((*name).to_owned()), ..folder(&names, "consolidated") })
                }
                Some(stem) => Ok(folder(&names, stem)),
                None => Ok(Selection {
                    companions: Vec::new(),
                    candidates: vec![(*name).to_owned()],
                    file: Some((*name).to_owned()),
                }),
            };
        }
        let found = first_parts(&names).into_iter().filter(|name| says(name, choice)).collect::<Vec<_>>();
        return match found[..] {
            [name] => gguf(&names, name, model),
            [] => refuse(format!("no file {choice}, and no GGUF file that says so; {}", offer(&names))),
            _ => refuse(format!("several files are {choice}: name one of {}", found.join(", "))),
        };
    }
    for stem in ["model", "consolidated", "adapter_model"] {
        if names.iter().any(|name| shard_stem(name) == Some(stem)) {
            return Ok(folder(&names, stem));
        }
    }
    match first_parts(&names)[..] {
        [name] => gguf(&names, name, model),
        [] if names.iter().any(|name| name.ends_with(".bin") || name.ends_with(".pth")) => refuse(
            "has its weights only in pickle files, which can run any code when they are opened: look for a \
             repository with safetensors or GGUF files"
                .to_owned(),
        ),
        [] => refuse("has no weights in safetensors or GGUF files".to_owned()),
        _ => refuse(format!("which of its GGUF files? {}", offer(&names))),
    }
}

impl Selection {
    /// The files with the weights, given the folder that has the companions: what an index there names, or else
    /// all candidates.
    ///
    /// # Errors
    /// [`ErrorKind::Hub`] where the index is none, or names a file that the repository has not.
    pub fn weights(&self, folder: &Path) -> Result<Vec<String>> {
        let Some(index) = self.companions.iter().find(|name| name.ends_with(".index.json")) else {
            return Ok(self.candidates.clone());
        };
        let path = folder.join(index);
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        let damaged = |found: &dyn std::fmt::Display| {
            Error::expected(ErrorKind::Hub, path.display(), "a weight_map of names to files", found)
        };
        let json: Value = serde_json::from_str(&text).map_err(|e| damaged(&e))?;
        let map = json["weight_map"].as_object().ok_or_else(|| damaged(&"none"))?;
        let shards: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
        let known = |name: &&str| self.candidates.iter().any(|candidate| candidate == name);
        match shards.iter().find(|name| !known(name)) {
            Some(name) => Err(damaged(&format_args!("{name:?}, which the repository has not"))),
            None => Ok(shards.into_iter().map(str::to_owned).collect()),
        }
    }

    /// What is opened, in the folder of the files.
    pub fn path(&self, folder: &Path) -> PathBuf {
        self.file.as_ref().map_or_else(|| folder.to_owned(), |file| folder.join(file))
    }
}

/// The layout that a file of weights belongs to.
fn shard_stem(name: &str) -> Option<&'static str> {
    let stems = ["model", "consolidated", "adapter_model"];
    stems.into_iter().find(|stem| name.starts_with(stem)).filter(|_| name.ends_with(".safetensors"))
}

/// A folder of safetensors whose names begin with `stem`.
fn folder(names: &[&str], stem: &str) -> Selection {
    let companion = |name: &&&str| {
        COMPANIONS.contains(name) && (!name.ends_with(".index.json") || name.starts_with(stem))
            || name.starts_with("tokenizer.model")
    };
    let own = |name: &&&str| shard_stem(name) == Some(stem);
    let owned = |names: Vec<&&str>| names.into_iter().map(|name| (*name).to_owned()).collect();
    Selection {
        companions: owned(names.iter().filter(companion).collect()),
        candidates: owned(names.iter().filter(own).collect()),
        file: None,
    }
}

/// A GGUF file with the parts that belong to it: `…-00001-of-00003.gguf` to `…-00003-of-00003.gguf`.
fn gguf(names: &[&str], name: &str, model: &HubModel) -> Result<Selection> {
    let parts = match part(name) {
        None => vec![name.to_owned()],
        Some((base, _, total)) => {
            (1..=total).map(|index| format!("{base}-{index:05}-of-{total:05}.gguf")).collect()
        }
    };
    if let Some(missing) = parts.iter().find(|part| !names.contains(&part.as_str())) {
        let expected = format_args!("all parts of {name}");
        return Err(Error::expected(ErrorKind::Hub, model, expected, format_args!("no {missing}")));
    }
    Ok(Selection { companions: Vec::new(), file: parts.first().cloned(), candidates: parts })
}

/// `base`, 2 and 3 of `base-00002-of-00003.gguf`.
fn part(name: &str) -> Option<(&str, u32, u32)> {
    let (rest, total) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (base, index) = rest.rsplit_once('-')?;
    let number = |digits: &str| digits.parse().ok().filter(|n| digits.len() == 5 && *n > 0);
    Some((base, number(index)?, number(total).filter(|total| *total <= 999)?))
}

/// The GGUF models of a repository, each by its first file; not what only looks at images.
fn first_parts<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let first = |name: &&str| {
        name.ends_with(".gguf")
            && !name.contains("mmproj")
            && part(name).is_none_or(|(_, index, _)| index == 1)
    };
    names.iter().copied().filter(first).collect()
}

/// Whether a file's name says `quant` as a word: `m-Q4_K_S.gguf` does not say `Q4_K`.
fn says(name: &str, quant: &str) -> bool {
    let (name, quant) = (name.to_lowercase(), quant.to_lowercase());
    let word = |c: char| c.is_alphanumeric() || c == '_';
    name.match_indices(&quant)
        .any(|(at, _)| !name[..at].ends_with(word) && !name[at + quant.len()..].starts_with(word))
}

/// What the GGUF files of a repository are called, for messages.
fn offer(names: &[&str]) -> String {
    let files = first_parts(names);
    match files[..] {
        [] => "it has no GGUF files".to_owned(),
        _ => format!("name one, or what it says after a colon: {}", files.join(", ")),
    }
}
