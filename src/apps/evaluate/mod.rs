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

/// A question to choose an answer of.
struct Question<'a> {
    item: &'a Item,
    choices: &'a [Choice],
    right: usize,
    /// What all choices begin with.
    prompt: Vec<u32>,
    /// What follows it of each choice.
    rest: Vec<Vec<u32>>,
    /// Number of the first of these that is scored.
    from: Vec<usize>,
}

impl Evaluator {
    /// An evaluator of items of `layout`, each asked after the examples `shots` of its subject.
    pub fn new(engine: Arc<Engine>, layout: Layout, shots: Vec<Item>) -> Self {
        let session = engine.session();
        Self { engine, layout, shots, max_tokens: 256, session }
    }

    /// Asks the first of `items`, as many as are computed together, and at least one.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`], naming the line, for an item that is longer than the context; as
    /// [`Engine::score_all`] and [`generate_all`].
    pub async fn answer(&mut self, items: &[&Item]) -> Result<Vec<Outcome>> {
        let mut questions = self.together(items)?;
        while !questions.is_empty() {
            match self.choose(&questions).await {
                Err(error) if error.kind() == ErrorKind::OutOfMemory && questions.len() > 1 => {
                    questions.truncate(questions.len() / 2);
                }
                result => return result,
            }
        }
        let generated = items.iter().copied().map_while(|item| match &item.ask {
            Ask::Generate(prompt, answer) => Some((item, prompt, answer)),
            Ask::Choose(..) => None,
        });
        self.generate(&generated.take(WIDTH).collect::<Vec<_>>()).await
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

    /// The first of `items` that are to choose from, so many that what is left of their prompts after the beginning that
    /// all of them share goes in one batch, and so do their choices; at least one.
    fn together<'a>(&self, items: &[&'a Item]) -> Result<Vec<Question<'a>>> {
        let most = self.engine.model_options().max_rows as usize;
        let mut questions = Vec::<Question>::new();
        let (mut shared, mut prompts, mut choices) = (usize::MAX, 0, 0);
        for item in items {
            let Ask::Choose(texts, right) = &item.ask else { break };
            let question = match self.question(item, texts, *right) {
                // Those before it can be answered.
                Err(_) if !questions.is_empty() => break,
                question => question?,
            };
            let first = questions.first().unwrap_or(&question);
            shared = shared.min(common_beginning(&first.prompt, &question.prompt));
            prompts += question.prompt.len();
            choices += question.rest.iter().map(Vec::len).sum::<usize>();
            let rows = choices.max(prompts - shared * (questions.len() + 1));
            if rows > most && !questions.is_empty() {
                break;
            }
            questions.push(question);
        }
        Ok(questions)
    }

    fn question<'a>(&self, item: &'a Item, choices: &'a [Choice], right: usize) -> Result<Question<'a>> {
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
        let prompt = first[..shared].to_vec();
        let rest = encoded.iter().map(|choice| choice.tokens[shared..].to_vec()).collect();
        let from = encoded.iter().map(|choice| choice.from - shared).collect();
        Ok(Question { item, choices, right, prompt, rest, from })
    }

    async fn choose(&mut self, questions: &[Question<'_>]) -> Result<Vec<Outcome>> {
        let prompts: Vec<_> = questions.iter().map(|question| &question.prompt[..]).collect();
        let mut sessions = self.sessions(&prompts).await?;
        let texts = sessions.iter_mut().zip(questions.iter().map(|question| &question.rest[..]));
        let scores = self.engine.score_all(&mut texts.collect::<Vec<_>>()).await?;
        Ok(questions.iter().zip(&scores).map(|(question, scores)| question.outcome(scores)).collect())
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

    /// A session with each prompt. What all prompts begin with is computed once.
    async fn sessions(&mut self, prompts: &[&[u32]]) -> Result<Vec<Session>> {
        let Some(first) = prompts.first() else { return Ok(Vec::new()) };
        let shared = prompts.iter().map(|prompt| common_beginning(first, prompt)).min().unwrap_or(0);
        self.session.reset_to(&first[..shared])?;
        self.session.prefill().await?;
        let continued = |prompt: &&[u32]| {
            let mut session = self.session.fork();
            session.feed(&prompt[shared..]);
            session
        };
        Ok(prompts.iter().map(continued).collect())
    }

    async fn generate(&mut self, questions: &[(&Item, &String, &String)]) -> Result<Vec<Outcome>> {
        let mut prompts = Vec::with_capacity(questions.len());
        for (item, prompt, _) in questions {
            let tokens = self.tokens(&format!("{}{prompt}", self.before(item)))?;
            self.check(item, tokens.len() + self.max_tokens)?;
            prompts.push(tokens);
        }
        let prompts: Vec<_> = prompts.iter().map(Vec::as_slice).collect();
        let mut sessions = self.sessions(&prompts).await?;
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

impl Question<'_> {
    /// The answer by ln p of the tokens of [`rest`](Self::rest).
    fn outcome(&self, scores: &[Vec<f32>]) -> Outcome {
        let sum = |(scores, from): (&Vec<f32>, &usize)| scores[*from..].iter().copied().map(f64::from).sum();
        let logprobs: Vec<f64> = scores.iter().zip(&self.from).map(sum).collect();
        let lengths = self.choices.iter().map(|choice| choice.length.max(1) as f64);
        let normalized: Vec<f64> =
            logprobs.iter().zip(lengths).map(|(logprob, length)| logprob / length).collect();
        let right = [&logprobs, &normalized].map(|scores| largest(scores) == self.right);
        Outcome { line: self.item.line, right, answer: Answer::Choice { logprobs } }
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
