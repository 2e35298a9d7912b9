//! Accuracy of a model in published data sets: multiple choice by likelihood, and generated answers.

mod answer;
mod results;
mod task;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use results::Results;
pub use task::{Ask, Choice, Item, Layout, Task};

use super::{Share, prompts::common_beginning};
use crate::{
    Error, ErrorKind, Result,
    generate::{Engine, GenerateOptions, SamplingParams, Session, generate_all},
    model::FEW_ROWS,
    text::Encode,
};

/// Items whose answers are generated together: so few that none depends on the others.
pub const WIDTH: usize = FEW_ROWS;

/// Texts that end a generated answer.
const STOP: [&str; 3] = ["Question:", "</s>", "<|im_end|>"];

/// How an item was answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The item's line in the task file.
    pub line: usize,
    /// Whether it is right by each of [`Layout::measures`].
    pub right: [bool; 2],
    /// What was answered.
    #[serde(flatten)]
    pub answer: Answer,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// By likelihood.
    Choice {
        /// ln p of each choice.
        logprobs: Vec<f64>,
    },
    /// By generation.
    Text {
        /// What was generated.
        text: String,
    },
}

/// Asks a model the items of a task.
///
/// A choice's score is the sum of ln p over its tokens after the prompt; `acc` takes the largest score, `acc_norm`
/// the largest score divided by the choice's characters, as the evaluation harness does. Answers are generated
/// greedily; `strict_match` takes the number after `#### `, `flexible_extract` the last one.
pub struct Evaluator {
    engine: Arc<Engine>,
    layout: Layout,
    shots: Vec<Item>,
    /// Tokens of a generated answer at most.
    pub max_tokens: usize,
    session: Session,
}

/// A prompt with a choice.
struct Encoded {
    tokens: Vec<u32>,
    /// Number of the first token that is scored.
    from: usize,
}

impl Evaluator {
    /// An evaluator of items of `layout`, each asked after the examples `shots` of its subject.
    pub fn new(engine: Arc<Engine>, layout: Layout, shots: Vec<Item>) -> Self {
        let session = engine.session();
        Self { engine, layout, shots, max_tokens: 256, session }
    }

