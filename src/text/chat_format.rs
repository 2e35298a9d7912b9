//! How a model takes conversations: an instruct format of Mistral's, or its own chat template.

use super::{ChatTemplate, FunctionCall, Json, Message, Tokenizer, Tool, ToolCall, ToolKind, Version};
use crate::Result;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

/// The format of a model's conversations.
pub enum ChatFormat {
    /// One of Mistral's, encoded piece by piece.
    Instruct(Version),
    /// A template, as Hugging Face's transformers use it.
    Template(Box<ChatTemplate>),
}

/// What templates are tried with.
const PROBE: [(&str, &str); 4] = [("system", "S"), ("user", "A"), ("assistant", "B"), ("user", "C")];

impl ChatFormat {
    /// The format of a model folder: what its template is made for ([`of`](Self::of)), or without a template what its
    /// tokenizer's file is made for; `None` if nothing tells.
    ///
    /// # Errors
    /// As [`ChatTemplate::from_dir`].
    pub fn from_dir(dir: &Path, tokenizer: &Tokenizer) -> Result<Option<Self>> {
        Ok(Self::of(ChatTemplate::from_dir(dir)?, tokenizer))
    }

    /// The format of a model with this template and tokenizer.
    ///
    /// A template that writes conversations as one of Mistral's instruct formats does gives way to that format, whose
    /// ids are exact where a template only writes text: between texts that begin with a space, or spell control
    /// tokens.
    pub fn of(template: Option<ChatTemplate>, tokenizer: &Tokenizer) -> Option<Self> {
        let Some(template) = template else { return tokenizer.version().map(Self::Instruct) };
        use Version::*;
        let versions = [V3, V7, V11, V13, V1].into_iter();
        let mut fitting = versions.filter(|version| writes(&template, *version, tokenizer));
        let first = fitting.next();
        let with_tools =
            first.into_iter().chain(fitting).find(|version| calls(&template, *version, tokenizer));
        Some(match with_tools.or(first) {
            Some(version) => Self::Instruct(version),
            None => Self::Template(Box::new(template)),
        })
    }

    /// The ids of a conversation, up to where the model's answer begins if `answer`.
    ///
    /// # Errors
    /// As [`Version::encode`] and [`ChatTemplate::encode`].
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        tools: &[Tool],
        answer: bool,
    ) -> Result<Vec<u32>> {
        match self {
            Self::Instruct(version) => version.encode(tokenizer, messages, tools),
            Self::Template(template) => template.encode(tokenizer, messages, tools, answer),
        }
    }

    /// The conversation as text, control tokens written out.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn render(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        tools: &[Tool],
        answer: bool,
    ) -> Result<String> {
        match self {
            Self::Instruct(version) => spelled(tokenizer, &version.encode(tokenizer, messages, tools)?),
            Self::Template(template) => template.render(messages, tools, answer),
        }
    }

    /// The control token that begins calls of tools, in formats that have one.
    pub fn tool_calls(&self, tokenizer: &Tokenizer) -> Option<u32> {
        tokenizer.control_id("[TOOL_CALLS]")
    }

    /// What the model said, from the ids of its answer: text, and calls of tools in Mistral's formats. A call that is
    /// not JSON stays text.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn answer(&self, tokenizer: &Tokenizer, ids: &[u32]) -> Result<Message> {
        let token = self.tool_calls(tokenizer);
        let mut parts = ids.split(|id| Some(*id) == token);
        let decode = |ids: &[u32]| Ok::<_, crate::Error>(tokenizer.decode(ids, true)?.trim().to_owned());
        let mut message = Message::new("assistant", decode(parts.next().unwrap_or_default())?);
        let parts: Vec<&[u32]> = parts.collect();
        let calls: Option<Vec<_>> = parts.iter().map(|part| parse_calls(tokenizer, part)).collect();
        match calls {
            Some(calls) => message.tool_calls = calls.concat(),
            None => message.content = decode(ids)?,
        }
        for (at, call) in message.tool_calls.iter_mut().enumerate().filter(|(_, call)| call.id.is_empty()) {
            call.id = id(&(at, &call.function.name, &call.function.arguments, ids));
        }
        Ok(message)
    }
}

