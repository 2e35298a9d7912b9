//! Rotation, the KV cache and attention, on a sequence of three pages.

use super::{
    SelfTest,
    output::{self, Output},
    worst,
};
use crate::{
    Result,
    gpu::{Gpu, Recording},
    ops::{
        ATTENTION_COMBINE, ATTENTION_SINGLE, ATTENTION_TILED, Attention, AttentionCombineShape,
        AttentionShape, KvSegment, PAGE, QUERY_TILE, ROPE_KV, RopeKv, Row, WorkItem, count, rounds_to_f16,
        weight::uniform_values,
    },
    quant::BLOCK,
    reference::{self, KvPageLayout, KvSide},
    tensor::{ActivationFormat, Tensor},
};

/// The pages `table` with the numbers of `values`, `[tokens, kv_heads, head_dim]`; elsewhere NaN, or
/// garbage where the format has none.
fn paged(shape: &AttentionShape, side: KvSide, values: &[f32], table: &[u32]) -> Vec<u32> {
    let layout = shape.page_layout();
    let mut pages = vec![u32::MAX; table.len() * layout.page_words()];
    for (number, head) in values.chunks_exact(layout.head_dim).enumerate() {
        let (token, kv_head) = (number / layout.kv_heads, number % layout.kv_heads);
        let slot = table[token / layout.page] as usize * layout.page + token % layout.page;
        for (at, word) in layout.words(side, slot, kv_head).into_iter().zip(layout.encode(head)) {
            pages[at] = word;
        }
    }
    pages
}

/// How much further than the reference's the stored numbers `found` are from `values`, at worst:
/// relative to the value, or to the largest of its block if they share a scale.
pub fn worst_stored(layout: &KvPageLayout, found: &[f32], values: &[f32]) -> f32 {
    let expected = layout.stored(values);
    let block = if layout.format.scale_halves > 0 { BLOCK } else { 1 };
    let size = |index: usize| {
        values[index / block * block..][..block].iter().fold(0.0f32, |most, value| most.max(value.abs()))
    };
    let errors: Vec<f32> = found
        .iter()
        .zip(&expected)
        .zip(values)
        .map(|((found, expected), value)| (found - value).abs() - (expected - value).abs())
        .map(|excess| if excess.is_nan() { f32::MAX } else { excess.max(0.0) })
        .collect();
    worst(&errors, &vec![0.0; errors.len()], size)
}

