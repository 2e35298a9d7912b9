//! RoPE with the KV write, SwiGLU and residual add against `reference/`, on the device as it is and
//! with floor limits and every optional path off.

mod device;

use device::{FLOOR, GPU, assert_codes, assert_halves, assert_rounded, difference, download, largest, noise};
use half::f16;
use mistral_wgpu::{
    gpu::*,
    ops::*,
    quant::BLOCK,
    reference::{self, KvSide},
    tensor::*,
};

/// What an untouched word of the KV cache holds.
const UNTOUCHED: u32 = 0xdead_beef;

/// A slot in no segment.
const NOWHERE: u32 = 1 << 20;

fn replay(gpu: &Gpu, rows: usize, record: impl FnOnce(&mut Recording)) {
    let mut recording = Recording::default();
    record(&mut recording);
    gpu.replay(&recording, &[rows as u64, 0, 0], None).unwrap();
}

/// The heads of a KV buffer in f32, by slot and KV head, `None` where no word was written.
fn numbers(shape: &AttentionShape, side: KvSide, words: &[u32]) -> Vec<Option<Vec<f32>>> {
    let layout = shape.page_layout();
    let slots = words.len() / layout.page_words() * layout.page;
    let head = |slot, head| {
        // Words beyond the head's dimensions are never written, and zero from the beginning.
        let written = |word: u32| if word == UNTOUCHED { 0 } else { word };
        let words: Vec<u32> = layout.words(side, slot, head).into_iter().map(|at| words[at]).collect();
        let untouched = words.iter().all(|word| *word == UNTOUCHED);
        (!untouched).then(|| layout.decode(&words.into_iter().map(written).collect::<Vec<_>>()))
    };
    (0..slots * layout.kv_heads).map(|index| head(index / layout.kv_heads, index % layout.kv_heads)).collect()
}

/// What an operation leaves: q, and the heads of all keys and values.
type Written = (Vec<f32>, Vec<Option<Vec<f32>>>, Vec<Option<Vec<f32>>>);

