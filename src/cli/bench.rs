//! `mistral bench`: speed of reading a prompt and of generating, in the manner of llama-bench.

use std::{
    io::{Write, stdout},
    time::Instant,
};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use mistral_wgpu::{
    apps::bench::{Case, Depth, Measurement, measure},
    generate::{Engine, ModelSource},
    model::Fit,
};
use pollster::block_on;
use serde::Serialize;

use super::{
    Outcome,
    device::human,
    model::{ModelArgs, room_for_a_fork},
    usage,
};

/// Measure the speed of prompt processing and generation.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mistral bench --model synthetic:mistral-7b --weights q4_0
  mistral bench -p 512,2048 -n 0 -r 3
  mistral bench -p 0 -n 128 -d 0,4096 -o json

Every depth is measured with every prompt length (`pp`) and every number of generated tokens (`tg`), each -r \
times after a warm-up; a 0 leaves its kind out. Real models compute the text of a depth, synthetic ones only take its \
room in the cache. Speeds are tokens per second, sampling included.

JSON is an array of rows with llama-bench's `n_prompt`, `n_gen`, `n_depth`, `avg_ts`, `stddev_ts`, `samples_ts`, `avg_ns`, \
`stddev_ns`, `samples_ns`, `model_size`, `model_n_params`, `n_batch`, `type_k`, `type_v`, and ours: `model`, `weights`, `device`, \
`driver`, `backend`, `crate_version`, `load_seconds`, `time_to_first_token` (seconds, prompts only), `gb_per_second` (weights, \
keys and values read, generation only) and `operations`: GPU seconds and dispatches of one pass by \
operation, from a run of its own.")]
pub struct Args {
    /// Prompt lengths, in tokens.
    #[arg(short = 'p', long, value_name = "LIST", value_delimiter = ',', default_value = "512")]
    n_prompt: Vec<u32>,
    /// Numbers of tokens to generate.
    #[arg(short = 'n', long, value_name = "LIST", value_delimiter = ',', default_value = "128")]
    n_gen: Vec<u32>,
    /// Numbers of tokens in the cache before that.
    #[arg(short = 'd', long, value_name = "LIST", value_delimiter = ',', default_value = "0")]
    n_depth: Vec<u32>,
    /// Repetitions of each measurement.
    #[arg(short = 'r', long, value_name = "N", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
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
    let cases = cases(args);
    if cases.is_empty() {
        return Err(usage("bench", "expected a prompt length or a number of tokens above 0"));
    }
    let source = args.model.source.get()?;
    let (model, depth) = match &source {
        ModelSource::Synthetic(name) => (format!("synthetic:{name}"), Depth::Skip),
        ModelSource::Folder(dir) => (dir.display().to_string(), Depth::Prefill),
    };
    let start = Instant::now();
    let engine = args.model.load_from(&source, |config, options| {
        if args.model.context.is_none() {
            options.model.context = cases.iter().map(Case::context).max().unwrap_or(1);
        }
        room_for_a_fork(config, &mut options.model);
    })?;
    let load_seconds = start.elapsed().as_secs_f64();
    let bar = ProgressBar::new(cases.len() as u64)
        .with_style(ProgressStyle::with_template("{msg} {pos}/{len}").expect("a valid template"));
    let mut rows = Vec::new();
    for case in cases {
        bar.set_message(name(&case));
        let measurement = block_on(measure(&engine, case, depth, args.repetitions))?;
        rows.push(Row::new(&engine, &model, load_seconds, case, measurement));
        bar.inc(1);
    }
    bar.finish_and_clear();
    let mut out = stdout().lock();
    if args.output.unwrap_or(if json { Format::Json } else { Format::Md }) == Format::Json {
        writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?;
        return Ok(());
    }
    writeln!(out, "| model | size | weights | device | test | t/s | first token | GB/s |")?;
    writeln!(out, "| --- | ---: | --- | --- | ---: | ---: | ---: | ---: |")?;
    for row in rows {
        let cell = |value: Option<f64>, unit: &str| value.map_or(String::new(), |x| format!("{x:.2}{unit}"));
        let Row { model, weights, device, backend, avg_ts, stddev_ts, .. } = &row;
        writeln!(
            out,
            "| {model} | {} | {weights} | {device} ({backend}) | {} | {avg_ts:.2} ± {stddev_ts:.2} | {} | {} |",
            human(row.model_size),
            row.test,
            cell(row.time_to_first_token, " s"),
            cell(row.gb_per_second, ""),
        )?;
    }
    Ok(())
}

