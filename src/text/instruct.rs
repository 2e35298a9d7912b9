//! Mistral's instruct formats: conversations as token ids, piece by piece, as mistral-common encodes them.
//!
//! Control tokens are put between texts that are encoded each for itself, so nothing that a message says can become
//! one, and a tokenizer that begins texts with a space begins each piece with one.

use std::borrow::Cow;
use std::str::FromStr;

use super::{Encode, Json, Message, Tokenizer, Tool, json, validate::validate};
use crate::{Error, ErrorKind, Result};

/// A version of the instruct format, as tokenizers' files name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// `[INST]` as text; no tools (7B v0.1 and v0.2, Mixtral 8x7B).
    V1,
    /// Control tokens; tools without ids.
    V2,
    /// Tools with ids (7B v0.3, Nemo, Codestral, Ministral).
    V3,
    /// A control token for the system's message (Small 2501).
    V7,
    /// Each tool call by itself.
    V11,
    /// Tool calls without ids; tools are told at the first message of the user.
    V13,
}

impl FromStr for Version {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "v1" => Self::V1,
            "v2" => Self::V2,
            "v3" => Self::V3,
            "v7" => Self::V7,
            "v11" => Self::V11,
            "v13" => Self::V13,
            _ => {
                let expected = "one of v1, v2, v3, v7, v11, v13";
                return Err(Error::expected(ErrorKind::Tokenizer, "version", expected, name));
            }
        })
    }
}

impl Version {
    /// The ids of a conversation, up to where the model's answer begins: after a message of the user or a tool, or
    /// within an assistant's that is a [`Message::prefix`]. Ends with an assistant's message where that is the last.
    ///
    /// Messages are put together and checked as mistral-common does: successive ones of the user, or of the
    /// assistant, are one with an empty line between; the system's are told with the first message of the user (v1)
    /// or the last (v2, v3), later versions have a place for them; arguments and results that are JSON are written as
    /// Python writes it.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] for a conversation that the format has no place for, [`ErrorKind::Tokenizer`] if the
    /// vocabulary lacks a control token.
    pub fn encode(self, tokenizer: &Tokenizer, messages: &[Message], tools: &[Tool]) -> Result<Vec<u32>> {
        validate(self, messages, tools)?;
        let turns = turns(self, messages);
        let system: Vec<&str> = messages
            .iter()
            .filter(|message| message.role == "system" && !message.content.is_empty())
            .map(|message| &message.content[..])
            .collect();
        let users = || turns.iter().enumerate().filter(|(_, turn)| turn.role == "user").map(|(at, _)| at);
        let mut encoder = Encoder {
            version: self,
            tokenizer,
            system: if self < Self::V7 { system.join("\n\n") } else { String::new() },
            tools,
            first_user: users().next(),
            last_user: users().next_back(),
            ids: Vec::new(),
        };
        encoder.ids.extend(tokenizer.bos());
        for (at, turn) in turns.iter().enumerate() {
            encoder.turn(at, turn)?;
        }
        Ok(encoder.ids)
    }
}

/// Messages put together: one for each turn of the user and the assistant, one for each answer of a tool (from v11 on
/// in the order of the calls), and from v7 on one for each of the system.
fn turns(version: Version, messages: &[Message]) -> Vec<Cow<'_, Message>> {
    let mut turns: Vec<Cow<Message>> = Vec::new();
    let mut calls: Vec<String> = Vec::new();
    for run in messages.chunk_by(|a, b| a.role == b.role) {
        match run[0].role.as_str() {
            "system" if version < Version::V7 => {}
            "user" | "assistant" => {
                let mut whole = run[0].clone();
                for message in &run[1..] {
                    if !whole.content.is_empty() && !message.content.is_empty() {
                        whole.content += "\n\n";
                    }
                    whole.content += &message.content;
                    whole.tool_calls.extend(message.tool_calls.iter().cloned());
                    whole.prefix |= message.prefix;
                }
                calls.extend(whole.tool_calls.iter().map(|call| call.id.clone()));
                turns.push(Cow::Owned(whole));
            }
            _ => {
                let mut run: Vec<&Message> = run.iter().collect();
                if version >= Version::V11 && run[0].role == "tool" {
                    run.sort_by_key(|answer| {
                        let id = answer.tool_call_id.as_ref();
                        calls.iter().rposition(|call| Some(call) == id).unwrap_or(usize::MAX)
                    });
                    calls.clear();
                }
                turns.extend(run.into_iter().map(Cow::Borrowed));
            }
        }
    }
    if turns.is_empty() || version < Version::V7 && turns[0].role != "user" {
        turns.insert(0, Cow::Owned(Message::new("user", "")));
    }
    turns
}

/// A conversation becoming ids.
struct Encoder<'a> {
    version: Version,
    tokenizer: &'a Tokenizer,
    /// What is told with a message of the user.
    system: String,
    tools: &'a [Tool],
    /// Turns of the user.
    first_user: Option<usize>,
    last_user: Option<usize>,
    ids: Vec<u32>,
}

