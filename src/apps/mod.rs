//! What a person asks for, on top of [`generate`](crate::generate): summaries, labels, conversations,
//! benchmarks, measures of quality.

pub mod bench;
mod chat;
mod classify;
mod divergence;
pub mod evaluate;
mod parts;
mod perplexity;
mod prompts;
mod statistics;
mod summarize;

pub use chat::{Chat, Turn};
pub use classify::{Classifier, Score};
pub use divergence::{Divergence, Recorded, Shift, divergence, same_vocabulary};
pub use parts::parts;
pub use perplexity::{Perplexity, Windows, perplexity};
pub use prompts::{Job, PromptFormat, PromptTemplate, Variables};
pub use statistics::{Distribution, Estimate, Share};
pub use summarize::{Progress, Summarizer, Summary};

use std::{ops::ControlFlow, pin::pin};

use futures::TryStreamExt;

use crate::{
    Result,
    generate::{Finish, GenerateOptions, Session},
};

/// What a model answered.
struct Answer {
    /// All of it, without the white space at its beginning.
    text: String,
    /// Its tokens.
    ids: Vec<u32>,
    /// Why it ended; `None`: it was broken off.
    finish: Option<Finish>,
}

/// Continues a session and hands the text on as it comes, without the white space at its beginning, up to the token
/// `until`; whoever receives it may break off.
async fn answer(
    session: &mut Session,
    options: GenerateOptions,
    until: Option<u32>,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Answer> {
    let mut pieces = pin!(session.generate(options));
    let mut answer = Answer { text: String::new(), ids: Vec::new(), finish: None };
    let mut shown = true;
    while let Some(piece) = pieces.try_next().await? {
        answer.ids.push(piece.token.id);
        shown &= Some(piece.token.id) != until;
        let new = if answer.text.is_empty() { piece.text.trim_start() } else { &piece.text };
        answer.text += new;
        let broken_off = on_text(if shown { new } else { "" }).is_break();
        answer.finish = piece.finish;
        if piece.finish.is_some() || broken_off {
            break;
        }
    }
    Ok(answer)
}
