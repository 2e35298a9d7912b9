//! Products with weights, and rows of them.

use half::f16;

use super::{
    SelfTest,
    output::{self, Output},
    worst,
};
use crate::{
    Result,
    gpu::{Capability, Gpu, KernelKey, Recording},
    ops::{
        EMBEDDING, Embedding, MAT_MAT, MAT_VEC, MatMatShape, MatVecShape, Matmul, Operation, QUANTIZE,
        Quantize, RouteShape, Routes, Row, RowCount, SAMPLED, Variant, Weight, count, matmul::reads,
        rounds_to_f16, weight::uniform_values,
    },
    quant::{BLOCK, Format, Matrix, by_name},
    reference,
    tensor::{ActivationFormat, Rounded, Tensor},
};

/// More than most tiles in every direction, and more blocks than a workgroup has invocations; and as many columns, or some
/// more.
const ROWS: usize = 70;
const COLS: usize = 2100;

/// More than the largest tile, and of activations as well, so that there is a tile that ends nowhere.
const LARGE_ROWS: usize = 134;
const LARGE_COUNT: u32 = 141;

/// As many for each of the experts, of which the second is not chosen, and for the largest tiles.
const FEW_COLS: usize = 300;
const EXPERTS: RouteShape = RouteShape { experts: 3, chosen: 2 };

/// Random weights. Those of odd rows are so small that block scales, or the weights themselves in
/// `f16`, are subnormal.
fn matrix(format: &'static Format, rows: usize, cols: usize) -> Matrix {
    let cols = format.round_up(cols);
    let mut values = uniform_values(1, rows * cols, 0.5);
    values.chunks_exact_mut(cols).skip(1).step_by(2).flatten().for_each(|value| *value *= 1e-4);
    Matrix::encode(format, rows, cols, &values)
}

/// How every kernel reads 16-bit floats, see [`KernelKey::on`]: here that of [`Embedding`], whose table has its key.
static HALF: Operation<()> = Operation {
    name: "half",
    variants: &[
        Variant {
            name: "f16_conversion",
            fits: |()| true,
            key: |()| KernelKey { needs: &[Capability::F16Conversion], ..KernelKey::new("embedding") },
        },
        Variant { name: "baseline", fits: |()| true, key: |()| KernelKey::new("embedding") },
    ],
};

/// Every finite number of 16 bits, as weights.
pub async fn half(test: &mut SelfTest<'_>) -> Result<()> {
    let values: Vec<f32> =
        (0..=u16::MAX).map(f16::from_bits).filter(|value| value.is_finite()).map(f16::to_f32).collect();
    let format = by_name("f16").expect("a format of the table");
    let matrix = Matrix::encode(format, 1, values.len(), &values);
    test.check(&HALF, &(), "every number", 0.0, async |gpu| {
        Ok(worst(&embed(gpu, &matrix, &[0]).await?, &values, |_| 1.0))
    })
    .await
}

pub async fn embedding(test: &mut SelfTest<'_>, format: &'static Format) -> Result<()> {
    let matrix = matrix(format, ROWS, COLS);
    let tokens = [3u32, 0, ROWS as u32 - 1];
    let expected = reference::embedding(&matrix, &tokens);
    // One multiplication of few bits is exact.
    test.check(&EMBEDDING, &format, format.name, 1e-7, async |gpu| {
        Ok(worst(&embed(gpu, &matrix, &tokens).await?, &expected, |index| expected[index].abs()))
    })
    .await
}

