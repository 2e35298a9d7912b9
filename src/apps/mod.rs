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
pub use divergence::{Divergence, Shift, divergence};
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

/// Continues a session and hands the text on as it comes, without the white space at its beginning;
/// whoever receives it may break off. Returns all of it and why it ended, `None` if broken off.
async fn answer(
    session: &mut Session,
    options: GenerateOptions,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<(String, Option<Finish>)> {
    let mut pieces = pin!(session.generate(options));
    let mut text = String::new();
    while let Some(piece) = pieces.try_next().await? {
        let new = if text.is_empty() { piece.text.trim_start() } else { &piece.text };
        text += new;
        let broken_off = on_text(new).is_break();
        if piece.finish.is_some() || broken_off {
            return Ok((text, piece.finish));
        }
    }
    Ok((text, None))
}
