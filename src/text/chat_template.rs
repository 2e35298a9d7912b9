//! Chat templates: Jinja as Hugging Face transformers configures it, and conversations as token ids.

use super::{Message, Tokenizer, Tool, json, read_optional, read_optional_json, special_tokens};
use crate::{Error, ErrorKind, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, ErrorKind as Jinja, context};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::path::Path;
use std::thread;

/// Work that one rendering may do, in minijinja's units (an instruction, or 64 bytes of text): seconds at most.
const FUEL: u64 = 1_000_000;

/// Bytes of a template; published ones have some 20,000. minijinja counts columns in 16 bits.
const LONGEST: usize = 60_000;

/// Stack for compiling and rendering: minijinja recurses along expressions, and along nested values when it
/// writes or frees them. [`LONGEST`] and [`FUEL`] bound both; only what is used becomes memory.
const STACK: usize = 1 << 30;

/// Bytes that one `tojson` may write.
const JSON_LIMIT: usize = 16 << 20;

/// A model's chat template.
///
/// The environment is that of transformers' `apply_chat_template`: `trim_blocks`, `lstrip_blocks`, loop controls,
/// Python's string methods, `raise_exception`, `strftime_now`, `tojson` as Python's `json.dumps` writes it, every
/// `*_token` of the tokenizer's files, `tools` none where there are none, no `documents`. A template cannot read files, and rendering
/// ends with an error when its time and memory allowance is used up.
pub struct ChatTemplate {
    environment: Environment<'static>,
    tokens: BTreeMap<String, Option<String>>,
    source: String,
}

