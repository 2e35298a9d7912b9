//! What LoRA adapters cost: steps with and without, by turns, on a synthetic model with random adapters on all its
//! linear modules.
//!
//! `cargo bench --bench adapters -- 175m q4_0 16` takes the model, the format of its weights, the rank, and how many adapters.

use std::{path::Path, sync::Arc, time::Instant};

use mistral_wgpu::{
    Result,
    generate::{Engine, EngineOptions, ModelSource},
    gpu::{Gpu, GpuOptions},
    model::{
        AdapterSet, AdapterSource, Chunk, LogitRows, Model, ModelConfig, ModelOptions, expected_tensors,
    },
    quant::by_name,
};
use pollster::block_on;
use safetensors::{Dtype, tensor::TensorView};

/// Pairs of runs, of which the median counts.
const RUNS: usize = 31;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let word = |index: usize, default: &str| words.get(index).map_or(default.to_owned(), Clone::clone);
    let (name, format) = (word(0, "175m"), word(1, "q4_0"));
    let number = |index, default| word(index, default).parse().expect("a number");
    let (rank, count): (usize, usize) = (number(2, "16"), number(3, "1"));
    let config = ModelConfig::synthetic(&name).expect("the name of a synthetic model");
    let dir = tempfile::tempdir().expect("a folder for the adapter");
    write_adapter(dir.path(), &config, rank);
    let adapters = vec![AdapterSource { dir: dir.path().into(), scale: 1.0 }; count];
    let gpu = std::env::var("MISTRAL_GPU").ok();
    let gpu = Arc::new(block_on(Gpu::open(&GpuOptions { gpu, ..Default::default() }))?);
    let model = ModelOptions { context: 512, max_rows: 64, cache_tokens: Some(4096), ..Default::default() };
    let options = EngineOptions { weights: by_name(&format), model, ..Default::default() };
    let source = ModelSource::Synthetic(name.clone());
    let engine = block_on(Engine::load_with(gpu.clone(), &source, &adapters, &options, &mut |_, _| {}))?;
    println!("{}", gpu.description().name);
    println!(
        "{count} of rank {rank} on {name} in {format}: milliseconds without and with, ratio of the medians"
    );
    block_on(engine.with_model(async |gpu, model| {
        for (sequences, tokens) in [(1, 1), (8, 1), (1, 64)] {
            let mut times = [(); 2].map(|()| Vec::new());
            for run in 0..=RUNS {
                for (times, set) in times.iter_mut().zip([AdapterSet::NONE, AdapterSet::first(count)]) {
                    let seconds = step(gpu, model, set, sequences, tokens)?;
                    if run > 0 {
                        times.push(seconds);
                    }
                }
            }
            let [without, with] = times.map(|mut times| {
                times.sort_by(f64::total_cmp);
                1e3 * times[RUNS / 2]
            });
            println!("{sequences} × {tokens} tokens: {without:8.2} {with:8.2} {:.3}", with / without);
        }
        Ok(())
    }))
}

/// Seconds of a step that appends `tokens` tokens to each of some sequences.
fn step(gpu: &Gpu, model: &mut Model, set: AdapterSet, sequences: usize, tokens: usize) -> Result<f64> {
    let tokens = vec![1; tokens];
    let mut sequences: Vec<_> = (0..sequences).map(|_| model.sequence().anew(set)).collect();
    for sequence in &mut sequences {
        model.skip(gpu, sequence, 100)?;
    }
    gpu.wait()?;
    let start = Instant::now();
    let chunk = |sequence| Chunk { sequence, tokens: &tokens, logits: LogitRows::Last };
    model.forward(gpu, &mut sequences.iter_mut().map(chunk).collect::<Vec<_>>(), None)?;
    gpu.wait()?;
    Ok(start.elapsed().as_secs_f64())
}

/// An adapter on every linear module of every block, as PEFT would save it.
fn write_adapter(dir: &Path, config: &ModelConfig, rank: usize) {
    let json = format!(r#"{{"peft_type": "LORA", "r": {rank}, "lora_alpha": {rank}}}"#);
    std::fs::write(dir.join("adapter_config.json"), json).expect("written");
    let mut tensors = Vec::new();
    for (name, shape) in expected_tensors(config) {
        let (Some(module), [outputs, inputs]) = (name.strip_suffix("_proj.weight"), &shape[..]) else {
            continue;
        };
        for (factor, shape) in [("A", [rank, *inputs]), ("B", [*outputs, rank])] {
            let value = |index: usize| ((index * 2_654_435_761) >> 8 & 0xff) as f32 / 25600.0;
            let bytes: Vec<u8> =
                (0..shape[0] * shape[1]).flat_map(|index| value(index).to_le_bytes()).collect();
            tensors.push((format!("base_model.model.{module}_proj.lora_{factor}.weight"), shape, bytes));
        }
    }
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.to_vec(), bytes).expect("as many bytes"))
    });
    safetensors::serialize_to_file(views, None, &dir.join("adapter_model.safetensors")).expect("written");
}
