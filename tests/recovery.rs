//! What goes wrong on a device and is recovered from: too little memory.

mod device;

use std::{path::PathBuf, sync::Arc};

use futures::TryStreamExt;
use mistral_wgpu::{
    Error, ErrorKind, Result,
    generate::*,
    gpu::{Gpu, GpuOptions},
    model::{Fit, ModelConfig, ModelOptions, Stage},
    ops::{PAGE, Tune},
    quant::by_name,
};
use pollster::block_on;

fn source(name: &str) -> ModelSource {
    ModelSource::Folder(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name))
}

fn options(weights: &str) -> EngineOptions {
    let model = ModelOptions { context: 512, max_rows: 64, ..Default::default() };
    EngineOptions { weights: by_name(weights), model, skip_self_test: true, tune: Tune::Never }
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
        let most = Fit::new(&config, &asked, format).total();
        for memory in [most / 2, most - most / 8, most * 3 / 2, most * 4] {
            let fits = |context| {
                let cache_tokens = Some(2 * context);
                let options = ModelOptions { context, cache_tokens, ..asked };
                Fit::new(&config, &options, format).fits(Some(memory)).unwrap()
            };
            match Fit::longest_context(&config, &asked, format, memory) {
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
