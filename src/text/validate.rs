//! Which conversations the instruct formats have a place for: mistral-common's rules, but that an assistant's answer
//! may be the last message, as in training.

use std::collections::HashSet;

use super::{Message, Tool, Version};
use crate::{Error, ErrorKind, Result};

/// Checks a conversation. Error ([`ErrorKind::Argument`]) with the number of the message, from 0.
pub(super) fn validate(version: Version, messages: &[Message], tools: &[Tool]) -> Result<()> {
    let Some(last) = messages.len().checked_sub(1) else {
        return Err(Error::expected(ErrorKind::Argument, "messages", "at least one", "none"));
    };
    if version == Version::V1 && !tools.is_empty() {
        return Err(Error::new(ErrorKind::Argument, "tools", "this model's instruct format (v1) has none"));
    }
    for tool in tools {
        named(&tool.function.name).map_err(|error| error.within("tools"))?;
    }
    let mut before = None;
    for (at, message) in messages.iter().enumerate() {
        let check = || {
            follows(before, &message.role)?;
            match message.role.as_str() {
                "assistant" => assistant(version, message, at == last),
                "tool" => tool(version, message),
                _ => Ok(()),
            }
        };
        check().map_err(|error| error.within(format_args!("message {at}")))?;
        before = Some(message.role.as_str());
    }
    if version < Version::V11 { counts(version, messages) } else { answers(messages) }
}

fn wrong(subject: &str, message: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Argument, subject, message)
}

fn follows(before: Option<&str>, role: &str) -> Result<()> {
    let expected: &[&str] = match before {
        None => &["user", "system"],
        Some("system") => &["user", "assistant", "system"],
        Some("user") => &["assistant", "system", "user"],
        Some("assistant") => &["assistant", "user", "tool"],
        _ => &["assistant", "tool", "user"],
    };
    if expected.contains(&role) {
        return Ok(());
    }
    Err(Error::expected(ErrorKind::Argument, "role", expected.join(", "), role))
}

fn assistant(version: Version, message: &Message, is_last: bool) -> Result<()> {
    let (says, calls) = (!message.content.is_empty(), !message.tool_calls.is_empty());
    if version == Version::V1 && calls {
        return Err(wrong("tool_calls", "this model's instruct format (v1) has none"));
    }
    if !says && !calls || says && calls && version < Version::V7 {
        return Err(wrong("assistant", "expected either content or tool_calls"));
    }
    for call in &message.tool_calls {
        named(&call.function.name)?;
        if version >= Version::V3 {
            identified(version, &call.id)?;
        }
    }
    if message.prefix && !is_last {
        return Err(wrong("prefix", "only the last message may be a beginning"));
    }
    Ok(())
}

fn tool(version: Version, message: &Message) -> Result<()> {
    if let Some(name) = &message.name {
        named(name)?;
    }
    match &message.tool_call_id {
        _ if version < Version::V3 => Ok(()),
        Some(id) => identified(version, id),
        None => Err(Error::expected(ErrorKind::Argument, "tool_call_id", "the id of a call", "none")),
    }
}

fn named(name: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if (1..=64).contains(&name.len()) && name.chars().all(fits) {
        return Ok(());
    }
    let expected = "1 to 64 letters, digits, _ and -";
    Err(Error::expected(ErrorKind::Argument, "name of a function", expected, format_args!("{name:?}")))
}

fn identified(version: Version, id: &str) -> Result<()> {
    let (fits, expected) = match version {
        Version::V13 => (!id.is_empty() && id != "null", "a text"),
        _ => (id.len() == 9 && id.chars().all(|c| c.is_ascii_alphanumeric()), "nine letters and digits"),
    };
    if fits {
        return Ok(());
    }
    Err(Error::expected(ErrorKind::Argument, "id of a tool call", expected, format_args!("{id:?}")))
}

/// Before the assistant goes on, each of its calls has been answered; v2 has room for one answer a turn.
fn counts(version: Version, messages: &[Message]) -> Result<()> {
    let mut open = 0;
    for message in &messages[1..] {
        match message.role.as_str() {
            "tool" => open -= 1,
            "assistant" if open != 0 => {
                return Err(wrong("messages", "as many answers of tools as calls, found another number"));
            }
            "assistant" => open = message.tool_calls.len() as isize,
            _ => {}
        }
    }
    let last = messages.rsplit(|message| message.role == "user").next().unwrap_or_default();
    let answers = last.chunk_by(|_, next| next.role == "tool").map(|run| run.len() - 1).max();
    if version == Version::V2 && answers > Some(1) {
        return Err(wrong(
            "messages",
            "this model's instruct format (v2) has room for one tool call in a turn",
        ));
    }
    Ok(())
}

/// As [`counts`], by the ids of the calls.
fn answers(messages: &[Message]) -> Result<()> {
    let mut open = HashSet::new();
    for message in &messages[1..] {
        let calls = message.tool_calls.iter().map(|call| call.id.as_str());
        match message.role.as_str() {
            "tool" => {
                let id = message.tool_call_id.as_deref().unwrap_or_default();
                if !open.remove(id) {
                    return Err(wrong("tool_call_id", format_args!("no open call has the id {id:?}")));
                }
            }
            "assistant" if !open.is_empty() => return Err(wrong("messages", "a tool call has no answer")),
            "assistant" => {
                for id in calls {
                    if !open.insert(id) {
                        return Err(wrong("tool_calls", format_args!("two have the id {id:?}")));
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}
