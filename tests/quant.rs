//! Block formats against GGML's own encoder, and their stated bounds.

mod golden;

use std::collections::HashSet;

use golden::Golden;
use mistral_wgpu::quant::{BLOCK, FORMATS, Format, Matrix, by_ggml, by_name};
use proptest::prelude::*;

/// A matrix of the bytes that GGML has for it.
fn from_ggml(format: &'static Format, cols: usize, bytes: &[u8]) -> Matrix {
    let row_bytes = format.ggml.as_ref().unwrap().row_bytes(cols).unwrap();
    let mut matrix =
        Matrix::encode(format, bytes.len() / row_bytes, cols, &vec![0.0; bytes.len() / row_bytes * cols]);
    let (row_codes, row_scales) = (matrix.codes.len() / matrix.rows, matrix.scales.len() / matrix.rows);
    for (row, bytes) in bytes.chunks_exact(row_bytes).enumerate() {
        let scales = &mut matrix.scales[row * row_scales..][..row_scales];
        format.unpack_row(bytes, &mut matrix.codes[row * row_codes..][..row_codes], scales);
    }
    matrix
}

#[test]
fn encodes_as_ggml_to_the_bit() {
    let golden = Golden::open("operations.safetensors");
    let values = golden.f32("blocks");
    for name in ["f16", "bf16", "q8_0", "q4_0"] {
        let format = by_name(name).unwrap();
        let matrix = Matrix::encode(format, values.len() / 64, 64, &values);
        let expected = from_ggml(format, 64, &golden.bytes(name));
        assert_eq!((matrix.codes, matrix.scales), (expected.codes, expected.scales), "{name}");
    }
}

#[test]
fn decodes_as_ggml_to_the_bit() {
    let golden = Golden::open("operations.safetensors");
    let values = golden.f32("blocks");
    for name in ["q8_0", "q4_0"] {
        let matrix = Matrix::encode(by_name(name).unwrap(), values.len() / 64, 64, &values);
        let decoded: Vec<f32> = (0..matrix.rows).flat_map(|row| matrix.row(row)).collect();
        assert_eq!(decoded, golden.f32(&format!("{name}_decoded")), "{name}");
    }
}

/// Random codes, and scales of every kind: normal, subnormal, negative, zero.
#[test]
fn decodes_blocks_of_ggml_to_the_bit() {
    let golden = Golden::open("formats.safetensors");
    for format in FORMATS.into_iter().filter(|format| format.scale_halves > 0 && format.ggml.is_some()) {
        let decoded = golden.f32(&format!("{}_decoded", format.name));
        let rows = from_ggml(format, format.block, &golden.bytes(format.name));
        assert_eq!(rows.rows * rows.cols, decoded.len(), "{}", format.name);
        for (row, expected) in decoded.chunks(format.block).enumerate() {
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&rows.row(row)), bits(expected), "{} row {row}", format.name);
        }
    }
}

/// The simple formats to the bit; of the others, where a search for scales is free to differ, with no larger an error,
/// but for a hundredth.
#[test]
fn encodes_as_well_as_ggml() {
    let golden = Golden::open("formats.safetensors");
    let values = golden.f32("values");
    for format in FORMATS.into_iter().filter(|format| format.scale_halves > 0 && format.ggml.is_some()) {
        let ours = Matrix::encode(format, 8, 256, &values);
        let theirs = from_ggml(format, 256, &golden.bytes(&format!("{}_encoded", format.name)));
        let error = |matrix: &Matrix| -> f32 {
            let decoded = (0..8).flat_map(|row| matrix.row(row));
            decoded.zip(&values).map(|(decoded, value)| (decoded - value).powi(2)).sum::<f32>().sqrt()
        };
        let ratio = error(&ours) / error(&theirs);
        println!("{}: {ratio:.4} of GGML's error", format.name);
        if ["q8_0", "q5_0", "q5_1", "q4_0", "q4_1"].contains(&format.name) {
            assert_eq!((ours.codes, ours.scales), (theirs.codes, theirs.scales), "{}", format.name);
        } else {
            assert!(ratio < 1.01, "{}: {ratio} of GGML's error", format.name);
        }
    }
}

/// Every bit of GGML's blocks has a place of its own in the planes.
#[test]
fn blocks_of_ggml_keep_every_bit() {
    for format in FORMATS {
        let Some(ggml) = &format.ggml else { continue };
        assert_eq!(by_ggml(ggml.id), Some(format));
        let mut bytes = vec![0; ggml.row_bytes(format.block).unwrap()];
        assert_eq!(bytes.len(), 4 * format.code_words + 2 * format.scale_halves, "{}", format.name);
        let mut places = HashSet::new();
        for bit in 0..8 * bytes.len() {
            bytes[bit / 8] = 1 << (bit % 8);
            let matrix = from_ggml(format, format.block, &bytes);
            bytes[bit / 8] = 0;
            let ones = |word: u32| (0..32).filter(move |i| word >> i & 1 == 1);
            let words = matrix.codes.into_iter().chain(matrix.scales.into_iter().map(u32::from));
            let set: Vec<_> =
                words.enumerate().flat_map(|(at, word)| ones(word).map(move |i| (at, i))).collect();
            assert_eq!(set.len(), 1, "{} bit {bit}: {set:?}", format.name);
            assert!(places.insert(set[0]), "{} bit {bit}", format.name);
        }
    }
    assert_eq!(by_ggml(10), None);
}