/// Two rows: one turned by angles like any, the other by a quarter, which is exact, so that its key
/// must be stored exactly, and every value, those of the first head subnormal in `f16`.
pub async fn rope_kv(test: &mut SelfTest<'_>, shape: AttentionShape) -> Result<()> {
    let [heads, kv_heads, dim] = [shape.heads, shape.kv_heads, shape.head_dim].map(|n| n as usize);
    let (mut cos, mut sin) = reference::rope_table(&reference::rope_frequencies(dim, 1e4), 1.0, 7..=7);
    cos.resize(dim, 0.0);
    sin.resize(dim, 1.0);
    let table: Vec<[f32; 2]> = cos.iter().zip(&sin).map(|(cos, sin)| [*cos, *sin]).collect();

    let (mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new());
    let cols = (heads + 2 * kv_heads) * dim;
    let mut qkv = uniform_values(1, 2 * cols, 1.0);
    for row in qkv.chunks_exact_mut(cols) {
        row[(heads + kv_heads) * dim..][..dim].iter_mut().for_each(|value| *value *= 2e-5);
        q.extend_from_slice(&row[..heads * dim]);
        k.extend_from_slice(&row[heads * dim..][..kv_heads * dim]);
        v.extend_from_slice(&row[(heads + kv_heads) * dim..]);
    }
    reference::rope(&mut q, &cos, &sin, heads, dim);
    reference::rope(&mut k, &cos, &sin, kv_heads, dim);
    let k = &k[kv_heads * dim..];

    let layout = shape.page_layout();
    let slots = [5, PAGE + 8];
    test.check(&ROPE_KV, &shape, shape.kv.name(), 1e-6, async |gpu| {
        let qkv = Tensor::from_values(gpu, "qkv", &qkv, cols as u32)?;
        let turned = Tensor::zeros(gpu, "q", 2, shape.heads * shape.head_dim)?;
        let rows = [0, 1].map(|row| Row {
            position: row,
            slot: slots[row as usize],
            ..bytemuck::Zeroable::zeroed()
        });
        let rows = gpu.upload("rows", &rows)?;
        let rope = gpu.upload("rope", &table)?;
        let bytes = 2 * shape.page_bytes();
        let segment = KvSegment {
            k: gpu.allocate("k", bytes)?,
            v: gpu.allocate("v", bytes)?,
            first_slot: 0,
            slots: 2 * PAGE,
        };
        let mut recording = Recording::default();
        let segments = std::slice::from_ref(&segment);
        RopeKv { qkv: &qkv, q: &turned, rows: &rows, rope: &rope, segments, shape }
            .record(gpu, &mut recording)?;
        gpu.replay(&recording, &[2], None)?;
        let pages = gpu.download::<u32>(&[segment.k, segment.v]).await?;
        let token = |words: &[u32], side: KvSide, slot: u32| -> Vec<f32> {
            let head = |head| layout.words(side, slot as usize, head).into_iter().map(|at| words[at]);
            (0..kv_heads).flat_map(|number| layout.decode(&head(number).collect::<Vec<_>>())).collect()
        };
        let found_v = slots.map(|slot| token(&pages[1], KvSide::Values, slot)).concat();
        let of_q = worst(&turned.download(gpu, 2).await?, &q, |_| 1.0);
        let of_k = worst_stored(&layout, &token(&pages[0], KvSide::Keys, slots[1]), k);
        Ok(of_q.max(of_k).max(worst_stored(&layout, &found_v, &v)))
    })
    .await
}

/// Tokens of the sequence, which ends within its third page.
const KEYS: u32 = 2 * PAGE + 6;

/// Some keys of the first page have left it.
const WINDOW: u32 = 50;

/// Its pages lie in this order.
const TABLE: [u32; 3] = [2, 0, 1];

/// Numbers of an attention.
struct Case {
    shape: AttentionShape,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    positions: Vec<u32>,
    expected: Vec<f32>,
}

/// Of the first head, values are subnormal in `f16`.
fn value_size(shape: &AttentionShape, head: u32) -> f32 {
    if head / shape.group() == 0 { 5e-5 } else { 1.0 }
}

impl Case {
    /// One row by itself at the last position, and a tile of rows that ends there.
    fn new(shape: AttentionShape) -> Self {
        let [heads, kv_heads, dim] = [shape.heads, shape.kv_heads, shape.head_dim].map(|n| n as usize);
        let layout = shape.page_layout();
        let positions: Vec<u32> = [KEYS - 1].into_iter().chain(KEYS - QUERY_TILE..KEYS).collect();
        let elements = KEYS as usize * kv_heads * dim;
        let mut v = uniform_values(3, elements, 0.5);
        for (number, head) in (0..).zip(v.chunks_exact_mut(dim)) {
            let size = value_size(&shape, number % shape.kv_heads * shape.group());
            head.iter_mut().for_each(|value| *value *= size);
        }
        let (k, v) = (layout.stored(&uniform_values(2, elements, 1.5)), layout.stored(&v));
        let q = uniform_values(1, positions.len() * heads * dim, 1.0);
        let twin = reference::AttentionShape { heads, kv_heads, head_dim: dim, window: Some(WINDOW) };
        let expected = reference::attention(&q, &k, &v, &positions, twin);
        Self { shape, q, k, v, positions, expected }
    }

