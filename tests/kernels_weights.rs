//! Weights on the device: their codes and scales, parts, rows and random values.

mod device;
mod products;

use device::{GPU, noise};
use mistral_wgpu::{
    gpu::*,
    ops::*,
    quant::{FORMATS, Matrix, by_name},
    reference,
    tensor::Tensor,
};
use pollster::block_on;
use products::{assert_product, each_mat_mat, in_parts, many_rows, matrix, product, product_of, round_up};

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
    reject(&gpu, &MAT_VEC, &MatVecShape::new(format, 1));
    reject(&gpu, &MAT_MAT, &many_rows(format));
    gpu
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

#[test]
fn parts_are_one_matrix() {
    for format in FORMATS {
        let cols = round_up(format, 96);
        let matrix = matrix(format, 33, cols);
        let weight = in_parts(&GPU, &matrix);
        assert_eq!(weight.parts.len(), 6);
        let whole = Weight::from_matrix(&GPU, "weight", &matrix).unwrap();
        let x = noise(3, 8 * cols as usize);
        let (y, multiplied) = product_of(&GPU, &weight, &x, RowCount::Few(8), 8);
        assert_eq!(y, product(&GPU, &whole, &x, RowCount::Few(8), 8), "{}", format.name);
        assert_product(&y, &matrix, &multiplied, format.name);
    }
    for (variant, gpu, formats) in each_mat_mat() {
        for format in formats {
            let cols = round_up(format, 96);
            let matrix = matrix(format, 33, cols);
            let weights = [in_parts(&gpu, &matrix), Weight::from_matrix(&gpu, "weight", &matrix).unwrap()];
            let x = noise(40, 70 * cols as usize);
            let [parts, whole] = weights.map(|weight| product(&gpu, &weight, &x, RowCount::many(1, 70), 70));
            assert_eq!(parts, whole, "{}/{}", variant.name, format.name);
        }
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
