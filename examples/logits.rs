//! Prints the likeliest next tokens after every token of a text, with their probabilities.
//!
//! cargo run --release --example logits -- MODEL_DIR "The weather is"

use std::{env, error::Error, sync::Arc};

use mistral_wgpu::{
    generate::{Engine, EngineOptions, ModelSource},
    gpu::{Gpu, GpuOptions},
    model::ModelOptions,
    ops::KvFormat,
    reference::{log_sum_exp, top_k},
    text::Encode,
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let dir = args.next().unwrap_or_else(|| "examples/demo-model".into());
    let text = args.next().unwrap_or_else(|| "The weather is".into());

    let gpu = Arc::new(pollster::block_on(Gpu::open(&GpuOptions::default()))?);
    // A cache in f32, for numbers that compare with other implementations.
    let model = ModelOptions { kv_format: KvFormat::F32, ..Default::default() };
    let options = EngineOptions { model, ..Default::default() };
    let source = ModelSource::Folder(dir.into());
    let engine = pollster::block_on(Engine::load(gpu, &source, &options, &mut |_, _| {}))?;

    let tokenizer = engine.tokenizer()?;
    let tokens = tokenizer.encode(&text, Encode { bos: true, special: false })?;
    let (logits, _) = pollster::block_on(engine.logits(&tokens, false))?;
    for (token, row) in tokens.iter().zip(logits.chunks_exact(engine.config().vocab_size)) {
        let total = log_sum_exp(row, 1.0);
        print!("{:>12} →", tokenizer.id_to_token(*token).unwrap_or_default());
        for (id, logit) in top_k(row, 4) {
            let probability = (f64::from(logit) - total).exp();
            print!("  {} {probability:.3}", tokenizer.id_to_token(id).unwrap_or_default());
        }
        println!();
    }
    Ok(())
}
