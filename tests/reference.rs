//! The scalar references against torch in float64.

mod golden;

use golden::Golden;
use mistral_wgpu::reference::{self, AttentionShape};

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

#[test]
fn swiglu() {
    let golden = Golden::open("operations.safetensors");
    assert_close(&reference::swiglu(&golden.f32("gate_up"), 23), &golden.f32("swiglu"), 2e-7);
}

#[test]
fn rope_beyond_position_30_000() {
    let golden = Golden::open("operations.safetensors");
    let mut x = golden.f32("rope_x");
    let (cos, sin) = reference::rope_table(20, 1e4, golden.ids("rope_positions").into_iter());
    reference::rope(&mut x, &cos, &sin, 2, 20);
    assert_close(&x, &golden.f32("rope_y"), 2e-7);
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
