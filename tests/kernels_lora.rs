//! What adapters add to a product: every variant × odd shapes against `reference/`, on the device.

mod device;

use device::{difference, download, noise, on_both};
use half::{bf16, f16};
use mistral_wgpu::{
    gpu::{Gpu, Recording},
    ops::*,
    reference,
    tensor::{ActivationFormat, Rounded, Tensor},
};

/// A product of `inputs` for `parts`, with as many adapters of `ranks` ranks as there are `targets` for: the parts
/// that each changes, a bit each.
struct Product {
    inputs: usize,
    parts: LoraParts,
    ranks: usize,
    targets: Vec<u32>,
    /// The smallest that holds A and B.
    format: LoraFormat,
}

impl Product {
    /// Part and output in it of each output.
    fn places(&self) -> Vec<(usize, usize)> {
        match self.parts {
            LoraParts::Stacked(outputs) => {
                let part = |(part, outputs)| (0..outputs as usize).map(move |output| (part, output));
                outputs.into_iter().enumerate().flat_map(part).collect()
            }
            LoraParts::Alternating(outputs) => {
                (0..outputs as usize).flat_map(|output| [(0, output), (1, output)]).collect()
            }
        }
    }

    /// Runs the product for rows of a batch with these adapters and compares each row with the reference.
    fn check(
        &self,
        gpu: &Gpu,
        adapters: &[u32],
        chosen: Option<&[u32]>,
        count: RowCount,
        format: ActivationFormat,
    ) {
        let (parts, outputs) = (self.parts.count() as usize, self.parts.outputs() as usize);
        let stride = self.inputs.next_multiple_of(32);
        let all: Vec<u32> = (0..adapters.len() as u32).collect();
        let of_batch = chosen.unwrap_or(&all);
        let rows = of_batch.len();
        let count_of = self.targets.len();
        let code = |(index, value): (usize, f32)| match index % self.inputs % 32 {
            0 => 127.0 / 64.0,
            _ => (value * 126.0).round() / 64.0,
        };
        let x: Vec<f32> = noise(1, rows * self.inputs).into_iter().enumerate().map(code).collect();
        let y = noise(2, rows * outputs);
        let mut a = noise(3, count_of * parts * self.ranks * stride);
        for row in a.chunks_exact_mut(stride) {
            row[self.inputs..].fill(0.0);
        }
        let mut b = noise(4, count_of * outputs * self.ranks);
        a.iter_mut().chain(&mut b).for_each(|value| {
            *value = match self.format {
                LoraFormat::F32 => *value,
                // Subnormal by itself in f16, too.
                LoraFormat::F16 => f16::from_f32(*value).to_f32() / 65536.0,
                LoraFormat::Bf16 => bf16::from_f32(*value).to_f32(),
            }
        });

        let mut expected = y.clone();
        let places = self.places();
        for ((y, x), row) in expected.chunks_exact_mut(outputs).zip(x.chunks_exact(self.inputs)).zip(of_batch)
        {
            for adapter in (0..count_of).filter(|adapter| adapters[*row as usize] >> adapter & 1 == 1) {
                for (output, (part, _)) in places.iter().enumerate() {
                    if self.targets[adapter] >> part & 1 == 1 {
                        let a = &a[(adapter * parts + part) * self.ranks * stride..][..self.ranks * stride];
                        let a: Vec<f32> =
                            a.chunks_exact(stride).flat_map(|a| &a[..self.inputs]).copied().collect();
                        let b = &b[(adapter * outputs + output) * self.ranks..][..self.ranks];
                        reference::lora(&mut y[output..=output], x, &a, b, self.ranks, 1.0);
                    }
                }
            }
        }

        let bits = |part: usize| {
            let bit = |(adapter, targets): (usize, &u32)| (targets >> part & 1) << adapter;
            self.targets.iter().enumerate().map(bit).sum()
        };
        let targets = [bits(0), bits(1), bits(2)];
        let factors = LoraFactors::new(gpu, [&a, &b], count_of as u32, targets, self.parts).unwrap();
        assert_eq!(factors.format(), self.format);
        let x = Tensor::from_values(gpu, "x", &x, self.inputs as u32).unwrap();
        let rounded = Rounded::zeros(gpu, "rounded", x.rows, x.cols).unwrap();
        let y = Tensor::from_values(gpu, "y", &y, outputs as u32).unwrap();
        let h = gpu.upload("h", &vec![f32::NAN; rows * factors.all_ranks() as usize]).unwrap();
        let row = |adapters: &u32| Row { adapters: *adapters, ..bytemuck::Zeroable::zeroed() };
        let table = gpu.upload("rows", &adapters.iter().map(row).collect::<Vec<_>>()).unwrap();
        let row_ids = chosen.map(|chosen| gpu.upload("row ids", chosen).unwrap());
        let mut recording = Recording::default();
        let stored = rounded.activation(format, &x);
        Quantize { x: &x, y: stored, rows: count }.record(gpu, &mut recording).unwrap();
        let (row_ids, counts) = (row_ids.as_ref(), gpu.upload("counts", &[rows as u32; 2]).unwrap());
        Lora { factors: &factors, x: stored, h: &h, y: &y, rows: &table, row_ids, count, counts: &counts }
            .record(gpu, &mut recording)
            .unwrap();
        gpu.replay(&recording, &[rows as u64, rows as u64], None).unwrap();
        let bound = 2e-6 * (self.inputs * self.ranks * count_of) as f32;
        let error = difference(&download(gpu, &y, rows), &expected);
        let Self { inputs, parts, ranks, targets, .. } = self;
        assert!(error < bound, "{inputs} inputs, {parts:?}, {ranks} ranks, {targets:?}: {error:e}");
    }
}

