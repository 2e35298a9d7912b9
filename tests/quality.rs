//! Perplexity and divergence against transformers and PEFT (tests/fixtures/quality/generate.py).

use std::{fs, ops::ControlFlow, path::PathBuf, sync::Arc};

use mistral_wgpu::{
    ErrorKind,
    apps::{
        Divergence, Perplexity, Recorded, Windows, divergence,
        evaluate::{Answer, Evaluator, Layout, Task},
        perplexity,
    },
    generate::*,
    gpu::{Gpu, GpuOptions},
    model::{AdapterSource, ModelOptions},
    ops::{KvFormat, Tune},
    quant::by_name,
    text::Encode,
};
use pollster::block_on;
use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::Value;

fn path(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn golden() -> Value {
    serde_json::from_str(&fs::read_to_string(path("tests/fixtures/quality/golden.json")).unwrap()).unwrap()
}

/// A model without what rounds activations, with batches of `rows` tokens and room for `width` texts.
fn engine(folder: &str, weights: &str, rows: u32, width: u32) -> Arc<Engine> {
    adapted(folder, &[], weights, rows, width)
}

fn adapted(folder: &str, adapters: &[AdapterSource], weights: &str, rows: u32, width: u32) -> Arc<Engine> {
    let disable = "f16,integer,cooperative_matrix".parse().unwrap();
    let gpu = block_on(Gpu::open(&GpuOptions { disable, ..Default::default() })).unwrap();
    let model = ModelOptions {
        context: 512,
        kv_format: KvFormat::F32,
        max_rows: rows,
        max_logit_rows: rows / 2,
        cache_tokens: Some(width * 600),
        ..Default::default()
    };
    let options = EngineOptions {
        weights: by_name(weights),
        model,
        skip_self_test: true,
        tune: Tune::Never,
        ..Default::default()
    };
    let source = ModelSource::Folder(path(folder));
    block_on(Engine::load_with(Arc::new(gpu), &source, adapters, &options, &mut |_, _| {})).unwrap()
}

fn demo(weights: &str) -> Arc<Engine> {
    engine("examples/demo-model", weights, 256, 1)
}

fn stories(engine: &Engine) -> Vec<u32> {
    let text = fs::read_to_string(path("examples/demo-model/heldout/stories.txt")).unwrap();
    engine.tokenizer().unwrap().encode(&text, Encode { bos: true, special: false }).unwrap()
}

fn windows(golden: &Value) -> Windows {
    let number = |key: &str| golden[key].as_u64().unwrap() as usize;
    Windows { length: number("window"), stride: number("stride") }
}

fn measure(engine: &Arc<Engine>, tokens: &[u32], windows: Windows) -> Perplexity {
    let mut last = 0;
    let mut progress = |done: usize, total: usize, _: Perplexity| {
        assert!(last <= done && done <= total);
        last = done;
        ControlFlow::Continue(())
    };
    block_on(perplexity(engine, tokens, windows, &mut progress)).unwrap()
}

/// Whether `found` is the golden value but for a share of `tolerance`.
fn near(found: f64, golden: &Value, key: &str, tolerance: f64) {
    let expected = golden[key].as_f64().unwrap();
    println!("{key}: {found}, transformers {expected}");
    assert!((found - expected).abs() <= tolerance * expected.abs(), "{key}: {found}, expected {expected}");
}

fn check(found: &Perplexity, golden: &Value) {
    assert_eq!(found.tokens() as u64, golden["tokens"].as_u64().unwrap());
    near(found.value(), golden, "perplexity", 1e-5);
    near(found.error(), golden, "error", 1e-4);
}

#[test]
fn perplexity_is_that_of_transformers() {
    let golden = golden();
    let golden = golden["perplexity"].as_array().unwrap();
    for name in ["windowed", "head-dim", "f16", "bf16"] {
        let weights = if matches!(name, "f16" | "bf16") { name } else { "f32" };
        // One window at a time or several, in batches that cut windows and ones that hold many.
        for (rows, width) in [(22, 1), (64, 4)] {
            let engine = engine(&format!("tests/fixtures/models/{name}"), weights, rows, width);
            let vocab = engine.config().vocab_size as u32;
            let tokens: Vec<u32> = (0..150).map(|i| (i * i * 7 + i * 3 + 5) % vocab).collect();
            let cases: Vec<_> = golden.iter().filter(|golden| golden["model"] == name).collect();
            assert_eq!(cases.len(), 3);
            for golden in cases {
                println!("{name} {:?}", windows(golden));
                check(&measure(&engine, &tokens, windows(golden)), golden);
            }
        }
    }
}

#[test]
fn perplexity_with_an_adapter_is_that_of_peft() {
    let golden = &golden()["adapter"];
    let dir = path("tests/fixtures/adapters/linear");
    let engine =
        adapted("tests/fixtures/models/windowed", &[AdapterSource { dir, scale: 1.0 }], "f32", 64, 4);
    let vocab = engine.config().vocab_size as u32;
    let tokens: Vec<u32> = (0..150).map(|i| (i * i * 7 + i * 3 + 5) % vocab).collect();
    check(&measure(&engine, &tokens, windows(golden)), golden);
}

#[test]
fn divergence_is_that_of_transformers() {
    let golden = &golden()["demo"];
    let (engine, reference) = (demo("q8_0"), demo("f16"));
    let tokens = &stories(&engine)[..golden["tokens"].as_u64().unwrap() as usize];
    let pairs = golden["divergence"].as_array().unwrap().iter().zip(golden["perplexity"].as_array().unwrap());
    for (golden, reference_golden) in pairs {
        let mut progress = |_, _, _| ControlFlow::Continue(());
        let found =
            block_on(divergence(&engine, &reference, tokens, windows(golden), &mut progress)).unwrap();
        check(&found.reference, reference_golden);
        let Divergence { divergence, delta, ln_ratio, shifts, .. } = &found;
        near(divergence.mean.mean, golden, "kl_mean", 1e-2);
        near(divergence.quantile(0.99), golden, "kl_99", 1e-2);
        near(divergence.quantile(1.0), golden, "kl_max", 1e-2);
        near(delta.mean.mean, golden, "delta_mean", 2e-2);
        near(delta.quantile(0.1), golden, "delta_10", 2e-2);
        near(delta.rms(), golden, "delta_rms", 1e-2);
        near(found.same_top.value(), golden, "same_top", 1e-12);
        near(ln_ratio.mean, golden, "ln_ratio", 1e-2);
        near(ln_ratio.error, golden, "ln_ratio_error", 1e-2);
        near(found.correlation, golden, "correlation", 1e-6);
        assert_eq!(shifts[0].position as u64, golden["at_max"].as_u64().unwrap());
        assert!(shifts.is_sorted_by(|a, b| a.divergence >= b.divergence));
        assert_eq!(shifts[0].token, tokens[shifts[0].position]);
    }
}

#[test]
fn models_that_do_not_fit_side_by_side_are_compared_in_turn() {
    let (engine, reference) = (demo("q4_0"), demo("f16"));
    let tokens = &stories(&engine)[..300];
    let mut go_on = |_, _, _| ControlFlow::Continue(());
    // Windows that overlap, and ones whose first tokens do not count.
    for windows in [Windows { length: 128, stride: 96 }, Windows { length: 64, stride: 64 }] {
        let expected = block_on(divergence(&engine, &reference, tokens, windows, &mut go_on)).unwrap();
        let (recorded, alone) = block_on(Recorded::new(&engine, tokens, windows, &mut go_on)).unwrap();
        assert_eq!(alone, expected.perplexity);
        let found = block_on(recorded.divergence(&reference, tokens, &mut go_on)).unwrap();
        assert_eq!((found.perplexity, found.reference), (expected.perplexity, expected.reference));
        assert_eq!((found.divergence, found.delta), (expected.divergence, expected.delta));
        assert_eq!(found.shifts, expected.shifts);
    }
}

#[test]
fn a_reading_that_is_broken_off_keeps_what_it_has() {
    let engine = demo("f16");
    let tokens = stories(&engine);
    let windows = Windows { length: 64, stride: 32 };
    let found =
        block_on(perplexity(&engine, &tokens, windows, &mut |_, _, _| ControlFlow::Break(()))).unwrap();
    assert!(found.tokens() > 0 && found.tokens() < tokens.len() / 2, "{}", found.tokens());
    let too_long = Windows { length: 513, stride: 1 };
    let refused = block_on(perplexity(&engine, &tokens, too_long, &mut |_, _, _| ControlFlow::Continue(())));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Argument);
}

