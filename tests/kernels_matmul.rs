//! Products and embedding: every variant × format × odd shape against `reference/`, on the device.

mod device;

use device::{GPU, noise};
use mistral_wgpu::{
    gpu::*,
    ops::*,
    quant::{BLOCK, FORMATS, Format, Matrix, by_name},
    reference,
    tensor::{Q8Tensor, Tensor},
};
use pollster::block_on;

fn open(options: &GpuOptions) -> Gpu {
    block_on(Gpu::open(options)).unwrap()
}

/// Weight shapes: rows and columns that fill no tile, no block, or exactly one.
const SHAPES: [(u32, u32); 6] = [(1, 32), (3, 40), (33, 96), (100, 260), (64, 64), (130, 2080)];

fn round_up(format: &Format, cols: u32) -> u32 {
    format.round_up(cols as usize) as u32
}

fn matrix(format: &'static Format, rows: u32, cols: u32) -> Matrix {
    let values = noise(u64::from(rows * 7 + cols), (rows * cols) as usize);
    Matrix::encode(format, rows as usize, cols as usize, &values)
}

/// As [`matrix`], but a 16-bit float holds every weight exactly: scales are powers of two, or these times few bits.
fn short_matrix(format: &'static Format, rows: u32, cols: u32) -> Matrix {
    let scales: &[u16] = match format.name {
        "int4" => &[0x2c00, 0x4700],
        "q4_1" | "q5_1" => &[0x2c00, 0xb800],
        "q4_k" | "q5_k" => &[0x0c00, 0x1800, 0x1234, 0x5678, 0x9abc, 0xdef0, 0x1122, 0x3344],
        "q6_k" => &[0x0c00, 0x0408, 0xfc08, 0x0208, 0x0801, 0xf804, 0x0404, 0x0802, 0x08fe],
        "iq4_xs" => &[0x1c00, 0xaa9a, 0x1132, 0x1111],
        _ => &[0x2c00],
    };
    if format.scale_halves > 0 {
        let mut matrix = matrix(format, rows, cols);
        matrix.scales.chunks_exact_mut(scales.len()).for_each(|block| block.copy_from_slice(scales));
        return matrix;
    }
    let values = noise(u64::from(rows * 7 + cols), (rows * cols) as usize);
    let values: Vec<f32> = values.iter().map(|value| (value * 127.0).round() / 128.0).collect();
    Matrix::encode(format, rows as usize, cols as usize, &values)
}

/// A handle to the device for which `name` is the best variant of its operation, for the shapes that it fits.
fn best(operation: &str, name: &str, variants: impl Iterator<Item = &'static str>) -> Gpu {
    let gpu = GPU.with_own_rejections();
    for better in variants.take_while(|other| *other != name) {
        gpu.reject(format!("{operation}/{better}"));
    }
    gpu
}

/// The device without the variants that round their factors.
fn exact() -> Gpu {
    fn reject<S>(gpu: &Gpu, operation: &Operation<S>, shape: &S) {
        for variant in operation.variants {
            let key = (variant.key)(shape);
            if key.needs.contains(&Capability::Integer) || rounds_to_f16(&key) {
                gpu.reject(operation.full_name(variant));
            }
        }
    }
    let gpu = GPU.with_own_rejections();
    let format = by_name("q8_0").unwrap();
    reject(&gpu, &MAT_VEC, &MatVecShape { format, cols: 1, q8: true, experts: false });
    reject(&gpu, &MAT_MAT, &many_rows(format));
    gpu
}

/// Every variant of [`MAT_MAT`] that the device can run, by itself, with the formats that it fits.
fn each_mat_mat() -> Vec<(&'static Variant<MatMatShape>, Gpu, Vec<&'static Format>)> {
    let names = runnable(&MAT_MAT, many_rows);
    let runnable = MAT_MAT.variants.iter().filter(|variant| names.contains(&variant.name));
    let fits = |variant: &Variant<MatMatShape>| {
        FORMATS.into_iter().filter(|format| (variant.fits)(&many_rows(format))).collect()
    };
    runnable.map(|variant| (variant, MAT_MAT.only(&GPU, variant), fits(variant))).collect()
}

