//! Products of few rows that do what follows them, too, against `reference/`: every variant, with all that is optional and
//! with floor limits.

mod device;

use std::sync::LazyLock;

use device::{GPU, difference, largest, noise};
use mistral_wgpu::{
    gpu::*,
    ops::*,
    quant::{Format, Matrix, by_name},
    reference,
    tensor::{Activation, Q8Tensor, Tensor},
};
use pollster::block_on;
use rayon::prelude::*;

/// Floor limits, and nothing optional but this.
static FLOOR: LazyLock<Gpu> = LazyLock::new(|| {
    let disable = GPU.capabilities().without([Capability::Fused].into_iter().collect());
    block_on(Gpu::open(&GpuOptions { floor_limits: true, disable, ..Default::default() })).unwrap()
});

/// Every variant of the products that reads numbers, by itself, with formats of numbers, of blocks with scales, and of
/// blocks within blocks.
fn each(check: impl Fn(&Gpu, &'static Format, &str) + Sync) {
    [&*GPU, &*FLOOR].into_par_iter().for_each(|gpu| {
        for format in ["f32", "f16", "q8_0", "q4_k"].map(|name| by_name(name).unwrap()) {
            for variant in
                MAT_VEC.runnable(gpu, &MatVecShape { rounded: false, ..MatVecShape::new(format, 1) })
            {
                check(&MAT_VEC.only(gpu, variant), format, variant.name);
            }
        }
    });
}

fn matrix(format: &'static Format, rows: usize, cols: usize) -> Matrix {
    Matrix::encode(format, rows, cols, &noise((rows + cols) as u64, rows * cols))
}

/// `x · weightᵀ` with `fused`; `y` is where it goes without an epilogue.
fn product(gpu: &Gpu, matrix: &Matrix, x: &Tensor, y: &Tensor, count: u32, fused: &Fused) {
    let weight = Weight::from_matrix(gpu, "weight", matrix).unwrap();
    let counts = gpu.upload("counts", &[count]).unwrap();
    let rows = RowCount::Few(count);
    let (weight, counts) = (&weight, &counts);
    let matmul = Matmul { weight, x, rounded: None, y, rows, counts, experts: None, label: "test" };
    if let Some(epilogue) = &fused.epilogue {
        assert!(matmul.fuses(gpu, epilogue).unwrap());
    }
    assert!(matmul.finishes_norm(gpu).unwrap());
    let mut recording = Recording::default();
    matmul.record_fused(gpu, &mut recording, fused).unwrap();
    assert_eq!(recording.dispatches(), 1);
    gpu.replay(&recording, &[count.into()], None).unwrap();
}

/// `x · weightᵀ`, and what follows it: with it or after it.
fn product_and(
    gpu: &Gpu,
    matrix: &Matrix,
    x: &Tensor,
    y: &Tensor,
    count: u32,
    epilogue: Epilogue,
    fuse: bool,
) {
    let own = Fused { eps: None, epilogue: fuse.then_some(epilogue) };
    product(gpu, matrix, x, y, count, &own);
    if !fuse {
        let mut recording = Recording::default();
        epilogue.record(gpu, &mut recording).unwrap();
        gpu.replay(&recording, &[count.into()], None).unwrap();
    }
}

fn rows(tensor: &Tensor, gpu: &Gpu) -> Vec<f32> {
    block_on(tensor.download(gpu, tensor.rows)).unwrap()
}

/// A residual sum, its norm in two halves, and the product that finishes it: as the three after one another, and the same
/// bits whatever the number of rows.
#[test]
fn norm_between_two_products() {
    const EPS: f32 = 1e-5;
    for (inner, hidden, outputs) in [(40, 70, 6), (300, 1100, 9)] {
        each(|gpu, format, name| {
            let of = |cols: usize| format.round_up(cols);
            let (first, second) =
                (matrix(format, of(hidden), of(inner)), matrix(format, outputs, of(hidden)));
            let (weight, stream) = (noise(1, first.rows), noise(2, 8 * first.rows));
            let values = noise(3, 8 * first.cols);
            let delta = reference::matmul(&first, &values);
            let mut sums = stream.clone();
            let normed = reference::rms_norm(&mut sums, Some(&delta), &weight, EPS);
            let expected = reference::matmul(&second, &normed);
            let run = |count: usize| {
                let cols = first.rows as u32;
                let tensor = |values: &[f32], cols| {
                    let values = &values[..count * cols as usize];
                    Tensor::from_values(gpu, "test", values, cols).unwrap()
                };
                let count = count as u32;
                let zeros = |cols| Tensor::zeros(gpu, "test", count, cols).unwrap();
                let (x, stream, delta) =
                    (tensor(&values, first.cols as u32), tensor(&stream, cols), zeros(cols));
                let unfinished = Epilogue::unfinished_norm(gpu, "y", count, cols, 8).unwrap();
                let weight = Tensor::from_values(gpu, "weight", &weight, cols).unwrap();
                let y = Activation::F32(&unfinished);
                let norm =
                    RmsNorm { x: &stream, delta: Some(&delta), weight: &weight, y, row_ids: None, eps: EPS };
                let epilogue = Some(Epilogue::RmsNorm(norm));
                product(gpu, &first, &x, &delta, count, &Fused { eps: None, epilogue });
                let out = zeros(outputs as u32);
                product(gpu, &second, &unfinished, &out, count, &Fused { eps: Some(EPS), epilogue: None });
                (rows(&stream, gpu), rows(&out, gpu))
            };
            let all = run(8);
            let what = format!("{name}, {}, {hidden}", format.name);
            assert!(difference(&all.0, &sums) <= 2e-6 * largest(&sums), "{what}: sums");
            let error = difference(&all.1, &expected) / largest(&expected);
            assert!(error <= 3e-6, "{what}: {error:e}");
            for count in [1, 3, 5] {
                let some = run(count);
                assert_eq!(some.0, all.0[..some.0.len()], "{what}, {count} rows");
                assert_eq!(some.1, all.1[..some.1.len()], "{what}, {count} rows");
            }
        });
    }
}

/// The same bits as in two steps.
#[test]
fn gate_of_a_product() {
    each(|gpu, format, name| {
        let matrix = matrix(format, 2 * 35, format.round_up(300));
        let values = noise(4, 8 * matrix.cols);
        let expected = reference::swiglu(&reference::matmul(&matrix, &values));
        let gated = |count: usize, fuse: bool| {
            let x =
                Tensor::from_values(gpu, "x", &values[..count * matrix.cols], matrix.cols as u32).unwrap();
            let count = count as u32;
            let [gate_up, y] = [70, 35].map(|cols| Tensor::zeros(gpu, "y", count, cols).unwrap());
            let swiglu = Swiglu { gate_up: &gate_up, y: Activation::F32(&y), per_row: 1 };
            product_and(gpu, &matrix, &x, &gate_up, count, Epilogue::Swiglu(swiglu), fuse);
            rows(&y, gpu)
        };
        let all = gated(8, true);
        let error = difference(&all, &expected) / largest(&expected);
        assert!(error <= 3e-6, "{name}, {}: {error:e}", format.name);
        assert_eq!(gated(8, false), all, "{name}, {}: two steps", format.name);
        for count in [1, 2, 5] {
            assert_eq!(gated(count, true), all[..count * 35], "{name}, {}, {count} rows", format.name);
        }
    });
}

/// The same q and the same words of the cache as in two steps.
#[test]
fn rotation_of_a_product() {
    let frequencies = reference::rope_frequencies(20, 1e4);
    let (cos, sin) = reference::rope_table(&frequencies, 1.0, 0..100);
    let table: Vec<[f32; 2]> = cos.iter().zip(&sin).map(|(cos, sin)| [*cos, *sin]).collect();
    each(|gpu, format, name| {
        for kv in [KvFormat::F16, KvFormat::F32] {
            let shape = AttentionShape { heads: 6, kv_heads: 2, head_dim: 20, kv };
            let matrix = matrix(format, 200, format.round_up(70));
            let values = noise(5, 8 * matrix.cols);
            let run = |count: u32, fuse: bool| {
                let values = &values[..count as usize * matrix.cols];
                let x = Tensor::from_values(gpu, "x", values, matrix.cols as u32).unwrap();
                let qkv = Tensor::zeros(gpu, "qkv", count, 200).unwrap();
                let q = Tensor::zeros(gpu, "q", count, 120).unwrap();
                // The last row has no slot in this cache.
                let row = |row: u32| Row {
                    position: 11 * row,
                    slot: if row == 7 { 1 << 20 } else { 9 * row },
                    ..bytemuck::Zeroable::zeroed()
                };
                let table_of_rows = gpu.upload("rows", &(0..count).map(row).collect::<Vec<_>>()).unwrap();
                let rope = gpu.upload("rope", &table).unwrap();
                let cache = || gpu.allocate("cache", 2 * shape.page_bytes()).unwrap();
                let segment = KvSegment { k: cache(), v: cache(), first_slot: 0, slots: 2 * PAGE };
                let segments = std::slice::from_ref(&segment);
                let (qkv, q, table_of_rows, rope) = (&qkv, &q, &table_of_rows, &rope);
                let rope_kv = RopeKv { qkv, q, rows: table_of_rows, rope, segments, shape };
                product_and(gpu, &matrix, &x, qkv, count, Epilogue::RopeKv(rope_kv), fuse);
                let words = block_on(gpu.download::<u32>(&[segment.k.clone(), segment.v.clone()])).unwrap();
                (rows(q, gpu), words)
            };
            for count in [1, 8] {
                let ((found, words), (expected, expected_words)) = (run(count, true), run(count, false));
                let what = format!("{name}, {}, {kv:?}, {count} rows", format.name);
                assert_eq!(found, expected, "{what}");
                assert_eq!(words, expected_words, "{what}");
            }
        }
    });
}

/// What kernels cannot do at once is left to steps of their own.
#[test]
fn what_is_not_fused() {
    let gpu = &*GPU;
    let format = by_name("q8_0").unwrap();
    let matrix = matrix(format, 64, 64);
    let weight = &Weight::from_matrix(gpu, "weight", &matrix).unwrap();
    let tensor = |cols| Tensor::zeros(gpu, "test", 8, cols).unwrap();
    let (x, y, half, counts) = (tensor(64), tensor(64), tensor(32), gpu.upload("counts", &[8u32]).unwrap());
    let codes = Q8Tensor::zeros(gpu, "codes", 8, 32).unwrap();
    let (x, y, counts, label, rows) = (&x, &y, &counts, "test", RowCount::Few(8));
    let matmul = Matmul { weight, x, rounded: None, y, rows, counts, experts: None, label };
    let swiglu = |y| Epilogue::Swiglu(Swiglu { gate_up: matmul.y, y, per_row: 1 });
    let whole = swiglu(Activation::F32(&half));
    assert!(matmul.fuses(gpu, &whole).unwrap());
    assert!(!matmul.fuses(gpu, &swiglu(Activation::Q8(&codes))).unwrap(), "codes need whole blocks");
    let many = Matmul { rows: RowCount::many(0, 8), ..matmul };
    assert!(!many.fuses(gpu, &whole).unwrap() && !many.finishes_norm(gpu).unwrap(), "many rows");
    let disable = [Capability::Fused].into_iter().collect();
    let without = block_on(Gpu::open(&GpuOptions { disable, ..Default::default() })).unwrap();
    assert!(!matmul.fuses(&without, &whole).unwrap(), "switched off");
    let rejecting = gpu.with_own_rejections();
    MAT_VEC_SWIGLU.variants.iter().for_each(|variant| rejecting.reject(MAT_VEC_SWIGLU.full_name(variant)));
    assert!(!matmul.fuses(&rejecting, &whole).unwrap(), "wrong on the device");
}
