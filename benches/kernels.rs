//! Times every variant of every kernel in every format on the shapes of Mistral 7B, beside what the device could do
//! at best: `cargo bench`, or `cargo bench -- mat_vec q4_0` for the rows that contain these words. The device is the
//! one that `MISTRAL_GPU` names.

#[allow(dead_code)] // what only tests use
#[path = "../tests/batch/mod.rs"]
mod batch;
#[path = "../tests/device/mod.rs"]
mod device;

use std::time::Instant;

use batch::{Batch, Sequence};
use mistral_wgpu::{
    Result,
    gpu::{Buffer, Gpu, GpuOptions, Recording},
    ops::*,
    quant::{FORMATS, Format},
    tensor::{Activation, ActivationFormat, Rounded, Tensor},
};
use pollster::block_on;

/// Outputs and inputs of the matrices of one layer, and of a slice of the output projection.
const MATRICES: [(&str, u32, u32); 5] = [
    ("qkv", 6144, 4096),
    ("o", 4096, 4096),
    ("gate_up", 28672, 4096),
    ("down", 4096, 14336),
    ("lm_head", 8192, 4096),
];
const HIDDEN: u32 = 4096;
const INTERMEDIATE: u32 = 14336;
const VOCAB: u32 = 32000;

/// Rows of activations.
const FEW: [u32; 3] = [1, 4, 8];
const MANY: [u32; 3] = [16, 64, 256];

/// Seconds to spend on a row, beside its warm-up.
const PATIENCE: f64 = 0.3;

struct Bench {
    gpu: Gpu,
    roofline: Roofline,
    /// Words that a row's name must contain.
    wanted: Vec<String>,
}

/// Bytes that must be moved and operations that must be computed.
struct Work {
    bytes: f64,
    operations: f64,
}

fn main() -> Result<()> {
    let gpu = std::env::var("MISTRAL_GPU").ok();
    let gpu = block_on(Gpu::open(&GpuOptions { gpu, ..Default::default() }))?;
    let roofline = block_on(Roofline::measure(&gpu))?;
    // cargo passes `--bench`.
    let wanted = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    println!("{} ({})\n", gpu.description().name, gpu.description().driver);
    println!("| kernel | shape | rows | µs | GB/s | GFLOP/s | of the limit |");
    println!("| --- | --- | ---: | ---: | ---: | ---: | ---: |");
    let bench = Bench { gpu, roofline, wanted };
    for format in FORMATS {
        for (name, outputs, inputs) in MATRICES {
            bench.products(format, name, outputs, inputs)?;
        }
    }
    for kv in KvFormat::all() {
        bench.attention(AttentionShape { heads: 32, kv_heads: 8, head_dim: 128, kv })?;
    }
    bench.pointwise()?;
    bench.top_k()
}

impl Bench {
    fn wants(&self, kernel: &str, shape: &str) -> bool {
        let name = format!("{kernel} {shape}");
        self.wanted.iter().all(|word| name.contains(word.as_str()))
    }

    /// Times what `record` records, and prints the row.
    fn time(&self, kernel: &str, shape: &str, rows: u32, work: &Work, recording: &Recording) -> Result<()> {
        let mut counts = vec![0; count::single_items(1)];
        counts[count::ROWS] = rows.into();
        counts[count::LOGIT_ROWS] = rows.into();
        self.time_with(kernel, shape, rows, work, recording, &counts)
    }

    fn time_with(
        &self,
        kernel: &str,
        shape: &str,
        rows: u32,
        work: &Work,
        recording: &Recording,
        counts: &[u64],
    ) -> Result<()> {
        let before = self.gpu.counters();
        let run = || -> Result<f64> {
            let start = Instant::now();
            self.gpu.replay(recording, counts, None)?;
            self.gpu.wait()?;
            Ok(start.elapsed().as_secs_f64())
        };
        // The first compiles. What submitting and waiting takes is no part of a kernel's time in a longer recording.
        run()?;
        let dispatches = (self.gpu.counters() - before).dispatches as f64;
        let (mut spent, mut samples) = (0.0, Vec::new());
        while samples.len() < 3 || spent < PATIENCE && samples.len() < 100 {
            samples.push(run()?);
            spent += samples[samples.len() - 1];
        }
        samples.sort_by(f64::total_cmp);
        let seconds = (samples[samples.len() / 2] - self.roofline.round_trip_seconds).max(1e-7);
        let limit = self.roofline.seconds(work.bytes, work.operations, dispatches);
        println!(
            "| {kernel} | {shape} | {rows} | {:.1} | {:.2} | {:.2} | {:.0} % |",
            1e6 * seconds,
            1e-9 * work.bytes / seconds,
            1e-9 * work.operations / seconds,
            100.0 * limit / seconds,
        );
        Ok(())
    }