fn many_rows(format: &'static Format) -> MatMatShape {
    MatMatShape { format, q8: true, most: u32::MAX, experts: false }
}

/// Runs a product over all rows of `x` with `rows` rows in `y`, of which the product writes as many as
/// `count` says: the rest stays what it was, NaN.
fn product(gpu: &Gpu, weight: &Weight, x: &[f32], rows: RowCount, y_rows: u32) -> Vec<f32> {
    product_of(gpu, weight, x, rows, y_rows).0
}

/// As [`product`], with the activations that the kernel multiplies: `x`, or what 8-bit codes make of it.
fn product_of(
    gpu: &Gpu,
    weight: &Weight,
    values: &[f32],
    rows: RowCount,
    y_rows: u32,
) -> (Vec<f32>, Vec<f32>) {
    let x = Tensor::from_values(gpu, "x", values, weight.cols).unwrap();
    let x_q8 = Q8Tensor::zeros(gpu, "x in codes", x.rows, weight.cols).unwrap();
    let untouched = vec![f32::NAN; (y_rows * weight.rows) as usize];
    let y = Tensor::from_values(gpu, "y", &untouched, weight.rows).unwrap();
    let counts = [0, x.rows];
    let buffer = gpu.upload("counts", &counts).unwrap();
    let mut recording = Recording::default();
    let matmul = Matmul {
        weight,
        x: &x,
        x_q8: Some(&x_q8),
        y: &y,
        rows,
        counts: &buffer,
        experts: None,
        label: "test",
    };
    let reads_q8 = matmul.reads_q8(gpu).unwrap();
    if reads_q8 {
        Quantize { x: &x, q8: &x_q8, rows }.record(gpu, &mut recording).unwrap();
    }
    matmul.record(gpu, &mut recording).unwrap();
    assert_eq!(recording.dispatches(), weight.parts.len() + usize::from(reads_q8));
    gpu.replay(&recording, &counts.map(u64::from), None).unwrap();
    let multiplied = if reads_q8 { block_on(x_q8.download(gpu, x.rows)).unwrap() } else { values.to_vec() };
    (block_on(y.download(gpu, y_rows)).unwrap(), multiplied)
}

