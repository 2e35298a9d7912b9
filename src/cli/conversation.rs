//! Conversations as JSON.

use std::{fs, path::Path};

use mistral_wgpu::{
    Error, ErrorKind, Result,
    text::{Message, Tool},
};
use serde::{Deserialize, de::DeserializeOwned};

/// Messages, alone or with tools.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Conversation {
    Messages(Vec<Message>),
    WithTools {
        messages: Vec<Message>,
        #[serde(default)]
        tools: Option<Vec<Tool>>,
    },
}

impl Conversation {
    /// The messages.
    pub fn messages(&self) -> &[Message] {
        match self {
            Self::Messages(messages) | Self::WithTools { messages, .. } => messages,
        }
    }

    /// The tools that may be called.
    pub fn tools(&self) -> &[Tool] {
        match self {
            Self::WithTools { tools: Some(tools), .. } => tools,
            _ => &[],
        }
    }
}

/// A conversation from its text.
///
/// # Errors
/// [`ErrorKind::Argument`] where it is none.
pub fn parse(text: &str) -> Result<Conversation> {
    serde_json::from_str(text).map_err(|_| {
        let expected =
            "a JSON array of messages with `role` and `content`, or an object with `messages` and `tools`";
        Error::expected(ErrorKind::Argument, "conversation", expected, "something else")
    })
}

/// A JSON file.
///
/// # Errors
/// [`ErrorKind::Io`] where it cannot be read, [`ErrorKind::Argument`] where it is not what it should be.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
    serde_json::from_str(&text)
        .map_err(|error| Error::new(ErrorKind::Argument, path.display(), &error).because(error))
}

/// The error of a model that is not made for conversations.
pub fn no_format() -> Error {
    let message = "this model has no chat template and no tokenizer that tells an instruct format";
    Error::new(ErrorKind::Argument, "model", message)
}
