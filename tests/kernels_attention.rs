//! Attention against `reference/`, on the device as it is and with floor limits and every optional
//! path off.

mod batch;
mod device;

use batch::Sequence;
use device::{FLOOR, GPU, difference, largest, on_both};
use mistral_wgpu::{gpu::*, ops::*, reference};
use rayon::prelude::*;

const WINDOWS: [Option<u32>; 5] = [None, Some(1), Some(8), Some(33), Some(100)];

/// Sequences of mixed kinds: whole prompts, chunks of prompts, single rows.
const MIXED: [(u32, u32); 10] =
    [(1, 1), (200, 1), (7, 7), (33, 1), (70, 38), (2, 2), (64, 16), (150, 1), (97, 17), (129, 129)];

fn shape(kv_heads: u32, group: u32, head_dim: u32, kv: KvFormat) -> AttentionShape {
    AttentionShape { heads: kv_heads * group, kv_heads, head_dim, kv }
}

fn sequences(shape: &AttentionShape, lengths: &[(u32, u32)]) -> Vec<Sequence> {
    let number = (1..).zip(lengths);
    number.map(|(seed, (keys, rows))| Sequence::random(seed, shape, *keys, *rows)).collect()
}

/// Variants that round to 16-bit floats.
fn rounding(shape: &AttentionShape) -> impl Iterator<Item = &'static Variant<AttentionShape>> {
    let variants = ATTENTION_TILED.variants.iter().filter(|variant| (variant.fits)(shape));
    variants.filter(|variant| rounds_to_f16(&(variant.key)(shape)))
}

/// `gpu` without them.
fn exact(gpu: &Gpu, shape: &AttentionShape) -> Gpu {
    let gpu = gpu.with_own_rejections();
    rounding(shape).for_each(|variant| gpu.reject(ATTENTION_TILED.full_name(variant)));
    gpu
}

/// Runs the sequences in one batch and compares each with the reference.
fn check(gpu: &Gpu, shape: AttentionShape, window: Option<u32>, segments: u32, sequences: &[Sequence]) {
    let error = error(&exact(gpu, &shape), shape, window, segments, sequences);
    assert!(error <= 2e-6, "{shape:?}, window {window:?}: error {error:e}");
}

/// The worst error of the sequences in one batch, relative to the largest value.
fn error(
    gpu: &Gpu,
    shape: AttentionShape,
    window: Option<u32>,
    segments: u32,
    sequences: &[Sequence],
) -> f32 {
    let mut worst = 0.0f32;
    let found = batch::attention(gpu, shape, window, segments, sequences);
    for (found, Sequence { keys, rows, q, k, v }) in found.iter().zip(sequences) {
        let positions: Vec<u32> = (keys - rows..*keys).collect();
        let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
        let [heads, kv_heads, head_dim] = [heads, kv_heads, head_dim].map(|n| n as usize);
        let twin = reference::AttentionShape { heads, kv_heads, head_dim, window };
        let expected = reference::attention(q, k, v, &positions, twin);
        let error = difference(found, &expected) / largest(v);
        worst = worst.max(error);
    }
    worst
}

/// Head dimensions and group sizes, a mixed batch for each, formats and variants in turns.
#[test]
fn attention_of_every_shape() {
    let shapes =
        [(16, 1), (20, 3), (64, 4), (80, 8), (96, 3), (128, 4), (256, 1), (18, 5), (256, 8), (32, 32)];
    [(&*GPU, 0), (&*FLOOR, 1)].into_par_iter().for_each(|(gpu, turn)| {
        for (number, (head_dim, group)) in shapes.into_iter().enumerate() {
            let formats = KvFormat::all().map(|kv| shape(2, group, head_dim, kv));
            let formats: Vec<_> = formats.filter(|shape| shape.supported().is_ok()).collect();
            let shape = formats[(number + turn) % formats.len()];
            let variants = every_variant(gpu, &shape);
            let gpu = &variants[number % variants.len()];
            check(gpu, shape, WINDOWS[number % 5], 3, &sequences(&shape, &MIXED));
        }
    });
}

/// Handles to `gpu` that between them have every variant that keeps every bit, each one of single rows and one of
/// tiles.
fn every_variant(gpu: &Gpu, shape: &AttentionShape) -> Vec<Gpu> {
    let gpu = exact(gpu, shape);
    let single: Vec<_> = ATTENTION_SINGLE.runnable(&gpu, shape).collect();
    let tiled: Vec<_> = ATTENTION_TILED.runnable(&gpu, shape).collect();
    let pairs = single.iter().cycle().zip(tiled.iter().cycle()).take(single.len().max(tiled.len()));
    pairs.map(|(single, tiled)| ATTENTION_TILED.only(&ATTENTION_SINGLE.only(&gpu, single), tiled)).collect()
}

