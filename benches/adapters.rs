//! What LoRA adapters cost: steps with and without, by turns, on a synthetic model with random adapters on all its
//! linear modules.
//!
//! `cargo bench --bench adapters -- mistral-7b:2 q4_0 16 1 f16` takes the model, of which two layers, the format of its weights,
//! the rank, how many adapters, and what A and B are made of: `f32`, `f16` or `bf16`.

use std::{path::Path, time::Instant};

use half::{bf16, f16};
use mistral_wgpu::{
    Result,
    gpu::{Gpu, GpuOptions},
    model::{
        Adapter, AdapterSet, AdapterSource, Chunk, LogitRows, Model, ModelConfig, ModelOptions, Weights,
        expected_tensors, tune_adapters, tune_shapes,
    },
    ops::{Tune, TuneShapes, ensure_tuned, kept_tuning},
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
    let (shape, layers) = name.split_once(':').unwrap_or((&name, ""));
    let mut config = ModelConfig::synthetic(shape).expect("the name of a synthetic model");
    config.num_hidden_layers = layers.parse().unwrap_or(config.num_hidden_layers);
    let dir = tempfile::tempdir().expect("a folder for the adapter");
    let dtype = word(4, "f16");
    write_adapter(dir.path(), &config, rank, &dtype);
    let source = AdapterSource { dir: dir.path().into(), scale: 1.0 };
    let adapters = (0..count).map(|_| Adapter::open(&source, &config)).collect::<Result<Vec<_>>>()?;
    let gpu = std::env::var("MISTRAL_GPU").ok();
    let gpu = block_on(Gpu::open(&GpuOptions { gpu, ..Default::default() }))?;
    let options = ModelOptions { context: 512, max_rows: 64, cache_tokens: Some(4096), ..Default::default() };
    let format = by_name(&format).expect("a format of weights");
    let shapes = tune_shapes(&config, &options, format);
    let shapes = TuneShapes { adapters: tune_adapters(&config, &adapters), ..shapes };
    ensure_tuned(&gpu, &shapes, Tune::Once, None, &mut |_, _| {})?;
    for row in kept_tuning(&gpu, None).iter().filter(|row| row.case.starts_with("lora")) {
        println!("{}: {:?}", row.case, row.seconds);
    }
    let weights = Weights::allocate(&gpu, &config, format)?;
    weights.fill_random(&gpu, 0)?;
    let mut model = Model::new(&gpu, config, weights, options)?;
    model.set_adapters(&gpu, &adapters)?;
    println!("{}", gpu.description().name);
    println!(
        "{count} of rank {rank} in {dtype} on {name} in {}: milliseconds without and with, ratio of the medians",
        format.name
    );
    for (sequences, tokens) in [(1, 1), (8, 1), (1, 64)] {
        let mut times = [(); 2].map(|()| Vec::new());
        for run in 0..=RUNS {
            for (times, set) in times.iter_mut().zip([AdapterSet::NONE, AdapterSet::first(count)]) {
                let seconds = step(&gpu, &mut model, set, sequences, tokens)?;
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
fn write_adapter(dir: &Path, config: &ModelConfig, rank: usize, dtype: &str) {
    let json = format!(r#"{{"peft_type": "LORA", "r": {rank}, "lora_alpha": {rank}}}"#);
    std::fs::write(dir.join("adapter_config.json"), json).expect("written");
    let mut tensors = Vec::new();
    for (name, shape) in expected_tensors(config) {
        let (Some(module), [outputs, inputs]) = (name.strip_suffix("_proj.weight"), &shape[..]) else {
            continue;
        };
        for (factor, shape) in [("A", [rank, *inputs]), ("B", [*outputs, rank])] {
            let value = |index: usize| ((index * 2_654_435_761) >> 8 & 0xffff) as f32 / 6_553_600.0 + 1e-3;
            let values = (0..shape[0] * shape[1]).map(value);
            let bytes: Vec<u8> = match dtype {
                "f32" => values.flat_map(f32::to_le_bytes).collect(),
                "f16" => values.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect(),
                "bf16" => values.flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect(),
                _ => panic!("A and B of f32, f16 or bf16"),
            };
            tensors.push((format!("base_model.model.{module}_proj.lora_{factor}.weight"), shape, bytes));
        }
    }
    let dtype = match dtype {
        "f32" => Dtype::F32,
        "f16" => Dtype::F16,
        _ => Dtype::BF16,
    };
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (name.as_str(), TensorView::new(dtype, shape.to_vec(), bytes).expect("as many bytes"))
    });
    safetensors::serialize_to_file(views, None, &dir.join("adapter_model.safetensors")).expect("written");
}