/// Replays the operation once for rows at `positions` and `slots` over segments of two pages each.
/// Returns q and the k and v of all segments one after the other.
fn rope_kv(
    gpu: &Gpu,
    shape: AttentionShape,
    qkv: &[f32],
    rows: &[(u32, u32)],
    segments: u32,
    rope: &Buffer,
) -> Written {
    let cols = (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
    let qkv = Tensor::from_values(gpu, "qkv", qkv, cols).unwrap();
    let q = Tensor::zeros(gpu, "q", qkv.rows, shape.heads * shape.head_dim).unwrap();
    let row = |&(position, slot)| Row { token: 0, position, slot, adapters: 0, partial: 0, partials: 0 };
    let untouched = vec![UNTOUCHED; 2 * shape.page_bytes() as usize / 4];
    let segments: Vec<_> = (0..segments)
        .map(|segment| KvSegment {
            k: gpu.upload("k", &untouched).unwrap(),
            v: gpu.upload("v", &untouched).unwrap(),
            first_slot: segment * 2 * PAGE,
            slots: 2 * PAGE,
        })
        .collect();
    replay(gpu, rows.len(), |recording| {
        let rows = gpu.upload("rows", &rows.iter().map(row).collect::<Vec<_>>()).unwrap();
        RopeKv { qkv: &qkv, q: &q, rows: &rows, rope, segments: &segments, shape }
            .record(gpu, recording)
            .unwrap();
    });
    let all = |side, of: fn(&KvSegment) -> &Buffer| {
        let buffers: Vec<_> = segments.iter().map(|segment| of(segment).clone()).collect();
        numbers(&shape, side, &pollster::block_on(gpu.download::<u32>(&buffers)).unwrap().concat())
    };
    let k = all(KvSide::Keys, |segment| &segment.k);
    (download(gpu, &q, rows.len()), k, all(KvSide::Values, |segment| &segment.v))
}

#[test]
fn rope_and_kv_write() {
    for (head_dim, group, segments) in [(16, 1, 3), (18, 5, 3), (80, 3, 1), (96, 1, 1), (128, 4, 2)] {
        let shapes = KvFormat::all().map(|kv| AttentionShape { heads: 2 * group, kv_heads: 2, head_dim, kv });
        for shape in shapes.filter(|shape| shape.supported().is_ok()) {
            check_rope_kv(shape, segments);
        }
    }
}

fn check_rope_kv(shape: AttentionShape, segments: u32) {
    let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
    let (heads, kv_heads, head_dim) = (heads as usize, kv_heads as usize, head_dim as usize);
    // Positions and slots.
    let rows = [(0, 5), (1, 40), (31_999, 0), (40_000, 2 * PAGE * segments - 1), (77, NOWHERE)];
    let frequencies = reference::rope_frequencies(head_dim, 1e4);
    let (cos, sin) = reference::rope_table(&frequencies, 1.0, 0..=40_000);
    let table: Vec<[f32; 2]> = cos.iter().zip(&sin).map(|(cos, sin)| [*cos, *sin]).collect();
    let cols = (heads + 2 * kv_heads) * head_dim;
    let qkv = noise(head_dim as u64, rows.len() * cols);

    let (cos, sin) = reference::rope_table(&frequencies, 1.0, rows.iter().map(|(position, _)| *position));
    let part = |from: usize, count: usize| -> Vec<f32> {
        qkv.chunks_exact(cols).flat_map(|row| &row[from * head_dim..][..count * head_dim]).copied().collect()
    };
    let (mut q, mut k, v) = (part(0, heads), part(heads, kv_heads), part(heads + kv_heads, kv_heads));
    reference::rope(&mut q, &cos, &sin, heads, head_dim);
    reference::rope(&mut k, &cos, &sin, kv_heads, head_dim);

    for gpu in [&*GPU, &*FLOOR] {
        let rope = gpu.upload("rope", &table).unwrap();
        let (found_q, found_k, found_v) = rope_kv(gpu, shape, &qkv, &rows, segments, &rope);
        let error = difference(&found_q, &q) / largest(&q);
        assert!(error <= 2e-7, "{shape:?}: q off by {error:e}");

        // No further from the numbers than what the reference stores, up to the rotation's error and, where a
        // block of 32 shares a scale, that of its division.
        for (found, expected, rotation) in [(&found_k, &k, 3e-7), (&found_v, &v, 0.0)] {
            let slack = rotation + if shape.kv.numbers().scale_halves > 0 { 1e-6 } else { 0.0 };
            let stored = shape.page_layout().stored(expected);
            let mut written = 0;
            for (row, (_, slot)) in rows.iter().enumerate().filter(|(_, (_, slot))| *slot != NOWHERE) {
                for head in 0..kv_heads {
                    let found = found[*slot as usize * kv_heads + head].as_ref().expect("written");
                    let from = (row * kv_heads + head) * head_dim;
                    for ((found, stored), exact) in found.iter().zip(&stored[from..]).zip(&expected[from..]) {
                        let bound = (stored - exact).abs() + slack;
                        assert!(
                            (found - exact).abs() <= bound,
                            "{shape:?}: {found}, not {stored} for {exact}"
                        );
                    }
                    written += 1;
                }
            }
            assert_eq!(found.iter().flatten().count(), written, "{shape:?}: other slots untouched");
        }
    }
}

/// Every f16 with the numbers half way to the next, just below and just above, and what is beyond
/// the range: stored as the reference stores it.
#[test]
fn f16_store_rounds_to_nearest_even_and_clamps() {
    let next = |value: f32, step: i32| f32::from_bits((value.to_bits() as i32 + step) as u32);
    let around = |bits: u16| {
        let value = reference::f16_load(bits);
        let middle = (value + reference::f16_load(bits + 1)) / 2.0;
        [value, middle, next(middle, -1), next(middle, 1)]
    };
    let mut values: Vec<f32> = (0..0x7bff).flat_map(around).collect();
    values.extend([65504.0, 65519.9, 65520.0, 1e6, f32::MAX, f32::MIN_POSITIVE, 1e-30, 2e-8, 3e-8]);
    values.extend(values.clone().iter().map(|value| -value));
    let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim: 256, kv: KvFormat::F16 };
    let rope = vec![[1.0f32, 0.0]; 128];
    for gpu in [&*GPU, &*FLOOR] {
        let rope = gpu.upload("rope", &rope).unwrap();
        for values in values.chunks(32 * 256) {
            let count = values.len().div_ceil(256);
            let mut qkv = vec![0.0; count * 768];
            for (row, values) in qkv.chunks_exact_mut(768).zip(values.chunks(256)) {
                row[512..][..values.len()].copy_from_slice(values);
            }
            let rows: Vec<_> = (0..count as u32).map(|slot| (0, slot)).collect();
            let (_, _, found) = rope_kv(gpu, shape, &qkv, &rows, 1, &rope);
            for (value, found) in values.iter().zip(found.into_iter().flatten().flatten()) {
                let expected = reference::f16_load(reference::f16_store(*value));
                assert_eq!(found.to_bits(), expected.to_bits(), "{value:e}");
            }
        }
    }
}