/// The calls in what follows the control token: a JSON list, or the name, perhaps an id, and the arguments, with control
/// tokens between.
fn parse_calls(tokenizer: &Tokenizer, ids: &[u32]) -> Option<Vec<ToolCall>> {
    let text = |ids: &[u32]| Some(tokenizer.decode(ids, true).ok()?.trim().to_owned());
    let call = |name: String, arguments: &Json, id: String| {
        let function = FunctionCall { name, arguments: arguments.to_string() };
        ToolCall { id, kind: ToolKind::Function, function }
    };
    let arguments = tokenizer.control_id("[ARGS]").and_then(|token| ids.iter().position(|id| *id == token));
    if let Some(at) = arguments {
        let token = tokenizer.control_id("[CALL_ID]");
        let mut head = ids[..at].split(|id| Some(*id) == token);
        let (name, id) = (text(head.next()?)?, text(head.next().unwrap_or_default())?);
        return Some(vec![call(name, &Json::parse(&text(&ids[at + 1..])?).ok()?, id)]);
    }
    let Ok(Json::List(calls)) = Json::parse(&text(ids)?) else { return None };
    let parse = |value: Json| {
        let Json::Object(fields) = value else { return None };
        let get = |key: &str| fields.iter().find(|(known, _)| known == key).map(|(_, value)| value);
        let Some(Json::Text(name)) = get("name") else { return None };
        let id = if let Some(Json::Text(id)) = get("id") { id.clone() } else { String::new() };
        Some(call(name.clone(), get("arguments")?, id))
    };
    calls.into_iter().map(parse).collect()
}

/// Nine letters and digits, the same for the same answer.
fn id(of: &impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    let mut number = hasher.finish();
    let mut next = || {
        let digit = (number % 62) as usize;
        number /= 62;
        char::from(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"[digit])
    };
    (0..9).map(|_| next()).collect()
}

/// Ids as text, control tokens written out and every piece with its first space.
fn spelled(tokenizer: &Tokenizer, ids: &[u32]) -> Result<String> {
    let bytes = ids.iter().map(|id| tokenizer.token_bytes(*id)).collect::<Result<Vec<_>>>()?.concat();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether a template writes conversations as `version` does. It may refuse a system's message.
fn writes(template: &ChatTemplate, version: Version, tokenizer: &Tokenizer) -> bool {
    let messages = PROBE.map(|(role, content)| Message::new(role, content));
    let same = |messages: &[Message]| {
        let rendered = template.render(messages, &[], true).ok()?;
        Some(rendered == spelled(tokenizer, &version.encode(tokenizer, messages, &[]).ok()?).ok()?)
    };
    same(&messages[1..]) == Some(true) && same(&messages).unwrap_or(true)
}

/// Whether a template writes a call of a tool as `version` does.
fn calls(template: &ChatTemplate, version: Version, tokenizer: &Tokenizer) -> bool {
    let function = FunctionCall { name: "f".into(), arguments: r#"{"x": 1}"#.into() };
    let call = ToolCall { id: "abcdefghi".into(), kind: ToolKind::Function, function };
    let asks = Message { tool_calls: vec![call], ..Message::new("assistant", "") };
    let answers = Message { tool_call_id: Some("abcdefghi".into()), ..Message::new("tool", "2") };
    let messages = [Message::new("user", "A"), asks, answers];
    let encoded = version.encode(tokenizer, &messages, &[]);
    let spelled = encoded.and_then(|ids| spelled(tokenizer, &ids));
    matches!((template.render(&messages, &[], true), spelled), (Ok(a), Ok(b)) if a == b)
}
