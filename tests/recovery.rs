//! What goes wrong on a device and is recovered from: too little memory, and the loss of the device.

mod device;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, pin_mut};
use mistral_wgpu::{
    Error, ErrorKind, Result,
    generate::*,
    gpu::{Gpu, GpuOptions},
    model::{AdapterSet, AdapterSource, Fit, ModelConfig, ModelOptions, Stage},
    ops::{PAGE, Tune},
    quant::by_name,
};
use pollster::block_on;

fn source(name: &str) -> ModelSource {
    ModelSource::Folder(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name))
}

fn options(weights: &str) -> EngineOptions {
    let model = ModelOptions { context: 512, cache_tokens: Some(2048), max_rows: 64, ..Default::default() };
    EngineOptions {
        weights: by_name(weights),
        model,
        skip_self_test: true,
        tune: Tune::Never,
        ..Default::default()
    }
}

fn greedy(tokens: usize) -> GenerateOptions {
    let sampling = SamplingParams { temperature: 0.0, ..Default::default() };
    GenerateOptions { sampling, max_tokens: Some(tokens), ignore_eos: true, ..Default::default() }
}

fn prompt(length: u32) -> Vec<u32> {
    (0..length).map(|i| (i * i * 7 + i * 3 + 5) % 64).collect()
}

fn generate(engine: &Arc<Engine>) -> Result<Vec<u32>> {
    let mut session = engine.session();
    session.feed(&prompt(75));
    block_on(session.generate(greedy(8)).map_ok(|piece| piece.token.id).try_collect())
}

/// The model of transformers' tiny fixture on a device of its own.
fn engine() -> Arc<Engine> {
    let gpu = Arc::new(block_on(Gpu::open(&GpuOptions::default())).unwrap());
    block_on(load(&gpu, &source("full"), &options("f32"))).unwrap()
}

/// Runs `work` while the engine's device is destroyed after some more submissions.
fn losing<T>(engine: &Arc<Engine>, submissions: u64, work: impl FnOnce() -> T) -> T {
    let gpu = engine.gpu();
    let last = gpu.submissions() + submissions;
    let over = AtomicBool::new(false);
    let result = thread::scope(|scope| {
        let watch = || {
            while gpu.submissions() < last && !over.load(Relaxed) {
                thread::sleep(Duration::from_micros(100));
            }
            gpu.destroy();
        };
        scope.spawn(watch);
        let result = work();
        over.store(true, Relaxed);
        result
    });
    assert!(gpu.is_lost() && !Arc::ptr_eq(&gpu, &engine.gpu()) && !engine.gpu().is_lost());
    result
}

fn session(engine: &Arc<Engine>, length: u32) -> Session {
    let mut session = engine.session();
    session.feed(&prompt(length));
    session
}

fn continued(session: &mut Session, options: GenerateOptions) -> Vec<u32> {
    block_on(session.generate(options).map_ok(|piece| piece.token.id).try_collect()).unwrap()
}

#[test]
fn a_stream_goes_on_after_the_loss_of_the_device() {
    let engine = engine();
    let drawn = GenerateOptions { sampling: SamplingParams::default(), ..greedy(40) };
    for options in [greedy(40), drawn] {
        let expected = continued(&mut session(&engine, 75), options.clone());
        let mut session = session(&engine, 75);
        let found: Vec<u32> = block_on(async {
            let pieces = session.generate(options);
            pin_mut!(pieces);
            let mut found = Vec::new();
            while let Some(piece) = pieces.next().await {
                found.push(piece.unwrap().token.id);
                if found.len() % 15 == 0 {
                    engine.gpu().destroy();
                }
            }
            found
        });
        assert_eq!(found, expected);
        assert_eq!(session.tokens()[75..], expected);
    }
    assert!(!engine.gpu().is_lost());
}

#[test]
fn a_prompt_is_read_in_spite_of_the_loss_of_the_device() {
    let engine = engine();
    let expected = continued(&mut session(&engine, 460), greedy(8));
    let mut text = session(&engine, 460);
    losing(&engine, 4, || block_on(text.prefill()).unwrap());
    assert_eq!(text.computed(), 459);
    assert_eq!(continued(&mut text, greedy(8)), expected);
    // Half computed before, and lost between two calls.
    let mut text = session(&engine, 200);
    block_on(text.prefill()).unwrap();
    text.feed(&prompt(460)[200..]);
    engine.gpu().destroy();
    assert_eq!(continued(&mut text, greedy(8)), expected);
}