#[test]
fn swiglu() {
    for cols in [1, 100, 300] {
        let mut gates = noise(cols as u64, 4 * 2 * cols);
        for (index, value) in gates.iter_mut().enumerate() {
            *value *= [1.0, 10.0, 80.0, 1e4][index % 4];
        }
        let expected = reference::swiglu(&gates[..3 * 2 * cols]);
        for gpu in [&*GPU, &*FLOOR] {
            let gate_up = Tensor::from_values(gpu, "gate_up", &gates, 2 * cols as u32).unwrap();
            let out = Tensor::zeros(gpu, "out", 4, cols as u32).unwrap();
            replay(gpu, 3, |recording| {
                Swiglu { gate_up: &gate_up, y: Activation::F32(&out), per_row: 1 }
                    .record(gpu, recording)
                    .unwrap();
            });
            let found = download(gpu, &out, 4);
            for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
                // WGSL's exp is right to 3 + 2 |x| units in the last place.
                let gate = gates[2 * index];
                let bound = (6.0 + 2.0 * gate.abs().min(88.0)) * f32::EPSILON * expected.abs() + 1e-30;
                assert!((found - expected).abs() <= bound, "gate {gate}: {found}, expected {expected}");
            }
            assert_eq!(found[3 * cols..], vec![0.0; cols], "rows beyond the batch");

            let rounded = Rounded::zeros(gpu, "rounded", 4, cols as u32).unwrap();
            replay(gpu, 3, |recording| {
                for y in [Activation::Q8(&rounded.q8), Activation::F16(&rounded.f16)] {
                    Swiglu { gate_up: &gate_up, y, per_row: 1 }.record(gpu, recording).unwrap();
                }
            });
            assert_rounded(gpu, &rounded, &found);
        }
    }
}

#[test]
fn residual_add() {
    for cols in [1, 100, 300] {
        let (mut expected, delta) = (noise(1, 4 * cols), noise(2, 4 * cols));
        for gpu in [&*GPU, &*FLOOR] {
            let x = Tensor::from_values(gpu, "x", &expected, cols as u32).unwrap();
            let delta_tensor = Tensor::from_values(gpu, "delta", &delta, cols as u32).unwrap();
            replay(gpu, 3, |recording| {
                ResidualAdd { x: &x, delta: &delta_tensor }.record(gpu, recording).unwrap();
            });
            reference::residual_add(&mut expected[..3 * cols], &delta[..3 * cols]);
            assert_eq!(download(gpu, &x, 4), expected);
        }
    }
}

