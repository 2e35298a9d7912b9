//! What products of few rows do with their outputs at once, and norms that they finish.

use super::{SelfTest, attention::worst_stored, worst};
use crate::{
    Result,
    gpu::{Gpu, Recording},
    ops::{
        AttentionShape, Epilogue, EpilogueShape, Fused, KvSegment, MAT_VEC, MatVecShape, Matmul, PAGE,
        Quantize, RmsNorm, RopeKv, Row, RowCount, Swiglu, Variant, Weight, weight::uniform_values,
    },
    quant::{BLOCK, Format, Matrix},
    reference::{self, KvSide},
    tensor::{Activation, Rounded, Tensor},
};

const EPS: f32 = 1e-5;

/// A product of `count` rows, and how large its errors may be.
struct Case {
    shape: MatVecShape,
    matrix: Matrix,
    /// `[count, cols]`, which 8-bit codes hold exactly.
    x: Vec<f32>,
    /// Sums of squares of an unfinished norm, `[count, cols / 4]`.
    squares: Vec<f32>,
    /// `[count, outputs]`.
    expected: Vec<f32>,
    /// `Σ|w·x|` of each.
    sizes: Vec<f32>,
}

impl Case {
    /// `x` is made of random multiples of a power of two.
    fn new(shape: MatVecShape, outputs: usize, inputs: usize, x: impl Fn(usize) -> f32) -> Self {
        let inputs = shape.format.round_up(inputs);
        let count = shape.cols as usize;
        let mut weights = uniform_values(1, outputs * inputs, 0.5);
        if matches!(shape.epilogue, EpilogueShape::RopeKv(_)) {
            // A format's minimum must not cancel what is stored as it is, to which errors are compared.
            weights.iter_mut().for_each(|weight| *weight = weight.abs());
        }
        let matrix = Matrix::encode(shape.format, outputs, inputs, &weights);
        let x: Vec<f32> = (0..count * inputs).map(x).collect();
        let squares: Vec<f32> = uniform_values(3, count * inputs / 4, 2.0).iter().map(|v| v * v).collect();
        let absolute: Vec<f32> = (0..outputs).flat_map(|row| matrix.row(row)).map(f32::abs).collect();
        let absolute = Matrix::encode(&crate::quant::F32, outputs, inputs, &absolute);
        let x_absolute: Vec<f32> = x.iter().map(|x| x.abs()).collect();
        let scaled = |products: Vec<f32>| -> Vec<f32> {
            let rows = products.chunks_exact(outputs).zip(squares.chunks_exact(inputs / 4));
            let scale = |squares: &[f32]| 1.0 / (squares.iter().sum::<f32>() / inputs as f32 + EPS).sqrt();
            let scale = |squares| if shape.normed { scale(squares) } else { 1.0 };
            rows.flat_map(|(row, squares)| row.iter().map(move |value| value * scale(squares))).collect()
        };
        let expected = scaled(reference::matmul(&matrix, &x));
        let sizes = scaled(reference::matmul(&absolute, &x_absolute));
        Self { shape, matrix, x, squares, expected, sizes }
    }

    /// Runs the product with `epilogue` by the variant that `gpu` has for its shape.
    fn run(&self, gpu: &Gpu, y: &Tensor, epilogue: Option<Epilogue>) -> Result<()> {
        let Self { shape, matrix, .. } = self;
        let (count, cols) = (shape.cols, matrix.cols as u32);
        let variant = shape.operation().variant_for(gpu, shape, "")?;
        let gpu = &MAT_VEC.only(gpu, variant);
        let weight = Weight::from_matrix(gpu, "weight", matrix)?;
        let x = Epilogue::unfinished_norm(gpu, "x", count, cols, count)?;
        gpu.write(&x.buffer, 0, &[self.x.as_slice(), &self.squares].concat());
        let rounded = Rounded::zeros(gpu, "x rounded", count, cols)?;
        let (rows, counts) = (RowCount::Few(count), gpu.upload("counts", &[count])?);
        let mut recording = Recording::default();
        let (weight, rounded, label) = (&weight, Some(&rounded), "self-test");
        let matmul = Matmul { weight, x: &x, rounded, y, rows, counts: &counts, experts: None, label };
        Quantize { x: &x, y: matmul.input(gpu)?, rows }.record(gpu, &mut recording)?;
        let eps = shape.normed.then_some(EPS);
        matmul.record_fused(gpu, &mut recording, &Fused { eps, epilogue })?;
        gpu.replay(&recording, &[u64::from(count)], None)
    }

