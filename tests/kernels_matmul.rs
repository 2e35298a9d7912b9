//! Products: every variant and format over odd shapes against `reference/`, on the device.

mod device;
mod products;

use device::{GPU, noise, stands_for_others};
use mistral_wgpu::{
    gpu::*,
    ops::*,
    quant::{FORMATS, Format, Matrix, by_name},
    reference,
};
use pollster::block_on;
use products::{
    assert_product, each_mat_mat, each_of, in_parts, many_rows, matrix, product, product_of, round_up,
    runnable,
};

fn open(options: &GpuOptions) -> Gpu {
    block_on(Gpu::open(options)).unwrap()
}

/// Weight shapes: rows and columns that fill no tile, no block, or exactly one; and as many columns as Mistral 7B has, for a driver
/// that ends loops early.
const SHAPES: [(u32, u32); 7] = [(1, 32), (3, 40), (130, 2080), (33, 96), (100, 260), (64, 64), (3, 14336)];

/// `all` for a format that stands for others, the `first` of them for another.
fn some<'a, T>(format: &Format, all: &'a [T], first: usize) -> &'a [T] {
    if stands_for_others(format) { all } else { &all[..first] }
}

/// As [`some`], of few rows of activations, of which each number has kernels of its own: all with a format of numbers, of blocks with a
/// scale, and of blocks within blocks.
fn counts<'a>(format: &Format, all: &'a [u32], first: usize) -> &'a [u32] {
    if matches!(format.name, "f16" | "q8_0" | "q4_k") { all } else { &all[..first] }
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

/// Both products of every format and shape, with these rows of activations, the first two of either in every format.
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
        let (few, many) = (counts(format, few, few.len().min(2)), some(format, many, many.len().min(2)));
        for (rows, cols) in some(format, &SHAPES, 3) {
            let (rows, cols) = (*rows, round_up(format, *cols));
            let matrix = matrix(format, rows, cols);
            let weight = Weight::from_matrix(gpu, "weight", &matrix).unwrap();
            let counts = few.iter().map(|n| (*n, RowCount::Few(*n)));
            for (n, count) in counts.chain(many.iter().map(|n| (*n, products::many(gpu, format, *n)))) {
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
    assert!(checked >= formats.len() * 3 * (few.len().min(2) + many.len().min(2)));
}

fn runnable_mat_vec() -> Vec<&'static str> {
    runnable(&MAT_VEC, |format| MatVecShape::new(format, 1))
}

#[test]
fn mat_vec() {
    for variant in runnable_mat_vec() {
        let gpu = best("mat_vec", variant, MAT_VEC.variants.iter().map(|variant| variant.name));
        check_products(&gpu, &[1, 8, 2, 3, 4, 5, 6, 7], &[]);
    }
}

#[test]
fn mat_mat() {
    let short = |seed, count| noise(seed, count).iter().map(|x| (x * 64.0).round() / 64.0).collect();
    let rows = [9, 135, 1, 16, 19, 64, 70];
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
    // From the end, so as not to wait for the kernels that `mat_vec` is compiling.
    for variant in runnable_mat_vec().into_iter().rev() {
        let gpu = best("mat_vec", variant, MAT_VEC.variants.iter().map(|variant| variant.name));
        for format in FORMATS {
            let (rows, cols) = (37, round_up(format, 4128));
            let weight = Weight::from_matrix(&gpu, "weight", &matrix(format, rows, cols)).unwrap();
            let x = noise(5, 8 * cols as usize);
            let alone: Vec<f32> = x
                .chunks_exact(cols as usize)
                .flat_map(|x| product(&gpu, &weight, x, RowCount::Few(1), 1))
                .collect();
            for n in counts(format, &[8, 2, 3, 4, 5, 6, 7], 1).iter().copied() {
                let y = product(&gpu, &weight, &x[..(n * cols) as usize], RowCount::Few(n), n);
                let bits = |y: &[f32]| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
                let expected = bits(&alone[..(n * rows) as usize]);
                assert_eq!(bits(&y), expected, "{variant}/{} {n}", format.name);
            }
        }
    }
}

