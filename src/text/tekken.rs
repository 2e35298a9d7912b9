//! Mistral's `tekken.json`: byte pairs by rank, as tiktoken merges them, and control tokens before them.

use std::collections::HashMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;

use crate::{Error, ErrorKind, Result};

/// The control tokens of files that do not name theirs: versions up to 7.
const USUAL_CONTROL: [&str; 20] = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
];

/// What a file says.
pub(super) struct File {
    pub pattern: String,
    /// `v3`, `v7`, …
    pub version: String,
    /// The first ids.
    pub control: Vec<String>,
    /// The bytes of the ids after them.
    pub tokens: Vec<Vec<u8>>,
}

#[derive(Deserialize)]
struct Json {
    config: Config,
    vocab: Vec<Token>,
    special_tokens: Option<Vec<Special>>,
}

#[derive(Deserialize)]
struct Config {
    pattern: String,
    default_vocab_size: usize,
    default_num_special_tokens: usize,
    version: String,
}

#[derive(Deserialize)]
struct Token {
    rank: usize,
    token_bytes: String,
}

#[derive(Deserialize)]
struct Special {
    rank: usize,
    token_str: String,
}

/// Reads a file.
///
/// Error ([`ErrorKind::Tokenizer`]) if it is damaged: the first 256 tokens are the bytes, ranks count up, the numbers
/// of tokens are as `config` says.
pub(super) fn parse(text: &str) -> Result<File> {
    let Json { config, vocab, special_tokens } = serde_json::from_str(text)
        .map_err(|error| Error::new(ErrorKind::Tokenizer, "tekken", &error).because(error))?;
    let tokens = config.default_vocab_size.checked_sub(config.default_num_special_tokens);
    let tokens = tokens.filter(|tokens| (256..=vocab.len()).contains(tokens)).ok_or_else(|| {
        let found = format_args!("{}", config.default_vocab_size);
        let subject = "config.default_vocab_size";
        let expected = format_args!("{} and 256 to {} more", config.default_num_special_tokens, vocab.len());
        Error::expected(ErrorKind::Tokenizer, subject, expected, found)
    })?;
    let decode = |(at, token): (usize, &Token)| {
        let bytes = BASE64_STANDARD.decode(&token.token_bytes).ok();
        let fits = |bytes: &Vec<u8>| {
            token.rank == at && if at < 256 { bytes[..] == [at as u8] } else { bytes.len() > 1 }
        };
        bytes.filter(fits).ok_or_else(|| {
            Error::expected(ErrorKind::Tokenizer, "vocab", format_args!("a token of rank {at}"), "none")
        })
    };
    let tokens = vocab[..tokens].iter().enumerate().map(decode).collect::<Result<_>>()?;
    let control = control(special_tokens, &config)?;
    Ok(File { pattern: config.pattern, version: config.version, control, tokens })
}

/// The control tokens, those without a name as `<SPECIAL_17>`.
fn control(named: Option<Vec<Special>>, config: &Config) -> Result<Vec<String>> {
    let usual = || (0..).zip(USUAL_CONTROL).map(|(rank, token)| Special { rank, token_str: token.into() });
    let named = named.unwrap_or_else(|| usual().collect());
    let count = config.default_num_special_tokens;
    // As many as the file pays for: numbers in it alone do not make us allocate.
    if named.len() > count || count > named.len() + 65_536 {
        let expected = format_args!("{} to {}", named.len(), named.len() + 65_536);
        return Err(Error::expected(
            ErrorKind::Tokenizer,
            "config.default_num_special_tokens",
            expected,
            count,
        ));
    }
    if let Some((at, _)) = named.iter().enumerate().find(|(at, token)| token.rank != *at) {
        let expected = format_args!("a token of rank {at}");
        return Err(Error::expected(ErrorKind::Tokenizer, "special_tokens", expected, named[at].rank));
    }
    let fillers = (named.len()..count).map(|rank| format!("<SPECIAL_{rank}>"));
    let control: Vec<String> = named.iter().map(|token| token.token_str.clone()).chain(fillers).collect();
    let ids: HashMap<&str, usize> = control.iter().map(String::as_str).zip(0..).collect();
    if ids.len() < control.len() {
        return Err(Error::expected(ErrorKind::Tokenizer, "special_tokens", "different ones", "one twice"));
    }
    Ok(control)
}
