//! `mistral chat`: a conversation, on a terminal or from a pipe.

use std::{
    io::{self, BufRead, IsTerminal, StdoutLock, Write, stdin, stdout},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use mistral_wgpu::{
    Error, Result,
    apps::{Chat, Turn},
    generate::{Engine, Finish, GenerateOptions},
    text::{Message, Tool},
};
use pollster::block_on;
use rustyline::{DefaultEditor, error::ReadlineError};
use serde_json::json;

use super::{
    Failure, Outcome,
    conversation::{Conversation, read},
    finish_name, interrupt,
    model::ModelArgs,
    sampling::{SamplingArgs, tokens_per_step},
    usage,
};

/// What can be typed in place of a message.
const COMMANDS: &str = "\
/reset      forget the conversation but for the system message
/save FILE  write the conversation to a JSON file
/help       show this
/quit       leave, as Ctrl-D does";

/// Talk with the model.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("\
Examples:
  mistral chat
  mistral chat --system 'Answer in French.' --temperature 0.7
  mistral chat --model ~/Mistral-7B-Instruct-v0.3 --weights q8_0
  printf 'How many legs does a dog have?\\n/save talk.json\\n' | mistral chat --json
  mistral chat --model ~/Mistral-7B-Instruct-v0.3 --messages talk.json --tools tools.json

In place of a message:
{COMMANDS}

Each line is a message. Ctrl-C ends an answer, which stays in the conversation as far as it got. When the
conversation outgrows the context, the model no longer sees its oldest turns, and a line on stderr says so.

With --json each answer is one line, an object of `role`, `content`, `finish` (`stop`, `length` or
`interrupted`), `tool_calls` where there are any, `prompt_tokens`, `cached_tokens` (those of them that were not computed again) and `tokens_per_step`
(see --speculate)."))]
pub struct Args {
    /// Instructions for the model, ahead of the conversation.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Take up the conversation in this JSON file, an array of messages as /save writes it and OpenAI lays it out
    /// (or an object with `messages` and `tools`). Where it awaits an answer, that is printed and no more.
    #[arg(long, value_name = "FILE", conflicts_with = "system")]
    messages: Option<PathBuf>,
    /// Tools that the model may call, a JSON array of functions with JSON schemas as OpenAI lays them out. A call is
    /// printed as JSON; answer it with --messages, by a message of the role `tool`.
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
}

impl Args {
    fn chat(&self, engine: &Arc<Engine>) -> Result<Chat> {
        let conversation = self.messages.as_deref().map(read::<Conversation>).transpose()?;
        let system = self.system.as_ref().map(|content| Message::new("system", content));
        let messages = conversation.as_ref().map(|conversation| conversation.messages().to_owned());
        let mut tools = self.tools.as_deref().map(read::<Vec<Tool>>).transpose()?.unwrap_or_default();
        tools.extend_from_slice(conversation.as_ref().map_or(&[], Conversation::tools));
        Chat::resume(engine, messages.unwrap_or_else(|| system.into_iter().collect()), tools)
    }
}

pub fn run(args: &Args, json: bool) -> Outcome {
    let engine = args.model.load()?;
    let options = args.sampling.options(engine.generation_config(), engine.config().vocab_size)?;
    let mut talk = Talk { chat: args.chat(&engine)?, engine, options, json, out: stdout().lock() };
    if args.messages.is_some() && talk.chat.awaits_answer() {
        return talk.answer(None);
    }
    if !stdin().is_terminal() {
        for line in stdin().lock().lines() {
            let line = line.map_err(|error| Error::io("standard input", error))?;
            if talk.line(&line)?.is_break() {
                break;
            }
        }
        return Ok(());
    }
    let mut editor = DefaultEditor::new().map_err(terminal)?;
    eprintln!("Each line is a message; /help shows what else there is.");
    loop {
        let line = match editor.readline("> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(terminal(error)),
        };
        // The history is a convenience.
        let _ = editor.add_history_entry(&line);
        match talk.line(&line) {
            Ok(ControlFlow::Break(())) => return Ok(()),
            Ok(ControlFlow::Continue(())) => {}
            Err(Failure::Error(error)) => eprintln!("error: {error}"),
            Err(failure) => return Err(failure),
        }
    }
}

fn terminal(error: ReadlineError) -> Failure {
    Error::io("terminal", io::Error::other(error)).into()
}

/// A conversation and where it is printed.
struct Talk {
    chat: Chat,
    engine: Arc<Engine>,
    options: GenerateOptions,
    json: bool,
    out: StdoutLock<'static>,
}

impl Talk {
    /// Obeys or answers a line; breaks when the user wants to leave.
    fn line(&mut self, line: &str) -> Result<ControlFlow<()>, Failure> {
        let line = line.trim();
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match word {
            "" => {}
            "/quit" | "/exit" => return Ok(ControlFlow::Break(())),
            "/help" => eprintln!("{COMMANDS}"),
            "/reset" => self.chat.reset(),
            "/save" if rest.is_empty() => return Err(usage("/save", "expected a file name, found none")),
            "/save" => {
                self.chat.save(Path::new(rest.trim()))?;
                eprintln!("note: saved {} messages to {}", self.chat.messages().len(), rest.trim());
            }
            _ if word.starts_with('/') => {
                return Err(usage(word, "no such command; /help shows them"));
            }
            _ => self.answer(Some(line))?,
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Prints the answer to a message, or to the conversation as it is.
    fn answer(&mut self, message: Option<&str>) -> Outcome {
        let Self { chat, engine, options, json, out } = self;
        let before = block_on(engine.step_counts());
        let mut written = Ok(());
        interrupt::catch();
        interrupt::take();
        let mut print = |text: &str| {
            if !*json {
                written = write!(out, "{text}").and_then(|()| out.flush());
            }
            if written.is_err() || interrupt::take() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let turn = match message {
            Some(message) => block_on(chat.say(message, options, &mut print)),
            None => block_on(chat.go_on(options, &mut print)),
        }?;
        written?;
        let tokens_per_step = tokens_per_step(block_on(engine.step_counts()) - before);
        tracing::info!(tokens_per_step, "answered");
        let Turn { text, tool_calls, finish, prompt_tokens, cached_tokens, dropped } = turn;
        if *json {
            let mut answer = json!({
                "role": "assistant",
                "content": text,
                "finish": finish_name(finish),
                "prompt_tokens": prompt_tokens,
                "cached_tokens": cached_tokens,
                "tokens_per_step": tokens_per_step,
            });
            if !tool_calls.is_empty() {
                answer["tool_calls"] = serde_json::to_value(tool_calls)?;
            }
            writeln!(out, "{answer}")?;
        } else if tool_calls.is_empty() {
            writeln!(out)?;
        } else {
            writeln!(out, "{}", serde_json::to_string(&tool_calls)?)?;
        }
        out.flush()?;
        if dropped > 0 {
            eprintln!(
                "note: the context is full; the model no longer sees the {dropped} oldest messages it saw before"
            );
        }
        if finish == Some(Finish::Length) {
            eprintln!("note: the answer was cut off: --max-tokens or --context allows no more");
        }
        Ok(())
    }
}