/// Whether four invocations of a subgroup exchange what they load, or eight, is no matter of bits.
#[test]
fn eight_exchange_what_four_do() {
    if !GPU.capabilities().has(&[Capability::Subgroup8]) {
        eprintln!("skipped: {} may have smaller subgroups", GPU.description().name);
        return;
    }
    let disable = [Capability::Subgroup8].into_iter().collect();
    let fours = open(&GpuOptions { disable, ..Default::default() });
    for format in ["f16", "q8_0", "q4_0"].map(|name| by_name(name).unwrap()) {
        let (rows, cols) = (70, 96);
        let few = [1, 2, 5, 8].map(|n| (RowCount::Few(n), n));
        for (count, n) in few.into_iter().chain([(products::many(&GPU, format, 16), 15)]) {
            let [by_eight, by_four] = [&GPU, &fours].map(|gpu| {
                let weight = Weight::from_matrix(gpu, "weight", &matrix(format, rows, cols)).unwrap();
                product(gpu, &weight, &noise(1, (n * cols) as usize), count, n)
            });
            let bits = |y: Vec<f32>| y.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert_eq!(bits(by_eight), bits(by_four), "{} {count:?}", format.name);
        }
    }
}

#[test]
fn rows_beyond_the_count_are_not_written() {
    for (variant, gpu, formats) in each_mat_mat() {
        for format in formats {
            let cols = round_up(format, 96);
            let weight = Weight::from_matrix(&gpu, "weight", &matrix(format, 33, cols)).unwrap();
            let y = product(&gpu, &weight, &noise(1, 5 * cols as usize), products::many(&gpu, format, 5), 40);
            assert!(y[..5 * 33].iter().all(|y| y.is_finite()), "{}/{}", variant.name, format.name);
            assert!(y[5 * 33..].iter().all(|y| y.is_nan()), "{}/{}", variant.name, format.name);
        }
    }
}

/// The largest codes of both factors, whose sums over a block still fit into the half of a number that pairs have for
/// them, in rows of either sign.
#[test]
fn sums_of_the_largest_codes_are_exact() {
    let mat_mat = each_mat_mat()
        .into_iter()
        .map(|(variant, gpu, formats)| (variant.name, gpu, formats, RowCount::many(1, 8)));
    let mat_vec = each_of(&GPU, &MAT_VEC, |format| MatVecShape::new(format, 8)).into_iter();
    let mat_vec = mat_vec.map(|(variant, gpu, formats)| (variant.name, gpu, formats, RowCount::Few(8)));
    for (name, gpu, formats, rows) in mat_mat.chain(mat_vec).filter(|(name, ..)| name.ends_with("pairs")) {
        for format in formats {
            let cols = round_up(format, 64);
            let weights: Vec<f32> = (0..2 * cols).map(|i| if i % 32 == 0 { 0.0 } else { 1.0 }).collect();
            let matrix = Matrix::encode(format, 2, cols as usize, &weights);
            let weight = Weight::from_matrix(&gpu, "weight", &matrix).unwrap();
            let x: Vec<f32> = [1.0, -1.0, -1.0, 1.0, 1.0, 1.0, -1.0, -1.0]
                .iter()
                .flat_map(|x| vec![*x; cols as usize])
                .collect();
            let (y, multiplied) = product_of(&gpu, &weight, &x, rows, 8);
            assert_product(&y, &matrix, &multiplied, &format!("{name}/{}", format.name));
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
            let y = product(&gpu, &weight, &x, products::many(&gpu, format, 3), 3);
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
        for format in FORMATS.into_iter().filter(|format| stands_for_others(format)) {
            added(&gpu, format, RowCount::Few(8), 8, variant);
        }
    }
    for (variant, gpu, formats) in each_mat_mat() {
        for format in formats.into_iter().filter(|format| stands_for_others(format)) {
            added(&gpu, format, RowCount::many(1, 70), 70, variant.name);
        }
    }
}
