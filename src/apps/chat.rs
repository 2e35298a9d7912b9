//! Conversations.

use std::{fs, io::Write, ops::ControlFlow, path::Path, sync::Arc};

use super::answer;
use crate::{
    Error, ErrorKind, Result,
    generate::{Engine, Finish, GenerateOptions, Session},
    text::{ChatFormat, Encode, Message, Tool, ToolCall},
};

/// Tokens kept free for an answer unless told otherwise, as far as a quarter of the context goes.
const ANSWER_TOKENS: usize = 512;

/// A conversation with a model, in its chat template; without one as lines `User: …` and
/// `Assistant: …`.
///
/// What the cache holds of the conversation is kept from turn to turn, so that only what is new is
/// computed. When the conversation outgrows the context, the model no longer sees the oldest turns.
pub struct Chat {
    session: Session,
    messages: Vec<Message>,
    tools: Vec<Tool>,
    /// The first message that the model still sees, the system's aside.
    first_seen: usize,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The text; with a message that was begun, all of it.
    pub text: String,
    /// What the model asks of tools, to be answered by messages of the role `tool`.
    pub tool_calls: Vec<ToolCall>,
    /// Why it ended; `None`: it was broken off.
    pub finish: Option<Finish>,
    /// Tokens of the prompt, the whole conversation.
    pub prompt_tokens: usize,
    /// How many of them were still in the cache.
    pub cached_tokens: usize,
    /// Messages that the model has stopped seeing with this turn.
    pub dropped: usize,
}

