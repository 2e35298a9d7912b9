//! `mistral summarize`: the gist of a text.

use std::{
    io::{Write, stderr, stdout},
    ops::ControlFlow,
    path::PathBuf,
};

use mistral_wgpu::{
    apps::{Job, Progress, Summarizer, Variables},
    generate::GenerateOptions,
    model::GenerationConfig,
};
use pollster::block_on;
use serde_json::json;

use super::{
    Failure, Outcome, finish_name,
    input::file,
    interrupt,
    model::ModelArgs,
    prompt::PromptArgs,
    sampling::{SamplingArgs, tokens_per_step},
    usage,
};

/// Summarize a text of any length.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mistral summarize article.txt
  mistral summarize --style 'three bullet points' --words 60 report.txt
  pdftotext paper.pdf - | mistral summarize --model ~/Mistral-7B-Instruct-v0.3 -
  mistral summarize --show-prompt article.txt
  echo 'TL;DR of: {{ text }}' > ask.jinja && mistral summarize --prompt-template ask.jinja article.txt

A text longer than the context is summarized in overlapping parts, then the summaries of the parts are. The
likeliest token is taken each time unless a sampling option says otherwise.

With --json the output is an object of `summary`, `parts` (the summaries of parts, if any), `finish` (`stop`,
`length` or `interrupted`) and `tokens_per_step` (see --speculate).

Ctrl-C ends the summary and keeps what was printed; the exit status is then 130.")]
pub struct Args {
    /// File with the text; `-` or none: standard input.
    #[arg(value_name = "FILE|-")]
    file: Option<PathBuf>,
    /// Kind of summary: what follows "Summarize the following text in".
    #[arg(long, value_name = "WORDS", default_value = "one sentence")]
    style: String,
    /// Ask for at most N words.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    words: Option<u32>,
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
}

pub fn run(args: &Args, json: bool) -> Outcome {
    let text = file(args.file.as_deref())?;
    if text.trim().is_empty() {
        return Err(usage("text", "there is nothing to summarize"));
    }
    if args.prompt.show_prompt {
        let variables = Variables { text: text.trim(), style: &args.style, words: args.words, labels: &[] };
        return args.prompt.show(&args.model.source, Job::Summarize, &variables, json);
    }
    let template = args.prompt.template()?;
    let engine = args.model.load()?;
    let options = args.sampling.options(&GenerationConfig::default(), engine.config().vocab_size)?;
    let mut summarizer = Summarizer::new(engine.clone(), template)?;
    let stop = [summarizer.options.stop, options.stop].concat();
    summarizer.options = GenerateOptions { stop, ..options };
    summarizer.style.clone_from(&args.style);
    summarizer.words = args.words;

    let mut out = stdout().lock();
    let mut written = Ok(());
    interrupt::catch();
    let summary = block_on(summarizer.summarize(&text, &mut |progress| {
        written = match progress {
            Progress::Part { number, of } => writeln!(stderr(), "part {number} of {of}"),
            Progress::Text(text) if !json => write!(out, "{text}").and_then(|()| out.flush()),
            Progress::Text(_) => Ok(()),
        };
        if written.is_err() || interrupt::take() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }))?;
    written?;
    let tokens_per_step = tokens_per_step(block_on(engine.step_counts()));
    tracing::info!(tokens_per_step, "summarized");
    if json {
        let object = json!({
            "summary": summary.text,
            "parts": summary.parts,
            "finish": finish_name(summary.finish),
            "tokens_per_step": tokens_per_step,
        });
        writeln!(out, "{object}")?;
    } else {
        writeln!(out)?;
    }
    summary.finish.map(|_| ()).ok_or(Failure::Interrupted)
}