#[test]
fn a_batch_goes_on_after_the_loss_of_the_device() {
    let engine = engine();
    let texts = || [10, 75, 33, 50].map(|length| session(&engine, length));
    let all = |sessions: &mut [Session]| {
        let generated = block_on(generate_all(sessions, &greedy(30), 3)).unwrap();
        generated.into_iter().map(|generation| generation.tokens).collect::<Vec<_>>()
    };
    let expected = all(&mut texts());
    let mut sessions = texts();
    assert_eq!(losing(&engine, 40, || all(&mut sessions)), expected);
    for (session, (length, expected)) in sessions.iter().zip([10, 75, 33, 50].into_iter().zip(expected)) {
        assert_eq!(session.tokens()[length..], expected);
    }
}

#[test]
fn scores_and_logits_survive_the_loss_of_the_device() {
    let engine = engine();
    let continuations = [vec![3, 9, 1], vec![9; 40]];
    let score = || block_on(engine.score(&mut session(&engine, 400), &continuations)).unwrap();
    let logits = || block_on(engine.logits(&prompt(300), true)).unwrap();
    let expected = (score(), logits());
    assert_eq!(losing(&engine, 2, score), expected.0);
    assert_eq!(losing(&engine, 4, logits), expected.1);
    let mut text = session(&engine, 400);
    block_on(text.prefill()).unwrap();
    engine.gpu().destroy();
    assert_eq!(block_on(engine.score(&mut text, &continuations)).unwrap(), expected.0);
}

/// Adapters are loaded with the model again, and each session has its own as before.
#[test]
fn adapters_survive_the_loss_of_the_device() {
    let adapters = ["linear", "qv"].map(|name| AdapterSource {
        dir: Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/adapters").join(name),
        scale: 1.0,
    });
    let gpu = Arc::new(block_on(Gpu::open(&GpuOptions::default())).unwrap());
    let (source, options) = (source("windowed"), options("f32"));
    let engine = block_on(Engine::load_with(gpu, &source, &adapters, &options, &mut |_, _| {})).unwrap();
    let sets = [AdapterSet::NONE, [0].into_iter().collect(), [1].into_iter().collect(), AdapterSet::first(2)];
    let texts = || {
        sets.map(|set| {
            let mut session = session(&engine, 75);
            session.set_adapters(set).unwrap();
            session
        })
    };
    let all = |sessions: &mut [Session]| {
        let generated = block_on(generate_all(sessions, &greedy(20), 4)).unwrap();
        generated.into_iter().map(|generation| generation.tokens).collect::<Vec<_>>()
    };
    let expected = all(&mut texts());
    assert!((1..4).all(|index| expected[index] != expected[0]), "{expected:?}");
    let mut sessions = texts();
    assert_eq!(losing(&engine, 20, || all(&mut sessions)), expected);
    // Lost between two calls.
    let mut sessions = texts();
    sessions.iter_mut().for_each(|session| block_on(session.prefill()).unwrap());
    engine.gpu().destroy();
    assert_eq!(all(&mut sessions), expected);
}

/// What kills the device whenever it is tried is not tried for ever.
#[test]
fn a_device_that_is_always_lost_is_an_error() {
    let engine = engine();
    let mut text = session(&engine, 460);
    let over = AtomicBool::new(false);
    let result: Result<Vec<_>> = thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                engine.gpu().destroy();
                thread::yield_now();
            }
        });
        let result = block_on(text.generate(greedy(30)).try_collect());
        over.store(true, Relaxed);
        result
    });
    assert_eq!(result.unwrap_err().kind(), ErrorKind::DeviceLost);
    let before = text.tokens().len();
    assert_eq!(continued(&mut text, greedy(8)).len(), 8);
    assert_eq!(text.tokens().len(), before + 8);
}

fn out_of_memory(error: Error, expected: &[&str]) {
    let text = error.to_string();
    assert_eq!((error.kind(), error.subject()), (ErrorKind::OutOfMemory, "model"), "{text}");
    assert!(expected.iter().all(|part| text.contains(part)), "{text}");
}

