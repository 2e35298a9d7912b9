//! Quantized weight matrices on the device.

use std::ops::Range;

use super::{Operation, Variant};
use crate::{
    Error, ErrorKind, Result,
    gpu::{Buffer, Capability, Cost, Extent, Gpu, KernelKey, Recording, SHADERS, Step},
    quant::{BLOCK, Format, Matrix},
    uniform,
};

/// Most bytes in a plane of a part, whatever the device could bind: one step over it stays short.
const PART_BYTES: u64 = 128 << 20;

/// Most rows of a part: even, and within the workgroups that every device has in one dimension.
const PART_ROWS: u64 = 65_534;

/// Four weights, what the shaders decode at once; this many are a block.
pub(super) const QUADS: u32 = BLOCK as u32 / 4;

/// A weight matrix `[rows, cols]`, or one for each expert, every row padded to whole blocks, split by rows into parts. Cloning
/// shares the memory.
#[derive(Debug, Clone)]
pub struct Weight {
    /// How blocks are stored.
    pub format: &'static Format,
    /// Number of rows: outputs of a product, tokens of an embedding.
    pub rows: u32,
    /// Number of columns.
    pub cols: u32,
    /// Column of a product that is that of its first row.
    pub first_output: u32,
    /// Columns of a product from one row's to the next's.
    pub output_step: u32,
    /// Number of matrices, one after the other.
    pub experts: u32,
    /// In the order of their rows.
    pub parts: Vec<WeightPart>,
    /// What a product adds to its outputs, `f32`, one for each column of the product.
    pub bias: Option<Buffer>,
    /// Columns of a product's input in the order of its own, `[cols]`, `u32`, where that is another:
    /// [`Gather`](super::Gather) brings them into it.
    pub order: Option<Buffer>,
}

/// Neighbouring rows of a [`Weight`], small enough to be bound by a kernel: rows of one matrix, or several
/// matrices as a whole.
#[derive(Debug, Clone)]
pub struct WeightPart {
    /// Its first row in the whole weight, even.
    pub first_row: u32,
    /// Number of rows.
    pub rows: u32,
    /// `[rows, blocks, code_words]` words.
    pub codes: Buffer,
    /// `[rows, blocks, scale_halves]`, two halves a word, in formats that have scales.
    pub scales: Option<Buffer>,
}

impl Weight {
    /// Room for a matrix, zeroed.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] when the format does not take so many columns; [`ErrorKind::OutOfMemory`] when
    /// the device has no room or two rows alone exceed a binding; as [`Gpu::allocate`].
    pub fn allocate(gpu: &Gpu, label: &str, format: &'static Format, rows: u32, cols: u32) -> Result<Self> {
        Self::allocate_experts(gpu, label, format, 1, rows, cols)
    }

    /// As [`Weight::allocate`], with a matrix for each of `experts`.
    ///
    /// # Errors
    /// As [`Weight::allocate`].
    ///
    /// # Panics
    /// When there are several experts of an odd number of rows.
    pub fn allocate_experts(
        gpu: &Gpu,
        label: &str,
        format: &'static Format,
        experts: u32,
        rows: u32,
        cols: u32,
    ) -> Result<Self> {
        let part_bytes = gpu.limits().binding.min(PART_BYTES);
        Self::allocate_parts(gpu, label, format, experts, rows, cols, part_bytes)
    }

    /// As [`Weight::allocate_experts`], with parts of at most `part_bytes` in a plane.
    ///
    /// # Errors
    /// As [`Weight::allocate`].
    pub fn allocate_parts(
        gpu: &Gpu,
        label: &str,
        format: &'static Format,
        experts: u32,
        rows: u32,
        cols: u32,
        part_bytes: u64,
    ) -> Result<Self> {
        format.check_cols(label, cols as usize)?;
        assert!(experts == 1 || rows.is_multiple_of(2), "{experts} experts of {rows} rows");
        let row_bytes = 4 * format.code_words as u64 * format.blocks(cols as usize) as u64;
        let most = (part_bytes / row_bytes.max(1)).min(PART_ROWS) as u32 & !1;
        if most == 0 {
            let expected = format!("at most {part_bytes} bytes in two rows");
            let found = format!("{} bytes", 2 * row_bytes);
            return Err(Error::expected(ErrorKind::OutOfMemory, label, expected, found));
        }
        // Runs of rows that are cut into parts by themselves: all matrices, several of which fit into a part, or each.
        let (run, part_rows) = if rows <= most { (experts * rows, most / rows * rows) } else { (rows, most) };
        let part = |first_row: u32| {
            let rows = part_rows.min(run - first_row % run);
            let planes = format.plane_bytes(rows as usize, cols as usize);
            let (codes, scales) = planes.expect("no more than the bytes of a part");
            Ok(WeightPart {
                first_row,
                rows,
                codes: gpu.allocate(label, codes)?,
                scales: if scales > 0 { Some(gpu.allocate(label, scales)?) } else { None },
            })
        };
        let first_rows = (0..experts * rows)
            .step_by(run as usize)
            .flat_map(|first| (first..first + run).step_by(part_rows as usize));
        let parts = first_rows.map(part).collect::<Result<_>>()?;
        Ok(Self {
            format,
            rows,
            cols,
            experts,
            first_output: 0,
            output_step: 1,
            parts,
            bias: None,
            order: None,
        })
    }

