//! Products of matrices on the device, and their comparison with the reference.
#![allow(dead_code)] // no test binary uses all of it

use std::sync::LazyLock;

use mistral_wgpu::{
    gpu::*,
    ops::*,
    quant::{FORMATS, Format, Matrix, by_name},
    reference,
    tensor::{ActivationFormat, Rounded, Tensor},
};
use pollster::block_on;

use crate::device::{GPU, noise};

pub fn round_up(format: &Format, cols: u32) -> u32 {
    format.round_up(cols as usize) as u32
}

pub fn matrix(format: &'static Format, rows: u32, cols: u32) -> Matrix {
    let values = noise(u64::from(rows * 7 + cols), (rows * cols) as usize);
    Matrix::encode(format, rows as usize, cols as usize, &values)
}

pub fn many_rows(format: &'static Format) -> MatMatShape {
    MatMatShape { format, rounded: true, most: u32::MAX, experts: false }
}

/// A variant, a device that takes no other, and the formats that it fits.
type Alone<S> = (&'static Variant<S>, Gpu, Vec<&'static Format>);

/// For [`MAT_MAT`], beside [`GPU`]: some drivers compile a device's kernels one after the other.
static SECOND: LazyLock<Gpu> = LazyLock::new(|| block_on(Gpu::open(&GpuOptions::default())).unwrap());

/// Every variant of [`MAT_MAT`] that the device can run, by itself.
pub fn each_mat_mat() -> Vec<Alone<MatMatShape>> {
    each_of(&SECOND, &MAT_MAT, many_rows)
}

/// Every variant of a product that `gpu` can run, by itself.
pub fn each_of<S>(
    gpu: &Gpu,
    operation: &'static Operation<S>,
    shape: fn(&'static Format) -> S,
) -> Vec<Alone<S>> {
    let names = runnable(operation, shape);
    let runnable = operation.variants.iter().filter(|variant| names.contains(&variant.name));
    let fits =
        |variant: &Variant<S>| FORMATS.into_iter().filter(|format| (variant.fits)(&shape(format))).collect();
    runnable.map(|variant| (variant, operation.only(gpu, variant), fits(variant))).collect()
}

/// Some number of rows like `rows`, for which the device has a kernel: one that is made for more, where it has no other.
pub fn many(gpu: &Gpu, format: &'static Format, rows: u32) -> RowCount {
    let runs = |most: &u32| {
        MAT_MAT.runnable(gpu, &MatMatShape { most: *most, ..many_rows(format) }).next().is_some()
    };
    let most = RowCount::MANY.into_iter().filter(|most| rows <= *most).find(runs).expect("a kernel");
    RowCount::Many { slot: 1, most }
}

/// Variants of a product that the device can run for any format.
pub fn runnable<S>(operation: &Operation<S>, shape: impl Fn(&'static Format) -> S) -> Vec<&'static str> {
    let shapes = FORMATS.map(shape);
    let runs = |variant: &&Variant<S>| {
        shapes.iter().any(|shape| operation.runnable(&GPU, shape).any(|other| other.name == variant.name))
    };
    let names: Vec<_> = operation.variants.iter().filter(runs).map(|variant| variant.name).collect();
    assert!(names.contains(&"baseline") && names.iter().any(|name| name.contains("integer")), "{names:?}");
    names
}

/// Runs a product over all rows of `x` with `rows` rows in `y`, of which the product writes as many as
/// `count` says: the rest stays what it was, NaN.
pub fn product(gpu: &Gpu, weight: &Weight, x: &[f32], rows: RowCount, y_rows: u32) -> Vec<f32> {
    product_of(gpu, weight, x, rows, y_rows).0
}

/// As [`product`], with the activations that the kernel multiplies: `x`, rounded or not.
pub fn product_of(
    gpu: &Gpu,
    weight: &Weight,
    values: &[f32],
    rows: RowCount,
    y_rows: u32,
) -> (Vec<f32>, Vec<f32>) {
    let x = Tensor::from_values(gpu, "x", values, weight.cols).unwrap();
    let rounded = Rounded::zeros(gpu, "x rounded", x.rows, weight.cols).unwrap();
    let untouched = vec![f32::NAN; (y_rows * weight.rows) as usize];
    let y = Tensor::from_values(gpu, "y", &untouched, weight.rows).unwrap();
    let counts = [0, x.rows];
    let buffer = gpu.upload("counts", &counts).unwrap();
    let mut recording = Recording::default();
    let matmul = Matmul {
        weight,
        x: &x,
        rounded: Some(&rounded),
        y: &y,
        rows,
        counts: &buffer,
        experts: None,
        label: "test",
    };
    let read = matmul.input(gpu).unwrap();
    Quantize { x: &x, y: read, rows }.record(gpu, &mut recording).unwrap();
    matmul.record(gpu, &mut recording).unwrap();
    let rounds = read.format() != ActivationFormat::F32;
    assert_eq!(recording.dispatches(), weight.parts.len() + usize::from(rounds));
    gpu.replay(&recording, &counts.map(u64::from), None).unwrap();
    let multiplied = block_on(read.download(gpu, x.rows)).unwrap();
    (block_on(y.download(gpu, y_rows)).unwrap(), multiplied)
}

/// Every output within `bound × Σ|w·x|` of the reference.
pub fn assert_product(found: &[f32], matrix: &Matrix, x: &[f32], what: &str) {
    const BOUND: f32 = 6e-7;
    let absolute: Vec<f32> = (0..matrix.rows).flat_map(|row| matrix.row(row)).map(f32::abs).collect();
    let magnitudes = Matrix::encode(by_name("f32").unwrap(), matrix.rows, matrix.cols, &absolute);
    let sizes = reference::matmul(&magnitudes, &x.iter().map(|x| x.abs()).collect::<Vec<_>>());
    let expected = reference::matmul(matrix, x);
    assert_eq!(found.len(), expected.len(), "{what}");
    for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let error = (found - expected).abs();
        assert!(error <= BOUND * sizes[index], "{what}: output {index} is {found}, expected {expected}");
    }
}

/// The matrix in parts of six rows, and a last one that is smaller.
pub fn in_parts(gpu: &Gpu, matrix: &Matrix) -> Weight {
    let blocks = matrix.format.blocks(matrix.cols);
    let part_bytes = (7 * blocks * matrix.format.code_words * 4) as u64;
    let (rows, cols) = (matrix.rows as u32, matrix.cols as u32);
    let weight = Weight::allocate_parts(gpu, "weight", matrix.format, 1, rows, cols, part_bytes).unwrap();
    assert!(weight.parts.iter().rev().skip(1).all(|part| part.rows == 6));
    // Written in pieces that do not end where parts do.
    for first in (0..matrix.rows).step_by(4) {
        let rows = first..matrix.rows.min(first + 4);
        let of = |elements: usize| rows.start * blocks * elements..rows.end * blocks * elements;
        let codes = &matrix.codes[of(matrix.format.code_words)];
        weight.write_rows(gpu, first as u32, codes, &matrix.scales[of(matrix.format.scale_halves)]);
    }
    weight
}