/// Products of matrices of 16-bit floats, where the device has them: with whole and partial tiles and pages, windows
/// and formats in turns.
#[test]
fn attention_of_16_bits() {
    let formats = [KvFormat::F16, KvFormat::Q8_0, KvFormat::Q4_0];
    let mut run = 0;
    for (number, (head_dim, group)) in [(32, 1), (64, 3), (128, 4), (256, 8)].into_iter().enumerate() {
        let shape = shape(2, group, head_dim, formats[number % 3]);
        let sequences = sequences(&shape, &[(70, 38), (9, 9), (64, 16), (97, 17), (129, 129)]);
        for variant in rounding(&shape) {
            let gpu = ATTENTION_TILED.only(&GPU, variant);
            if ATTENTION_TILED.runnable(&gpu, &shape).next().is_some() {
                let error = error(&gpu, shape, WINDOWS[number], 3, &sequences);
                assert!(error <= 3e-3, "{}, {shape:?}: error {error:e}", variant.name);
                run += 1;
            }
        }
    }
    if run == 0 {
        eprintln!("skipped: {} multiplies no matrices", GPU.description().name);
    }
}

#[test]
fn attention_with_every_window() {
    on_both(|gpu| {
        for kv in KvFormat::all() {
            let shape = shape(2, 4, 32, kv);
            let sequences = sequences(&shape, &MIXED);
            for window in WINDOWS {
                for segments in [1, 3] {
                    check(gpu, shape, window, segments, &sequences);
                }
            }
        }
    });
}

#[test]
fn attention_of_every_length() {
    let shape = shape(1, 4, 16, KvFormat::F32);
    let single: Vec<_> = (1..=200).map(|keys| (keys, 1)).collect();
    let prompts: Vec<_> = (2..=70).map(|keys| (keys, keys)).collect();
    on_both(|gpu| {
        for window in [None, Some(33)] {
            check(gpu, shape, window, 1, &sequences(&shape, &single));
            check(gpu, shape, window, 3, &sequences(&shape, &prompts));
        }
    });
}

#[test]
fn attention_over_many_splits() {
    let shape = shape(2, 4, 64, KvFormat::F16);
    on_both(|gpu| {
        check(gpu, shape, None, 3, &sequences(&shape, &[(3000, 1), (2999, 18)]));
        check(gpu, shape, Some(700), 1, &sequences(&shape, &[(3000, 1), (2999, 18)]));
    });
}

#[test]
fn a_single_row_is_the_same_in_every_batch() {
    let lengths = [(600, 1), (40, 1), (1, 1), (257, 1), (90, 30), (33, 1), (256, 1), (500, 1), (255, 1)];
    let shape = shape(2, 4, 80, KvFormat::F16);
    let sequences = sequences(&shape, &lengths);
    on_both(|gpu| {
        for window in [None, Some(100)] {
            for gpu in every_variant(gpu, &shape) {
                let together = batch::attention(&gpu, shape, window, 2, &sequences);
                for (sequence, in_batch) in sequences.iter().zip(&together).filter(|(s, _)| s.rows == 1) {
                    let alone = batch::attention(&gpu, shape, window, 2, std::slice::from_ref(sequence));
                    assert!(alone[0] == *in_batch, "{} keys, window {window:?}", sequence.keys);
                }
            }
        }
    });
}

/// Scores far apart and far from zero neither overflow nor let other keys in.
#[test]
fn attention_with_huge_scores() {
    let shape = shape(1, 2, 32, KvFormat::F32);
    let mut sequences = sequences(&shape, &[(100, 1), (100, 20)]);
    for sequence in &mut sequences {
        sequence.q.fill(1e3);
        for (key, k) in sequence.k.chunks_exact_mut(32).enumerate() {
            k.fill(if key == 20 { 1e4 } else { -1e4 });
        }
    }
    on_both(|gpu| {
        check(gpu, shape, None, 1, &sequences);
    });
}

#[test]
fn blocks_that_do_not_divide_a_head_are_refused() {
    for kv in [KvFormat::Q8_0, KvFormat::Q4_0] {
        let error = shape(1, 1, 80, kv).supported().unwrap_err();
        assert_eq!(error.kind(), mistral_wgpu::ErrorKind::Argument);
        assert!(error.to_string().contains("head_dim") && error.to_string().contains("80"), "{error}");
    }
}

/// Every finite f16, subnormals included, comes out of the cache as it is: of one key, attention
/// returns the value.
#[test]
fn every_f16_in_the_cache() {
    let shape = shape(1, 1, 256, KvFormat::F16);
    let finite: Vec<f32> =
        (0..=u16::MAX).map(reference::f16_load).filter(|value| value.is_finite()).collect();
    let of = |v: &[f32]| Sequence { v: v.to_vec(), ..Sequence::random(1, &shape, 1, 1) };
    let sequences: Vec<_> = finite.chunks_exact(256).map(of).collect();
    on_both(|gpu| {
        assert_eq!(batch::attention(gpu, shape, None, 1, &sequences).concat(), finite);
    });
}