#[test]
fn a_model_that_does_not_fit_says_what_would_and_leaves_the_device_as_it_was() {
    let memory = Some(6 << 30);
    let gpu = Arc::new(block_on(Gpu::open(&GpuOptions { memory, ..Default::default() })).unwrap());
    let expected = generate(&block_on(load(&gpu, &source("full"), &options("f16"))).unwrap()).unwrap();
    let before = gpu.memory_in_use();
    let large = ModelSource::Synthetic("mistral-7b".into());
    let error = block_on(load(&gpu, &large, &options("f16"))).err().unwrap();
    out_of_memory(
        error,
        &["f16 weights", "512 tokens", "weights 13.5 GiB", "of the 6.0 GiB", "--weights q4_0"],
    );
    assert_eq!(gpu.memory_in_use(), before);
    let engine = block_on(load(&gpu, &source("full"), &options("f16"))).unwrap();
    assert_eq!(generate(&engine).unwrap(), expected);
}

async fn load(gpu: &Arc<Gpu>, source: &ModelSource, options: &EngineOptions) -> Result<Arc<Engine>> {
    Engine::load(gpu.clone(), source, options, &mut |_, _| {}).await
}

#[test]
fn a_device_lost_while_kernels_are_tried_is_opened_again() {
    let gpu = Arc::new(block_on(Gpu::open(&GpuOptions::default())).unwrap());
    let mut destroy_once = |stage, done| {
        if matches!((stage, done), (Stage::Tuning(_), 1)) {
            gpu.destroy();
        }
    };
    let trying = EngineOptions { tune: Tune::Again, ..options("f32") };
    let loaded = block_on(Engine::load(gpu.clone(), &source("full"), &trying, &mut destroy_once)).unwrap();
    assert!(gpu.is_lost() && !loaded.gpu().is_lost());
    assert_eq!(generate(&loaded).unwrap(), generate(&engine()).unwrap());
}

/// Another program, or thread, takes the memory after it was counted: while kernels are tried.
#[test]
fn a_device_that_runs_out_while_loading_is_left_as_it_was() {
    let memory = Some(64 << 20);
    let gpu = Arc::new(block_on(Gpu::open(&GpuOptions { memory, ..Default::default() })).unwrap());
    let expected = generate(&block_on(load(&gpu, &source("full"), &options("f32"))).unwrap()).unwrap();
    let before = gpu.memory_in_use();
    let mut taken = None;
    let mut meanwhile = |stage, _| {
        assert!(matches!(stage, Stage::Tuning(_)), "no room for weights");
        let left = gpu.memory_left().unwrap();
        taken.get_or_insert_with(|| gpu.allocate("another", left & !3).unwrap());
    };
    let (source, options) = (source("full"), options("f32"));
    let trying = EngineOptions { tune: Tune::Again, ..options };
    let failed = block_on(Engine::load(gpu.clone(), &source, &trying, &mut meanwhile)).err().unwrap();
    out_of_memory(failed, &["f32 weights", "512 tokens"]);
    assert!(gpu.memory_in_use() > 32 << 20);
    drop(taken);
    assert_eq!(gpu.memory_in_use(), before);
    assert_eq!(generate(&block_on(load(&gpu, &source, &options)).unwrap()).unwrap(), expected);
}

#[test]
fn the_longest_context_is_the_longest() {
    for name in ["mistral-7b", "mistral-7b-v0.3", "demo"] {
        let config = ModelConfig::synthetic(name).unwrap();
        let asked = ModelOptions { cache_tokens: Some(8192), ..Default::default() };
        let format = by_name("q4_0").unwrap();
        let most = Fit::new(&config, &asked, format, 0).total();
        for memory in [most / 2, most - most / 8, most * 3 / 2, most * 4] {
            let fits = |context| {
                let cache_tokens = Some(2 * context);
                let options = ModelOptions { context, cache_tokens, ..asked };
                Fit::new(&config, &options, format, 0).fits(Some(memory)).unwrap()
            };
            match Fit::longest_context(&config, &asked, &format.into(), 0, memory) {
                None => assert!(!fits(PAGE)),
                Some(context) => {
                    assert!(fits(context) && context as usize <= config.max_position_embeddings);
                    let longer = context + PAGE;
                    assert!(!fits(longer) || longer as usize > config.max_position_embeddings);
                }
            }
        }
    }
}