/// Rows of the matrix; the last token is given by where it was sampled.
async fn embed(gpu: &Gpu, matrix: &Matrix, tokens: &[u32]) -> Result<Vec<f32>> {
    let weight = Weight::from_matrix(gpu, "weight", matrix)?;
    let last = tokens.len() as u32 - 1;
    let rows = tokens[..last as usize].iter().copied().chain([SAMPLED + last]);
    let rows: Vec<_> = rows.map(|token| Row { token, ..bytemuck::Zeroable::zeroed() }).collect();
    let rows = gpu.upload("rows", &rows)?;
    let sampled = gpu.upload("sampled", tokens)?;
    let y = Tensor::zeros(gpu, "y", tokens.len() as u32, weight.cols)?;
    let mut recording = Recording::default();
    Embedding { weight: &weight, rows: &rows, sampled: &sampled, y: &y }.record(gpu, &mut recording)?;
    gpu.replay(&recording, &[tokens.len() as u64], None)?;
    y.download(gpu, y.rows).await
}

/// A value in 8-bit codes is off by half a step of a 127th of the largest in its block. In a sum of
/// many these errors mostly cancel: this is about twice what they add up to here.
const ROUNDED: f32 = 1e-3;

/// As much for factors that are both rounded, or cut off, to the 11 bits of an `f16`: about five times.
const ROUNDED_TO_F16: f32 = 2e-4;

pub async fn quantize(test: &mut SelfTest<'_>) -> Result<()> {
    const ROWS: u32 = 4;
    const COLS: usize = 36;
    let mut values = uniform_values(3, ROWS as usize * COLS, 1.0);
    // Large and small blocks, one of zeros, and some that are subnormal in 16 bits.
    values[..32].iter_mut().for_each(|value| *value *= 1e12);
    values[COLS..][..32].iter_mut().for_each(|value| *value *= 1e-12);
    values[2 * COLS..3 * COLS].fill(0.0);
    values[3 * COLS..].iter_mut().for_each(|value| *value *= 1e-6);
    for format in [ActivationFormat::Q8, ActivationFormat::F16] {
        let (case, bound) = (format!("blocks of all sizes to {format:?}"), output::bound(format, 0.0));
        test.check(&QUANTIZE, &format, case, bound, async |gpu| {
            let x = Tensor::from_values(gpu, "x", &values, COLS as u32)?;
            let y = Output::new(gpu, format, ROWS, COLS as u32)?;
            let mut recording = Recording::default();
            Quantize { x: &x, y: y.activation(), rows: RowCount::Few(ROWS) }.record(gpu, &mut recording)?;
            gpu.replay(&recording, &[0], None)?;
            y.error(gpu, &values, |index| values[index].abs()).await
        })
        .await?;
    }
    Ok(())
}

/// Shapes of one row and of eight: other numbers of rows differ in nothing but that number. With `bias`, some have one.
pub async fn mat_vec(test: &mut SelfTest<'_>, format: &'static Format, bias: bool) -> Result<()> {
    for (cols, bias) in [(1, false), (8, false), (1, bias)].into_iter().take(2 + usize::from(bias)) {
        let shape = MatVecShape::new(format, cols);
        let matrix = matrix(format, ROWS, COLS);
        product(test, &MAT_VEC, &shape, Product::new(matrix, RowCount::Few(cols), cols, bias)).await?;
    }
    Ok(())
}

pub async fn mat_mat(test: &mut SelfTest<'_>, format: &'static Format, bias: bool) -> Result<()> {
    // One more than a tile's worth of rows, so that a tile has an end within it.
    let cases = RowCount::MANY.map(|most| (most, most.min(80) - 3, [ROWS, COLS], false));
    let [few, .., many] = RowCount::MANY;
    let large = (many, LARGE_COUNT, [LARGE_ROWS, FEW_COLS], false);
    let biased = bias.then_some((few, few - 3, [ROWS, COLS], true));
    for (most, count, [rows, cols], bias) in cases.into_iter().chain([large]).chain(biased) {
        let shape = MatMatShape { format, rounded: true, most, experts: false };
        let case = Product::new(matrix(format, rows, cols), RowCount::many(count::ROWS, most), count, bias);
        product(test, &MAT_MAT, &shape, case).await?;
    }
    Ok(())
}

