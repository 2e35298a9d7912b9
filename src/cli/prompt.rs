//! Arguments that replace or show the prompt of a job.

use std::{
    fs,
    io::{Write, stdout},
    path::PathBuf,
};

use mistral_wgpu::{
    Error, Result,
    apps::{Job, PromptFormat, PromptTemplate, Variables},
};
use serde_json::json;

use super::{Outcome, model::SourceArgs};

/// The prompt.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Prompt")]
pub struct PromptArgs {
    /// Ask with this Jinja template, of the variables `text`, `labels`, `style` and `words`: what it writes is
    /// the user's message where the model has a chat template, and the whole prompt where it has none.
    #[arg(long, value_name = "FILE")]
    prompt_template: Option<PathBuf>,
    /// Print the prompt and do nothing else; needs no GPU.
    #[arg(long)]
    pub show_prompt: bool,
}

impl PromptArgs {
    /// The template in place of our own, if one was given.
    ///
    /// # Errors
    /// When the file cannot be read or is no template.
    pub fn template(&self) -> Result<Option<PromptTemplate>> {
        let read = |path: &PathBuf| {
            let source = fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
            PromptTemplate::new(&source).map_err(|error| error.within(path.display()))
        };
        self.prompt_template.as_ref().map(read).transpose()
    }

    /// Prints the prompt for the model at `source`.
    ///
    /// # Errors
    /// As [`template`](Self::template), and for a model without a tokenizer.
    pub fn show(&self, source: &SourceArgs, job: Job, variables: &Variables, json: bool) -> Outcome {
        let tokenizer = source.tokenizer()?;
        let chat = source.get()?.chat_format(&tokenizer)?;
        let format = PromptFormat::new(&tokenizer, chat.as_ref());
        let template = self.template()?.unwrap_or_else(|| format.template(job));
        let prompt = format.show(&template.render(variables)?)?;
        if json {
            writeln!(stdout(), "{}", json!({"prompt": prompt}))?;
        } else {
            writeln!(stdout(), "{prompt}")?;
        }
        Ok(())
    }
}