/// Columns in another order, to the bit.
#[test]
fn gather_columns() {
    for cols in [1, 31, 100, 300] {
        let values = noise(6, 4 * cols);
        // 7 divides none of them.
        let indices: Vec<u32> = (0..cols as u32).map(|col| (7 * col + 3) % cols as u32).collect();
        let expected = reference::gather_cols(&values[..3 * cols], cols, &indices);
        for gpu in [&*GPU, &*FLOOR] {
            let x = Tensor::from_values(gpu, "x", &values, cols as u32).unwrap();
            let y = Tensor::zeros(gpu, "y", 4, cols as u32).unwrap();
            let rounded = Rounded::zeros(gpu, "rounded", 4, cols as u32).unwrap();
            let indices = &gpu.upload("indices", &indices).unwrap();
            for rows in [RowCount::Few(3), RowCount::many(0, 3)] {
                replay(gpu, 3, |recording| {
                    for y in ActivationFormat::ALL.map(|format| rounded.activation(format, &y)) {
                        let gather = Gather { x: &x, axis: Axis::Cols, indices, y, rows, per_row: 1 };
                        gather.record(gpu, recording).unwrap();
                    }
                });
                let found = download(gpu, &y, 4);
                assert_eq!(found[..3 * cols], expected);
                assert_eq!(found[3 * cols..], vec![0.0; cols], "rows beyond the batch");
                assert_rounded(gpu, &rounded, &expected);
            }
        }
    }
}

#[test]
fn rms_norm() {
    const ROWS: usize = 5;
    const EPS: f32 = 1e-5;
    for cols in [1, 31, 100, 256, 4100] {
        // Rows of very different magnitude, one of them zero.
        let mut x = noise(3, ROWS * cols);
        let scales = [1.0, 1e-4, 1e4, 0.0, 30.0];
        x.iter_mut().enumerate().for_each(|(index, value)| *value *= scales[index / cols]);
        let (delta, weight) = (noise(4, ROWS * cols), noise(5, cols));
        for (residual, gather) in [(false, false), (true, false), (false, true), (true, true)] {
            for format in ActivationFormat::ALL {
                let shape = RmsNormShape { residual, gather, format };
                for gpu in [&*GPU, &*FLOOR] {
                    for variant in RMS_NORM.runnable(gpu, &shape) {
                        check_rms_norm(&RMS_NORM.only(gpu, variant), shape, cols, (&x, &delta, &weight), EPS);
                    }
                }
            }
        }
    }
}