/// The part of `tokenizer_config.json` that holds templates.
#[derive(Deserialize)]
struct Config {
    chat_template: Option<Source>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Source {
    One(String),
    Named(Vec<Named>),
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

impl ChatTemplate {
    /// Reads `chat_template.jinja`, or else `chat_template` of `tokenizer_config.json` (of a list: the one named
    /// `default`); `None` if the folder has neither.
    ///
    /// Errors: [`ErrorKind::Template`] if the template does not parse or the list has no default.
    pub fn from_dir(dir: &Path) -> Result<Option<Self>> {
        let (file, config) = (dir.join("chat_template.jinja"), dir.join("tokenizer_config.json"));
        let source = match read_optional(&file)? {
            Some(source) => Some(source),
            None => {
                let config: Option<Config> = read_optional_json(&config, ErrorKind::Template)?;
                config.and_then(|config| config.chat_template).map(Source::default).transpose()?
            }
        };
        let load = |source| {
            Self::new(source, special_tokens::read(dir)?).map_err(|error| error.within(dir.display()))
        };
        source.map(load).transpose()
    }

    /// A template that came with a tokenizer's vocabulary, whose start and end tokens it may write.
    ///
    /// Error ([`ErrorKind::Template`]) if it does not parse.
    pub fn from_source(source: String, tokenizer: &Tokenizer) -> Result<Self> {
        let token = |id: Option<u32>| id.and_then(|id| tokenizer.id_to_token(id));
        let named = [("bos_token", token(tokenizer.bos())), ("eos_token", token(tokenizer.eos()))];
        Self::new(source, named.map(|(name, token)| (name.to_owned(), token)).into())
    }

    fn new(source: String, tokens: BTreeMap<String, Option<String>>) -> Result<Self> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(error)?;
        environment.set_syntax(syntax);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", to_json);
        if source.len() > LONGEST {
            let expected = format_args!("at most {LONGEST} bytes");
            return Err(Error::expected(ErrorKind::Template, "chat template", expected, source.len()));
        }
        deep(|| environment.add_template_owned("chat", source.clone()))?;
        Ok(Self { environment, tokens, source })
    }

    /// The conversation as text, control tokens written out; with `add_generation_prompt` it ends where the
    /// assistant's answer begins, and after a last message that is a [`Message::prefix`] within it.
    ///
    /// Error ([`ErrorKind::Template`]) with the template's own words if it refuses the conversation.
    pub fn render(
        &self,
        messages: &[Message],
        tools: &[Tool],
        add_generation_prompt: bool,
    ) -> Result<String> {
        self.write(&values(messages, tools), add_generation_prompt)
    }

    /// As [`render`](Self::render), of the messages and tools as JSON.
    fn write(&self, [messages, tools]: &[Json; 2], add_generation_prompt: bool) -> Result<String> {
        let prefix = messages.get(messages.as_array().map_or(0, Vec::len).wrapping_sub(1));
        let prefix = prefix.filter(|last| last["prefix"] == true).and_then(|last| last["content"].as_str());
        let text = deep(|| {
            let context = context! {
                messages => Value::from(Serde(messages)),
                add_generation_prompt => add_generation_prompt && prefix.is_none(),
                tools => Value::from(Serde(tools)), documents => Value::from(()),
                ..Value::from_pairs(self.tokens.iter().filter_map(|(name, token)| Some((name, token.as_ref()?))))
            };
            self.environment.get_template("chat")?.render(context)
        })?;
        let Some(prefix) = prefix.map(str::trim) else { return Ok(text) };
        match text.rfind(prefix) {
            Some(at) => Ok(text[..at + prefix.len()].to_owned()),
            None => Err(Error::new(
                ErrorKind::Template,
                "chat template",
                "does not write the beginning of an answer",
            )),
        }
    }

    /// The ids of the conversation: control tokens that the template writes are parsed, look-alikes that a message
    /// contains stay text, and there is at most one start token.
    ///
    /// Templates trim, compare and join what they are given, so messages go in as they are but for a marker: one
    /// character, found nowhere in the conversation, put behind the first character of each control token that a
    /// message spells (or begins to spell at its end). Such a token no longer matches in the rendered text. The
    /// text is then cut at control tokens, the markers are removed from what lies between, and only then is it
    /// split into words and encoded, so spaces at the seams come out as in one text. A control token of a single
    /// character could not be told apart; no vocabulary has one.
    ///
    /// Errors: as [`render`](Self::render) and [`Tokenizer::encode`].
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        tools: &[Tool],
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>> {
        let mut values = values(messages, tools);
        let mut used: HashSet<char> = self.source.chars().collect();
        for value in &mut values {
            texts(value, &mut |text| used.extend(text.chars()));
        }
        let marker = ('\u{fdd0}'..=char::MAX).find(|c| !used.contains(c)).ok_or_else(|| {
            Error::new(
                ErrorKind::Template,
                "conversation",
                "every character is in use, none is left as a marker",
            )
        })?;
        let control: Vec<&str> = tokenizer.control_tokens().filter(|token| !token.is_empty()).collect();
        for value in &mut values {
            texts(value, &mut |text| *text = mark(text, &control, marker));
        }
        let mut ids = tokenizer.encode_marked(&self.write(&values, add_generation_prompt)?, marker)?;
        if let Some(bos) = tokenizer.bos() {
            let starts = ids.iter().take_while(|&&id| id == bos).count();
            ids.drain(..starts.saturating_sub(1));
        }
        Ok(ids)
    }
}

impl Source {
    fn default(self) -> Result<String> {
        match self {
            Self::One(template) => Ok(template),
            Self::Named(list) => {
                let mut list = list.into_iter();
                list.find(|named| named.name == "default").map(|named| named.template).ok_or_else(|| {
                    let subject = "tokenizer_config.json: chat_template";
                    Error::expected(ErrorKind::Template, subject, "one named \"default\"", "none")
                })
            }
        }
    }
}

/// Messages and tools as templates expect them: arguments as objects, no tools as null.
fn values(messages: &[Message], tools: &[Tool]) -> [Json; 2] {
    let json = |value: serde_json::Result<Json>| value.expect("texts and numbers are JSON");
    let mut messages = json(serde_json::to_value(messages));
    for message in messages.as_array_mut().into_iter().flatten() {
        for call in message.get_mut("tool_calls").and_then(Json::as_array_mut).into_iter().flatten() {
            let arguments = &mut call["function"]["arguments"];
            let object = arguments.as_str().and_then(|text| serde_json::from_str::<Json>(text).ok());
            *arguments = object.unwrap_or_else(|| arguments.take());
        }
    }
    let tools = if tools.is_empty() { Json::Null } else { json(serde_json::to_value(tools)) };
    [messages, tools]
}

/// Changes all texts within a value, keys too.
fn texts(value: &mut Json, change: &mut dyn FnMut(&mut String)) {
    match value {
        Json::String(text) => change(text),
        Json::Array(list) => list.iter_mut().for_each(|value| texts(value, change)),
        Json::Object(fields) => {
            for (mut key, mut value) in std::mem::take(fields) {
                change(&mut key);
                texts(&mut value, change);
                fields.insert(key, value);
            }
        }
        _ => {}
    }
}

/// Puts `marker` behind the first character of every control token in `text`, also of one that the end of the text
/// only begins: `a</s>b[IN` becomes `a<·/s>b[·IN`.
fn mark(text: &str, control: &[&str], marker: char) -> String {
    let first: HashSet<char> = control.iter().filter_map(|token| token.chars().next()).collect();
    let mut marked = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        marked.push(c);
        let rest = &text[at..];
        let begins = |token: &&str| rest.starts_with(*token) || token.starts_with(rest.trim_end());
        if first.contains(&c) && !c.is_whitespace() && control.iter().any(begins) {
            marked.push(marker);
        }
    }
    marked
}