#[test]
fn adapters_add_what_the_reference_says() {
    let products = [
        Product {
            inputs: 33,
            parts: LoraParts::Stacked([5, 0, 0]),
            ranks: 4,
            targets: vec![1],
            format: LoraFormat::F32,
        },
        Product {
            inputs: 320,
            parts: LoraParts::Stacked([70, 30, 30]),
            ranks: 8,
            targets: vec![0b101, 0b111],
            format: LoraFormat::Bf16,
        },
        Product {
            inputs: 64,
            parts: LoraParts::Stacked([100, 2, 65]),
            ranks: 12,
            targets: vec![0b010, 0b001, 0b100],
            format: LoraFormat::F16,
        },
        Product {
            inputs: 260,
            parts: LoraParts::Alternating(67),
            ranks: 20,
            targets: vec![0b11, 0b10],
            format: LoraFormat::F32,
        },
        Product {
            inputs: 2080,
            parts: LoraParts::Alternating(3),
            ranks: 16,
            targets: vec![0b01],
            format: LoraFormat::F16,
        },
        Product {
            inputs: 32,
            parts: LoraParts::Stacked([130, 0, 0]),
            ranks: 64,
            targets: vec![1; 5],
            format: LoraFormat::Bf16,
        },
    ];
    on_both(|gpu| {
        for product in &products {
            for format in ActivationFormat::ALL {
                product.check(gpu, &[1], None, RowCount::Few(1), format);
                product.check(gpu, &[0, 3, 1, 2, 0, 31, 16, 5], None, RowCount::Few(8), format);
                let many: Vec<u32> = (0..21).map(|row| row * 7 % 32).collect();
                product.check(gpu, &many, None, RowCount::many(count::ROWS, 21), format);
                let chosen = [20, 3, 4];
                product.check(gpu, &many, Some(&chosen), RowCount::Few(3), format);
                product.check(gpu, &many, Some(&chosen), RowCount::many(count::LOGIT_ROWS, 3), format);
            }
        }
    });
}
