//! A mixture of experts: router, order of the rows, products and sum against `reference/`, on the device.

mod device;

use device::{FLOOR, GPU, assert_rounded, difference, download, largest, noise, on_both, stands_for_others};
use mistral_wgpu::{
    gpu::*,
    ops::*,
    quant::{FORMATS, Format, Matrix},
    reference::{self, choose_experts, order_by_expert},
    tensor::{ActivationFormat, Rounded, Tensor},
};
use pollster::block_on;

const MIXTRAL: RouteShape = RouteShape { experts: 8, chosen: 2 };

/// Which experts the rows of a batch want.
#[derive(Debug, Clone, Copy)]
enum Taste {
    /// All kinds.
    Mixed,
    /// None the first, all the last.
    Alike,
    /// The logits are the same for all experts.
    Tied,
}

const TASTES: [Taste; 3] = [Taste::Mixed, Taste::Alike, Taste::Tied];

fn logits(taste: Taste, rows: usize, experts: usize) -> Vec<f32> {
    let mut logits = noise(rows as u64, rows * experts);
    for row in logits.chunks_exact_mut(experts) {
        match taste {
            Taste::Mixed => row.iter_mut().for_each(|logit| *logit *= 8.0),
            Taste::Alike => (row[0], row[experts - 1]) = (-1e30, 3.0),
            Taste::Tied => row.fill(0.25),
        }
    }
    logits
}

/// The routes of `logits`, `[rows, experts]`, on the device, where there is room for more rows.
fn routed(gpu: &Gpu, shape: RouteShape, logits: &[f32]) -> Routes {
    let rows = logits.len() as u32 / shape.experts;
    let logits = Tensor::from_values(gpu, "logits", logits, shape.experts).unwrap();
    let routes = Routes::new(gpu, rows + 3, shape).unwrap();
    let counts = gpu.upload("counts", &[rows]).unwrap();
    let mut recording = Recording::default();
    Route { logits: &logits, counts: &counts, routes: &routes }.record(gpu, &mut recording).unwrap();
    gpu.replay(&recording, &[rows.into()], None).unwrap();
    routes
}

fn words<T: bytemuck::Pod>(gpu: &Gpu, buffer: &Buffer) -> Vec<T> {
    block_on(gpu.download::<T>(std::slice::from_ref(buffer))).unwrap().remove(0)
}

#[test]
fn route() {
    let wide = RouteShape { experts: MAX_EXPERTS, chosen: 5 };
    on_both(|gpu| {
        for shape in
            [RouteShape { experts: 2, chosen: 1 }, RouteShape { experts: 3, chosen: 3 }, MIXTRAL, wide]
        {
            for (rows, taste) in
                [1, 2, 63, 64, 65, 300].into_iter().flat_map(|n| TASTES.map(|taste| (n, taste)))
            {
                let (experts, chosen) = (shape.experts as usize, shape.chosen as usize);
                let logits = logits(taste, rows, experts);
                let routes = routed(gpu, shape, &logits);
                let expected = choose_experts(&logits, experts, chosen);
                let order = order_by_expert(&expected);
                let what = format!("{shape:?}, {rows} rows, {taste:?}");

                let sources = words::<u32>(gpu, &routes.sources);
                let rows_in_order: Vec<u32> = order.iter().map(|choice| (choice / chosen) as u32).collect();
                assert_eq!(sources[..rows * chosen], rows_in_order, "{what}");
                let offsets = words::<u32>(gpu, &routes.offsets);
                let before =
                    |expert: usize| expected.iter().filter(|(other, _)| *other < expert).count() as u32;
                assert_eq!(offsets, (0..=experts).map(before).collect::<Vec<_>>(), "{what}");
                let choices = words::<ExpertChoice>(gpu, &routes.choices);
                for (choice, (found, (_, weight))) in choices.iter().zip(&expected).enumerate() {
                    assert_eq!(order[found.place as usize], choice, "{what}");
                    assert!((found.weight - weight).abs() < 1e-6, "{what}: {found:?}, expected {weight}");
                }
            }
        }
    });
}

/// Logits that are no numbers choose different experts all the same: what reads the routes stays in bounds.
#[test]
fn route_of_nan() {
    let routes = routed(&GPU, MIXTRAL, &[f32::NAN; 24]);
    assert_eq!(words::<u32>(&GPU, &routes.offsets), [0, 3, 6, 6, 6, 6, 6, 6, 6]);
    assert_eq!(words::<u32>(&GPU, &routes.sources)[..6], [0, 1, 2, 0, 1, 2]);
}