/// Every output within `bound × Σ|w·x|` of the reference.
fn assert_product(found: &[f32], matrix: &Matrix, x: &[f32], what: &str) {
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

/// Both products of every format and shape, with these rows of activations.
fn check_products(gpu: &Gpu, few: &[u32], many: &[u32]) {
    check_products_of(&FORMATS, gpu, few, many, matrix, noise);
}

fn check_products_of(
    formats: &[&'static Format],
    gpu: &Gpu,
    few: &[u32],
    many: &[u32],
    matrix: fn(&'static Format, u32, u32) -> Matrix,
    activations: fn(u64, usize) -> Vec<f32>,
) {
    let mut checked = 0;
    for format in formats {
        for (rows, cols) in SHAPES {
            let cols = round_up(format, cols);
            let matrix = matrix(format, rows, cols);
            let weight = Weight::from_matrix(gpu, "weight", &matrix).unwrap();
            let counts = few.iter().map(|n| (*n, RowCount::Few(*n)));
            for (n, count) in counts.chain(many.iter().map(|n| (*n, RowCount::many(1, *n)))) {
                let x = activations(u64::from(n), (n * cols) as usize);
                let (y, multiplied) = product_of(gpu, &weight, &x, count, n);
                assert_product(
                    &y,
                    &matrix,
                    &multiplied,
                    &format!("{} {rows}x{cols}, {count:?} {n}", format.name),
                );
                checked += 1;
            }
        }
    }
    assert_eq!(checked, formats.len() * SHAPES.len() * (few.len() + many.len()));
}

/// Variants of a product that the device can run for any format.
fn runnable<S>(operation: &Operation<S>, shape: impl Fn(&'static Format) -> S) -> Vec<&'static str> {
    let shapes = FORMATS.map(shape);
    let runs = |variant: &&Variant<S>| {
        shapes.iter().any(|shape| operation.runnable(&GPU, shape).any(|other| other.name == variant.name))
    };
    let names: Vec<_> = operation.variants.iter().filter(runs).map(|variant| variant.name).collect();
    assert!(names.contains(&"baseline") && names.iter().any(|name| name.contains("integer")), "{names:?}");
    names
}

fn runnable_mat_vec() -> Vec<&'static str> {
    runnable(&MAT_VEC, |format| MatVecShape { format, cols: 1, q8: true, experts: false })
}

#[test]
fn mat_vec() {
    for variant in runnable_mat_vec() {
        let gpu = best("mat_vec", variant, MAT_VEC.variants.iter().map(|variant| variant.name));
        check_products(&gpu, &[1, 2, 3, 4, 5, 6, 7, 8], &[]);
    }
}

#[test]
fn mat_mat() {
    let short = |seed, count| noise(seed, count).iter().map(|x| (x * 64.0).round() / 64.0).collect();
    let rows = [1, 9, 16, 19, 64, 70];
    for (variant, gpu, formats) in each_mat_mat() {
        if rounds_to_f16(&(variant.key)(&many_rows(formats[0]))) {
            check_products_of(&formats, &gpu, &[], &rows, short_matrix, short);
        } else {
            check_products_of(&formats, &gpu, &[], &rows, matrix, noise);
        }
    }
}

#[test]
fn on_floor_limits_without_anything_optional() {
    let all = open(&GpuOptions::default()).capabilities();
    let gpu = open(&GpuOptions { floor_limits: true, disable: all, ..Default::default() });
    assert_eq!(gpu.limits().workgroup_memory, 16 << 10);
    assert_eq!(gpu.capabilities(), Capabilities::default());
    check_products(&gpu, &[1, 8], &[33]);
}

#[test]
fn a_row_has_the_same_bits_in_every_small_batch() {
    for variant in runnable_mat_vec() {
        let gpu = best("mat_vec", variant, MAT_VEC.variants.iter().map(|variant| variant.name));
        for format in FORMATS {
            let (rows, cols) = (37, round_up(format, 4128));
            let weight = Weight::from_matrix(&gpu, "weight", &matrix(format, rows, cols)).unwrap();
            let x = noise(5, 8 * cols as usize);
            let alone: Vec<f32> = x
                .chunks_exact(cols as usize)
                .flat_map(|x| product(&gpu, &weight, x, RowCount::Few(1), 1))
                .collect();
            for n in 2..=8 {
                let y = product(&gpu, &weight, &x[..(n * cols) as usize], RowCount::Few(n), n);
                let bits = |y: &[f32]| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
                let expected = bits(&alone[..(n * rows) as usize]);
                assert_eq!(bits(&y), expected, "{variant}/{} {n}", format.name);
            }
        }
    }
}

#[test]
fn rows_beyond_the_count_are_not_written() {
    for (variant, gpu, formats) in each_mat_mat() {
        for format in formats {
            let cols = round_up(format, 96);
            let weight = Weight::from_matrix(&gpu, "weight", &matrix(format, 33, cols)).unwrap();
            let y = product(&gpu, &weight, &noise(1, 5 * cols as usize), RowCount::many(1, 5), 40);
            assert!(y[..5 * 33].iter().all(|y| y.is_finite()), "{}/{}", variant.name, format.name);
            assert!(y[5 * 33..].iter().all(|y| y.is_nan()), "{}/{}", variant.name, format.name);
        }
    }
}

/// What a 16-bit float cannot hold counts as the largest that it can; infinity stays infinite.
#[test]
fn rounding_to_f16_makes_nothing_infinite() {
    for (variant, gpu, formats) in each_mat_mat() {
        let rounds = rounds_to_f16(&(variant.key)(&many_rows(formats[0])));
        for format in formats {
            let cols = round_up(format, 32);
            let matrix = short_matrix(format, 3, cols);
            let weight = Weight::from_matrix(&gpu, "weight", &matrix).unwrap();
            let row =
                |value: f32| -> Vec<f32> { (0..cols).map(|i| if i == 0 { value } else { 0.0 }).collect() };
            let x = [row(1e6), row(-65504.0), row(f32::INFINITY)].concat();
            let y = product(&gpu, &weight, &x, RowCount::many(1, 3), 3);
            let large = if rounds { 65504.0 } else { 1e6 };
            let first = (0..3).map(|row| matrix.row(row)[0]).enumerate().find(|(_, weight)| *weight != 0.0);
            let (at, weight) = first.unwrap();
            let error = (y[at] / (weight * large) - 1.0).abs();
            assert!(error < 1e-6, "{}/{}: {}", variant.name, format.name, y[at]);
            assert!(
                y[3 + at].is_finite() && !y[6 + at].is_finite(),
                "{}/{}: {y:?}",
                variant.name,
                format.name
            );
        }
    }
}

/// Products with unit vectors read a weight's columns back, exactly.
#[test]
fn every_code_and_subnormal_scale_is_exact() {
    let floats = exact();
    for format in FORMATS {
        let cols = format.block;
        let identity: Vec<f32> =
            (0..cols * cols).map(|i| f32::from(u8::from(i % cols == i / cols))).collect();
        // Normal, largest subnormal, smallest subnormal, negative subnormal, negative, zero, largest.
        let halves = [0x2e66u16, 0x03ff, 0x0001, 0x8003, 0xb800, 0x0000, 0x7bff, 0x0400];
        let mut matrix = matrix(format, halves.len() as u32, cols as u32);
        let bits = |i: usize| (i as u32).wrapping_mul(0x9e37_79b9) ^ 0x807f_ff01;
        if format.scale_halves > 0 {
            for (row, scales) in matrix.scales.chunks_exact_mut(format.scale_halves).enumerate() {
                // Beyond the first, and a second that may be a minimum, there are numbers of any bits.
                let half =
                    |i: usize| if i < 2 { halves[(row + 3 * i) % 8] } else { bits(9 * row + i) as u16 };
                scales.iter_mut().enumerate().for_each(|(i, scale)| *scale = half(i));
            }
            matrix.codes.iter_mut().enumerate().for_each(|(i, word)| *word = bits(i));
        } else if format.name == "f16" {
            let pairs = |i: usize| u32::from(halves[i % 8]) | u32::from(halves[(i / 8) % 8]) << 16;
            matrix.codes.iter_mut().enumerate().for_each(|(i, word)| *word = pairs(i));
        }
        let weight = Weight::from_matrix(&floats, "weight", &matrix).unwrap();
        let expected: Vec<f32> = reference::matmul(&matrix, &identity);
        let many = product(&floats, &weight, &identity, RowCount::many(1, cols as u32), cols as u32);
        assert_eq!(many, expected, "{}", format.name);
        let few = |gpu: &Gpu| -> Vec<f32> {
            let product = |x: &[f32]| product(gpu, &weight, x, RowCount::Few(8), 8);
            identity.chunks(8 * cols).flat_map(product).collect()
        };
        assert_eq!(few(&floats), expected, "{}", format.name);
        // The scale of such a vector's codes is 1/127, which is rounded, and so is a product before a minimum is added.
        let largest =
            |row: usize| matrix.row(row).into_iter().fold(0.0f32, |most, weight| most.max(weight.abs()));
        for (i, (found, expected)) in few(&GPU).into_iter().zip(&expected).enumerate() {
            assert!(
                (found - expected).abs() <= 2e-7 * largest(i % 8),
                "{}: {found}, {expected}",
                format.name
            );
        }
    }
}

/// The matrix in parts of six rows, and a last one that is smaller.
fn in_parts(gpu: &Gpu, matrix: &Matrix) -> Weight {
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

#[test]
fn parts_are_one_matrix() {
    for format in FORMATS {
        let cols = round_up(format, 96);
        let matrix = matrix(format, 33, cols);
        let weight = in_parts(&GPU, &matrix);
        assert_eq!(weight.parts.len(), 6);
        let whole = Weight::from_matrix(&GPU, "weight", &matrix).unwrap();
        let x = noise(3, 3 * cols as usize);
        let (y, multiplied) = product_of(&GPU, &weight, &x, RowCount::Few(3), 3);
        assert_eq!(y, product(&GPU, &whole, &x, RowCount::Few(3), 3), "{}", format.name);
        assert_product(&y, &matrix, &multiplied, format.name);
    }
    for (variant, gpu, formats) in each_mat_mat() {
        for format in formats {
            let cols = round_up(format, 96);
            let matrix = matrix(format, 33, cols);
            let weights = [in_parts(&gpu, &matrix), Weight::from_matrix(&gpu, "weight", &matrix).unwrap()];
            let x = noise(40, 40 * cols as usize);
            let [parts, whole] = weights.map(|weight| product(&gpu, &weight, &x, RowCount::many(1, 40), 40));
            assert_eq!(parts, whole, "{}/{}", variant.name, format.name);
        }
    }
}

/// In a weight of several parts, so that the outputs of most do not begin at 0.
#[test]
fn every_product_adds_its_bias() {
    let added = |gpu: &Gpu, format: &'static Format, rows: RowCount, n: u32, what: &str| {
        let cols = round_up(format, 96);
        let matrix = matrix(format, 33, cols);
        let mut weight = in_parts(gpu, &matrix);
        let x = noise(u64::from(n), (n * cols) as usize);
        let mut expected = product(gpu, &weight, &x, rows, n);
        let bias: Vec<f32> = noise(9, 33).iter().map(|value| 10.0 * value).collect();
        reference::add_bias(&mut expected, &bias);
        weight.bias = Some(gpu.upload("bias", &bias).unwrap());
        for (found, expected) in product(gpu, &weight, &x, rows, n).iter().zip(&expected) {
            assert!((found - expected).abs() <= 2e-6, "{what}/{}: {found} for {expected}", format.name);
        }
    };
    for variant in runnable_mat_vec() {
        let gpu = best("mat_vec", variant, MAT_VEC.variants.iter().map(|variant| variant.name));
        FORMATS.into_iter().for_each(|format| added(&gpu, format, RowCount::Few(3), 3, variant));
    }
    for (variant, gpu, formats) in each_mat_mat() {
        formats.iter().for_each(|format| added(&gpu, format, RowCount::many(1, 70), 70, variant.name));
    }
}

#[test]
fn embedding_is_exact() {
    for format in FORMATS {
        let cols = round_up(format, 100);
        let matrix = matrix(format, 33, cols);
        let weight = in_parts(&GPU, &matrix);
        let tokens = [32, 0, 5, 6, 31, 5];
        // Two of them sampled on the device.
        let sampled = GPU.upload("sampled", &[31, 17, 0]).unwrap();
        let rows = [32, SAMPLED + 2, 5, 6, SAMPLED, 5];
        let rows = rows.map(|token| Row { token, ..bytemuck::Zeroable::zeroed() });
        let rows = GPU.upload("rows", &rows).unwrap();
        let y = Tensor::zeros(&GPU, "y", 6, cols).unwrap();
        let mut recording = Recording::default();
        Embedding { weight: &weight, rows: &rows, sampled: &sampled, y: &y }
            .record(&GPU, &mut recording)
            .unwrap();
        GPU.replay(&recording, &[tokens.len() as u64], None).unwrap();
        let found = block_on(y.download(&GPU, 6)).unwrap();
        assert_eq!(found, reference::embedding(&matrix, &tokens), "{}", format.name);
    }
}

#[test]
fn a_row_too_large_for_a_part_is_refused() {
    let error = Weight::allocate_parts(&GPU, "w", by_name("q8_0").unwrap(), 1, 2, 64, 127).unwrap_err();
    assert_eq!(error.kind(), mistral_wgpu::ErrorKind::OutOfMemory);
}

#[test]
fn rows_of_broken_blocks_are_refused() {
    let error = Weight::allocate(&GPU, "w", by_name("q4_k").unwrap(), 2, 320).unwrap_err();
    assert_eq!(error.kind(), mistral_wgpu::ErrorKind::Argument);
    let message = "w: expected a multiple of 256 columns for weights in q4_k, found 320";
    assert_eq!(error.to_string(), message);
}

#[test]
fn random_weights_have_the_standard_deviation() {
    let (rows, cols) = (64, 1024);
    for format in FORMATS {
        let weight = Weight::allocate_parts(&GPU, "w", format, 1, rows, cols, 64 << 10).unwrap();
        weight.fill_random(&GPU, 7, 0.02).unwrap();
        let mut matrix = Matrix::encode(format, 0, cols as usize, &[]);
        for part in &weight.parts {
            matrix
                .codes
                .extend(block_on(GPU.download::<u32>(std::slice::from_ref(&part.codes))).unwrap().remove(0));
            if let Some(scales) = &part.scales {
                matrix
                    .scales
                    .extend(block_on(GPU.download::<u16>(std::slice::from_ref(scales))).unwrap().remove(0));
            }
        }
        let rows: Vec<Vec<f32>> = (0..rows as usize).map(|row| matrix.row(row)).collect();
        let values = rows.iter().flatten().map(|value| f64::from(*value)).collect::<Vec<_>>();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
        assert!(mean.abs() < 5e-4, "{}: mean {mean}", format.name);
        assert!((variance.sqrt() / 0.02 - 1.0).abs() < 0.03, "{}: {}", format.name, variance.sqrt());
        for (index, row) in rows.iter().enumerate() {
            assert!(!rows[..index].contains(row), "{}: row {index} repeats another", format.name);
        }
    }
}

/// Codes, scales and sums of blocks against the reference: any codes that round as well, and zero padding.
#[test]
fn quantized_activations() {
    let (rows, cols) = (5, 68);
    let mut values = noise(1, rows * cols);
    values[..cols].iter_mut().for_each(|value| *value *= 1e30);
    values[cols..2 * cols].iter_mut().for_each(|value| *value *= 1e-25);
    values[2 * cols..3 * cols].iter_mut().for_each(|value| *value *= 1e-38);
    values[3 * cols..][..cols].fill(0.0);
    values[4 * cols + 40] = f32::NAN;
    values[4 * cols + 64] = f32::INFINITY;
    let x = Tensor::from_values(&GPU, "x", &values, cols as u32).unwrap();
    for rows in [RowCount::Few(5), RowCount::many(1, 5)] {
        let q8 = Q8Tensor::zeros(&GPU, "q8", 5, cols as u32).unwrap();
        let mut recording = Recording::default();
        Quantize { x: &x, q8: &q8, rows }.record(&GPU, &mut recording).unwrap();
        GPU.replay(&recording, &[0, 5], None).unwrap();
        let found = block_on(q8.download(&GPU, 5)).unwrap();
        for (row, (found, values)) in found.chunks(cols).zip(values.chunks(cols)).enumerate() {
            let expected = reference::quantize(values, cols);
            for (block, (found, expected)) in found.chunks(BLOCK).zip(expected.chunks(BLOCK)).enumerate() {
                if row == 4 && block > 0 {
                    assert!(found.iter().all(|value| !value.is_finite()), "row 4, block {block}: {found:?}");
                    continue;
                }
                let largest = values[block * BLOCK..].iter().take(BLOCK).fold(0.0f32, |a, b| a.max(b.abs()));
                for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
                    let (error, value) = ((found - expected).abs(), values[block * BLOCK + i]);
                    assert!(error <= largest * 1e-6 || (found - value).abs() <= largest * 0.50001 / 127.0);
                }
            }
        }
        let codes = block_on(GPU.download::<i8>(std::slice::from_ref(&q8.codes))).unwrap().remove(0);
        let scales = block_on(GPU.download::<[u32; 2]>(std::slice::from_ref(&q8.scales))).unwrap().remove(0);
        for (codes, [_, sum]) in codes.chunks(BLOCK).zip(&scales).take(4 * 3) {
            assert_eq!(codes.iter().map(|code| i32::from(*code)).sum::<i32>(), *sum as i32);
        }
        assert!(codes.chunks(96).all(|row| row[cols..].iter().all(|code| *code == 0)), "padding");
    }
}