    /// The products of a matrix with few and with many rows.
    fn products(&self, format: &'static Format, name: &'static str, outputs: u32, inputs: u32) -> Result<()> {
        let shape = format!("{name} {}", format.name);
        let mat_vec = FEW.map(|rows| (RowCount::Few(rows), rows));
        let mat_mat = MANY.map(|rows| (RowCount::many(count::ROWS, rows), rows));
        for (count, rows) in mat_vec.into_iter().chain(mat_mat) {
            let only: Vec<(String, Gpu)> = match count {
                RowCount::Few(cols) => {
                    let shape = MatVecShape::new(format, cols);
                    each(&MAT_VEC, &self.gpu, &shape)
                }
                RowCount::Many { most, .. } => {
                    let shape = MatMatShape { format, rounded: true, most, experts: false };
                    each(&MAT_MAT, &self.gpu, &shape)
                }
            };
            for (kernel, gpu) in only.iter().filter(|(kernel, _)| self.wants(kernel, &shape)) {
                // Allocated for each variant: layouts may differ.
                let weight = Weight::allocate(gpu, "weight", format, outputs, inputs)?;
                weight.fill_random(gpu, 1, 0.02)?;
                let (x, y) =
                    (Tensor::zeros(gpu, "x", rows, inputs)?, Tensor::zeros(gpu, "y", rows, outputs)?);
                let rounded = Rounded::zeros(gpu, "x", rows, inputs)?;
                let counts: Buffer = gpu.upload("counts", &[rows, rows, 0, 0, 0])?;
                let mut recording = Recording::default();
                Matmul {
                    weight: &weight,
                    x: &x,
                    rounded: Some(&rounded),
                    y: &y,
                    rows: count,
                    counts: &counts,
                    experts: None,
                    label: name,
                }
                .record(gpu, &mut recording)?;
                let operations = 2.0 * f64::from(outputs) * f64::from(inputs) * f64::from(rows);
                self.time(
                    kernel,
                    &shape,
                    rows,
                    &Work { bytes: weight.bytes() as f64, operations },
                    &recording,
                )?;
            }
        }
        Ok(())
    }

    /// Attention of a decoded token, and of a chunk of a prompt, with the merge of its parts.
    fn attention(&self, shape: AttentionShape) -> Result<()> {
        for (keys, rows) in [(1024, 1), (4096, 1), (256, 256), (2048, 256)] {
            let name = format!("{keys} keys {}", shape.kv.name());
            let operation = if rows == 1 { &ATTENTION_SINGLE } else { &ATTENTION_TILED };
            let sequence = Sequence::random(1, &shape, keys, rows);
            let visits: u64 = (keys - rows..keys).map(|position| u64::from(position) + 1).sum();
            let work = Work {
                bytes: 2.0 * f64::from(keys.div_ceil(PAGE)) * shape.page_bytes() as f64,
                operations: 4.0 * f64::from(shape.heads * shape.head_dim) * visits as f64,
            };
            for (kernel, gpu) in each(operation, &self.gpu, &shape) {
                if self.wants(&kernel, &name) {
                    let Batch { recording, counts, .. } =
                        batch::batch(&gpu, shape, None, 1, std::slice::from_ref(&sequence));
                    self.time_with(&kernel, &name, rows, &work, &recording, &counts)?;
                }
            }
        }
        Ok(())
    }

    fn pointwise(&self) -> Result<()> {
        for rows in [1, 256] {
            let values = f64::from(rows * HIDDEN);
            for (kernel, gpu) in each(
                &RMS_NORM,
                &self.gpu,
                &RmsNormShape { residual: false, gather: false, format: ActivationFormat::F32 },
            ) {
                if self.wants(&kernel, "hidden") {
                    let [x, y] = ["x", "y"].map(|label| Tensor::zeros(&gpu, label, rows, HIDDEN));
                    let weight = Tensor::from_values(&gpu, "weight", &[1.0; HIDDEN as usize], HIDDEN)?;
                    let mut recording = Recording::default();
                    RmsNorm {
                        x: &x?,
                        delta: None,
                        weight: &weight,
                        y: Activation::F32(&y?),
                        row_ids: None,
                        eps: 1e-5,
                    }
                    .record(&gpu, &mut recording)?;
                    let work = Work { bytes: 8.0 * values, operations: 4.0 * values };
                    self.time(&kernel, "hidden", rows, &work, &recording)?;
                }
            }
            let values = f64::from(rows * INTERMEDIATE);
            for (kernel, gpu) in each(&SWIGLU, &self.gpu, &ActivationFormat::F32) {
                if self.wants(&kernel, "intermediate") {
                    let gate_up = Tensor::zeros(&gpu, "gate_up", rows, 2 * INTERMEDIATE)?;
                    let out = Tensor::zeros(&gpu, "out", rows, INTERMEDIATE)?;
                    let mut recording = Recording::default();
                    Swiglu { gate_up: &gate_up, y: Activation::F32(&out), per_row: 1 }
                        .record(&gpu, &mut recording)?;
                    let work = Work { bytes: 12.0 * values, operations: 5.0 * values };
                    self.time(&kernel, "intermediate", rows, &work, &recording)?;
                }
            }
        }
        Ok(())
    }

    fn top_k(&self) -> Result<()> {
        for (kernel, gpu) in each(&TOP_K, &self.gpu, &()) {
            for k in [1, 40, 256] {
                let shape = format!("vocabulary k={k}");
                if self.wants(&kernel, &shape) {
                    let noise = (0..VOCAB).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32);
                    let logits = Tensor::from_values(&gpu, "logits", &noise.collect::<Vec<_>>(), VOCAB)?;
                    let rows = gpu.upload("rows", &[TopKRow { k, temperature: 1.0 }])?;
                    let records = gpu.allocate("records", size_of::<TopKRecord>() as u64)?;
                    let mut recording = Recording::default();
                    TopK { logits: &logits, rows: &rows, records: &records }.record(&gpu, &mut recording)?;
                    let work = Work { bytes: 4.0 * f64::from(VOCAB), operations: f64::from(VOCAB) };
                    self.time(&kernel, &shape, 1, &work, &recording)?;
                }
            }
        }
        Ok(())
    }
}

/// Every variant of an operation that the device can run, with a handle to the device that has no other.
fn each<S>(operation: &Operation<S>, gpu: &Gpu, shape: &S) -> Vec<(String, Gpu)> {
    let only = |variant| (operation.full_name(variant), operation.only(gpu, variant));
    operation.runnable(gpu, shape).map(only).collect()
}