/// Few rows and many of a matrix for each expert.
pub async fn of_experts(test: &mut SelfTest<'_>, format: &'static Format) -> Result<()> {
    let share = |rows: u32| (rows * EXPERTS.chosen).div_ceil(EXPERTS.experts);
    for count in [1, 8] {
        let shape = MatVecShape { experts: true, ..MatVecShape::new(format, share(count)) };
        product(test, &MAT_VEC, &shape, Product::of_experts(format, RowCount::Few(count), count)).await?;
    }
    for most in RowCount::MANY {
        let shape = MatMatShape { format, rounded: true, most, experts: true };
        let count = most.min(80) - 3;
        let rows = RowCount::many(count::ROWS, most);
        product(test, &MAT_MAT, &shape, Product::of_experts(format, rows, count)).await?;
    }
    Ok(())
}

/// All variants that read their factors exactly, with activations that 8-bit codes hold exactly; then those that
/// round them, with any.
async fn product<S>(
    test: &mut SelfTest<'_>,
    operation: &Operation<S>,
    shape: &S,
    case: Product,
) -> Result<()> {
    let bias = if case.bias.is_some() { ", bias" } else { "" };
    let experts = if case.experts > 1 { ", experts" } else { "" };
    let name = format!("{}, {} rows{bias}{experts}", case.matrix.format.name, case.count);
    let variants = |gpu: &Gpu, wanted: fn(&KernelKey) -> bool| -> Vec<_> {
        operation.runnable(gpu, shape).filter(|variant| wanted(&(variant.key)(shape))).collect()
    };
    // Errors that cancel are the larger, beside the sum, the fewer there are.
    let fewer = (COLS as f32 / case.matrix.cols as f32).max(1.0).sqrt();
    let exact = variants(test.gpu, |key| !rounds_to_f16(key));
    let error = async |gpu: &Gpu| case.error(gpu, &case.in_codes).await;
    test.check_variants(operation, &exact, &name, 2e-6, error).await?;
    let error = async |gpu: &Gpu| case.error(gpu, &case.values).await;
    let to_codes = variants(test.gpu, |key| reads(key) == ActivationFormat::Q8);
    test.check_variants(operation, &to_codes, format!("{name}, rounded to codes"), fewer * ROUNDED, error)
        .await?;
    let to_f16 = variants(test.gpu, |key| rounds_to_f16(key) || reads(key) == ActivationFormat::F16);
    test.check_variants(operation, &to_f16, format!("{name}, rounded to f16"), fewer * ROUNDED_TO_F16, error)
        .await
}

struct Product {
    /// With experts, one after the other.
    matrix: Matrix,
    experts: usize,
    rows: RowCount,
    count: u32,
    /// Of the rows of activations.
    expert_of: Vec<usize>,
    /// `[expert_of.len(), cols]`.
    values: Vec<f32>,
    /// As `values`, but multiples of a power of two, at most 127, with 127 in every block.
    in_codes: Vec<f32>,
    /// `[matrix.rows]`.
    bias: Option<Vec<f32>>,
}

impl Product {
    fn new(matrix: Matrix, rows: RowCount, count: u32, bias: bool) -> Self {
        let bias = bias.then(|| uniform_values(4, matrix.rows, 100.0));
        Self { bias, ..Self::with_rows(matrix, rows, count, vec![0; count as usize]) }
    }

    /// Every row goes to the first expert and to the last.
    fn of_experts(format: &'static Format, rows: RowCount, count: u32) -> Self {
        let experts = EXPERTS.experts as usize;
        let matrix = matrix(format, experts * ROWS, FEW_COLS);
        let expert_of =
            [0, experts - 1].into_iter().flat_map(|expert| vec![expert; count as usize]).collect();
        Self { experts, ..Self::with_rows(matrix, rows, count, expert_of) }
    }

