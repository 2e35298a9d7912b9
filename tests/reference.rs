//! The scalar references against torch in float64, and against transformers' repetition penalty.

mod golden;

use golden::Golden;
use mistral_wgpu::{
    quant::{Matrix, by_name},
    reference::{self, AttentionShape, Penalties, TokenAdjustment},
};

fn assert_close(found: &[f32], expected: &[f32], bound: f32) {
    assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(
            (found - expected).abs() <= bound * expected.abs().max(1.0),
            "{index}: {found} for {expected}"
        );
    }
}

#[test]
fn rms_norm() {
    let golden = Golden::open("operations.safetensors");
    let (mut x, delta) = (golden.f32("norm_x"), golden.f32("norm_delta"));
    let y = reference::rms_norm(&mut x, Some(&delta), &golden.f32("norm_weight"), 1e-5);
    assert_close(&y, &golden.f32("norm_y"), 2e-7);
}

/// Elements `i` and `i + n / 2` of each run of `n`, side by side: from transformers' order to ours.
fn halves_to_pairs(values: &[f32], n: usize) -> Vec<f32> {
    let paired = |run: &[f32]| -> Vec<f32> {
        let (first, second) = run.split_at(n / 2);
        first.iter().zip(second).flat_map(|(a, b)| [*a, *b]).collect()
    };
    values.chunks_exact(n).flat_map(paired).collect()
}

#[test]
fn swiglu() {
    let golden = Golden::open("operations.safetensors");
    assert_close(
        &reference::swiglu(&halves_to_pairs(&golden.f32("gate_up"), 46)),
        &golden.f32("swiglu"),
        2e-7,
    );
}

#[test]
fn rope_beyond_position_30_000() {
    let golden = Golden::open("operations.safetensors");
    let mut x = halves_to_pairs(&golden.f32("rope_x"), 20);
    let (cos, sin) = reference::rope_table(
        &reference::rope_frequencies(20, 1e4),
        1.0,
        golden.ids("rope_positions").into_iter(),
    );
    reference::rope(&mut x, &cos, &sin, 2, 20);
    assert_close(&x, &halves_to_pairs(&golden.f32("rope_y"), 20), 2e-7);
}

#[test]
fn attention_with_and_without_window() {
    let golden = Golden::open("operations.safetensors");
    let (q, k, v) = (golden.f32("q"), golden.f32("k"), golden.f32("v"));
    for (name, window) in [("attention_full", None), ("attention_window", Some(8))] {
        let shape = AttentionShape { heads: 6, kv_heads: 2, head_dim: 16, window };
        let out = reference::attention(&q, &k, &v, &golden.ids("attention_positions"), shape);
        assert_close(&out, &golden.f32(name), 2e-7);
    }
}

#[test]
fn log_sum_exp() {
    let golden = Golden::open("operations.safetensors");
    let found = [1.0, 1.25].map(|scale| reference::log_sum_exp(&golden.f32("logits"), scale) as f32);
    assert_close(&found, &golden.f32("log_sum_exp"), 2e-7);
}

#[test]
fn embedding_and_matmul() {
    let golden = Golden::open("operations.safetensors");
    let weight = Matrix::encode(by_name("q4_0").unwrap(), 24, 64, &golden.f32("blocks"));
    assert_close(&reference::matmul(&weight, &golden.f32("matmul_x")), &golden.f32("matmul_y"), 2e-7);
    let decoded = golden.f32("q4_0_decoded");
    let rows = [23, 0, 8].map(|id| &decoded[id * 64..][..64]).concat();
    assert_eq!(reference::embedding(&weight, &[23, 0, 8]), rows);
}

#[test]
fn top_k_puts_the_lowest_of_equal_ids_first() {
    let golden = Golden::open("operations.safetensors");
    let (logits, order) = (golden.f32("logits"), golden.ids("order"));
    let ids = |k| -> Vec<u32> { reference::top_k(&logits, k).into_iter().map(|(id, _)| id).collect() };
    assert_eq!(ids(logits.len()), order);
    assert_eq!(ids(5), order[..5]);
    assert_eq!(reference::argmax(&logits), order[0]);
}

#[test]
fn adjust_logits() {
    let golden = Golden::open("operations.safetensors");
    let (seen, counts) = (golden.ids("adjust_seen"), golden.ids("adjust_counts"));
    let adjustments: Vec<_> = golden
        .ids("adjust_ids")
        .into_iter()
        .zip(golden.f32("adjust_bias"))
        .enumerate()
        .map(|(i, (id, bias))| TokenAdjustment { id, seen: seen[i] == 1, count: counts[i], bias })
        .collect();
    let penalties = Penalties { repetition: 1.3, frequency: 0.4, presence: 0.7 };
    let mut logits = golden.f32("logits");
    reference::adjust_logits(&mut logits, &adjustments, penalties, Some(&golden.ids("allowed")));
    assert_close(&logits, &golden.f32("adjusted"), 1e-6);
}

#[test]
fn f16_store_clamps_and_rounds_to_even() {
    let stored = [70_000.0, -1e9, 65_519.0, 1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 3e-8, 0.0]
        .map(|value| reference::f16_load(reference::f16_store(value)));
    let subnormal = 2f32.powi(-24);
    assert_eq!(stored, [65_504.0, -65_504.0, 65_504.0, 1.0, 1.0 + 4.0 / 2048.0, subnormal, 0.0]);
}
