//! Times the kernels that this device would use, in every format, on the shapes of Mistral 7B, and
//! prints how fast memory was read: `cargo bench`, or `cargo bench -- mat_vec` for a part. The device
//! is the one that `MISTRAL_GPU` names.

use std::{sync::LazyLock, time::Duration};

use divan::{Bencher, counter::BytesCount};
use mistral_wgpu::{
    gpu::{Gpu, GpuOptions, Recording},
    ops::{Matmul, RmsNorm, RowCount, Swiglu, TopK, TopKRecord, TopKRow, Weight, count},
    quant::by_name,
    tensor::{Q8Tensor, Tensor},
};
use pollster::block_on;

static GPU: LazyLock<Gpu> = LazyLock::new(|| {
    let gpu = std::env::var("MISTRAL_GPU").ok();
    block_on(Gpu::open(&GpuOptions { gpu, ..Default::default() })).expect("a device")
});

const FORMATS: [&str; 5] = ["f32", "f16", "bf16", "q8_0", "q4_0"];

/// Outputs and inputs of the matrices of one layer, and of a slice of the output projection.
const SHAPES: [(&str, u32, u32); 4] =
    [("qkv", 6144, 4096), ("gate_up", 28672, 4096), ("down", 4096, 14336), ("lm_head", 8192, 4096)];

fn main() {
    println!("{} ({})", GPU.description().name, GPU.description().driver);
    divan::Divan::from_args().sample_count(5).max_time(Duration::from_secs(5)).main();
}

fn time(bencher: Bencher, recording: &Recording, rows: u64) {
    let mut counts = vec![0; count::single_items(1)];
    counts[count::ROWS] = rows;
    counts[count::LOGIT_ROWS] = rows;
    bencher.bench_local(|| {
        GPU.replay(recording, &counts, None).expect("a replay");
        GPU.wait().expect("the device");
    });
}

fn matmul(bencher: Bencher, format: &str, (outputs, inputs): (u32, u32), rows: RowCount, count: u32) {
    let format = by_name(format).expect("a format");
    let weight = Weight::allocate(&GPU, "weight", format, outputs, inputs).expect("memory");
    weight.fill_random(&GPU, 1, 0.02).expect("random weights");
    let x = Tensor::zeros(&GPU, "x", count, inputs).expect("memory");
    let x_q8 = Q8Tensor::zeros(&GPU, "x", count, inputs).expect("memory");
    let y = Tensor::zeros(&GPU, "y", count, outputs).expect("memory");
    let counts = GPU.upload("counts", &[count, count, 0, 0, 0]).expect("memory");
    let mut recording = Recording::default();
    Matmul { weight: &weight, x: &x, x_q8: Some(&x_q8), y: &y, rows, counts: &counts, label: "matmul" }
        .record(&GPU, &mut recording)
        .expect("a kernel");
    time(bencher.counter(BytesCount::new(weight.bytes())), &recording, count.into());
}

fn shapes() -> impl Iterator<Item = (&'static str, &'static str)> {
    FORMATS.into_iter().flat_map(|format| SHAPES.map(|(shape, ..)| (format, shape)))
}

fn size(shape: &str) -> (u32, u32) {
    let (_, outputs, inputs) = SHAPES.into_iter().find(|(name, ..)| *name == shape).expect("a shape");
    (outputs, inputs)
}

#[divan::bench(args = shapes(), consts = [1, 4, 8])]
fn mat_vec<const ROWS: u32>(bencher: Bencher, (format, shape): (&str, &str)) {
    matmul(bencher, format, size(shape), RowCount::Few(ROWS), ROWS);
}

#[divan::bench(args = shapes(), consts = [16, 128])]
fn mat_mat<const ROWS: u32>(bencher: Bencher, (format, shape): (&str, &str)) {
    matmul(bencher, format, size(shape), RowCount::many(count::ROWS, ROWS), ROWS);
}

#[divan::bench(args = [1, 128])]
fn rms_norm(bencher: Bencher, rows: u32) {
    let [x, y] = ["x", "y"].map(|label| Tensor::zeros(&GPU, label, rows, 4096).expect("memory"));
    let weight = GPU.upload("weight", &[1.0f32; 4096]).expect("memory");
    let mut recording = Recording::default();
    RmsNorm { x: &x, delta: None, weight: &weight, y: &y, row_ids: None, eps: 1e-5 }
        .record(&GPU, &mut recording)
        .expect("a kernel");
    time(bencher.counter(BytesCount::new(u64::from(rows) * 4096 * 8)), &recording, rows.into());
}

#[divan::bench(args = [1, 128])]
fn swiglu(bencher: Bencher, rows: u32) {
    let gate_up = Tensor::zeros(&GPU, "gate_up", rows, 28672).expect("memory");
    let out = Tensor::zeros(&GPU, "out", rows, 14336).expect("memory");
    let mut recording = Recording::default();
    Swiglu { gate_up: &gate_up, out: &out }.record(&GPU, &mut recording).expect("a kernel");
    time(bencher.counter(BytesCount::new(u64::from(rows) * 14336 * 12)), &recording, rows.into());
}

#[divan::bench(args = [1, 40, 256])]
fn top_k(bencher: Bencher, k: u32) {
    let values: Vec<f32> = (0..32_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32).collect();
    let logits = Tensor::from_values(&GPU, "logits", &values, 32_000).expect("memory");
    let rows = GPU.upload("rows", &[TopKRow { k, temperature: 1.0 }]).expect("memory");
    let records = GPU.allocate("records", size_of::<TopKRecord>() as u64).expect("memory");
    let mut recording = Recording::default();
    TopK { logits: &logits, rows: &rows, records: &records }.record(&GPU, &mut recording).expect("a kernel");
    time(bencher.counter(BytesCount::new(32_000u32 * 4)), &recording, 1);
}
