//! Labels every line of the standard input.
//!
//! echo "I loved the soup." | cargo run --release --example classify -- MODEL_DIR positive,negative,neutral

use std::{
    env,
    error::Error,
    io::{self, BufRead},
    sync::Arc,
};

use mistral_wgpu::{
    apps::Classifier,
    generate::{Engine, EngineOptions, ModelSource},
    gpu::{Gpu, GpuOptions},
};
use pollster::block_on;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let dir = args.next().unwrap_or_else(|| "examples/demo-model".into());
    let labels = args.next().unwrap_or_else(|| "positive,negative,neutral".into());

    let gpu = Arc::new(block_on(Gpu::open(&GpuOptions::default()))?);
    let source = ModelSource::Folder(dir.into());
    let engine = block_on(Engine::load(gpu, &source, &EngineOptions::default(), &mut |_, _| {}))?;

    let labels = labels.split(',').map(str::to_owned).collect();
    let mut classifier = Classifier::new(engine, labels, None)?;
    for text in io::stdin().lock().lines() {
        let scores = block_on(classifier.classify(&text?))?;
        let scores: Vec<_> = scores.iter().map(|s| format!("{} {:.3}", s.label, s.probability)).collect();
        println!("{}", scores.join("  "));
    }
    Ok(())
}
