//! The named special tokens (`bos_token`, `eos_token`, …) of a Hugging Face folder.

use super::read_optional_json;
use crate::{ErrorKind, Result};
use serde_json::{Map, Value};
use std::{collections::BTreeMap, path::Path};

/// Every `*_token` of `special_tokens_map.json` and `tokenizer_config.json`, the latter winning: its text, or
/// `None` where the file says null. A token is written as a string or as an object with `content`.
pub(super) fn read(dir: &Path) -> Result<BTreeMap<String, Option<String>>> {
    let mut tokens = BTreeMap::new();
    for file in ["special_tokens_map.json", "tokenizer_config.json"] {
        let entries: Map<String, Value> =
            read_optional_json(&dir.join(file), ErrorKind::Tokenizer)?.unwrap_or_default();
        for (name, value) in entries {
            let text = match &value {
                Value::Object(token) => token.get("content").and_then(Value::as_str),
                other => other.as_str(),
            };
            if name.ends_with("_token") && (text.is_some() || value.is_null()) {
                tokens.insert(name, text.map(str::to_owned));
            }
        }
    }
    Ok(tokens)
}