    /// The same, for products whose columns `first_output + output_step * row` are those of its rows.
    pub fn at(self, first_output: u32, output_step: u32) -> Self {
        Self { first_output, output_step, ..self }
    }

    /// A copy of `matrix` on the device.
    ///
    /// # Errors
    /// As [`Weight::allocate`].
    pub fn from_matrix(gpu: &Gpu, label: &str, matrix: &Matrix) -> Result<Self> {
        Self::from_experts(gpu, label, 1, matrix)
    }

    /// A copy of the matrices of `experts`, which lie one after the other in `matrix`.
    ///
    /// # Errors
    /// As [`Weight::allocate_experts`].
    pub fn from_experts(gpu: &Gpu, label: &str, experts: u32, matrix: &Matrix) -> Result<Self> {
        let (rows, cols) = (matrix.rows as u32 / experts, matrix.cols as u32);
        let weight = Self::allocate_experts(gpu, label, matrix.format, experts, rows, cols)?;
        weight.write_rows(gpu, 0, &matrix.codes, &matrix.scales);
        Ok(weight)
    }

    /// Writes whole rows, from the even row `first_row` on, as many as `codes` and `scales` hold: an
    /// even number, unless they are the last.
    ///
    /// # Panics
    /// When the rows do not lie inside, or begin or end where they may not.
    pub fn write_rows(&self, gpu: &Gpu, first_row: u32, codes: &[u32], scales: &[u16]) {
        let blocks = self.format.blocks(self.cols as usize);
        let (row_codes, row_scales) = (blocks * self.format.code_words, blocks * self.format.scale_halves);
        let end_row = first_row + (codes.len() / row_codes) as u32;
        let rows = self.experts * self.rows;
        assert!(first_row.is_multiple_of(2) && end_row <= rows, "rows {first_row}..{end_row} of {rows}");
        assert!(end_row.is_multiple_of(2) || end_row == rows, "rows {first_row}..{end_row} of {rows}");
        assert_eq!(scales.len(), (end_row - first_row) as usize * row_scales, "scales");
        for part in &self.parts {
            let begin = first_row.max(part.first_row);
            let end = end_row.min(part.first_row + part.rows);
            if begin >= end {
                continue;
            }
            let offset = u64::from(begin - part.first_row);
            let of = |elements: usize| -> Range<usize> {
                (begin - first_row) as usize * elements..(end - first_row) as usize * elements
            };
            gpu.write(&part.codes, offset * 4 * row_codes as u64, &codes[of(row_codes)]);
            if let Some(plane) = &part.scales {
                let at = offset * 2 * row_scales as u64;
                let (words, odd) = scales[of(row_scales)].as_chunks::<2>();
                gpu.write(plane, at, words);
                if let [last] = odd {
                    gpu.write(plane, at + 4 * words.len() as u64, &[*last, 0]);
                }
            }
        }
    }

    /// Memory of all planes, in bytes.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(WeightPart::bytes).sum()
    }

    /// Blocks of [`BLOCK`] weights in a row.
    pub(super) fn blocks(&self) -> u32 {
        self.cols.div_ceil(BLOCK as u32)
    }

    /// Fills the matrix with random weights of mean 0 and about the given standard deviation, on the
    /// device: every two blocks are of a pool that is encoded on the host. Padding is random, too.
    ///
    /// # Errors
    /// As [`Gpu::replay`] and [`Step::new`].
    pub fn fill_random(&self, gpu: &Gpu, seed: u32, standard_deviation: f32) -> Result<()> {
        let (pairs, pair) = (POOL as usize, 2 * self.format.block);
        let values = uniform_values(seed, pairs * pair, standard_deviation);
        let pool = Matrix::encode(self.format, pairs, pair, &values);
        let pool_codes = gpu.upload("pool", &pool.codes)?;
        let pool_scales = gpu.upload("pool", &pool.scales)?;
        let (_, kernel) = FILL.choose(gpu, &self.format)?;
        let mut recording = Recording::default();
        for part in &self.parts {
            let row_blocks = self.format.blocks(self.cols as usize) as u32;
            let blocks = part.rows * row_blocks;
            let first_pair = (part.first_row / 2).wrapping_mul(row_blocks);
            let params = gpu.uniform(&FillParams { blocks, first_pair, seed })?;
            let mut bindings = vec![("codes", &part.codes), ("params", &params), ("pool_codes", &pool_codes)];
            if let Some(scales) = &part.scales {
                bindings.extend([("scales", scales), ("pool_scales", &pool_scales)]);
            }
            let workgroups = blocks.div_ceil(2 * FILL_WORKGROUP).min(PART_ROWS as u32);
            let cost = Cost { fixed: part.bytes() as f64, ..Cost::default() };
            let grid = [workgroups, 1, 1].map(Extent::Fixed);
            recording.push(Step::new(gpu, "fill", kernel.clone(), &bindings, grid, cost)?);
        }
        gpu.replay(&recording, &[0], None)
    }
}

