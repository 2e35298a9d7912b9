//! Every variant of the products against the baseline's, on the demo model with texts that it was not trained
//! on: which token is the most likely after each, when the text is given.

mod device;

use std::{fs, path::Path, sync::Arc};

use device::{GPU, difference, largest};
use mistral_wgpu::{
    apps::Summarizer,
    checkpoint::Checkpoint,
    generate::*,
    gpu::{Capability, Gpu},
    model::{Chunk, LogitRows, Model, ModelConfig, ModelOptions, Weights},
    ops::*,
    quant::{Format, by_name},
    text::Encode,
};
use pollster::block_on;
use serde_json::Value;

fn demo() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo-model"))
}

/// Texts of each kind.
const TEXTS: usize = 20;

/// Prompt and right answer as tokens, and how many of them are the prompt.
struct Text {
    tokens: Vec<u32>,
    prompt: usize,
}

fn texts() -> Vec<Text> {
    let options = EngineOptions { skip_self_test: true, tune: Tune::Never, ..Default::default() };
    let source = ModelSource::Folder(demo().into());
    let engine = block_on(Engine::load(Arc::new(GPU.clone()), &source, &options, &mut |_, _| {})).unwrap();
    let summarizer = Summarizer::new(engine.clone(), None).unwrap();
    let tokenizer = engine.tokenizer().unwrap();
    let encode =
        |text: &Value, bos| tokenizer.encode(text.as_str().unwrap(), Encode { special: false, bos }).unwrap();
    let rows = |name: &str| -> Vec<Value> {
        let text = fs::read_to_string(demo().join("heldout").join(name)).unwrap();
        text.lines().take(TEXTS).map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let summaries = rows("summarize.jsonl").into_iter().map(|row| {
        (summarizer.prompt(row["text"].as_str().unwrap()).unwrap(), encode(&row["summary"], false))
    });
    let code = rows("code.jsonl")
        .into_iter()
        .map(|row| (encode(&row["prompt"], true), encode(&row["completion"], false)));
    let text = |(prompt, answer): (Vec<u32>, Vec<u32>)| Text {
        prompt: prompt.len(),
        tokens: [prompt, answer].concat(),
    };
    summaries.chain(code).map(text).collect()
}

/// Logits for every token of the answers, and for what follows them: `[tokens][vocab]`. Prompt and answer are one
/// batch, or with `few` the answer goes in batches of 8 tokens at most.
fn logits(gpu: &Gpu, format: &'static Format, texts: &[Text], few: bool) -> Vec<Vec<f32>> {
    let config = ModelConfig::from_dir(demo()).unwrap();
    let checkpoint = Checkpoint::open(demo()).unwrap();
    let weights = Weights::load(gpu, &checkpoint, &config, format, &mut |_, _| {}).unwrap();
    let options = ModelOptions { context: 256, max_rows: 256, max_logit_rows: 256, ..Default::default() };
    let mut model = Model::new(gpu, config, weights, options).unwrap();
    let mut all = Vec::new();
    for Text { tokens, prompt } in texts {
        let mut sequence = model.sequence();
        let (given, wanted) = tokens.split_at(if few { prompt - 1 } else { 0 });
        let batches = wanted.chunks(if few { 8 } else { 256 }).map(|tokens| (tokens, LogitRows::All));
        let first = (few && !given.is_empty()).then_some((given, LogitRows::None));
        let mut found = Vec::new();
        for (tokens, logits) in first.into_iter().chain(batches) {
            model.forward(gpu, &mut [Chunk { sequence: &mut sequence, tokens, logits }], None).unwrap();
            if logits == LogitRows::All {
                let values = block_on(model.logits.download(gpu, tokens.len() as u32)).unwrap();
                found.extend(values.chunks_exact(model.logits.cols as usize).map(<[f32]>::to_vec));
            }
        }
        let answer = tokens.len() - (prompt - 1);
        all.extend(found.split_off(found.len() - answer));
    }
    all
}

fn top(logits: &[f32]) -> usize {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap()
}

/// Every runnable variant of a product. What a prompt says is not the model's to foretell: only answers count.
fn agree<S>(operation: &Operation<S>, few: bool, shape: impl Fn(&'static Format) -> S) {
    let texts = texts();
    for format in ["q4_0", "q8_0"].map(|name| by_name(name).unwrap()) {
        let shape = shape(format);
        let of = |variant: &Variant<S>| logits(&operation.only(&GPU, variant), format, &texts, few);
        let baseline = operation.variants.iter().find(|variant| variant.name == "baseline").unwrap();
        let expected = of(baseline);
        assert!(expected.len() > 10 * 2 * TEXTS, "{} tokens", expected.len());
        for variant in operation.runnable(&GPU, &shape).filter(|variant| variant.name != "baseline") {
            let name = format!("{} {}", operation.full_name(variant), format.name);
            let found = of(variant);
            let error = difference(&found.concat(), &expected.concat());
            let differing: Vec<f32> = found
                .iter()
                .zip(&expected)
                .filter(|(found, expected)| top(found) != top(expected))
                .map(|(found, expected)| expected[top(expected)] - expected[top(found)])
                .collect();
            let largest = largest(&expected.concat());
            println!(
                "{name}: logits up to {largest} differ by {error}; {} of {} likeliest tokens differ, margins {differing:?}",
                differing.len(),
                expected.len()
            );
            // Sums in another order change what is rounded to f16 in the cache; activations in 8-bit codes, or in f16,
            // are coarser. A margin is between two logits, which both may be off.
            let key = (variant.key)(&shape);
            let coarse = key.needs.contains(&Capability::Integer) || !key.flags.is_empty();
            assert!(error <= largest * if coarse { 0.03 } else { 1e-3 }, "{name}: logits differ by {error}");
            assert!(differing.iter().all(|margin| *margin <= 2.0 * error), "{name}: margins {differing:?}");
            assert!(1000 * differing.len() <= 5 * expected.len(), "{name}: {} differ", differing.len());
        }
    }
}

#[test]
fn mat_vec_agrees() {
    agree(&MAT_VEC, true, |format| MatVecShape { format, cols: 8, q8: true, experts: false });
}

#[test]
fn mat_mat_agrees() {
    agree(&MAT_MAT, false, |format| MatMatShape { format, q8: true, most: u32::MAX, experts: false });
}
