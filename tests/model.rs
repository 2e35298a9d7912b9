//! The whole forward pass against transformers' float32 logits on tiny checkpoints.

mod device;
mod golden;
mod logits;

use std::path::{Path, PathBuf};

use device::{GPU, on_both};
use golden::Golden;
use logits::{difference, exact_options, logits};
use mistral_wgpu::{
    checkpoint::Checkpoint,
    gpu::{Capability, Gpu, GpuOptions},
    model::{AdapterSet, Chunk, LogitRows, Model, ModelConfig, ModelOptions, Weights, check},
    ops::{KvFormat, MAT_VEC},
    quant::by_name,
};
use pollster::block_on;

fn models() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
    let mut names: Vec<_> =
        root.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(names.len() >= 9);
    names
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name)
}

fn load(gpu: &Gpu, name: &str, options: ModelOptions) -> Model {
    let config = ModelConfig::from_dir(&folder(name)).unwrap();
    let checkpoint = Checkpoint::open(&folder(name)).unwrap();
    check(&checkpoint, &config).unwrap();
    let weights = Weights::load(gpu, &checkpoint, &config, by_name("f32").unwrap(), &mut |_, _| {}).unwrap();
    Model::new(gpu, config, weights, options).unwrap()
}

#[test]
fn logits_agree_with_transformers_for_every_chunk_size() {
    on_both(|gpu| {
        for name in models() {
            let golden = Golden::open(&format!("models/{name}/golden.safetensors"));
            let (tokens, expected) = (golden.ids("tokens"), golden.f32("logits"));
            for chunk in [1, 7, 64] {
                let mut model = load(gpu, &name, exact_options());
                let difference =
                    difference(&logits(gpu, &mut model, AdapterSet::NONE, &tokens, chunk), &expected);
                assert!(difference <= 1e-5, "{name}, chunks of {chunk}: {difference:e}");
            }
        }
    });
}

/// Of a model whose heads are a block wide: the blocks' errors, and no more.
#[test]
fn a_quantized_cache_changes_little() {
    let golden = Golden::open("models/head-dim/golden.safetensors");
    let (tokens, expected) = (golden.ids("tokens"), golden.f32("logits"));
    for (kv_format, bound) in [(KvFormat::Q8_0, 0.02), (KvFormat::Q4_0, 0.3)] {
        for chunk in [1, 64] {
            let mut model = load(&GPU, "head-dim", ModelOptions { kv_format, ..exact_options() });
            let difference =
                difference(&logits(&GPU, &mut model, AdapterSet::NONE, &tokens, chunk), &expected);
            assert!(difference <= bound, "{kv_format:?}, chunks of {chunk}: {difference:e}");
        }
    }
}

#[test]
fn hidden_states_agree_with_transformers() {
    for name in models() {
        let golden = Golden::open(&format!("models/{name}/golden.safetensors"));
        let tokens = golden.ids("tokens");
        let mut model = load(&GPU, &name, exact_options());
        let mut sequence = model.sequence();
        let mut chunks = [Chunk { sequence: &mut sequence, tokens: &tokens, logits: LogitRows::All }];
        model.forward_with_hidden_states(&GPU, &mut chunks).unwrap();
        let expected = golden.f32("hidden_states");
        let states: Vec<f32> = model
            .hidden_states()
            .flat_map(|state| block_on(state.download(&GPU, tokens.len() as u32)).unwrap())
            .collect();
        let difference = difference(&states, &expected);
        assert!(difference <= 1e-5, "{name}: {difference:e}");
    }
}

#[test]
fn greedy_text_is_that_of_transformers() {
    for name in models() {
        let golden = Golden::open(&format!("models/{name}/golden.safetensors"));
        let mut model = load(&GPU, &name, exact_options());
        let mut sequence = model.sequence();
        let mut next = golden.ids("prompt");
        let mut text = Vec::new();
        for _ in 0..48 {
            let mut chunks = [Chunk { sequence: &mut sequence, tokens: &next, logits: LogitRows::Last }];
            model.forward(&GPU, &mut chunks, None).unwrap();
            let logits = block_on(model.logits.download(&GPU, 1)).unwrap();
            next = vec![mistral_wgpu::reference::argmax(&logits)];
            text.push(next[0]);
        }
        assert_eq!(text, golden.ids("greedy"), "{name}");
    }
}

/// Dispatches when one token is decoded, 300 tokens into a text: by formats of weights and of the cache, with what is
/// switched off, and products by the variant of a name if there is one.
fn dispatches(
    format: &str,
    kv_format: KvFormat,
    disable: &[Capability],
    variant: Option<&str>,
) -> (u64, u64) {
    // A device of its own, for all that others do on it is counted.
    let disable = disable.iter().copied().collect();
    let mut gpu = block_on(Gpu::open(&GpuOptions { disable, ..Default::default() })).unwrap();
    if let Some(variant) = MAT_VEC.variants.iter().find(|other| Some(other.name) == variant) {
        gpu = MAT_VEC.only(&gpu, variant);
    }
    let gpu = &gpu;
    let config = ModelConfig::synthetic("demo").unwrap();
    let weights = Weights::random(gpu, &config, by_name(format).unwrap(), 1).unwrap();
    let blocks = config.num_hidden_layers as u64;
    let options = ModelOptions { context: 512, max_rows: 64, kv_format, ..Default::default() };
    let mut model = Model::new(gpu, config, weights, options).unwrap();
    let mut sequence = model.sequence();
    model.skip(gpu, &mut sequence, 300).unwrap();
    let before = gpu.counters();
    let mut chunks = [Chunk { sequence: &mut sequence, tokens: &[1], logits: LogitRows::Last }];
    model.forward(gpu, &mut chunks, None).unwrap();
    gpu.wait().unwrap();
    ((gpu.counters() - before).dispatches, blocks)
}

#[test]
fn a_block_takes_few_dispatches() {
    // Products, and two steps of attention. Beside the blocks: embedding, norm and output projection; the first block's
    // norm has no product before it, and the last product none of a block after it.
    let (found, blocks) = dispatches("f16", KvFormat::F16, &[], None);
    assert_eq!(found, 6 * blocks + 4, "floats");
    let (found, _) = dispatches("f16", KvFormat::Q8_0, &[], None);
    assert_eq!(found, 7 * blocks + 4, "floats, blocks of keys and values are more than a pair");
    // Without subgroups, the likeliest product multiplies integers on every device.
    for (also, steps) in [(None, 9), (Some(Capability::NineBuffers), 10), (Some(Capability::Fused), 10)] {
        let disable: Vec<_> = also.into_iter().chain([Capability::Subgroup]).collect();
        let (found, _) = dispatches("q4_0", KvFormat::F16, &disable, None);
        assert_eq!(found, steps * blocks + 3, "integers without {disable:?}");
    }
    let (found, _) = dispatches("f16", KvFormat::F16, &[Capability::Fused], None);
    assert_eq!(found, 10 * blocks + 3, "nothing fused");
    if GPU.capabilities().has(&[Capability::F16Conversion, Capability::Subgroup]) {
        let (found, _) = dispatches("q4_0", KvFormat::F16, &[], Some("f16_activations"));
        assert_eq!(found, 9 * blocks + 3, "activations in 16 bits");
    }
}
