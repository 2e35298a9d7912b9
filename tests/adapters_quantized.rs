//! LoRA adapters on quantized bases, GGUF, GPTQ and AWQ: logits against PEFT's on the weights that the codes stand for.

mod device;
mod golden;
mod logits;

use std::{path::Path, sync::Arc};

use device::FLOOR;
use golden::Golden;
use mistral_wgpu::{
    generate::{Engine, EngineOptions, ModelSource},
    gpu::{Gpu, GpuOptions},
    model::AdapterSource,
    ops::Tune,
};
use pollster::block_on;

/// What is opened, the base's golden tokens, its name in the golden file, and the adapter.
const CASES: [[&str; 4]; 7] = [
    // Of q4_0, in three files.
    ["gguf/split-00002-of-00003.gguf", "gguf/split.safetensors", "gguf/split", "gguf"],
    // Another format for each of what is stacked.
    ["gguf/mixed.gguf", "gguf/mixed.safetensors", "gguf/mixed", "gguf"],
    ["gguf/k.gguf", "gguf/k.safetensors", "gguf/k", "gguf-k"],
    ["quantized/awq", "quantized/awq/golden.safetensors", "quantized/awq", "packed"],
    ["quantized/gptq", "quantized/gptq/golden.safetensors", "quantized/gptq", "packed"],
    [
        "quantized/gptq-symmetric",
        "quantized/gptq-symmetric/golden.safetensors",
        "quantized/gptq-symmetric",
        "packed",
    ],
    [
        "quantized/gptq-v2-act-order",
        "quantized/gptq-v2-act-order/golden.safetensors",
        "quantized/gptq-v2-act-order",
        "packed",
    ],
];

fn load(gpu: &Gpu, base: &str, adapter: &str) -> Arc<Engine> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let source: ModelSource = fixtures.join(base).to_str().unwrap().parse().unwrap();
    let adapters = [AdapterSource { dir: fixtures.join("adapters").join(adapter), scale: 1.0 }];
    let options = EngineOptions {
        model: logits::exact_options(),
        own_weights: true,
        skip_self_test: true,
        tune: Tune::Never,
        ..Default::default()
    };
    let gpu = Arc::new(gpu.with_own_rejections());
    block_on(Engine::load_with(gpu, &source, &adapters, &options, &mut |_, _| {})).unwrap()
}

#[test]
fn logits_agree_with_peft_on_the_dequantized_weights() {
    let golden = Golden::open("adapters/quantized.safetensors");
    let disable = "f16,integer,cooperative_matrix".parse().unwrap();
    let exact = block_on(Gpu::open(&GpuOptions { disable, ..Default::default() })).unwrap();
    for gpu in [&exact, &*FLOOR] {
        for [base, tokens, name, adapter] in CASES {
            let engine = load(gpu, base, adapter);
            let tokens = Golden::open(tokens).ids("tokens");
            let expected = golden.f32(&format!("{name}.logits"));
            for chunk in [1, 64] {
                let found = block_on(engine.with_model(async |gpu, model| {
                    let all = model.sequence().adapters();
                    Ok(logits::logits(gpu, model, all, &tokens, chunk))
                }));
                let error = logits::difference(&found.unwrap(), &expected);
                println!("{base}, chunks of {chunk}: {error:e}");
                assert!(error <= 1e-5, "{base}, chunks of {chunk}: {error:e}");
            }
        }
    }
}