    /// As [`SelfTest::check`] of its shape, but for variants whose product alone is wrong: these are not used.
    async fn check(
        &self,
        test: &mut SelfTest<'_>,
        bound: f32,
        run: impl AsyncFn(&Gpu) -> Result<f32>,
    ) -> Result<()> {
        let Self { shape, .. } = self;
        let normed = if shape.normed { ", normed" } else { "" };
        let name = format!("{}, {} rows{normed}", shape.format.name, shape.cols);
        let right = |variant: &&Variant<MatVecShape>| !test.gpu.rejects(&MAT_VEC.full_name(variant));
        let variants: Vec<_> = shape.operation().runnable(test.gpu, shape).filter(right).collect();
        test.check_variants(shape.operation(), &variants, name, bound, run).await
    }
}

/// More than a tile of outputs, and more blocks than a workgroup has invocations, all of them whole.
const OUTPUTS: usize = 70;
const INPUTS: usize = 2112;

/// Multiples of a power of two, with the largest code in every block.
fn in_codes(index: usize) -> f32 {
    let code = (index as u32).wrapping_mul(2_654_435_761) >> 25;
    if index.is_multiple_of(32) { 127.0 / 64.0 } else { (code as f32 - 64.0) / 64.0 }
}

pub async fn normed(test: &mut SelfTest<'_>, format: &'static Format) -> Result<()> {
    let shape = MatVecShape { normed: true, ..MatVecShape::new(format, 8) };
    let case = &Case::new(shape, OUTPUTS, INPUTS, in_codes);
    case.check(test, 2e-6, async |gpu| {
        let y = Tensor::zeros(gpu, "y", shape.cols, OUTPUTS as u32)?;
        case.run(gpu, &y, None)?;
        Ok(worst(&y.download(gpu, y.rows).await?, &case.expected, |index| case.sizes[index]))
    })
    .await
}

pub async fn swiglu(test: &mut SelfTest<'_>, format: &'static Format) -> Result<()> {
    let shape = MatVecShape { epilogue: EpilogueShape::Swiglu, ..MatVecShape::new(format, 1) };
    for shape in [shape, MatVecShape { normed: true, ..shape }] {
        let case = &Case::new(shape, OUTPUTS, INPUTS, |index| in_codes(index) / 8.0);
        let expected = reference::swiglu(&case.expected);
        let size = |index: usize| {
            let ([gate, up], [gate_size, up_size]) =
                (case.expected.as_chunks::<2>().0[index], case.sizes.as_chunks::<2>().0[index]);
            gate_size * up.abs() + gate.abs() * up_size
        };
        // WGSL promises exp(x) to 3 + 2 |x| units in the last place.
        case.check(test, 5e-6, async |gpu| {
            let gate_up = Tensor::zeros(gpu, "gate_up", shape.cols, OUTPUTS as u32)?;
            let y = Tensor::zeros(gpu, "y", shape.cols, OUTPUTS as u32 / 2)?;
            let swiglu = Swiglu { gate_up: &gate_up, y: Activation::F32(&y), per_row: 1 };
            case.run(gpu, &gate_up, Some(Epilogue::Swiglu(swiglu)))?;
            Ok(worst(&y.download(gpu, y.rows).await?, &expected, size))
        })
        .await?;
    }
    Ok(())
}