impl Chat {
    /// Begins a conversation.
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`] when the model has no tokenizer.
    pub fn new(engine: &Arc<Engine>, system: Option<String>) -> Result<Self> {
        Self::resume(
            engine,
            system.map(|content| Message::new("system", content)).into_iter().collect(),
            Vec::new(),
        )
    }

    /// Takes up a conversation in which the model may call tools.
    ///
    /// # Errors
    /// As [`new`](Self::new); [`ErrorKind::Argument`] for tools with a model that has no chat format.
    pub fn resume(engine: &Arc<Engine>, messages: Vec<Message>, tools: Vec<Tool>) -> Result<Self> {
        engine.tokenizer()?;
        if !tools.is_empty() && engine.chat_format().is_none() {
            return Err(Error::new(
                ErrorKind::Argument,
                "tools",
                "this model has no chat format to tell them in",
            ));
        }
        let mut chat = Self { session: engine.session(), first_seen: 0, messages, tools };
        chat.first_seen = chat.system().len();
        Ok(chat)
    }

    /// Whether the next message is the model's.
    pub fn awaits_answer(&self) -> bool {
        self.messages.last().is_some_and(|last| last.prefix || last.role == "user" || last.role == "tool")
    }

    /// The whole conversation.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Forgets everything but the system message.
    pub fn reset(&mut self) {
        self.first_seen = self.system().len();
        self.messages.truncate(self.first_seen);
    }

    /// Writes the conversation to a file, as a JSON array in OpenAI's layout; the file is
    /// there whole or not at all.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub fn save(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(&self.messages).expect("strings are JSON");
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.tmp", std::process::id()));
        let temporary = path.with_file_name(name);
        let write = || {
            let mut file = fs::File::create(&temporary)?;
            writeln!(file, "{json}")?;
            file.sync_all()?;
            fs::rename(&temporary, path)
        };
        write().map_err(|error| {
            let _ = fs::remove_file(&temporary);
            Error::io(path, error)
        })
    }

    /// Says something and returns the answer, whose text is handed to `on_text` as it comes; breaking off
    /// there ends the answer, which stays in the conversation as far as it got.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] for a message longer than the context has room for; as
    /// [`ChatFormat::encode`](crate::text::ChatFormat::encode) and [`Session::generate`]. The conversation
    /// is then as it was.
    pub async fn say(
        &mut self,
        text: &str,
        options: &GenerateOptions,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Turn> {
        self.messages.push(Message::new("user", text));
        let turn = self.go_on(options, on_text).await;
        if turn.is_err() {
            self.messages.pop();
        }
        turn
    }

    /// As [`say`](Self::say), of a conversation that awaits an answer: the model speaks, or goes on with what it
    /// began to say.
    ///
    /// # Errors
    /// As [`say`](Self::say).
    pub async fn go_on(
        &mut self,
        options: &GenerateOptions,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Turn> {
        let first_seen = self.first_seen;
        let turn = self.answer(options.clone(), on_text).await;
        match &turn {
            Ok(turn) => {
                self.messages.pop_if(|last| last.prefix);
                let tool_calls = turn.tool_calls.clone();
                self.messages.push(Message { tool_calls, ..Message::new("assistant", turn.text.clone()) });
            }
            Err(_) => self.first_seen = first_seen,
        }
        turn
    }

    async fn answer(
        &mut self,
        mut options: GenerateOptions,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Turn> {
        let engine = self.session.engine().clone();
        let room = options.max_tokens.unwrap_or(ANSWER_TOKENS).min(engine.context() / 4);
        let limit = engine.context() - room;
        let first_seen = self.first_seen;
        let prompt = loop {
            let prompt = self.prompt()?;
            if prompt.len() <= limit {
                break prompt;
            }
            // A user's message and what answers it.
            let mut later =
                (self.first_seen + 1..self.messages.len()).filter(|at| self.messages[*at].role == "user");
            self.first_seen = later.next().ok_or_else(|| {
                let expected = format!("at most {limit} tokens with what the template adds");
                Error::expected(ErrorKind::Argument, "message", expected, prompt.len())
            })?;
        };
        self.session.reset_to(&prompt)?;
        let cached_tokens = self.session.computed();
        if engine.chat_format().is_none() {
            options.stop.push("\nUser:".into());
        }
        let tokenizer = engine.tokenizer()?;
        let calls = engine.chat_format().and_then(|format| format.tool_calls(tokenizer));
        let answer = answer(&mut self.session, options, calls, on_text).await?;
        let mut message = Message::new("assistant", answer.text.trim_end());
        if let Some(format) = engine.chat_format().filter(|_| answer.ids.iter().any(|id| Some(*id) == calls))
        {
            message = format.answer(tokenizer, &answer.ids)?;
        }
        if let Some(begun) = self.messages.last().filter(|last| last.prefix) {
            // Together, since a text loses its first space.
            let begun = tokenizer.encode(begun.content.trim_end(), Encode::default())?;
            message.content = tokenizer.decode(&[begun, answer.ids].concat(), true)?.trim_end().to_owned();
        }
        Ok(Turn {
            text: message.content,
            tool_calls: message.tool_calls,
            finish: answer.finish,
            prompt_tokens: prompt.len(),
            cached_tokens,
            dropped: self.first_seen - first_seen,
        })
    }

    fn system(&self) -> &[Message] {
        let is_system = self.messages.first().is_some_and(|message| message.role == "system");
        &self.messages[..usize::from(is_system)]
    }

    /// What the model sees, up to where its answer begins.
    fn prompt(&self) -> Result<Vec<u32>> {
        let seen = [self.system(), &self.messages[self.first_seen..]].concat();
        let engine = self.session.engine();
        let tokenizer = engine.tokenizer()?;
        match engine.chat_format() {
            // An instruct format has no place for an answer of nothing.
            Some(format @ ChatFormat::Instruct(_)) => {
                let is_empty =
                    |message: &Message| message.content.is_empty() && message.tool_calls.is_empty();
                let said = |message: &&Message| message.role != "assistant" || !is_empty(message);
                let seen: Vec<Message> = seen.iter().filter(said).cloned().collect();
                format.encode(tokenizer, &seen, &self.tools, true)
            }
            Some(format) => format.encode(tokenizer, &seen, &self.tools, true),
            None => tokenizer.encode(&plain(&seen), Encode { special: false, bos: true }),
        }
    }
}

/// A conversation for a model without a template.
fn plain(messages: &[Message]) -> String {
    let line = |Message { role, content, .. }: &Message| match role.as_str() {
        "system" => format!("{content}\n\n"),
        "user" => format!("User: {content}\n"),
        _ => format!("Assistant: {content}\n"),
    };
    messages.iter().map(line).collect::<String>() + "Assistant:"
}