/// Runs `work` on a thread with a stack of [`STACK`].
fn deep<T: Send>(work: impl FnOnce() -> Result<T, minijinja::Error> + Send) -> Result<T> {
    let failed = |cause: &dyn std::fmt::Display| Error::new(ErrorKind::Template, "chat template", cause);
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work);
        let result = thread.map_err(|error| failed(&error))?.join();
        result.map_err(|_| failed(&"the template engine failed"))?.map_err(error)
    })
}

/// A failure of the template, in its own words where it has any.
fn error(error: minijinja::Error) -> Error {
    let subject = match error.line() {
        Some(line) => format!("chat template, line {line}"),
        None => "chat template".into(),
    };
    let message = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    Error::new(ErrorKind::Template, subject, message).because(error)
}

fn raise_exception(message: String) -> Result<String, minijinja::Error> {
    Err(minijinja::Error::new(Jinja::InvalidOperation, message))
}

/// The local time in `strftime` notation.
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    let mut text = String::new();
    write!(text, "{}", chrono::Local::now().format(format)).map_err(|_| {
        minijinja::Error::new(Jinja::InvalidOperation, format!("strftime_now: bad format {format:?}"))
    })?;
    Ok(text)
}

/// `json.dumps(value, ensure_ascii=False, indent=indent)` of Python.
fn to_json(value: &Value, indent: Option<u8>, options: Kwargs) -> Result<String, minijinja::Error> {
    let failed = |message: &dyn std::fmt::Display| {
        minijinja::Error::new(Jinja::BadSerialization, format!("tojson: {message}"))
    };
    let indent = indent.or(options.get("indent")?);
    if options.get::<Option<bool>>("ensure_ascii")? == Some(true) {
        return Err(failed(&"ensure_ascii is not supported"));
    }
    options.assert_all_used()?;
    let mut json = Limited(Vec::new());
    let written = match indent {
        Some(width) => {
            let indent = " ".repeat(width.into());
            let style = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut json, style))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut json, Spaced)),
    };
    written.map_err(|error| failed(&error))?;
    String::from_utf8(json.0).map_err(|error| failed(&error))
}

/// Bytes that refuse to outgrow [`JSON_LIMIT`]: a few nested lists can be very long when written.
struct Limited(Vec<u8>);

impl std::io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > JSON_LIMIT {
            return Err(std::io::Error::other("the text is too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Python's one-line style: `{"a": 1, "b": [1, 2]}`.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn write_f64<W: ?Sized + std::io::Write>(&mut self, out: &mut W, number: f64) -> std::io::Result<()> {
        out.write_all(json::python_float(number).as_bytes())
    }

    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}
