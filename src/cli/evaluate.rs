//! `mistral evaluate`: accuracy in published data sets.

use std::{
    collections::HashSet,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{Write, stderr, stdout},
    path::{Path, PathBuf},
};

use indicatif::{ProgressBar, ProgressStyle};
use mistral_wgpu::{
    Error, ErrorKind, Result,
    apps::{
        Share,
        evaluate::{Ask, Evaluator, Item, Outcome, Results, Task, WIDTH, shares},
    },
    generate::ModelSource,
};
use pollster::block_on;
use serde_json::json;

use super::{
    Failure, interrupt,
    logits::logit_rows,
    model::{ModelArgs, room_for_forks},
};

/// Tokens of a choice that its own room in the cache is made for.
const CHOICE_ROWS: u32 = 8;

/// Score a model on a task of questions with known answers.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mistral evaluate --model ~/Mistral-7B-v0.3 --task hellaswag_val.jsonl
  mistral evaluate --task mmlu_test.jsonl --shots 5 --shots-from mmlu_dev.jsonl
  mistral evaluate --task gsm8k_test.jsonl --shots 5 --shots-from gsm8k_train.jsonl --limit 200
  mistral evaluate --task arc_challenge.jsonl --weights q4_0 --json

A task is a file of JSON Lines in the layout of HellaSwag, ARC, MMLU, WinoGrande or GSM8K, told by its keys, with the prompts \
that the language model evaluation harness (lm_eval) gives to base models, after the start token. Of several choices the \
likeliest is taken: `acc` by the sum of the log-probabilities of its tokens, `acc_norm` by that sum divided by the \
number of the choice's characters, as the harness does. GSM8K's answers are generated greedily: `strict_match` compares the number after \
`#### `, `flexible_extract` the last number. Accuracies come with Wilson's 95 % interval. What choices share is computed once, and as many questions together as go in a batch.

Every result is appended to a file beside the task, NAME.results.jsonl, as soon as it is known; the same command goes on from there after \
Ctrl-C (exit status 130) or a crash. Results count for the same task, model, formats and settings only.")]
pub struct Args {
    /// File with the task.
    #[arg(long, value_name = "FILE.jsonl")]
    task: PathBuf,
    /// Show N examples with their answers before each question, of the same subject where there are subjects.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "shots_from")]
    shots: usize,
    /// File with the examples, in the task's layout; the first ones are taken.
    #[arg(long, value_name = "FILE.jsonl", requires = "shots")]
    shots_from: Option<PathBuf>,
    /// Ask the first N questions only.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Tokens of a generated answer at most.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// File of the results [default: NAME.results.jsonl beside the task].
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
}

