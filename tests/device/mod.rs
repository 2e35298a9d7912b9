//! What the tests on a device share: devices, numbers, comparison.
#![allow(dead_code)] // no test binary uses all of it

use std::sync::LazyLock;

use mistral_wgpu::{
    gpu::*,
    quant::{BLOCK, Format},
    reference,
    tensor::{F16Tensor, Q8Tensor, Rounded, Tensor},
};

/// The device as it is.
pub static GPU: LazyLock<Gpu> =
    LazyLock::new(|| pollster::block_on(Gpu::open(&GpuOptions::default())).unwrap());

/// The device with WebGPU's floor limits and every optional path off.
pub static FLOOR: LazyLock<Gpu> = LazyLock::new(|| {
    let disable = GPU.capabilities();
    pollster::block_on(Gpu::open(&GpuOptions { floor_limits: true, disable, ..Default::default() })).unwrap()
});

/// Checks both at the same time: some drivers compile a device's kernels one after the other.
pub fn on_both(check: impl Fn(&Gpu) + Sync) {
    rayon::join(|| check(&GPU), || check(&FLOOR));
}

/// Largest magnitude.
pub fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, value| largest.max(value.abs()))
}

/// Largest difference; that to NaN is infinite.
pub fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    differences.map(|d| if d.is_nan() { f32::INFINITY } else { d }).fold(0.0, f32::max)
}

/// The first `rows` rows of `tensor`, whose padding must still be zero.
pub fn download(gpu: &Gpu, tensor: &Tensor, rows: usize) -> Vec<f32> {
    let all =
        pollster::block_on(gpu.download::<f32>(std::slice::from_ref(&tensor.buffer))).unwrap().remove(0);
    let parts = all.chunks_exact(tensor.stride() as usize).map(|row| row.split_at(tensor.cols as usize));
    assert!(parts.clone().all(|(_, padding)| padding.iter().all(|value| *value == 0.0)), "padding written");
    parts.take(rows).flat_map(|(row, _)| row).copied().collect()
}

/// Asserts that the first rows of `found` are `expected`, `[rows, cols]`, rounded to codes: each value
/// to the nearest, or where it lies half-way to either of the two.
pub fn assert_codes(gpu: &Gpu, found: &Q8Tensor, expected: &[f32]) {
    let cols = found.cols as usize;
    let values = pollster::block_on(found.download(gpu, (expected.len() / cols) as u32)).unwrap();
    let nearest = reference::quantize(expected, cols);
    assert_eq!(values.len(), expected.len());
    let mut other = 0;
    for row in 0..expected.len() / cols {
        for first in (0..cols).step_by(BLOCK) {
            let block = row * cols + first..row * cols + (first + BLOCK).min(cols);
            let step = largest(&expected[block.clone()]) / 127.0;
            for (found, (nearest, expected)) in
                values[block.clone()].iter().zip(nearest[block.clone()].iter().zip(&expected[block]))
            {
                assert!(
                    (found - expected).abs() <= 0.501 * step,
                    "{found}, expected {expected}, step {step}"
                );
                other += usize::from((found - nearest).abs() > 0.5 * step);
            }
        }
    }
    assert!(other <= expected.len() / 100, "{other} values are not the nearest");
}

/// Every value is one of the two nearest of 11 bits, and the nearest but where the kernel's own value may differ.
pub fn assert_halves(gpu: &Gpu, found: &F16Tensor, expected: &[f32]) {
    let values = pollster::block_on(found.download(gpu, expected.len() as u32 / found.cols)).unwrap();
    assert_eq!(values.len(), expected.len());
    for (found, expected) in values.iter().zip(expected.iter().map(|value| value.clamp(-65504.0, 65504.0))) {
        let step = (expected.abs().log2().floor() - 10.0).max(-24.0).exp2();
        assert!((found - expected).abs() <= 0.505 * step, "{found}, expected {expected}, step {step}");
    }
}

/// As [`assert_codes`] and [`assert_halves`].
pub fn assert_rounded(gpu: &Gpu, found: &Rounded, expected: &[f32]) {
    assert_codes(gpu, &found.q8, expected);
    assert_halves(gpu, &found.f16, expected);
}

/// Kernels differ by format in its decode alone: one format of each size of blocks, and of each way to read codes, goes
/// through all shapes and numbers of rows. A kernel takes seconds to compile on some drivers.
pub fn stands_for_others(format: &Format) -> bool {
    matches!(format.name, "f32" | "f16" | "q8_0" | "q4_0" | "q4_k")
}

/// `count` numbers in -1..1, a function of the seed.
pub fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mix = |i: u64| {
        let mut z = (seed << 32 | i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count as u64).map(mix).collect()
}
