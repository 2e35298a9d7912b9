//! Summaries, of texts longer than the context too.

use std::{ops::ControlFlow, sync::Arc};

use super::{Answer, Job, PromptFormat, PromptTemplate, Variables, answer, parts};
use crate::{
    Error, ErrorKind, Result,
    generate::{Engine, Finish, GenerateOptions, SamplingParams, Session, Speculate},
    text::Encode,
};

/// Tokens of a summary unless told otherwise.
const SUMMARY_TOKENS: usize = 256;

/// What is happening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// A part of a text longer than the context is being summarized.
    Part {
        /// Its number, from 1.
        number: usize,
        /// How many there are.
        of: usize,
    },
    /// The next piece of the summary of the whole.
    Text(&'a str),
}

/// A summary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The summary of the whole.
    pub text: String,
    /// Summaries of parts that had to be made for it, in order, round after round.
    pub parts: Vec<String>,
    /// Why it ended; `None`: it was broken off.
    pub finish: Option<Finish>,
}

/// Writes summaries.
///
/// A text too long for the context is cut into overlapping parts (see [`parts`]); the summaries of
/// the parts, put together, are then summarized in the same way until one is left.
pub struct Summarizer {
    engine: Arc<Engine>,
    template: PromptTemplate,
    /// How to summarize, put into "Summarize the following text in …".
    pub style: String,
    /// Words that the summary is asked to have at most.
    pub words: Option<u32>,
    /// How the text is generated: greedily by default, in at most 256 tokens and a quarter of the context,
    /// guessing at what it repeats of the text.
    pub options: GenerateOptions,
}

impl Summarizer {
    /// Summaries in one sentence, asked for with `template`, or else with our own.
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`] when the model has no tokenizer.
    pub fn new(engine: Arc<Engine>, template: Option<PromptTemplate>) -> Result<Self> {
        let format = PromptFormat::of(&engine)?;
        let template = template.unwrap_or_else(|| format.template(Job::Summarize));
        // A model that continues examples goes on with the next one.
        let stop = if format.is_chat() { Vec::new() } else { vec!["\nText:".to_owned()] };
        let sampling = SamplingParams { temperature: 0.0, ..Default::default() };
        let options = GenerateOptions { sampling, stop, speculate: Speculate::Auto, ..Default::default() };
        Ok(Self { template, style: "one sentence".into(), words: None, options, engine })
    }

    /// The prompt that asks for the summary of `text`.
    ///
    /// # Errors
    /// As [`PromptTemplate::render`] and [`PromptFormat::encode`].
    pub fn prompt(&self, text: &str) -> Result<Vec<u32>> {
        let variables = Variables { text, style: &self.style, words: self.words, labels: &[] };
        PromptFormat::of(&self.engine)?.encode(&self.template.render(&variables)?)
    }

    /// Summarizes `text`. Whoever is told of the progress may break off.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] when the context has no room for a part; as [`Session::generate`].
    pub async fn summarize(
        &self,
        text: &str,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Summary> {
        let context = self.engine.context();
        let answer_tokens = self.options.max_tokens.unwrap_or(SUMMARY_TOKENS).min(context / 4).max(1);
        let options = GenerateOptions { max_tokens: Some(answer_tokens), ..self.options.clone() };
        let mut session = self.engine.session();
        let mut text = text.trim().to_owned();
        let mut made = Vec::new();
        loop {
            let prompt = self.prompt(&text)?;
            if prompt.len() + answer_tokens <= context {
                session.reset_to(&prompt)?;
                let mut on_text = |text: &str| progress(Progress::Text(text));
                let Answer { text, finish, .. } = answer(&mut session, options, None, &mut on_text).await?;
                return Ok(Summary { text: text.trim_end().into(), parts: made, finish });
            }
            let room = self.room(context, answer_tokens)?;
            let parts = parts(&text, room, &|part| self.tokens(part))?;
            let before = made.len();
            for (index, part) in parts.iter().enumerate() {
                let told = progress(Progress::Part { number: index + 1, of: parts.len() });
                if told.is_break() {
                    return Ok(Summary { text: String::new(), parts: made, finish: None });
                }
                made.push(self.part(&mut session, part, &options).await?);
            }
            let shorter = made[before..].join(" ");
            if self.tokens(&shorter)? >= self.tokens(&text)? {
                let message = "the summaries of its parts are as long as the text itself";
                return Err(Error::new(ErrorKind::Argument, "text", message));
            }
            text = shorter;
        }
    }

    async fn part(&self, session: &mut Session, part: &str, options: &GenerateOptions) -> Result<String> {
        session.reset_to(&self.prompt(part)?)?;
        let answer = answer(session, options.clone(), None, &mut |_| ControlFlow::Continue(())).await?;
        Ok(answer.text.trim_end().to_owned())
    }

    /// Tokens that a part may have: at least twice those of its summary, so that every round shortens.
    fn room(&self, context: usize, answer_tokens: usize) -> Result<usize> {
        let taken = self.prompt("")?.len() + answer_tokens;
        let needed = (2 * answer_tokens).max(64);
        context.checked_sub(taken).filter(|room| *room >= needed).ok_or_else(|| {
            let expected = format!("room for {} tokens of prompt, text and summary", taken + needed);
            Error::expected(ErrorKind::Argument, "context", expected, context)
        })
    }

    fn tokens(&self, text: &str) -> Result<usize> {
        Ok(self.engine.tokenizer()?.encode(text, Encode::default())?.len())
    }
}