    /// Asks items: any number to choose from, at most [`WIDTH`] to generate.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`], naming the line, for an item that is longer than the context; as
    /// [`Engine::score`] and [`generate_all`].
    pub async fn answer(&mut self, items: &[&Item]) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::with_capacity(items.len());
        let mut questions = Vec::new();
        for item in items {
            match &item.ask {
                Ask::Choose(choices, right) => outcomes.push(self.choose(item, choices, *right).await?),
                Ask::Generate(prompt, answer) => questions.push((*item, prompt, answer)),
            }
        }
        outcomes.extend(self.generate(&questions).await?);
        Ok(outcomes)
    }

    /// What comes before an item: the examples with their answers.
    fn before(&self, item: &Item) -> String {
        let mut text = self.layout.description(&item.subject);
        for shot in self.shots.iter().filter(|shot| shot.subject == item.subject) {
            match &shot.ask {
                Ask::Choose(choices, right) => {
                    text += &choices[*right].context;
                    text += &choices[*right].continuation;
                }
                Ask::Generate(prompt, answer) => text += &format!("{prompt} {answer}"),
            }
            text += "\n\n";
        }
        text
    }

    async fn choose(&mut self, item: &Item, choices: &[Choice], right: usize) -> Result<Outcome> {
        let before = self.before(item);
        let encoded = choices.iter().map(|choice| {
            let encoded = self.encode(&before, choice)?;
            self.check(item, encoded.tokens.len())?;
            match encoded.from < encoded.tokens.len() {
                true => Ok(encoded),
                false => Err(at(item, "a choice is no token of its own")),
            }
        });
        let encoded = encoded.collect::<Result<Vec<_>>>()?;
        let first = &encoded[0].tokens;
        let shared = encoded.iter().map(|other| common_beginning(first, &other.tokens).min(other.from)).min();
        let shared = shared.unwrap_or(0);
        self.session.reset_to(&first[..shared])?;
        let rest: Vec<_> = encoded.iter().map(|choice| choice.tokens[shared..].to_vec()).collect();
        let scores = self.engine.score(&mut self.session, &rest).await?;
        let sum = |(scores, choice): (&Vec<f32>, &Encoded)| {
            scores[choice.from - shared..].iter().copied().map(f64::from).sum::<f64>()
        };
        let logprobs: Vec<f64> = scores.iter().zip(&encoded).map(sum).collect();
        let normalized: Vec<f64> = logprobs
            .iter()
            .zip(choices)
            .map(|(logprob, choice)| logprob / choice.length.max(1) as f64)
            .collect();
        let right = [largest(&logprobs) == right, largest(&normalized) == right];
        Ok(Outcome { line: item.line, right, answer: Answer::Choice { logprobs } })
    }

    /// Prompt and choice are encoded together, and the prompt's own tokens kept; white space at the prompt's
    /// end belongs to the choice.
    fn encode(&self, before: &str, Choice { context, continuation, .. }: &Choice) -> Result<Encoded> {
        let text = format!("{before}{context}");
        let mut tokens = self.tokens(text.trim_end())?;
        let from = tokens.len();
        let whole = self.tokens(&(text + continuation))?;
        tokens.extend(whole.get(from..).unwrap_or_default());
        Ok(Encoded { tokens, from })
    }

    fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        self.engine.tokenizer()?.encode(text, Encode { bos: true, special: false })
    }

    fn check(&self, item: &Item, tokens: usize) -> Result<()> {
        let context = self.engine.context();
        if tokens > context {
            return Err(at(
                item,
                format_args!("expected at most the context's {context} tokens, found {tokens}"),
            ));
        }
        Ok(())
    }

    async fn generate(&mut self, questions: &[(&Item, &String, &String)]) -> Result<Vec<Outcome>> {
        let mut prompts = Vec::with_capacity(questions.len());
        for (item, prompt, _) in questions {
            let tokens = self.tokens(&format!("{}{prompt}", self.before(item)))?;
            self.check(item, tokens.len() + self.max_tokens)?;
            prompts.push(tokens);
        }
        let Some(first) = prompts.first() else { return Ok(Vec::new()) };
        let shared = prompts.iter().map(|prompt| common_beginning(first, prompt)).min().unwrap_or(0);
        self.session.reset_to(&first[..shared])?;
        self.session.prefill().await?;
        let continued = |prompt: &Vec<u32>| {
            let mut session = self.session.fork();
            session.feed(&prompt[shared..]);
            session
        };
        let mut sessions: Vec<_> = prompts.iter().map(continued).collect();
        let options = GenerateOptions {
            max_tokens: Some(self.max_tokens),
            sampling: SamplingParams { temperature: 0.0, ..Default::default() },
            stop: STOP.map(str::to_owned).into(),
            ..Default::default()
        };
        let generated = generate_all(&mut sessions, &options, WIDTH).await?;
        let outcome =
            |((item, _, reference), generated): (&(&Item, &String, &String), crate::generate::Generation)| {
                let text = generated.text;
                let found = [answer::strict(&text), answer::flexible(&text)];
                let right = found.map(|found| answer::same(found.unwrap_or("[invalid]"), reference));
                Outcome { line: item.line, right, answer: Answer::Text { text } }
            };
        Ok(questions.iter().zip(generated).map(outcome).collect())
    }
}

fn at(item: &Item, message: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Argument, format_args!("line {}", item.line), message)
}

/// The number of the largest value, the first of equals.
fn largest(values: &[f64]) -> usize {
    (0..values.len()).rev().max_by(|a, b| values[*a].total_cmp(&values[*b])).unwrap_or(0)
}

/// How many of the outcomes are right by each measure.
pub fn shares(outcomes: &[Outcome]) -> [Share; 2] {
    [0, 1].map(|measure| {
        let mut share = Share::default();
        share.extend(outcomes.iter().map(|outcome| outcome.right[measure]));
        share
    })
}