/// Every depth with every prompt, then with every generation.
fn cases(args: &Args) -> Vec<Case> {
    let at = |n_depth: u32| {
        let prompts = args.n_prompt.iter().map(move |&n_prompt| Case { n_prompt, n_gen: 0, n_depth });
        let generations = args.n_gen.iter().map(move |&n_gen| Case { n_prompt: 0, n_gen, n_depth });
        prompts.chain(generations).filter(|case| case.tokens() > 0)
    };
    args.n_depth.iter().flat_map(|&depth| at(depth)).collect()
}

/// What llama-bench calls a case.
fn name(case: &Case) -> String {
    let test = match case.n_gen {
        0 => format!("pp{}", case.n_prompt),
        n_gen => format!("tg{n_gen}"),
    };
    if case.n_depth == 0 { test } else { format!("{test} @ d{}", case.n_depth) }
}

#[derive(Serialize)]
struct Row {
    crate_version: &'static str,
    model: String,
    model_size: u64,
    model_n_params: u64,
    weights: &'static str,
    device: String,
    driver: String,
    backend: String,
    n_batch: u32,
    type_k: &'static str,
    type_v: &'static str,
    test: String,
    n_prompt: u32,
    n_gen: u32,
    n_depth: u32,
    avg_ns: f64,
    stddev_ns: f64,
    avg_ts: f64,
    stddev_ts: f64,
    samples_ns: Vec<f64>,
    samples_ts: Vec<f64>,
    load_seconds: f64,
    time_to_first_token: Option<f64>,
    gb_per_second: Option<f64>,
    operations: Vec<Operation>,
}

#[derive(Serialize)]
struct Operation {
    label: &'static str,
    seconds: f64,
    dispatches: u64,
}

impl Row {
    fn new(engine: &Engine, model: &str, load_seconds: f64, case: Case, measured: Measurement) -> Self {
        let (device, options) = (engine.gpu().description(), engine.model_options());
        let Measurement { seconds, bytes_per_token, operations } = measured;
        let tokens = f64::from(case.tokens());
        let samples_ns: Vec<_> = seconds.iter().map(|seconds| seconds * 1e9).collect();
        let samples_ts: Vec<_> = seconds.iter().map(|seconds| tokens / seconds).collect();
        let (avg_ns, stddev_ns) = statistics(&samples_ns);
        let (avg_ts, stddev_ts) = statistics(&samples_ts);
        let fit = Fit::new(engine.config(), options, engine.format());
        let operation = |(label, seconds, dispatches)| Operation { label, seconds, dispatches };
        Self {
            crate_version: env!("CARGO_PKG_VERSION"),
            model: model.to_owned(),
            model_size: fit.weights,
            model_n_params: engine.config().parameters(),
            weights: engine.format().name,
            device: device.name.clone(),
            driver: device.driver.clone(),
            backend: device.backend.clone(),
            n_batch: options.max_rows,
            type_k: options.kv_format.name(),
            type_v: options.kv_format.name(),
            test: name(&case),
            n_prompt: case.n_prompt,
            n_gen: case.n_gen,
            n_depth: case.n_depth,
            avg_ns,
            stddev_ns,
            avg_ts,
            stddev_ts,
            samples_ns,
            samples_ts,
            load_seconds,
            time_to_first_token: (case.n_gen == 0).then_some(avg_ns * 1e-9),
            gb_per_second: (case.n_gen > 0).then_some(bytes_per_token as f64 * avg_ts * 1e-9),
            operations: operations.into_iter().map(operation).collect(),
        }
    }
}

/// Mean and standard deviation of a sample.
fn statistics(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0).max(1.0)).sqrt())
}