/// A row of three weights, which fills no word and no block of ours.
#[test]
fn rows_of_ggml_end_anywhere() {
    let matrix = from_ggml(by_name("f16").unwrap(), 3, &[0x00, 0x3c, 0x00, 0x40, 0x00, 0xc2]);
    assert_eq!(matrix.row(0), [1.0, 2.0, -3.0]);
    assert_eq!(by_name("q8_0").unwrap().ggml.as_ref().unwrap().row_bytes(33), None);
}

#[test]
fn sizes_that_overflow_are_refused() {
    for format in FORMATS {
        assert_eq!(format.plane_bytes(usize::MAX, usize::MAX), None);
    }
    assert_eq!(by_name("q4_0").unwrap().plane_bytes(3, 33), Some((3 * 2 * 16, 12)));
    assert_eq!(by_name("q8_0").unwrap().bits_per_weight(), 8.5);
}

#[test]
fn the_subnormal_scale_is_kept() {
    // 3e-7 / 127 is far below the smallest normal f16, 6.1e-5, and rounds to zero; 3e-5 / 8 does not.
    let q4_0 = by_name("q4_0").unwrap();
    let mut values = [0.0; BLOCK];
    values[0] = -3e-5;
    let matrix = Matrix::encode(q4_0, 1, BLOCK, &values);
    assert!((matrix.row(0)[0] - values[0]).abs() < 3e-7, "{:?}", matrix.row(0)[0]);
}

#[test]
fn the_largest_values_stay_finite() {
    let mut values = [f32::MAX; BLOCK];
    values[1] = f32::MIN;
    for (name, largest) in [("f16", 65_504.0), ("bf16", half::bf16::MAX.to_f32())] {
        let row = Matrix::encode(by_name(name).unwrap(), 1, BLOCK, &values).row(0);
        assert_eq!(row[..3], [largest, -largest, largest], "{name}");
    }
}

/// Any bits, and scales of each kind: the fast answer is that of the decoded values.
#[test]
fn what_is_finite_decodes_to_finite_values() {
    let halves = [0x3c00, 0x7c00, 0xfc00, 0x7e01, 0x7bff, 0x0000, 0x8001, 0xffff];
    let bits = |i: usize| (i as u32).wrapping_mul(0x9e37_79b9) ^ (i as u32).wrapping_mul(0x85eb_ca6b) >> 13;
    for format in FORMATS {
        let mut matrix = Matrix::encode(format, 1, format.block, &vec![0.0; format.block]);
        let mut answers = [0, 0];
        for case in 0..256 {
            matrix.codes.iter_mut().enumerate().for_each(|(i, word)| *word = bits(97 * case + i));
            if format.scale_halves == 0 {
                // One number of the block, with an exponent that may be the largest; of the others it never is.
                matrix.codes.iter_mut().for_each(|word| *word &= 0x3fff_3fff);
                let at = case % matrix.codes.len();
                matrix.codes[at] =
                    (matrix.codes[at] & 0xffff) | u32::from(halves[case / 16 % 8] | 0x0380) << 16;
            }
            for (i, scale) in matrix.scales.iter_mut().enumerate() {
                *scale = if i < 2 { halves[case >> (3 * i) & 7] } else { bits(case + 31 * i) as u16 };
            }
            let finite = matrix.row(0).iter().all(|value| value.is_finite());
            assert_eq!(
                format.is_finite(&matrix.codes, &matrix.scales),
                finite,
                "{}, case {case}",
                format.name
            );
            answers[usize::from(finite)] += 1;
        }
        assert!(answers.iter().all(|count| *count > 8), "{}: {answers:?}", format.name);
    }
}

proptest! {
    #[test]
    fn round_trips_within_the_bound(
        rows in 1usize..4,
        some_cols in 1usize..100,
        exponent in -3i32..4,
        seed in any::<u32>(),
    ) {
        let mut state = seed | 1;
        let mut random = || {
            state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        for format in FORMATS {
            let cols = format.round_up(some_cols);
            let values: Vec<f32> = (0..rows * cols).map(|_| random() * 10f32.powi(exponent)).collect();
            let matrix = Matrix::encode(format, rows, cols, &values);
            for (row, values) in values.chunks(cols).enumerate() {
                for (block, decoded) in values.chunks(format.block).zip(matrix.row(row).chunks(format.block)) {
                    let largest = block.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
                    // A scale below the normal range is off by half of 2^-24, times as many steps.
                    let steps = if format.block == BLOCK { 127.0 } else { 32.0 * 128.0 };
                    let subnormal = if format.name != "f32" && largest < steps * 6.2e-5 { steps * 3e-8 } else { 0.0 };
                    let allowed = largest * format.error_bound + subnormal;
                    for (value, decoded) in block.iter().zip(decoded) {
                        prop_assert!((value - decoded).abs() <= allowed, "{}: {value} {decoded}", format.name);
                    }
                }
            }
        }
    }

    #[test]
    fn no_value_panics(bits in prop::collection::vec(any::<u32>(), 8 * BLOCK)) {
        let values: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        for format in FORMATS {
            Matrix::encode(format, 1, 8 * BLOCK, &values).row(0);
        }
    }
}