#[test]
fn gather_and_sum() {
    on_both(|gpu| {
        for (rows, cols) in [(1, 32), (5, 40), (9, 300)] {
            let logits = logits(Taste::Mixed, rows, 8);
            let routes = routed(gpu, MIXTRAL, &logits);
            let choices = choose_experts(&logits, 8, 2);
            let order = order_by_expert(&choices);
            let values = noise(7, rows * cols);
            let x = Tensor::from_values(gpu, "x", &values, cols as u32).unwrap();
            let y = Tensor::zeros(gpu, "y", 2 * rows as u32, cols as u32).unwrap();
            let rounded = Rounded::zeros(gpu, "rounded", 2 * rows as u32, cols as u32).unwrap();
            let sum = Tensor::zeros(gpu, "sum", rows as u32, cols as u32).unwrap();
            let mut recording = Recording::default();
            for y in ActivationFormat::ALL.map(|format| rounded.activation(format, &y)) {
                let (axis, indices, rows) = (Axis::Rows, &routes.sources, RowCount::many(0, rows as u32));
                Gather { x: &x, axis, indices, y, rows, per_row: 2 }.record(gpu, &mut recording).unwrap();
            }
            ExpertSum { x: &y, routes: &routes, y: &sum }.record(gpu, &mut recording).unwrap();
            gpu.replay(&recording, &[rows as u64], None).unwrap();

            let gathered: Vec<f32> =
                order.iter().flat_map(|choice| &values[choice / 2 * cols..][..cols]).copied().collect();
            assert_eq!(download(gpu, &y, 2 * rows), gathered);
            assert_rounded(gpu, &rounded, &gathered);
            // In the order of the choices, every row comes as often as it has experts.
            let outputs: Vec<f32> =
                (0..2 * rows).flat_map(|choice| &values[choice / 2 * cols..][..cols]).copied().collect();
            let expected = reference::expert_sum(&choices, &outputs, 2);
            assert!(difference(&download(gpu, &sum, rows), &expected) < 1e-6);
        }
    });
}

/// A matrix for each expert, one after the other.
fn matrices(format: &'static Format, experts: u32, rows: u32, cols: u32) -> Matrix {
    let rows = (experts * rows) as usize;
    Matrix::encode(format, rows, cols as usize, &noise(rows as u64 + u64::from(cols), rows * cols as usize))
}

/// Every row of `x` times the matrices of its experts, in the order of the routes: what the device gives, and
/// the reference for the activations that it multiplied.
fn products(
    gpu: &Gpu,
    weight: &Weight,
    matrix: &Matrix,
    logits: &[f32],
    x: &[f32],
    rows: RowCount,
) -> (Vec<f32>, Vec<f32>) {
    let shape = RouteShape { experts: weight.experts, ..MIXTRAL };
    let (experts, outputs, inputs) = (shape.experts as usize, weight.rows as usize, weight.cols as usize);
    let count = (x.len() / inputs) as u32;
    let routes = routed(gpu, shape, logits);
    let input = Tensor::from_values(gpu, "x", x, weight.cols).unwrap();
    let pairs = Tensor::zeros(gpu, "pairs", 2 * count, weight.cols).unwrap();
    let rounded = Rounded::zeros(gpu, "rounded", 2 * count, weight.cols).unwrap();
    let untouched = vec![f32::NAN; 2 * count as usize * outputs];
    let y = Tensor::from_values(gpu, "y", &untouched, weight.rows).unwrap();
    let counts = gpu.upload("counts", &[count]).unwrap();
    let mut recording = Recording::default();
    let matmul = Matmul {
        weight,
        x: &pairs,
        rounded: Some(&rounded),
        y: &y,
        rows,
        counts: &counts,
        experts: Some(&routes),
        label: "test",
    };
    let read = matmul.input(gpu).unwrap();
    let (axis, indices) = (Axis::Rows, &routes.sources);
    Gather { x: &input, axis, indices, y: read, rows, per_row: 2 }.record(gpu, &mut recording).unwrap();
    matmul.record(gpu, &mut recording).unwrap();
    gpu.replay(&recording, &[count.into()], None).unwrap();

    let read = block_on(read.download(gpu, 2 * count)).unwrap();
    let choices = choose_experts(logits, experts, 2);
    let order = order_by_expert(&choices);
    let weights: Vec<Vec<f32>> = (0..matrix.rows).map(|row| matrix.row(row)).collect();
    let expected = read.chunks_exact(inputs).zip(order).flat_map(|(x, choice)| {
        let of_expert = &weights[choices[choice].0 * outputs..][..outputs];
        let dot = |row: &Vec<f32>| {
            row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>() as f32
        };
        of_expert.iter().map(dot).collect::<Vec<_>>()
    });
    (block_on(y.download(gpu, 2 * count)).unwrap(), expected.collect())
}

/// `weights` in parts of `part_bytes` at most.
fn in_parts(gpu: &Gpu, matrix: &Matrix, experts: u32, part_bytes: u64) -> Weight {
    let (rows, cols) = (matrix.rows as u32 / experts, matrix.cols as u32);
    let weight =
        Weight::allocate_parts(gpu, "experts", matrix.format, experts, rows, cols, part_bytes).unwrap();
    weight.write_rows(gpu, 0, &matrix.codes, &matrix.scales);
    weight
}

