//! How a model is asked: a request written from a Jinja template, and the way the model takes requests.

use minijinja::{Environment, UndefinedBehavior, Value, value::Serde};
use serde::Serialize;

use crate::{
    Error, ErrorKind, Result,
    generate::Engine,
    text::{ChatFormat, Encode, Message, Tokenizer},
};

/// Work that one rendering may do, in minijinja's units: well under a second.
const FUEL: u64 = 1_000_000;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// The gist of a text.
    Summarize,
    /// The label that fits a text.
    Classify,
}

impl Job {
    /// The template of its request: an instruction, or examples to be continued by a model that was
    /// not taught to follow instructions.
    fn source(self, instructed: bool) -> &'static str {
        match (self, instructed) {
            (Self::Summarize, true) => include_str!("prompts/summarize.jinja"),
            (Self::Summarize, false) => include_str!("prompts/summarize.few_shot.jinja"),
            (Self::Classify, true) => include_str!("prompts/classify.jinja"),
            (Self::Classify, false) => include_str!("prompts/classify.few_shot.jinja"),
        }
    }
}

/// What a [`PromptTemplate`] may use.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Variables<'a> {
    /// The text that the request is about.
    pub text: &'a str,
    /// Labels to choose from; none in a summary.
    pub labels: &'a [String],
    /// How to summarize, such as `one sentence`; empty for labels.
    pub style: &'a str,
    /// Words that a summary may have.
    pub words: Option<u32>,
}

/// A Jinja template of requests. It reads no files, may use Python's string methods, fails on a
/// variable that does not exist, and stops when its allowance of work is used up.
#[derive(Debug)]
pub struct PromptTemplate(Environment<'static>);

impl PromptTemplate {
    /// Parses a template.
    ///
    /// # Errors
    /// [`ErrorKind::Template`], naming the line.
    pub fn new(source: &str) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_template_owned("prompt", source.to_owned()).map_err(error)?;
        Ok(Self(environment))
    }

    /// The request.
    ///
    /// # Errors
    /// [`ErrorKind::Template`], naming the line.
    pub fn render(&self, variables: &Variables) -> Result<String> {
        let variables = Value::from(Serde(variables));
        self.0.get_template("prompt").and_then(|template| template.render(variables)).map_err(error)
    }
}

fn error(error: minijinja::Error) -> Error {
    let subject = format!("prompt template, line {}", error.line().unwrap_or(1));
    Error::new(ErrorKind::Template, subject, &error).because(error)
}

/// How requests reach a model: as the user's turn in its chat template, or as plain text after the
/// start token where it has none.
#[derive(Clone, Copy)]
pub struct PromptFormat<'a> {
    tokenizer: &'a Tokenizer,
    chat: Option<&'a ChatFormat>,
}

impl<'a> PromptFormat<'a> {
    /// The format of a model with this tokenizer and chat format.
    pub fn new(tokenizer: &'a Tokenizer, chat: Option<&'a ChatFormat>) -> Self {
        Self { tokenizer, chat }
    }

    /// The format of a loaded model.
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`] when it has no tokenizer.
    pub fn of(engine: &'a Engine) -> Result<Self> {
        Ok(Self::new(engine.tokenizer()?, engine.chat_format()))
    }

    /// Whether requests are turns of a conversation.
    pub fn is_chat(&self) -> bool {
        self.chat.is_some()
    }

    /// Our own template for a job.
    pub fn template(&self, job: Job) -> PromptTemplate {
        PromptTemplate::new(job.source(self.is_chat())).expect("a template of ours, and tested")
    }

    /// The whole prompt as text, control tokens written out.
    ///
    /// # Errors
    /// As [`ChatFormat::render`].
    pub fn show(&self, request: &str) -> Result<String> {
        match self.chat {
            Some(chat) => chat.render(self.tokenizer, &[Message::new("user", request)], &[], true),
            None => Ok(request.to_owned()),
        }
    }

    /// The whole prompt as token ids; look-alikes of control tokens in the request stay text.
    ///
    /// # Errors
    /// As [`ChatFormat::encode`] and [`Tokenizer::encode`].
    pub fn encode(&self, request: &str) -> Result<Vec<u32>> {
        match self.chat {
            Some(chat) => chat.encode(self.tokenizer, &[Message::new("user", request)], &[], true),
            None => self.tokenizer.encode(request, PLAIN),
        }
    }

    /// The prompt with the model's answer, up to where the template ends the answer.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_answered(&self, request: &str, answer: &str) -> Result<Vec<u32>> {
        let Some(chat) = self.chat else {
            let space = if request.ends_with(char::is_whitespace) { "" } else { " " };
            return self.tokenizer.encode(&format!("{request}{space}{answer}"), PLAIN);
        };
        let turns = [Message::new("user", request), Message::new("assistant", answer)];
        let mut ids = chat.encode(self.tokenizer, &turns, &[], false)?;
        // An answer has no control tokens: the first one after the prompt ends it.
        let prompt = common_beginning(&ids, &self.encode(request)?);
        let answer = ids[prompt..].iter().take_while(|id| !self.tokenizer.is_special(**id)).count();
        ids.truncate(prompt + answer);
        Ok(ids)
    }
}

const PLAIN: Encode = Encode { special: false, bos: true };

/// How many tokens two texts share at the beginning.
pub(super) fn common_beginning(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
