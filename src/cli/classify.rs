//! `mistral classify`: the label that fits a text.

use std::{
    io::{Write, stdout},
    path::PathBuf,
};

use mistral_wgpu::{
    apps::{Classifier, Job, Score, Variables},
    model::FEW_ROWS,
};
use pollster::block_on;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Outcome,
    input::{file, json_lines},
    model::{ModelArgs, room_for_forks},
    prompt::PromptArgs,
};

/// Choose the label that fits a text best.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mistral classify --labels positive,negative,neutral review.txt
  echo 'The soup was cold.' | mistral classify --labels positive,negative,neutral
  mistral classify --labels sports,weather,food --calibrate --json article.txt
  mistral classify --labels spam,ham --jsonl mails.jsonl > labels.jsonl
  mistral classify --labels yes,no --show-prompt question.txt

Each label's score is the mean log-probability of its tokens as the model's answer, so that long labels have no
disadvantage; probabilities are the softmax of the scores. --calibrate subtracts each label's score for an empty
text. Prints label and probability, the likeliest first.

With --json the output is an object of `label`, `probability` and `labels`: for each label `label`,
`probability` and `score`.")]
pub struct Args {
    /// Labels to choose from, separated by commas.
    #[arg(long, value_name = "A,B,C", value_delimiter = ',', required = true)]
    labels: Vec<String>,
    /// File with the text; `-` or none: standard input.
    #[arg(value_name = "FILE|-")]
    file: Option<PathBuf>,
    /// Each line is a text: a JSON string, or an object with `text`. Each gives a line as with --json.
    #[arg(long, conflicts_with = "show_prompt")]
    jsonl: bool,
    /// Discount what the model prefers whatever the text.
    #[arg(long)]
    calibrate: bool,
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    model: ModelArgs,
}

/// A line of JSON Lines.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Text(String),
    Object { text: String },
}

pub fn run(args: &Args, json: bool) -> Outcome {
    let labels: Vec<_> = args.labels.iter().map(|label| label.trim().to_owned()).collect();
    if args.prompt.show_prompt {
        let text = file(args.file.as_deref())?;
        let variables = Variables { text: text.trim(), labels: &labels, ..Default::default() };
        return args.prompt.show(&args.model.source, Job::Classify, &variables, json);
    }
    let template = args.prompt.template()?;
    let engine = args.model.load_with(|config, options| {
        // Labels are scored a few at a time, and are a few tokens long.
        room_for_forks(config, &mut options.model, FEW_ROWS as u32, FEW_ROWS as u32);
    })?;
    let mut classifier = Classifier::new(engine, labels, template)?;
    if args.calibrate {
        block_on(classifier.calibrate())?;
    }
    let mut out = stdout().lock();
    if args.jsonl {
        let lines = match args.file.as_deref().filter(|path| path.as_os_str() != "-") {
            Some(path) => json_lines(Some(&file(Some(path))?)),
            None => json_lines(None),
        };
        for line in lines {
            let (Line::Text(text) | Line::Object { text }) = line?;
            writeln!(out, "{}", object(&block_on(classifier.classify(text.trim()))?))?;
        }
        return Ok(());
    }
    let scores = block_on(classifier.classify(file(args.file.as_deref())?.trim()))?;
    if json {
        writeln!(out, "{}", object(&scores))?;
    } else {
        for Score { label, probability, .. } in &scores {
            writeln!(out, "{label}\t{probability:.4}")?;
        }
    }
    Ok(())
}

fn object(scores: &[Score]) -> Value {
    let label = |Score { label, probability, score }: &Score| json!({"label": label, "probability": probability, "score": score});
    json!({
        "label": scores[0].label,
        "probability": scores[0].probability,
        "labels": scores.iter().map(label).collect::<Vec<_>>(),
    })
}
