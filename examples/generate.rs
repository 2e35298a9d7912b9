//! Continues a text, piece by piece.
//!
//! cargo run --release --example generate -- MODEL_DIR "Once upon a time"

use std::{env, error::Error, io::Write, path::PathBuf, sync::Arc};

use futures::{StreamExt, pin_mut};
use mistral_wgpu::{
    generate::{Engine, EngineOptions, GenerateOptions, ModelSource, SamplingParams},
    gpu::{Gpu, GpuOptions},
    text::Encode,
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let dir = args.next().unwrap_or_else(|| "examples/demo-model".into());
    let prompt = args.next().unwrap_or_else(|| "Once upon a time".into());
    pollster::block_on(run(dir.into(), &prompt))
}

async fn run(dir: PathBuf, prompt: &str) -> Result<(), Box<dyn Error>> {
    let gpu = Arc::new(Gpu::open(&GpuOptions::default()).await?);
    eprintln!("on {}", gpu.description().name);
    let source = ModelSource::Folder(dir);
    let engine = Engine::load(gpu, &source, &EngineOptions::default(), &mut |_, _| {}).await?;

    let tokens = engine.tokenizer()?.encode(prompt, Encode { bos: true, special: false })?;
    let mut session = engine.session();
    session.feed(&tokens);

    let sampling = SamplingParams { temperature: 0.7, top_p: 0.9, seed: 1, ..Default::default() };
    let options = GenerateOptions { sampling, max_tokens: Some(200), ..Default::default() };
    let pieces = session.generate(options);
    pin_mut!(pieces);
    print!("{prompt}");
    while let Some(piece) = pieces.next().await {
        print!("{}", piece?.text);
        std::io::stdout().flush()?;
    }
    println!();
    Ok(())
}