    /// The worst error of the rows, one number for each.
    async fn run(&self, gpu: &Gpu, format: ActivationFormat) -> Result<Vec<f32>> {
        let shape = self.shape;
        let cols = shape.heads * shape.head_dim;
        let q = Tensor::from_values(gpu, "q", &self.q, cols)?;
        let y = Output::new(gpu, format, q.rows, cols)?;
        let rows = (0..).zip(&self.positions);
        let rows: Vec<_> = rows
            .map(|(row, position)| Row {
                position: *position,
                partial: 2 * row,
                partials: 2,
                ..bytemuck::Zeroable::zeroed()
            })
            .collect();
        // Keys are split where the third page begins, which not every row of the tile sees.
        let items = |first_row: u32, rows: u32| {
            let begin = self.positions[first_row as usize] + 1 - WINDOW;
            [(begin, 2 * PAGE, 0), (2 * PAGE, KEYS, 1)].map(|(key_begin, key_end, split)| WorkItem {
                first_row,
                rows,
                pages: 0,
                key_begin,
                key_end,
                split,
            })
        };
        let (single, tiled) = (items(0, 1), items(1, QUERY_TILE));
        let segment = KvSegment {
            k: gpu.upload("k", &paged(&shape, KvSide::Keys, &self.k, &TABLE))?,
            v: gpu.upload("v", &paged(&shape, KvSide::Values, &self.v, &TABLE))?,
            first_slot: 0,
            slots: TABLE.len() as u32 * PAGE,
        };
        let partials = 2 * self.positions.len() as u64;
        let mut recording = Recording::default();
        Attention {
            first_segment: 0,
            q: &q,
            y: y.activation(),
            rows: &gpu.upload("rows", &rows)?,
            single_items: &[gpu.upload("single items", &single)?],
            tiled_items: &[gpu.upload("tiled items", &tiled)?],
            page_table: &gpu.upload("page table", &TABLE)?,
            segments: &[segment],
            partials: &gpu.allocate("partials", 4 * partials * shape.partial_floats())?,
            shape,
            window: Some(WINDOW),
        }
        .record(gpu, &mut recording)?;
        let counts = count::table(q.rows as usize, 0, &[(&single, &tiled)]);
        gpu.replay(&recording, &counts, None)?;
        let size = |index: usize| value_size(&shape, index as u32 / shape.head_dim);
        let errors = y.errors(gpu, &self.expected, size).await?;
        Ok(errors.chunks_exact(cols as usize).map(|row| row.iter().copied().fold(0.0, f32::max)).collect())
    }
}

/// Single rows, tiles, and the merge of their parts.
pub async fn attention(test: &mut SelfTest<'_>, shape: AttentionShape) -> Result<()> {
    let case = &Case::new(shape);
    let name = shape.kv.name();
    // WGSL promises exp(x) to 3 + 2 |x| units in the last place; here |x| is below some 30.
    let bound = 1e-5;
    let largest = |errors: &[f32]| errors.iter().copied().fold(0.0, f32::max);
    test.check(&ATTENTION_SINGLE, &shape, name, bound, async |gpu| {
        Ok(case.run(gpu, ActivationFormat::F32).await?[0])
    })
    .await?;
    let tiles = async |gpu: &Gpu| Ok(largest(&case.run(gpu, ActivationFormat::F32).await?[1..]));
    let (to_f16, exact): (Vec<_>, Vec<_>) =
        ATTENTION_TILED.runnable(test.gpu, &shape).partition(|variant| rounds_to_f16(&(variant.key)(&shape)));
    test.check_variants(&ATTENTION_TILED, &exact, name, bound, &tiles).await?;
    // Queries, weights and scaled keys have 11 bits, and so has each factor's error.
    test.check_variants(&ATTENTION_TILED, &to_f16, format!("{name}, rounded to f16"), 1e-3, &tiles).await?;
    let formats = ActivationFormat::ALL.into_iter();
    for format in formats.filter(|format| *format == ActivationFormat::F32 || shape.whole_blocks()) {
        let combine = AttentionCombineShape { attention: shape, format };
        let bound = output::bound(format, bound);
        test.check(&ATTENTION_COMBINE, &combine, format!("{name}, {format:?}"), bound, async |gpu| {
            // What it merges is exact.
            let gpu = gpu.with_own_rejections();
            to_f16.iter().for_each(|variant| gpu.reject(ATTENTION_TILED.full_name(variant)));
            Ok(largest(&case.run(&gpu, format).await?))
        })
        .await?;
    }
    Ok(())
}
