//! Messages and tools, in the layout that OpenAI's interface made common.

use serde::{Deserialize, Deserializer, Serialize, de::Error};

use super::Json;

/// One turn of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What was said. It may be null, or a list of parts `{"type": "text", "text": …}`, which are joined with an
    /// empty line between.
    #[serde(default, deserialize_with = "content")]
    pub content: String,
    /// What the assistant asks of tools.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Which call a tool's message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// The tool that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The assistant's message, the last one, is not finished: the model goes on with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub prefix: bool,
}

impl Message {
    /// A message of nothing but text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), ..Self::default() }
    }
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Nine letters and digits, by which the tool's answer names the call; empty if there is none.
    #[serde(default, deserialize_with = "or_default")]
    pub id: String,
    /// What is called.
    #[serde(rename = "type", default)]
    pub kind: ToolKind,
    /// The function.
    pub function: FunctionCall,
}

/// What a tool is: there are only functions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ToolKind {
    /// A function with a schema of its parameters.
    #[default]
    Function,
}

/// A function and what it is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionCall {
    /// Its name.
    pub name: String,
    /// Its arguments as JSON; a file may also hold the object itself.
    #[serde(default, deserialize_with = "arguments")]
    pub arguments: String,
}

/// A tool that the model may call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// What it is.
    #[serde(rename = "type", default)]
    pub kind: ToolKind,
    /// The function.
    pub function: Function,
}

/// The declaration of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// What it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The JSON schema of its parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Json>,
}

/// A part of a message.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part {
    Text { text: String },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
    None(()),
}

fn content<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let content = Content::deserialize(deserializer)
        .map_err(|_| D::Error::custom("content: expected a text, or a list of parts of type `text`"))?;
    Ok(match content {
        Content::Text(text) => text,
        Content::None(()) => String::new(),
        Content::Parts(parts) => {
            let texts = parts.into_iter().map(|Part::Text { text }| text).filter(|text| !text.is_empty());
            texts.collect::<Vec<_>>().join("\n\n")
        }
    })
}

fn arguments<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match Json::deserialize(deserializer)? {
        Json::Text(text) => text,
        Json::Null => "{}".into(),
        other => other.to_string(),
    })
}

/// The value, or the default for null.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