fn check_rms_norm(gpu: &Gpu, shape: RmsNormShape, cols: usize, values: (&[f32], &[f32], &[f32]), eps: f32) {
    let (x, delta, weight) = values;
    let rows = x.len() / cols;
    let chosen: Vec<u32> = if shape.gather { vec![4, 0, 2] } else { (0..rows as u32).collect() };
    let mut summed = x.to_vec();
    let normed = reference::rms_norm(&mut summed, shape.residual.then_some(delta), weight, eps);
    let pick = |all: &[f32]| -> Vec<f32> {
        chosen.iter().flat_map(|row| &all[*row as usize * cols..][..cols]).copied().collect()
    };

    let x = Tensor::from_values(gpu, "x", x, cols as u32).unwrap();
    let delta = Tensor::from_values(gpu, "delta", delta, cols as u32).unwrap();
    let weight = Tensor::from_values(gpu, "weight", weight, cols as u32).unwrap();
    let y = Tensor::zeros(gpu, "y", rows as u32, cols as u32).unwrap();
    let rounded = Rounded::zeros(gpu, "rounded", rows as u32, cols as u32).unwrap();
    let row_ids = gpu.upload("row_ids", &chosen).unwrap();
    let mut recording = Recording::default();
    let (delta, row_ids) = (shape.residual.then_some(&delta), shape.gather.then_some(&row_ids));
    let result = rounded.activation(shape.format, &y);
    RmsNorm { x: &x, delta, weight: &weight, y: result, row_ids, eps }.record(gpu, &mut recording).unwrap();
    gpu.replay(&recording, &[rows as u64, chosen.len() as u64, 0], None).unwrap();

    let expected = pick(&normed);
    match shape.format {
        ActivationFormat::Q8 => assert_codes(gpu, &rounded.q8, &expected),
        ActivationFormat::F16 => assert_halves(gpu, &rounded.f16, &expected),
        ActivationFormat::F32 => {
            let found = download(gpu, &y, chosen.len());
            for (row, (found, expected)) in found.chunks(cols).zip(expected.chunks(cols)).enumerate() {
                let difference = difference(found, expected);
                assert!(
                    difference <= 1e-6 * largest(expected),
                    "{shape:?}, {cols} columns, row {row}: {difference:e}"
                );
            }
        }
    }
    // The residual stream was updated where it was read, once.
    assert_eq!(pick(&download(gpu, &x, rows)), pick(&summed));
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
        Quantize { x: &x, y: Activation::Q8(&q8), rows }.record(&GPU, &mut recording).unwrap();
        GPU.replay(&recording, &[0, 5], None).unwrap();
        let found = pollster::block_on(q8.download(&GPU, 5)).unwrap();
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
        let codes =
            pollster::block_on(GPU.download::<i8>(std::slice::from_ref(&q8.codes))).unwrap().remove(0);
        let scales =
            pollster::block_on(GPU.download::<[u32; 2]>(std::slice::from_ref(&q8.scales))).unwrap().remove(0);
        for (codes, [_, sum]) in codes.chunks(BLOCK).zip(&scales).take(4 * 3) {
            assert_eq!(codes.iter().map(|code| i32::from(*code)).sum::<i32>(), *sum as i32);
        }
        assert!(codes.chunks(96).all(|row| row[cols..].iter().all(|code| *code == 0)), "padding");
    }
}

/// To the nearest of 16 bits, even at ties, as far as there are such; what is beyond stays finite, and padding zero.
#[test]
fn activations_of_16_bits() {
    let (rows, cols) = (3, 68);
    let mut values = noise(1, rows * cols);
    values[cols..2 * cols].iter_mut().for_each(|value| *value *= 1e-5);
    let [one, step] = [1.0, f32::EPSILON * 8192.0];
    let ties = [one + 0.5 * step, one + 1.5 * step, one + 0.5001 * step, -one - 0.5 * step];
    let edges =
        [65519.0, 65520.0, -1e30, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -0.0, 2f32.powi(-25), 1e-40];
    values[2 * cols..][..4].copy_from_slice(&ties);
    values[2 * cols + 4..][..9].copy_from_slice(&edges);
    for gpu in [&*GPU, &*FLOOR] {
        let x = Tensor::from_values(gpu, "x", &values, cols as u32).unwrap();
        let y = F16Tensor::zeros(gpu, "y", rows as u32, cols as u32).unwrap();
        replay(gpu, rows, |recording| {
            let rows = RowCount::Few(rows as u32);
            Quantize { x: &x, y: Activation::F16(&y), rows }.record(gpu, recording).unwrap();
        });
        let found =
            pollster::block_on(gpu.download::<f16>(std::slice::from_ref(&y.buffer))).unwrap().remove(0);
        for (found, values) in found.chunks(96).zip(values.chunks(cols)) {
            for (found, value) in found.iter().zip(values) {
                let expected =
                    f16::from_f32(if value.is_finite() { value.clamp(-65504.0, 65504.0) } else { *value });
                assert!(
                    found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(),
                    "{value}: {found}"
                );
            }
            assert!(found[cols..].iter().all(|value| value.to_bits() == 0), "padding");
        }
    }
}