/// Rows whose products are exact: one turned by angles like any, the other by a quarter, which is exact, so that its key is
/// stored exactly.
pub async fn rope_kv(
    test: &mut SelfTest<'_>,
    format: &'static Format,
    attention: AttentionShape,
) -> Result<()> {
    let attention = AttentionShape { heads: 1, kv_heads: 1, ..attention };
    let shape = MatVecShape { epilogue: EpilogueShape::RopeKv(attention), ..MatVecShape::new(format, 2) };
    if attention.kv.numbers().scale_halves > 0 {
        return Ok(()); // blocks are more than a pair
    }
    let dim = attention.head_dim as usize;
    let frequencies = reference::rope_frequencies(dim, 1e4);
    let (mut cos, mut sin) = reference::rope_table(&frequencies, 1.0, 7..=7);
    cos.resize(dim, 0.0);
    sin.resize(dim, 1.0);
    let table: Vec<[f32; 2]> = cos.iter().zip(&sin).map(|(cos, sin)| [*cos, *sin]).collect();
    let slots = [PAGE + 8, 5];
    for shape in [shape, MatVecShape { normed: true, ..shape }] {
        let inputs = format.round_up(BLOCK);
        let case = &Case::new(shape, 3 * dim, inputs, |index| if index % inputs == 7 { 0.5 } else { 0.0 });
        let part = |part: usize| -> Vec<f32> {
            case.expected.chunks_exact(3 * dim).flat_map(|row| &row[part * dim..][..dim]).copied().collect()
        };
        let (mut q, mut k, v) = (part(0), part(1), part(2));
        reference::rope(&mut q, &cos, &sin, 1, dim);
        reference::rope(&mut k, &cos, &sin, 1, dim);
        case.check(test, 2e-6, async |gpu| {
            let qkv = Tensor::zeros(gpu, "qkv", 2, 3 * dim as u32)?;
            let turned = Tensor::zeros(gpu, "q", 2, dim as u32)?;
            let row = |position: u32| Row {
                position,
                slot: slots[position as usize],
                ..bytemuck::Zeroable::zeroed()
            };
            let rows = gpu.upload("rows", &[row(0), row(1)])?;
            let rope = gpu.upload("rope", &table)?;
            let cache = || gpu.allocate("cache", 2 * attention.page_bytes());
            let segment = KvSegment { k: cache()?, v: cache()?, first_slot: 0, slots: 2 * PAGE };
            let segments = std::slice::from_ref(&segment);
            let (rows, rope, shape) = (&rows, &rope, attention);
            let rope_kv = RopeKv { qkv: &qkv, q: &turned, rows, rope, segments, shape };
            case.run(gpu, &qkv, Some(Epilogue::RopeKv(rope_kv)))?;
            let largest = q.iter().fold(0.0f32, |most, value| most.max(value.abs()));
            let of_q = worst(&turned.download(gpu, 2).await?, &q, |_| largest);
            let layout = attention.page_layout();
            let pages = gpu.download::<u32>(&[segment.k.clone(), segment.v.clone()]).await?;
            let token = |side: KvSide, words: &[u32], slot: u32| -> Vec<f32> {
                let head = layout.words(side, slot as usize, 0).into_iter().map(|at| words[at]);
                layout.decode(&head.collect::<Vec<_>>())
            };
            let of_k = worst_stored(&layout, &token(KvSide::Keys, &pages[0], slots[1]), &k[dim..]);
            let found_v = slots.map(|slot| token(KvSide::Values, &pages[1], slot)).concat();
            Ok(of_q.max(of_k).max(worst_stored(&layout, &found_v, &v)))
        })
        .await?;
    }
    Ok(())
}

pub async fn rms_norm(test: &mut SelfTest<'_>, format: &'static Format) -> Result<()> {
    let shape = MatVecShape { epilogue: EpilogueShape::RmsNorm, ..MatVecShape::new(format, 8) };
    let case = &Case::new(shape, OUTPUTS, INPUTS, in_codes);
    let (count, cols) = (shape.cols, OUTPUTS as u32);
    let x = uniform_values(5, case.expected.len(), 10.0);
    let weight = uniform_values(6, OUTPUTS, 1.0);
    let mut sums = x.clone();
    reference::residual_add(&mut sums, &case.expected);
    let expected: Vec<f32> =
        sums.iter().zip(weight.iter().cycle()).map(|(sum, weight)| sum * weight).collect();
    let squares: Vec<f32> =
        sums.chunks_exact(OUTPUTS).map(|row| row.iter().map(|value| value * value).sum()).collect();
    case.check(test, 2e-6, async |gpu| {
        let x = Tensor::from_values(gpu, "x", &x, cols)?;
        let delta = Tensor::zeros(gpu, "delta", count, cols)?;
        let y = Epilogue::unfinished_norm(gpu, "y", count, cols, count)?;
        let weight = Tensor::from_values(gpu, "weight", &weight, cols)?;
        let (x, delta, weight, y_to) = (&x, Some(&delta), &weight, Activation::F32(&y));
        let norm = RmsNorm { x, delta, weight, y: y_to, row_ids: None, eps: EPS };
        case.run(gpu, delta.expect("given"), Some(Epilogue::RmsNorm(norm)))?;
        let size = |index: usize| case.sizes[index] + 10.0;
        let error = worst(&x.download(gpu, count).await?, &sums, size);
        let error = error.max(worst(&y.download(gpu, count).await?, &expected, size));
        let all = gpu.download::<f32>(std::slice::from_ref(&y.buffer)).await?.remove(0);
        let rows = all[(count * y.stride()) as usize..].chunks_exact(y.stride() as usize / 4);
        let found: Vec<f32> = rows.map(|row| row.iter().sum()).collect();
        // Of a row whose values are off by some share of their sizes.
        let size = |row: usize| (0..OUTPUTS).map(|i| size(row * OUTPUTS + i).powi(2)).sum::<f32>();
        Ok(error.max(worst(&found, &squares, size)))
    })
    .await
}