/// Products of each variant alone, for every way to read codes, taste and number of rows.
fn check<S>(
    gpu: &Gpu,
    operation: &Operation<S>,
    shape: impl Fn(&'static Format, RowCount) -> S,
    rows: &[(u32, RowCount)],
    bound: impl Fn(&KernelKey) -> f32,
) {
    let mut checked = 0;
    let formats = || FORMATS.into_iter().filter(|format| stands_for_others(format));
    for (format, (count, rows)) in formats().flat_map(|format| rows.iter().map(move |rows| (format, *rows))) {
        let shape = shape(format, rows);
        for variant in operation.runnable(gpu, &shape).collect::<Vec<_>>() {
            let gpu = operation.only(gpu, variant);
            let bound = bound(&(variant.key)(&shape));
            let cols = if format.takes(300) { 300 } else { format.block as u32 };
            for outputs in [6, 70] {
                let matrix = matrices(format, 8, outputs, cols);
                let weight = Weight::from_experts(&gpu, "experts", 8, &matrix).unwrap();
                for taste in TASTES {
                    let x = noise(u64::from(count), (count * cols) as usize);
                    let (y, expected) =
                        products(&gpu, &weight, &matrix, &logits(taste, count as usize, 8), &x, rows);
                    let what = format!("{}/{}, {count} rows, {taste:?}", variant.name, format.name);
                    let error = difference(&y, &expected) / largest(&expected);
                    assert!(error <= bound, "{what}: {error:e}");
                    checked += 1;
                }
            }
        }
    }
    assert!(checked >= 60, "{checked}");
}

/// Relative to the largest output, which is about the root of the summands' number times a typical one.
fn bound(key: &KernelKey) -> f32 {
    if rounds_to_f16(key) { 2e-3 } else { 2e-6 }
}

#[test]
fn few_rows() {
    let rows = [1, 2, 5, 8].map(|rows| (rows, RowCount::Few(rows)));
    on_both(|gpu| {
        check(
            gpu,
            &MAT_VEC,
            |format, _| MatVecShape { experts: true, ..MatVecShape::new(format, 1) },
            &rows,
            bound,
        );
    });
}

#[test]
fn many_rows() {
    let rows = [9, 100].map(|rows| (rows, RowCount::many(0, rows)));
    let shape = |format, rows| {
        let RowCount::Many { most, .. } = rows else { panic!("{rows:?}") };
        MatMatShape { format, rounded: true, most, experts: true }
    };
    on_both(|gpu| {
        check(gpu, &MAT_MAT, shape, &rows, bound);
    });
}

/// Several matrices in a part, one in each, one in several.
#[test]
fn weights_in_parts() {
    for format in FORMATS {
        let (outputs, cols) = (20, 2 * format.block.max(32) as u32);
        let matrix = matrices(format, 4, outputs, cols);
        let matrix_bytes = 4 * matrix.codes.len() as u64 / 4;
        for (part_bytes, parts) in
            [(2 * matrix_bytes + 4, 2), (3 * matrix_bytes, 2), (matrix_bytes, 4), (matrix_bytes * 8 / 20, 12)]
        {
            let weight = in_parts(&FLOOR, &matrix, 4, part_bytes);
            assert_eq!(weight.parts.len(), parts, "{part_bytes}");
            for (count, rows) in [(3, RowCount::Few(3)), (40, RowCount::many(0, 40))] {
                let x = noise(u64::from(count), (count * cols) as usize);
                let (y, expected) =
                    products(&FLOOR, &weight, &matrix, &logits(Taste::Mixed, count as usize, 4), &x, rows);
                let error = difference(&y, &expected) / largest(&expected);
                assert!(error < 2e-6, "{} in {parts} parts: {error:e}", format.name);
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_every_small_batch() {
    for format in FORMATS.into_iter().filter(|format| stands_for_others(format)) {
        let shape = MatVecShape { experts: true, ..MatVecShape::new(format, 1) };
        for variant in MAT_VEC.runnable(&GPU, &shape).collect::<Vec<_>>() {
            let gpu = MAT_VEC.only(&GPU, variant);
            let (outputs, cols) = (22, 2080usize.next_multiple_of(format.block));
            let matrix = matrices(format, 8, outputs, cols as u32);
            let weight = Weight::from_experts(&gpu, "experts", 8, &matrix).unwrap();
            let (x, logits) = (noise(5, 8 * cols), logits(Taste::Mixed, 8, 8));
            // By row and rank of the expert, whatever the order on the device.
            let of = |first: usize, count: usize| -> Vec<Vec<u32>> {
                let (logits, x) = (&logits[8 * first..][..8 * count], &x[cols * first..][..cols * count]);
                let (y, _) = products(&gpu, &weight, &matrix, logits, x, RowCount::Few(count as u32));
                let mut rows = vec![Vec::new(); 2 * count];
                for (y, choice) in
                    y.chunks_exact(outputs as usize).zip(order_by_expert(&choose_experts(logits, 8, 2)))
                {
                    rows[choice] = y.iter().map(|y| y.to_bits()).collect();
                }
                rows
            };
            let alone: Vec<_> = (0..8).flat_map(|row| of(row, 1)).collect();
            for count in 2..=8 {
                assert_eq!(of(0, count), alone[..2 * count], "{}/{} {count}", variant.name, format.name);
            }
        }
    }
}