impl WeightPart {
    /// Memory of its planes, in bytes.
    pub fn bytes(&self) -> u64 {
        self.codes.size() + self.scales.as_ref().map_or(0, Buffer::size)
    }

    /// Its planes by the names that the shaders of `quant/` give them.
    pub(super) fn bindings(&self) -> impl Iterator<Item = (&'static str, &Buffer)> {
        [("codes", &self.codes)].into_iter().chain(self.scales.as_ref().map(|scales| ("scales", scales)))
    }
}

/// A key whose shader decodes weights of `format` through `package::weight`, by blocks of [`BLOCK`] weights.
///
/// That module, `quant/<format>`, has a type `WeightScale`, what a block's weights have in common, which `scale_in(words, block)` takes from
/// what `scale_words(block)` loads, for `SCALE_BLOCKS` neighbouring blocks at once; `weight_quad(block, j, scale)`, weights `4j` to `4j + 3`; and,
/// for formats with scales, `weight_dot(scale, dots, sum)`, the product of a block with activations: `dots` are those of either half's
/// codes, `sum` is the sum of the activations. Codes are what `code_values(word)` makes of the two words of `code_words(block, j)`, those of quads
/// `j` and `j + 4`. With the flag `integer` there are in place of quads and words `weight_codes(block, part)`, a part of the codes as
/// `quant/activations` defines parts, and activations are codes, too.
pub(super) fn weight_key(shader: &'static str, format: &'static Format) -> KernelKey {
    let mut modules = SHADERS.iter().map(|(name, _)| *name);
    let decoder = modules.find(|name| name.strip_prefix("quant/") == Some(format.name));
    KernelKey::new(shader)
        .mount("weight", decoder.expect("every format has its shader"))
        .constant("CODE_WORDS", (format.code_words * BLOCK / format.block) as u32)
        .constant("QUADS", QUADS)
}

/// Whether the weights are integers times scales, so that its shader has `weight_codes`.
pub(super) fn reads_integers(format: &Format) -> bool {
    format.scale_halves > 0
}

/// What kernels need that read two words of codes at once. Drivers for CPUs, which load for one invocation after the other,
/// take as long for two as for one.
pub(super) const READS_WIDE: &[Capability] =
    &[Capability::Cpu, Capability::Integer, Capability::Int64, Capability::Subgroup];

/// Whether `weight_codes` are 0 to 15, so that two products are one: see `pairs.wgsl`.
pub(super) fn reads_small_integers(format: &Format) -> bool {
    matches!(format.name, "q4_0" | "q4_1" | "q4_k" | "int4")
}

uniform! {
    struct FillParams { blocks: u32, first_pair: u32, seed: u32 }
}

/// Pairs of blocks to choose from.
const POOL: u32 = 512;

const FILL_WORKGROUP: u32 = 64;

/// The table of variants of [`Weight::fill_random`].
pub static FILL: Operation<&Format> = Operation {
    name: "fill",
    variants: &[Variant {
        name: "baseline",
        fits: |_| true,
        key: |format| {
            KernelKey::new("fill")
                .with::<FillParams>()
                .constant("WORKGROUP", FILL_WORKGROUP)
                .constant("POOL", POOL)
                .constant("CODE_WORDS", format.code_words as u32)
                .constant("SCALE_HALVES", format.scale_halves as u32)
                .flag("scales", format.scale_halves > 0)
        },
    }],
};

/// Values evenly spread over ±√3 standard deviations.
pub(super) fn uniform_values(seed: u32, count: usize, standard_deviation: f32) -> Vec<f32> {
    // A linear congruential generator modulo 2⁶⁴ (Knuth's MMIX multiplier), of which the high bits are used.
    let mut state = u64::from(seed);
    let mut unit = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..count).map(|_| unit() * standard_deviation * 3f32.sqrt()).collect()
}
