//! `mistral bench`: speed of reading a prompt and of generating, in the manner of llama-bench, beside what the
//! device could do at best.

mod cases;
mod report;

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use mistral_wgpu::{
    Error, ErrorKind,
    apps::bench::{Depth, Stored, measure, profile},
    generate::ModelSource,
    gpu::{Capability, Gpu},
    ops::Roofline,
    quant::by_name,
};
use pollster::block_on;
use serde_json::Value;

use self::{
    cases::{cases, name},
    report::{Operation, Report, Row},
};
use super::{Failure, Outcome, model::ModelArgs, usage};

/// Measure the speed of prompt processing and generation, and the device's limits.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mistral bench --model synthetic:mistral-7b --weights q4_0
  mistral bench -p 512,2048 -n 0 -r 3
  mistral bench -n 128 -b 1,16 --profile
  mistral bench --limits-only
  mistral bench -o json > old.json; mistral bench --compare old.json

Without -p, -n, -d and -b: prompts (`pp`) of 16, 128, 512 and 2048 tokens, generation (`tg`) of 128 tokens after 0, 1024, 4096 \
and 16384, and of 4, 16 and 64 texts at once (`tg32 × 16`), as far as the model's context and the memory go and no test would \
take minutes; what is left out is said. With any of them, every depth is measured with every prompt length, and with every \
number of generated tokens for every number of texts; what is not given is one text at depth 0, and a prompt of 512 and a \
generation of 128 tokens where neither length is. \
Each test runs -r times after a warm-up. Real models compute the text of a depth, synthetic ones only take its room in \
the cache. Speeds are tokens per second of all texts together, sampling included.

The limit of a test is what this device could do at best, by measurements made just before: max(bytes / bandwidth, operations / \
rate) of each pass, and the cost of its dispatches one after the other. Bytes are those of weights, keys and values, read \
once a pass; operations those of products and attention.

JSON is an object with `device`, `limits`, `model` and `tests`: rows with llama-bench's `n_prompt`, `n_gen`, `n_depth`, `avg_ts`, \
`stddev_ts`, `samples_ts`, `avg_ns`, `stddev_ns` and `samples_ns`, and ours.")]
pub struct Args {
    /// Prompt lengths, in tokens.
    #[arg(short = 'p', long, value_name = "LIST", value_delimiter = ',')]
    n_prompt: Option<Vec<u32>>,
    /// Numbers of tokens to generate.
    #[arg(short = 'n', long, value_name = "LIST", value_delimiter = ',')]
    n_gen: Option<Vec<u32>>,
    /// Numbers of tokens in the cache before that.
    #[arg(short = 'd', long, value_name = "LIST", value_delimiter = ',')]
    n_depth: Option<Vec<u32>>,
    /// Numbers of texts that generate at once, at most 64.
    #[arg(short = 'b', long, value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=64))]
    n_sequences: Option<Vec<u32>>,
    /// Repetitions of each test.
    #[arg(short = 'r', long, value_name = "N", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// Also time every operation on the GPU, in a run of its own.
    #[arg(long)]
    profile: bool,
    /// Measure only the device.
    #[arg(long)]
    limits_only: bool,
    /// Compare with what an earlier run printed as JSON.
    #[arg(long, value_name = "OLD.json")]
    compare: Option<PathBuf>,
    /// How results are printed [default: md, or json with --json].
    #[arg(short = 'o', long, value_enum)]
    output: Option<Format>,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    Md,
    Json,
}

pub fn run(args: &Args, json: bool) -> Outcome {
    let old = args.compare.as_deref().map(read_report).transpose()?;
    let device_options = args.model.device.options();
    let gpu = block_on(Gpu::open(&device_options))?;
    let roofline = block_on(Roofline::measure(&gpu))?;
    let mut report = Report::new(gpu.description(), &roofline);
    drop(gpu);
    if !args.limits_only {
        tests(args, &roofline, &mut report)?;
    }
    if let Some(old) = &old {
        report.compare(old);
    }
    match args.output.unwrap_or(if json { Format::Json } else { Format::Md }) {
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Format::Md => print!("{report}"),
    }
    Ok(())
}

/// Loads the model and adds its tests to the report.
fn tests(args: &Args, roofline: &Roofline, report: &mut Report) -> Outcome {
    let source = args.model.source.get()?;
    let (model, depth) = match &source {
        ModelSource::Synthetic(name) => (format!("synthetic:{name}"), Depth::Skip),
        ModelSource::Folder(path) | ModelSource::Consolidated(path) | ModelSource::Gguf(path) => {
            (path.display().to_string(), Depth::Prefill)
        }
    };
    let config = args.model.config(&source)?;
    let formats = args.model.weights.or(by_name("f16")).expect("a format of the table").into();
    let options = args.model.model_options(&config, report.memory);
    let stored = Stored { config: &config, formats: &formats, options: &options };
    let cases = cases(args, &stored, roofline, report.memory);
    if cases.is_empty() {
        return Err(usage("bench", "expected a prompt length or a number of tokens above 0"));
    }
    let start = Instant::now();
    let engine = args.model.load_from(&source, |_, options| {
        if args.model.context.is_none() {
            options.model.context = cases.iter().map(|case| case.context()).max().unwrap_or(1);
        }
        options.model.cache_tokens = cases.iter().map(|case| case.cache_tokens(&stored)).max();
    })?;
    report.set_model(&engine, model, start.elapsed().as_secs_f64());
    let bar = ProgressBar::new(cases.len() as u64)
        .with_style(ProgressStyle::with_template("{msg} {pos}/{len}").expect("a valid template"));
    let timestamps = engine.gpu().capabilities().has(&[Capability::Timestamp]);
    if args.profile && !timestamps {
        return Err(usage("profile", "this device has no timestamps"));
    }
    for case in cases {
        bar.set_message(name(&case));
        let measured = block_on(measure(&engine, case, depth, args.repetitions))?;
        let operations = match args.profile {
            true => Operation::all(&engine, roofline, &block_on(profile(&engine, case))?),
            false => Vec::new(),
        };
        report.tests.push(Row::new(&engine, roofline, case, measured, operations));
        bar.inc(1);
    }
    bar.finish_and_clear();
    report.set_memory(&engine);
    Ok(())
}

/// What an earlier run printed as JSON.
fn read_report(path: &Path) -> Result<Value, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
    let value: Value = serde_json::from_str(&text)
        .map_err(|error| Error::new(ErrorKind::Argument, path.display(), error))?;
    if !value["tests"].is_array() {
        return Err(usage("compare", "expected what `mistral bench -o json` printed"));
    }
    Ok(value)
}