impl Encoder<'_> {
    fn control(&mut self, token: &str) -> Result<()> {
        let id = self.tokenizer.control_id(token).ok_or_else(|| {
            let expected = format_args!("the control token {token} of the instruct format");
            Error::expected(ErrorKind::Tokenizer, "vocabulary", expected, "none")
        })?;
        self.ids.push(id);
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<()> {
        self.ids.extend(self.tokenizer.encode(text, Encode::default())?);
        Ok(())
    }

    fn between(&mut self, begin: &str, text: &str, end: &str) -> Result<()> {
        self.control(begin)?;
        self.text(text)?;
        self.control(end)
    }

    fn turn(&mut self, at: usize, turn: &Message) -> Result<()> {
        match turn.role.as_str() {
            "system" => self.between("[SYSTEM_PROMPT]", &turn.content, "[/SYSTEM_PROMPT]"),
            "user" => self.user(at, turn),
            "assistant" => self.assistant(at, turn),
            _ => self.tool(at, turn),
        }
    }

    fn user(&mut self, at: usize, turn: &Message) -> Result<()> {
        let (first, last) = (Some(at) == self.first_user, Some(at) == self.last_user);
        if if self.version >= Version::V13 { first } else { last } && !self.tools.is_empty() {
            let tools = Json::List(self.tools.iter().map(declaration).collect());
            self.between("[AVAILABLE_TOOLS]", &tools.to_string(), "[/AVAILABLE_TOOLS]")?;
        }
        let told = if self.version == Version::V1 { first } else { last } && !self.system.is_empty();
        let content = match told {
            true => format!("{}\n\n{}", self.system, turn.content),
            false => turn.content.clone(),
        };
        match self.version {
            Version::V1 => self.text(&format!("[INST] {content} [/INST]")),
            _ => self.between("[INST]", &content, "[/INST]"),
        }
    }

    fn assistant(&mut self, at: usize, turn: &Message) -> Result<()> {
        // v2 forgets the calls of earlier turns.
        if self.version == Version::V2 && !turn.tool_calls.is_empty() && Some(at) < self.last_user {
            return Ok(());
        }
        match self.version {
            Version::V1 => self.text(&turn.content)?,
            _ => self.text(turn.content.trim_end_matches(' '))?,
        }
        if !turn.tool_calls.is_empty() {
            self.calls(turn)?;
        }
        if !turn.prefix {
            self.ids.extend(self.tokenizer.eos());
        }
        Ok(())
    }

    fn calls(&mut self, turn: &Message) -> Result<()> {
        let mut calls = Vec::new();
        for call in &turn.tool_calls {
            let (name, arguments) = (&call.function.name, written(&call.function.arguments)?);
            if self.version >= Version::V11 {
                self.control("[TOOL_CALLS]")?;
                self.text(name)?;
                if self.version == Version::V11 {
                    self.control("[CALL_ID]")?;
                    self.text(&call.id)?;
                }
                self.control("[ARGS]")?;
                self.text(&arguments.to_string())?;
                continue;
            }
            let mut fields = vec![field("name", text(name)), field("arguments", arguments)];
            fields.extend(Some(field("id", text(&call.id))).filter(|_| self.version > Version::V2));
            calls.push(Json::Object(fields));
        }
        if self.version < Version::V11 {
            self.control("[TOOL_CALLS]")?;
            self.text(&Json::List(calls).to_string())?;
        }
        Ok(())
    }

    fn tool(&mut self, at: usize, turn: &Message) -> Result<()> {
        let id = turn.tool_call_id.as_deref().unwrap_or_default();
        let answer = match self.version {
            Version::V1 | Version::V2 if Some(at) < self.last_user => return Ok(()),
            Version::V1 | Version::V2 => {
                let name = turn.name.as_ref().map_or(Json::Null, text);
                let answer = vec![field("name", name), field("content", written(&turn.content)?)];
                Json::List(vec![Json::Object(answer)]).to_string()
            }
            Version::V3 => {
                let answer = vec![field("content", written(&turn.content)?), field("call_id", text(id))];
                Json::Object(answer).to_string()
            }
            Version::V7 | Version::V11 => {
                self.control("[TOOL_RESULTS]")?;
                self.text(id)?;
                return self.between("[TOOL_CONTENT]", &turn.content, "[/TOOL_RESULTS]");
            }
            Version::V13 => turn.content.clone(),
        };
        self.between("[TOOL_RESULTS]", &answer, "[/TOOL_RESULTS]")
    }
}

fn field(key: &str, value: Json) -> (String, Json) {
    (key.into(), value)
}

fn text(text: impl Into<String>) -> Json {
    Json::Text(text.into())
}

/// A tool as it is told to the model.
fn declaration(tool: &Tool) -> Json {
    let function = &tool.function;
    let fields = vec![
        field("name", text(&function.name)),
        field("description", text(function.description.as_deref().unwrap_or_default())),
        field("parameters", function.parameters.clone().unwrap_or(Json::Object(Vec::new()))),
    ];
    Json::Object(vec![field("type", text("function")), field("function", Json::Object(fields))])
}

/// Arguments or a result as JSON: what the text says if it is JSON, or else the text; an empty one is an empty object.
fn written(content: &str) -> Result<Json> {
    if content.is_empty() {
        return Ok(Json::Object(Vec::new()));
    }
    let refused = |what: &str| Err(Error::new(ErrorKind::Argument, "JSON in a message", what));
    match Json::parse(content) {
        Ok(value) => Ok(value),
        Err(json::Refusal::NotJson) => Ok(text(content)),
        Err(json::Refusal::TooDeep) => refused("nested too deep"),
        Err(json::Refusal::Surrogate) => refused("half of a surrogate pair"),
    }
}