#[test]
fn a_lost_device_changes_nothing() {
    let (engine, reference) = (demo("q8_0"), demo("f16"));
    let tokens = &stories(&engine)[..400];
    let windows = Windows { length: 300, stride: 100 };
    let compared = |lose: &[&Arc<Engine>]| {
        let mut batches = 0;
        let found = block_on(divergence(&engine, &reference, tokens, windows, &mut |_, _, _| {
            batches += 1;
            if batches == 2 {
                lose.iter().for_each(|engine| engine.gpu().destroy());
            }
            ControlFlow::Continue(())
        }));
        assert!(batches > 3);
        found.unwrap()
    };
    let expected = compared(&[]);
    for lost in [&[&engine][..], &[&engine, &reference]] {
        let found = compared(lost);
        assert_eq!(found.divergence, expected.divergence);
        assert_eq!(found.perplexity, expected.perplexity);
    }
}

/// Every layout against the evaluation harness (tests/fixtures/quality/evaluate.py).
#[test]
fn tasks_are_scored_as_the_harness_scores_them() {
    let golden = fs::read_to_string(path("tests/fixtures/quality/harness.json")).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let engine = demo("f16");
    for (name, layout, shots) in [
        ("hellaswag", Layout::HellaSwag, None),
        ("arc", Layout::Arc, None),
        ("winogrande", Layout::WinoGrande, None),
        ("mmlu", Layout::Mmlu, Some("mmlu.shots")),
        ("gsm8k", Layout::Gsm8k, None),
    ] {
        let task = |name| {
            let file = path("tests/fixtures/quality/tasks").join(format!("{name}.jsonl"));
            Task::parse(&fs::read_to_string(file).unwrap()).unwrap()
        };
        let Task { layout: found, items } = task(name);
        assert_eq!(found, layout);
        let shots = shots.map_or_else(Vec::new, |name| task(name).items);
        let mut evaluator = Evaluator::new(engine.clone(), layout, shots);
        evaluator.max_tokens = 40;
        let (items, mut outcomes) = (items.iter().collect::<Vec<_>>(), Vec::new());
        while outcomes.len() < items.len() {
            outcomes.extend(block_on(evaluator.answer(&items[outcomes.len()..])).unwrap());
        }
        let golden = golden[name].as_array().unwrap();
        assert_eq!(outcomes.len(), golden.len());
        for (outcome, golden) in outcomes.iter().zip(golden) {
            println!("{name} line {}: {outcome:?}", outcome.line);
            for (measure, right) in layout.measures().into_iter().zip(outcome.right) {
                // The harness has no acc_norm where choices are equally long.
                assert!(golden.get(measure).is_none_or(|expected| *expected == right), "{measure}: {golden}");
            }
            match &outcome.answer {
                Answer::Choice { logprobs } => {
                    let expected = golden["logprobs"].as_array().unwrap();
                    assert_eq!(logprobs.len(), expected.len());
                    for (logprob, expected) in logprobs.iter().zip(expected) {
                        let expected = expected.as_f64().unwrap();
                        assert!((logprob - expected).abs() <= 1e-4 * expected.abs(), "{logprob}, {expected}");
                    }
                }
                Answer::Text { text } => assert_eq!(*text, golden["text"].as_str().unwrap()),
            }
        }
    }
}

/// A few bytes of a good file changed: an error with the line's number, or another task, and no panic.
#[test]
fn damaged_tasks_are_refused() {
    let tasks = ["hellaswag", "arc", "winogrande", "mmlu", "gsm8k"];
    let texts = tasks.map(|name| {
        fs::read_to_string(path("tests/fixtures/quality/tasks").join(format!("{name}.jsonl"))).unwrap()
    });
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<char>(), 0usize..40), 1..5);
    let mut runner =
        TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) });
    let strategy = (prop::sample::select(texts.to_vec()), damage);
    let check = |(text, damage): (String, Vec<(prop::sample::Index, char, usize)>)| {
        let mut text: Vec<char> = text.chars().collect();
        for (at, with, length) in damage {
            let begin = at.index(text.len() + 1);
            let end = text.len().min(begin + length);
            text.splice(begin..end, [with]);
        }
        if let Err(error) = Task::parse(&text.iter().collect::<String>()) {
            prop_assert_eq!(error.kind(), ErrorKind::Argument);
            prop_assert!(error.subject().starts_with("line ") || error.subject() == "task", "{}", error);
        }
        Ok(())
    };
    runner.run(&strategy, check).unwrap();
}