    fn with_rows(matrix: Matrix, rows: RowCount, count: u32, expert_of: Vec<usize>) -> Self {
        let values = uniform_values(2, expert_of.len() * matrix.cols, 1.0);
        let code = |(index, value): (usize, &f32)| match index % matrix.cols % BLOCK {
            0 => 127.0 / 64.0,
            _ => (value * 64.0).round() / 64.0,
        };
        let in_codes = values.iter().enumerate().map(code).collect();
        Self { matrix, experts: 1, rows, count, expert_of, values, in_codes, bias: None }
    }

    /// Rows of a matrix.
    fn outputs(&self) -> usize {
        self.matrix.rows / self.experts
    }

    fn matrix_of(&self, expert: usize) -> Matrix {
        let Matrix { format, cols, codes, scales, .. } = &self.matrix;
        let part = |count: usize| count / self.experts * expert..count / self.experts * (expert + 1);
        let (codes, scales) = (codes[part(codes.len())].to_vec(), scales[part(scales.len())].to_vec());
        Matrix { format, rows: self.outputs(), cols: *cols, codes, scales }
    }

    /// The rows of activations of each expert, on the device.
    fn routes(&self, gpu: &Gpu) -> Result<Option<Routes>> {
        let before = |expert| self.expert_of.iter().filter(|other| **other < expert).count() as u32;
        let offsets: Vec<u32> = (0..=self.experts).map(before).collect();
        let routes = || {
            Ok(Routes { offsets: gpu.upload("offsets", &offsets)?, ..Routes::new(gpu, self.count, EXPERTS)? })
        };
        (self.experts > 1).then(routes).transpose()
    }

    /// Worst error with the activations `x`, `[expert_of.len(), cols]`, relative to `Σ|w·x|` and the bias.
    async fn error(&self, gpu: &Gpu, x: &[f32]) -> Result<f32> {
        let cols = self.matrix.cols;
        // Rows of an expert follow one another.
        let mut expected = Vec::new();
        let mut rest = x;
        for experts in self.expert_of.chunk_by(|a, b| a == b) {
            let (own, others) = rest.split_at(experts.len() * cols);
            expected.extend(reference::matmul(&self.matrix_of(experts[0]), own));
            rest = others;
        }
        if let Some(bias) = &self.bias {
            reference::add_bias(&mut expected, bias);
        }
        let weights: Vec<Vec<f32>> = (0..self.matrix.rows).map(|row| self.matrix.row(row)).collect();
        let magnitude = |index: usize| -> f32 {
            let (row, output) = (index / self.outputs(), index % self.outputs());
            let weights = &weights[self.expert_of[row] * self.outputs() + output];
            let products = weights.iter().zip(&x[row * cols..]).map(|(w, x)| (w * x).abs());
            products.sum::<f32>() + self.bias.as_ref().map_or(0.0, |bias| bias[output].abs())
        };
        let mut weight = Weight::from_experts(gpu, "weight", self.experts as u32, &self.matrix)?;
        weight.bias = self.bias.as_ref().map(|bias| gpu.upload("bias", bias)).transpose()?;
        let x = Tensor::from_values(gpu, "x", x, cols as u32)?;
        let rounded = Rounded::zeros(gpu, "x rounded", x.rows, cols as u32)?;
        let y = Tensor::zeros(gpu, "y", x.rows, self.outputs() as u32)?;
        let counts = gpu.upload("counts", &[self.count])?;
        let mut recording = Recording::default();
        let (rows, label, routes) = (self.rows, "self-test", self.routes(gpu)?);
        let matmul = Matmul {
            weight: &weight,
            x: &x,
            rounded: Some(&rounded),
            y: &y,
            rows,
            counts: &counts,
            experts: routes.as_ref(),
            label,
        };
        Quantize { x: &x, y: matmul.input(gpu)?, rows: RowCount::Few(x.rows) }.record(gpu, &mut recording)?;
        matmul.record(gpu, &mut recording)?;
        gpu.replay(&recording, &[u64::from(self.count)], None)?;
        Ok(worst(&y.download(gpu, y.rows).await?, &expected, magnitude))
    }
}
