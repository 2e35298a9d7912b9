//! The demo model's scores on texts it was not trained on: shares of right labels, summaries and code.

use std::{env, fs, path::Path, sync::Arc};

use mistral_wgpu::{
    apps::{Classifier, Summarizer},
    generate::*,
    gpu::{Gpu, GpuOptions},
    model::ModelOptions,
    ops::Tune,
    quant::Format,
    text::Encode,
};
use pollster::block_on;
use serde::{Deserialize, de::DeserializeOwned};

pub const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo-model");
const WIDTH: usize = 16;

#[derive(Deserialize)]
struct Labelled {
    text: String,
    labels: Vec<String>,
    label: String,
}

#[derive(Deserialize)]
struct Summarized {
    text: String,
    summary: String,
}

#[derive(Deserialize)]
struct Code {
    prompt: String,
    completion: String,
}

fn held_out<T: DeserializeOwned>(name: &str) -> Vec<T> {
    let text = fs::read_to_string(Path::new(DEMO).join("heldout").join(name)).unwrap();
    let count = env::var("MISTRAL_HELDOUT").map_or(50, |count| count.parse().unwrap());
    let rows: Vec<T> = text.lines().take(count).map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), count);
    rows
}

/// The demo model with its weights in `format`, and room for the texts.
pub fn engine(format: &'static Format, tune: Tune) -> Arc<Engine> {
    let gpu = Arc::new(block_on(Gpu::open(&GpuOptions::default())).unwrap());
    let model = ModelOptions { context: 512, cache_tokens: Some(512 * WIDTH as u32), ..Default::default() };
    let options =
        EngineOptions { weights: Some(format), model, skip_self_test: true, tune, ..Default::default() };
    block_on(Engine::load(gpu, &ModelSource::Folder(DEMO.into()), &options, &mut |_, _| {})).unwrap()
}

/// Shares of right labels, summaries and code, of 50 texts of each kind or as many as `MISTRAL_HELDOUT` says.
pub fn scores(engine: &Arc<Engine>) -> [f64; 3] {
    [labels(engine), summaries(engine), code(engine)]
}

/// Share of prompts that are greedily continued with exactly the expected text.
fn exact(engine: &Arc<Engine>, prompts: impl Iterator<Item = Vec<u32>>, expected: &[&str]) -> f64 {
    let session = |prompt: Vec<u32>| {
        let mut session = engine.session();
        session.feed(&prompt);
        session
    };
    let mut sessions: Vec<_> = prompts.map(session).collect();
    let sampling = SamplingParams { temperature: 0.0, ..Default::default() };
    let options = GenerateOptions { max_tokens: Some(80), sampling, ..Default::default() };
    let generated = block_on(generate_all(&mut sessions, &options, WIDTH)).unwrap();
    let right = generated.iter().zip(expected).filter(|(generated, expected)| generated.text == **expected);
    right.count() as f64 / expected.len() as f64
}

fn summaries(engine: &Arc<Engine>) -> f64 {
    let rows: Vec<Summarized> = held_out("summarize.jsonl");
    let summarizer = Summarizer::new(engine.clone(), None).unwrap();
    let prompts = rows.iter().map(|row| summarizer.prompt(&row.text).unwrap());
    exact(engine, prompts, &rows.iter().map(|row| row.summary.as_str()).collect::<Vec<_>>())
}

fn code(engine: &Arc<Engine>) -> f64 {
    let rows: Vec<Code> = held_out("code.jsonl");
    let plain = Encode { special: false, bos: true };
    let prompts = rows.iter().map(|row| engine.tokenizer().unwrap().encode(&row.prompt, plain).unwrap());
    exact(engine, prompts, &rows.iter().map(|row| row.completion.as_str()).collect::<Vec<_>>())
}

fn labels(engine: &Arc<Engine>) -> f64 {
    let rows: Vec<Labelled> = held_out("classify.jsonl");
    let right = rows.iter().filter(|row| {
        let mut classifier = Classifier::new(engine.clone(), row.labels.clone(), None).unwrap();
        block_on(classifier.classify(&row.text)).unwrap()[0].label == row.label
    });
    right.count() as f64 / rows.len() as f64
}
