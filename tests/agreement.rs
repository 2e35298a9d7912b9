//! Variants of products and attention against the baseline's, and formats of weights and of keys and values against
//! `f32`, on the demo model with texts that it was not trained on: which token is the most likely after each, when the
//! text is given.

mod device;

use std::{fs, path::Path, sync::Arc};

use device::{GPU, difference, largest, stands_for_others};
use mistral_wgpu::{
    apps::Summarizer,
    checkpoint::Checkpoint,
    generate::*,
    gpu::{Capability, Gpu, GpuOptions, KernelKey},
    model::{Chunk, LogitRows, Model, ModelConfig, ModelOptions, Weights, attention_shape},
    ops::*,
    quant::{FORMATS, Format, by_name},
    text::Encode,
};
use pollster::block_on;
use rayon::prelude::*;
use serde_json::Value;

fn demo() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo-model"))
}

/// Texts of each kind, and fewer for what is like others.
const TEXTS: usize = 6;
const FEW_TEXTS: usize = 3;

/// Prompt and right answer as tokens, and how many of them are the prompt.
struct Text {
    tokens: Vec<u32>,
    prompt: usize,
}

/// So many of each kind.
fn texts(count: usize) -> Vec<Text> {
    let options = EngineOptions { skip_self_test: true, tune: Tune::Never, ..Default::default() };
    let source = ModelSource::Folder(demo().into());
    let engine = block_on(Engine::load(Arc::new(GPU.clone()), &source, &options, &mut |_, _| {})).unwrap();
    let summarizer = Summarizer::new(engine.clone(), None).unwrap();
    let tokenizer = engine.tokenizer().unwrap();
    let encode =
        |text: &Value, bos| tokenizer.encode(text.as_str().unwrap(), Encode { special: false, bos }).unwrap();
    let rows = |name: &str| -> Vec<Value> {
        let text = fs::read_to_string(demo().join("heldout").join(name)).unwrap();
        text.lines().take(count).map(|line| serde_json::from_str(line).unwrap()).collect()
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

/// What a model computes for texts whose tokens are given, `[tokens][vocab]`.
#[derive(Default)]
struct Found {
    /// For the tokens of the prompts but the last.
    prompts: Vec<Vec<f32>>,
    /// For the last, and those of the answers.
    answers: Vec<Vec<f32>>,
    /// Whether each text's answer is what the likeliest tokens say.
    right: Vec<bool>,
}

/// Prompt and answer are one batch, or with `few` the answer goes in batches of 8 tokens, what is left token by token, and
/// nothing is kept of the prompt. Batches of other sizes have kernels of their own, which take long to compile.
fn compute(gpu: &Gpu, format: &'static Format, kv_format: KvFormat, texts: &[Text], few: bool) -> Found {
    let config = ModelConfig::from_dir(demo()).unwrap();
    let checkpoint = Checkpoint::open(demo()).unwrap();
    let weights = Weights::load(gpu, &checkpoint, &config, format, &mut |_, _| {}).unwrap();
    let options =
        ModelOptions { context: 256, max_rows: 256, max_logit_rows: 256, kv_format, ..Default::default() };
    let mut model = Model::new(gpu, config, weights, options).unwrap();
    let mut all = Found::default();
    for Text { tokens, prompt } in texts {
        let mut sequence = model.sequence();
        let (given, wanted) = tokens.split_at(if few { prompt - 1 } else { 0 });
        let (whole, rest) = wanted.split_at(if few { wanted.len() / 8 * 8 } else { wanted.len() });
        let batches = whole.chunks(if few { 8 } else { 256 }).chain(rest.chunks(1));
        let batches = batches.map(|tokens| (tokens, LogitRows::All));
        let first = (few && !given.is_empty()).then_some((given, LogitRows::None));
        let mut found = Vec::new();
        for (tokens, logits) in first.into_iter().chain(batches) {
            model.forward(gpu, &mut [Chunk { sequence: &mut sequence, tokens, logits }], None).unwrap();
            if logits == LogitRows::All {
                let values = block_on(model.logits.download(gpu, tokens.len() as u32)).unwrap();
                found.extend(values.chunks_exact(model.logits.cols as usize).map(<[f32]>::to_vec));
            }
        }
        let answer = found.split_off(found.len() - (tokens.len() - (prompt - 1)));
        all.right.push(answer.iter().zip(&tokens[*prompt..]).all(|(row, token)| top(row) == *token as usize));
        all.answers.extend(answer);
        all.prompts.extend(found);
    }
    all
}

fn top(logits: &[f32]) -> usize {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap()
}

/// The root of the mean of squared differences.
fn rms(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f32 {
    let pairs = || found.iter().flatten().zip(expected.iter().flatten());
    let squares: f64 = pairs().map(|(a, b)| f64::from(a - b).powi(2)).sum();
    (squares / pairs().count().max(1) as f64).sqrt() as f32
}

/// A token that is no longer the likeliest was so by a margin, which the errors of two logits have to reach. Six times the
/// root mean square of all errors is more than any did in thousands of tokens: what loses a larger margin is a bug, not
/// rounding.
const USUAL: f32 = 6.0;

/// Asserts that at most `share` of the likeliest tokens differ, each where the margin is within the usual error.
fn agree(name: &str, found: &[Vec<f32>], expected: &[Vec<f32>], share: f32) {
    let error = rms(found, expected);
    let pairs = found.iter().zip(expected).filter(|(found, expected)| top(found) != top(expected));
    let margins: Vec<f32> =
        pairs.map(|(found, expected)| expected[top(expected)] - expected[top(found)]).collect();
    println!(
        "{name}: usual error {error:.2e}, {} of {} likeliest tokens differ, margins up to {:.2e}",
        margins.len(),
        expected.len(),
        largest(&margins)
    );
    assert!(margins.iter().all(|margin| *margin <= USUAL * error), "{name}: {error}, margins {margins:?}");
    assert!(margins.len() as f32 <= share * expected.len() as f32, "{name}: {} differ", margins.len());
}

/// A variant of a kernel, in place of the baseline.
struct Changed<'a> {
    name: String,
    found: Found,
    expected: &'a Found,
    /// Whether it rounds more than the order of sums does.
    coarse: bool,
    /// Share of likeliest tokens within prompts that may be others: what a prompt says is not the model's to foretell.
    in_prompts: f32,
}

impl Changed<'_> {
    fn check(&self) {
        let Self { name, found, expected, coarse, in_prompts } = self;
        let [all, wanted] = [&found.answers, &expected.answers].map(|rows| rows.concat());
        let (largest, error) = (largest(&wanted), difference(&all, &wanted));
        println!("{name}: logits up to {largest} differ by {error}");
        // Sums in another order change what is rounded to 16 bits or fewer in the cache.
        assert!(error <= largest * if *coarse { 0.03 } else { 1e-3 }, "{name}: logits differ by {error}");
        agree(name, &found.answers, &expected.answers, 0.005);
        if !expected.prompts.is_empty() {
            agree(&format!("{name}, prompts"), &found.prompts, &expected.prompts, *in_prompts);
        }
        assert_eq!(found.right, expected.right, "{name}");
    }
}

fn coarse(key: &KernelKey) -> bool {
    key.needs.contains(&Capability::Integer) || rounds_to_f16(key) || key.flags.contains(&"halves")
}

/// Every runnable variant of an operation with the usual formats, and the first of the table with those that stand for the
/// others.
fn variants<S>(operation: &Operation<S>, few: bool, shape: impl Fn(&'static Format) -> S + Sync) {
    let (all, some) = (texts(TEXTS), texts(FEW_TEXTS));
    let formats: Vec<_> = FORMATS.into_iter().filter(|format| stands_for_others(format)).collect();
    formats.par_iter().for_each(|format| {
        let shape = shape(format);
        let usual = ["q8_0", "q4_0"].contains(&format.name);
        let texts = if usual { &all } else { &some };
        let of =
            |variant: &Variant<S>| compute(&operation.only(&GPU, variant), format, KvFormat::F16, texts, few);
        let baseline = operation.variants.iter().find(|variant| variant.name == "baseline").unwrap();
        let runnable = operation.runnable(&GPU, &shape).filter(|variant| variant.name != "baseline");
        let expected = of(baseline);
        for variant in runnable.take(if usual { usize::MAX } else { 1 }) {
            let name = format!("{} {}", operation.full_name(variant), format.name);
            let coarse = coarse(&(variant.key)(&shape));
            Changed { name, found: of(variant), expected: &expected, coarse, in_prompts: 0.03 }.check();
        }
    });
}

#[test]
fn mat_vec_agrees() {
    variants(&MAT_VEC, true, |format| MatVecShape::new(format, 8));
}

#[test]
fn mat_mat_agrees() {
    variants(&MAT_MAT, false, |format| MatMatShape { format, rounded: true, most: u32::MAX, experts: false });
}

/// Every runnable variant of attention with every format of keys and values.
#[test]
fn attention_agrees() {
    let texts = texts(FEW_TEXTS);
    let config = ModelConfig::from_dir(demo()).unwrap();
    let weights = by_name("f16").unwrap();
    for (operation, few) in [(&ATTENTION_SINGLE, true), (&ATTENTION_TILED, false)] {
        for kv in KvFormat::all() {
            let shape = attention_shape(&config, kv);
            let of = |variant: &Variant<AttentionShape>| {
                compute(&operation.only(&GPU, variant), weights, kv, &texts, few)
            };
            let baseline = operation.variants.iter().find(|variant| variant.name == "baseline").unwrap();
            let expected = of(baseline);
            for variant in operation.runnable(&GPU, &shape).filter(|variant| variant.name != "baseline") {
                let name = format!("{} {}", operation.full_name(variant), kv.name());
                let coarse = coarse(&(variant.key)(&shape));
                let found = of(variant);
                Changed { name, found, expected: &expected, coarse, in_prompts: 0.03 }.check();
            }
        }
    }
}

/// Every format of weights, and of keys and values, against `f32` with kernels that round nothing else: the answers.
#[test]
fn formats_agree() {
    let texts = texts(TEXTS);
    let disable = "f16,integer,cooperative_matrix".parse().unwrap();
    let exact = block_on(Gpu::open(&GpuOptions { disable, ..Default::default() })).unwrap();
    let [f32, f16] = ["f32", "f16"].map(|name| by_name(name).unwrap());
    let expected = compute(&exact, f32, KvFormat::F32, &texts, false);
    assert!(expected.right.iter().all(|right| *right));
    let weights = FORMATS.into_iter().filter(|format| *format != f32).map(|format| (format, KvFormat::F32));
    for (weights, kv) in weights.chain(KvFormat::all().map(|kv| (f16, kv))) {
        let name = format!("weights {}, keys and values {}", weights.name, kv.name());
        let found = compute(&exact, weights, kv, &texts, false);
        agree(&name, &found.answers, &expected.answers, 0.005);
        assert_eq!(found.right, expected.right, "{name}");
    }
}
