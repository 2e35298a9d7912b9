//! Logits of tiny models, to compare with golden ones.
#![allow(dead_code)] // no test binary uses all of it

use mistral_wgpu::{
    gpu::Gpu,
    model::{AdapterSet, Chunk, LogitRows, Model, ModelOptions},
    ops::KvFormat,
};
use pollster::block_on;

use crate::device;

/// Room for a golden text, with a KV cache as exact as it can be.
pub fn exact_options() -> ModelOptions {
    ModelOptions {
        context: 128,
        kv_format: KvFormat::F32,
        max_rows: 64,
        max_logit_rows: 64,
        ..Default::default()
    }
}

/// Logits of every token with `adapters`, fed in chunks of `chunk`.
pub fn logits(gpu: &Gpu, model: &mut Model, adapters: AdapterSet, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let mut sequence = model.sequence().anew(adapters);
    let mut all = Vec::new();
    for tokens in tokens.chunks(chunk) {
        let mut chunks = [Chunk { sequence: &mut sequence, tokens, logits: LogitRows::All }];
        model.forward(gpu, &mut chunks, None).unwrap();
        all.extend(block_on(model.logits.download(gpu, tokens.len() as u32)).unwrap());
    }
    all
}

/// Largest difference, relative to the largest expected magnitude.
pub fn difference(found: &[f32], expected: &[f32]) -> f32 {
    device::difference(found, expected) / device::largest(expected)
}
