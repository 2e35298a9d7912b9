//! A conversation: every line is a message, the answer is streamed.
//!
//! cargo run --release --example chat -- MODEL_DIR

use std::{
    env,
    error::Error,
    io::{self, BufRead, Write},
    ops::ControlFlow,
    sync::Arc,
};

use mistral_wgpu::{
    apps::Chat,
    generate::{Engine, EngineOptions, GenerateOptions, ModelSource, SamplingParams},
    gpu::{Gpu, GpuOptions},
};
use pollster::block_on;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = env::args().nth(1).unwrap_or_else(|| "examples/demo-model".into());
    let gpu = Arc::new(block_on(Gpu::open(&GpuOptions::default()))?);
    let source = ModelSource::Folder(dir.into());
    let engine = block_on(Engine::load(gpu, &source, &EngineOptions::default(), &mut |_, _| {}))?;

    let sampling = SamplingParams { temperature: 0.0, ..Default::default() };
    let options = GenerateOptions { sampling, max_tokens: Some(200), ..Default::default() };
    let mut chat = Chat::new(&engine, None)?;
    for line in io::stdin().lock().lines() {
        let mut print = |text: &str| {
            print!("{text}");
            match io::stdout().flush() {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        };
        // Only the new message is computed: what came before is in the cache.
        block_on(chat.say(&line?, &options, &mut print))?;
        println!();
    }
    Ok(())
}
