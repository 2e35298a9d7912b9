//! What a token costs the host: processor time of encoding and submitting steps of one token, of a synthetic model whose
//! weights are zeros. Nothing is read back, so that a driver without its GPU tells it, too: `sh benches/encoding.sh`.
//!
//! `cargo bench --bench encoding -- 175m:32 q4_0` takes the model, with so many layers, and the format of its weights.

use mistral_wgpu::{
    Result,
    gpu::{Gpu, GpuOptions},
    model::{Chunk, LogitRows, Model, ModelConfig, ModelOptions, Weights},
    quant::by_name,
};
use pollster::block_on;

/// Steps of which the median counts, after as many that do not.
const STEPS: usize = 64;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let word = |index: usize, default: &str| words.get(index).map_or(default.to_owned(), Clone::clone);
    let (name, format) = (word(0, "175m"), word(1, "q4_0"));
    let (shape, layers) = name.split_once(':').unwrap_or((&name, ""));
    let mut config = ModelConfig::synthetic(shape).expect("the name of a synthetic model");
    config.num_hidden_layers = layers.parse().unwrap_or(config.num_hidden_layers);
    let gpu = std::env::var("MISTRAL_GPU").ok();
    let disable = std::env::var("MISTRAL_DISABLE").unwrap_or_default().parse()?;
    let gpu = block_on(Gpu::open(&GpuOptions { gpu, disable, ..Default::default() }))?;
    let weights = Weights::allocate(&gpu, &config, by_name(&format).expect("a format of weights"))?;
    let options = ModelOptions { context: 512, max_rows: 64, ..Default::default() };
    let mut model = Model::new(&gpu, config, weights, options)?;
    let mut sequence = model.sequence();
    model.skip(&gpu, &mut sequence, 100)?;
    let mut steps = Vec::with_capacity(2 * STEPS);
    for _ in 0..2 * STEPS {
        let before = gpu.counters();
        let chunk = Chunk { sequence: &mut sequence, tokens: &[1], logits: LogitRows::Last };
        model.forward(&gpu, &mut [chunk], None)?;
        gpu.wait()?;
        steps.push(gpu.counters() - before);
    }
    let steps = &mut steps[STEPS..];
    steps.sort_by_key(|step| step.encoding_ns);
    let median = steps[STEPS / 2];
    let milliseconds = median.encoding_ns as f64 * 1e-6;
    println!(
        "{}, {name} in {format}: {milliseconds:.3} ms a token, {} dispatches",
        gpu.description().name,
        median.dispatches
    );
    Ok(())
}