pub fn run(args: &Args, json: bool) -> super::Outcome {
    let (text, task) = read(&args.task)?;
    let mut examples = String::new();
    let shots = match &args.shots_from {
        None => Vec::new(),
        Some(path) => {
            let (text, file) = read(path)?;
            if file.layout != task.layout {
                let (expected, found) = (task.layout.name(), file.layout.name());
                return Err(Error::expected(ErrorKind::Argument, path.display(), expected, found).into());
            }
            examples = text;
            first_of_each_subject(file.items, args.shots)
        }
    };
    let source = args.model.source.get()?;
    let engine = args.model.load_from(&source, |config, options| {
        let model = &mut options.model;
        match task.items[0].ask {
            Ask::Choose(..) => {
                model.max_logit_rows = model.max_rows.min(logit_rows(config));
                room_for_forks(config, model, model.max_rows / CHOICE_ROWS, CHOICE_ROWS);
            }
            Ask::Generate(..) => room_for_forks(config, model, WIDTH as u32, model.context),
        }
    })?;
    let settings = (&text, args.shots, &examples, args.max_tokens, env!("CARGO_PKG_VERSION"));
    let formats = (engine.formats().name(), engine.model_options().kv_format.name());
    let mut hasher = DefaultHasher::new();
    (settings, formats, identity(&source)?, args.model.sliding_window).hash(&mut hasher);
    format!("{:?}", args.model.adapters).hash(&mut hasher);
    let path = args.results.clone().unwrap_or_else(|| args.task.with_extension("results.jsonl"));
    let (mut results, mut outcomes) = Results::open(&path, &format!("{:016x}", hasher.finish()))?;

    let items: Vec<_> =
        task.items.iter().take(args.limit.map_or(usize::MAX, |limit| limit as usize)).collect();
    let asked: HashSet<_> = items.iter().map(|item| item.line).collect();
    let mut known = HashSet::new();
    outcomes.retain(|outcome| asked.contains(&outcome.line) && known.insert(outcome.line));
    let left: Vec<_> = items.iter().copied().filter(|item| !known.contains(&item.line)).collect();
    if !known.is_empty() {
        writeln!(stderr(), "{} of {} are answered in {}", known.len(), items.len(), path.display())?;
    }
    let mut evaluator = Evaluator::new(engine, task.layout, shots);
    evaluator.max_tokens = args.max_tokens as usize;
    let bar = ProgressBar::new(items.len() as u64).with_position(known.len() as u64);
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len}, {eta} left, {msg}");
    bar.set_style(style.expect("a valid template"));
    interrupt::catch();
    let mut interrupted = false;
    let mut left = &left[..];
    while !left.is_empty() {
        let new = block_on(evaluator.answer(left)).map_err(|error| error.within(args.task.display()))?;
        results.append(&new)?;
        left = &left[new.len()..];
        outcomes.extend(new);
        bar.set_position(outcomes.len() as u64);
        let measures = task.layout.measures().into_iter().zip(shares(&outcomes));
        let so_far: Vec<_> =
            measures.map(|(name, share)| format!("{name} {:.1} %", 1e2 * share.value())).collect();
        bar.set_message(so_far.join(", "));
        interrupted = outcomes.len() < items.len() && interrupt::take();
        if interrupted {
            break;
        }
    }
    bar.finish_and_clear();
    print(&task, &outcomes, items.len(), json)?;
    if !interrupted {
        return Ok(());
    }
    writeln!(stderr(), "the same command goes on from {}", path.display())?;
    Err(Failure::Interrupted)
}

fn read(path: &Path) -> Result<(String, Task)> {
    let text = fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
    let task = Task::parse(&text).map_err(|error| error.within(path.display()))?;
    Ok((text, task))
}

fn first_of_each_subject(items: Vec<Item>, count: usize) -> Vec<Item> {
    let mut taken = std::collections::HashMap::<String, usize>::new();
    let first = |item: &Item| {
        let taken = taken.entry(item.subject.clone()).or_default();
        *taken += 1;
        *taken <= count
    };
    items.into_iter().filter(first).collect()
}

/// What tells one model from another without reading its weights: its name, and its files' names, sizes and times.
fn identity(source: &ModelSource) -> Result<String> {
    let identity = format!("{source:?}");
    let path = match source {
        ModelSource::Folder(path) | ModelSource::Consolidated(path) | ModelSource::Gguf(path) => path,
        ModelSource::Synthetic(_) => return Ok(identity),
    };
    let mut files = vec![path.clone()];
    if path.is_dir() {
        let entries = fs::read_dir(path).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
        let entries = entries.map_err(|error| Error::io(path, error))?;
        files = entries.into_iter().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
        files.sort();
    }
    let described = files.iter().map(|file| {
        let data = fs::metadata(file).map_err(|error| Error::io(file, error))?;
        Ok(format!("{} {} {:?}", file.display(), data.len(), data.modified().ok()))
    });
    Ok(identity + &described.collect::<Result<Vec<_>>>()?.join("\n"))
}

fn print(task: &Task, outcomes: &[Outcome], of: usize, json: bool) -> super::Outcome {
    let measures = task.layout.measures().into_iter().zip(shares(outcomes));
    if json {
        let mut object = json!({"layout": task.layout.name(), "answered": outcomes.len(), "questions": of});
        for (name, share) in measures {
            let (low, high) = share.interval();
            object[name] = json!({"right": share.right, "accuracy": share.value(), "interval": [low, high]});
        }
        return super::print(&object);
    }
    let mut out = stdout().lock();
    writeln!(out, "{}, {} of {of} questions answered", task.layout.name(), outcomes.len())?;
    for (name, share) in measures {
        let Share { right, of } = share;
        let ((low, high), value) = (share.interval(), share.value());
        let [value, low, high] = [value, low, high].map(|share| 1e2 * share);
        writeln!(out, "{name:<16} {value:5.1} %  (95 % interval {low:.1} to {high:.1} %), {right} of {of}")?;
    }
    Ok(())
}
