//! Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245), causal and with a sliding window
//! (Jiang et al. 2023, arXiv:2310.06825), over the pages of the KV cache.
//!
//! Work items compute partial results, which a last step merges: a row's keys may be split over
//! several items, and its pages lie in several segments.

use super::{
    AttentionShape, KvFormat, KvSegment, Operation, PAGE, QUERY_TILE, Row, Variant, WorkItem, count,
    mat_mat::ROUNDS_TO_F16,
    variant::{NARROW, narrow_key},
};
use crate::{
    Result,
    gpu::{Buffer, Capability, Cost, Extent, Gpu, KernelKey, Recording, Step},
    quant::BLOCK,
    tensor::{Activation, ActivationFormat, Tensor},
    uniform,
};

uniform! {
    struct AttentionParams { stride: u32, window: u32, scale: f32 }
}

/// Query heads that one workgroup of tiled attention computes at most: its weights take
/// `QUERY_TILE * HEADS_TILE * PAGE` floats of workgroup memory.
const HEADS_TILE: u32 = 4;

/// Invocations that share a query in tiled attention.
const TEAM: u32 = 4;

fn key(shader: &'static str, shape: &AttentionShape) -> KernelKey {
    shape.specialise(KernelKey::new(shader).with::<AttentionParams>().with::<Row>().with::<WorkItem>())
}

/// Reads two words at once, and exchanges what all need: for drivers that load for one invocation after the other.
const EXCHANGE: &[Capability] = &[Capability::Cpu, Capability::Int64, Capability::Subgroup];

/// Each workgroup computes `rows` rows of an item of at most `tile`, with `workgroup` invocations of `keys` keys
/// each at a time; fewer for many heads and large ones, for the weights take `rows * group * workgroup * keys` floats
/// of workgroup memory.
fn rows_key(shape: &AttentionShape, tile: u32, rows: u32, workgroup: u32, keys: u32) -> KernelKey {
    let octets = shape.head_dim.div_ceil(8);
    let queries = rows * shape.group();
    // In eights, which may exchange what they read.
    let workgroup = workgroup.min(1024 / queries).max(octets).max(queries).next_multiple_of(8);
    let keys = keys.min(1024 / (queries * workgroup)).max(1);
    key("attention_rows", shape)
        .constant("GROUP", shape.group())
        .constant("ROWS", rows)
        .constant(TILES, tile.div_ceil(rows))
        .constant("WORKGROUP", workgroup)
        .constant("KEYS", keys)
        .constant("TEAM", workgroup.isqrt())
        .flag(ONE_SLICE, workgroup < 2 * octets)
}

/// Flag of kernels all of whose invocations sum the same values.
const ONE_SLICE: &str = "one_slice";

/// Whether invocations of the kernel need the same so often that they gain by exchanging it.
fn exchanges(key: &KernelKey) -> bool {
    key.flags.contains(&ONE_SLICE)
}

/// Workgroups that share the work of an item and a KV head.
const TILES: &str = "TILES";

fn tiles(key: &KernelKey) -> u32 {
    let tiles = key.constants.iter().find(|(name, _)| *name == TILES);
    tiles.expect("every kernel says how work is shared out").1
}

/// One row: fills a GPU even with few items.
fn wide(shape: &AttentionShape) -> KernelKey {
    rows_key(shape, 1, 1, 256, 1)
}

/// One row: as few invocations as can be, so that barriers cost little where one core runs them all, with
/// keys enough that reading the queries costs little.
fn narrow(shape: &AttentionShape) -> KernelKey {
    let key = rows_key(shape, 1, 1, 8, (16 / shape.group()).clamp(1, 8));
    KernelKey { needs: &[Capability::Cpu], ..key }
}

/// As [`narrow`], for a tile of rows.
fn narrow_rows(shape: &AttentionShape) -> KernelKey {
    let rows = (8 / shape.group()).max(1);
    let key = rows_key(shape, QUERY_TILE, rows, 8, (64 / (rows * shape.group())).max(1));
    KernelKey { needs: &[Capability::Cpu], ..key }
}

/// Tiles of a KV head's query heads.
fn head_tiles(shape: &AttentionShape) -> u32 {
    shape.group().div_ceil(HEADS_TILE)
}

fn head_tiles_key(shader: &'static str, shape: &AttentionShape) -> KernelKey {
    key(shader, shape)
        .constant("GROUP", shape.group())
        .constant(TILES, head_tiles(shape))
        .constant("HEADS_TILE", shape.group().div_ceil(head_tiles(shape)))
        .constant("QUERY_TILE", QUERY_TILE)
}

fn tiled(shape: &AttentionShape) -> KernelKey {
    head_tiles_key("attention_tiled", shape).constant("TEAM", TEAM)
}

/// Subgroups multiply matrices of `size`; two invocations for each query.
fn matrices(shape: &AttentionShape, size: u32) -> KernelKey {
    head_tiles_key("attention_matrices", shape)
        .constant("WORKGROUP", 2 * QUERY_TILE * HEADS_TILE)
        .flag(ROUNDS_TO_F16, true)
        .matrices(size)
}

/// Whether the cache has no more than 16 bits, so that they are what is meant, in heads of whole slices.
fn is_short(shape: &AttentionShape) -> bool {
    shape.kv != KvFormat::F32 && shape.head_dim.is_multiple_of(PAGE)
}

/// Variants for items of one row.
pub static ATTENTION_SINGLE: Operation<AttentionShape> = Operation {
    name: "attention_single",
    variants: &[
        Variant {
            name: "narrow_exchange",
            fits: |shape| exchanges(&narrow(shape)),
            key: |shape| KernelKey { needs: EXCHANGE, ..narrow(shape) },
        },
        Variant { name: "narrow", fits: |_| true, key: narrow },
        Variant { name: "baseline", fits: |_| true, key: wide },
    ],
};

/// Variants for items of several rows.
pub static ATTENTION_TILED: Operation<AttentionShape> = Operation {
    name: "attention_tiled",
    variants: &[
        Variant {
            name: "narrow_exchange",
            fits: |shape| exchanges(&narrow_rows(shape)),
            key: |shape| KernelKey { needs: EXCHANGE, ..narrow_rows(shape) },
        },
        Variant { name: "narrow", fits: |_| true, key: narrow_rows },
        Variant { name: "matrices_16", fits: is_short, key: |shape| matrices(shape, 16) },
        Variant { name: "matrices_8", fits: is_short, key: |shape| matrices(shape, 8) },
        Variant { name: "baseline", fits: |_| true, key: tiled },
    ],
};

/// Variants of the merge of partial results.
pub static ATTENTION_COMBINE: Operation<AttentionCombineShape> = Operation {
    name: "attention_combine",
    variants: &[
        // Each invocation computes a block by itself.
        Variant {
            name: "narrow",
            fits: |shape| shape.format != ActivationFormat::F32,
            key: |shape| narrow_key(combine(shape, NARROW)),
        },
        Variant { name: "baseline", fits: |_| true, key: |shape| combine(shape, 64) },
    ],
};

fn combine(shape: &AttentionCombineShape, workgroup: u32) -> KernelKey {
    shape.format.specialise(key("attention_combine", &shape.attention).constant("WORKGROUP", workgroup))
}

/// What specialises the merge of partial results.
#[derive(Debug, Clone, Copy)]
pub struct AttentionCombineShape {
    /// Of the attention.
    pub attention: AttentionShape,
    /// How the result is stored: in blocks of a head, if in blocks.
    pub format: ActivationFormat,
}

/// `softmax(q · kᵀ / √head_dim) · v` over the keys that each row sees.
pub struct Attention<'a> {
    /// Rotated queries, `[rows, heads * head_dim]`.
    pub q: &'a Tensor,
    /// Result, `[rows, heads * head_dim]`; in `f32` unless [`AttentionShape::whole_blocks`].
    pub y: Activation<'a>,
    /// [`Row`] of each row.
    pub rows: &'a Buffer,
    /// [`WorkItem`]s of one row each, a buffer per segment.
    pub single_items: &'a [Buffer],
    /// [`WorkItem`]s of up to [`QUERY_TILE`] rows, a buffer per segment.
    pub tiled_items: &'a [Buffer],
    /// Page numbers within their segments, `u32`.
    pub page_table: &'a Buffer,
    /// The layer's KV pool.
    pub segments: &'a [KvSegment],
    /// Number of the first of them, as [`count`] counts.
    pub first_segment: usize,
    /// Scratch of [`AttentionShape::partial_floats`] for each partial result of the batch.
    pub partials: &'a Buffer,
    /// Heads and storage.
    pub shape: AttentionShape,
    /// The row at position `i` sees the keys `i - window + 1 ..= i`; all up to `i` if `None`.
    pub window: Option<u32>,
}

impl Attention<'_> {
    /// Appends two steps per segment and the merge.
    ///
    /// # Errors
    /// As [`Gpu::kernel`] and [`Step::new`].
    ///
    /// # Panics
    /// When the shapes contradict each other.
    pub fn record(&self, gpu: &Gpu, recording: &mut Recording) -> Result<()> {
        let AttentionShape { heads, kv_heads, head_dim, .. } = self.shape;
        self.shape.check();
        assert!(self.q.cols == heads * head_dim && self.y.cols() == self.q.cols, "shapes differ");
        assert!(self.y.format() == ActivationFormat::F32 || self.shape.whole_blocks(), "blocks across heads");
        assert!(
            self.single_items.len() == self.segments.len() && self.tiled_items.len() == self.segments.len(),
            "one buffer of items per segment"
        );
        let (single_variant, single) = ATTENTION_SINGLE.choose_for(gpu, &self.shape, self.shape)?;
        let (tiled_variant, tiled) = ATTENTION_TILED.choose_for(gpu, &self.shape, self.shape)?;
        let shape = AttentionCombineShape { attention: self.shape, format: self.y.format() };
        let (combine_variant, combine) = ATTENTION_COMBINE.choose_for(gpu, &shape, self.shape)?;
        let params = gpu.uniform(&AttentionParams {
            stride: self.q.stride(),
            window: self.window.unwrap_or(u32::MAX),
            scale: 1.0 / (head_dim as f32).sqrt(),
        })?;
        // A key's share in a row's result: reading it and its value, or four operations for each element of
        // a query. They take about as long as that many bytes from memory.
        let each = f64::from(heads) * f64::from(head_dim);
        for (index, segment) in self.segments.iter().enumerate() {
            let variants = [
                (
                    "attention_single",
                    &single,
                    &self.single_items[index],
                    count::single_items(self.first_segment + index),
                    count::single_visits(self.first_segment + index),
                    tiles(&(single_variant.key)(&self.shape)),
                ),
                (
                    "attention_tiled",
                    &tiled,
                    &self.tiled_items[index],
                    count::tiled_items(self.first_segment + index),
                    count::tiled_visits(self.first_segment + index),
                    tiles(&(tiled_variant.key)(&self.shape)),
                ),
            ];
            for (label, kernel, items, slot, visits, tiles) in variants {
                let bindings = [
                    ("params", &params),
                    ("q", &self.q.buffer),
                    ("rows", self.rows),
                    ("items", items),
                    ("page_table", self.page_table),
                    ("k_cache", &segment.k),
                    ("v_cache", &segment.v),
                    ("partials", self.partials),
                ];
                let grid =
                    [Extent::Count { slot, per: 1 }, Extent::Fixed(kv_heads * tiles), Extent::Fixed(1)];
                let cost = Cost { fixed: 0.0, slot: visits, each };
                let step = Step::new(gpu, label, kernel.clone(), &bindings, grid, cost)?;
                recording.push(step.divisible("items", size_of::<WorkItem>() as u64));
            }
        }
        let mut bindings = vec![("params", &params), ("rows", self.rows), ("partials", self.partials)];
        bindings.extend(self.y.outputs());
        let workgroups = match combine_variant.name {
            "narrow" => self.q.cols.div_ceil(NARROW * BLOCK as u32),
            _ => heads,
        };
        let grid = [Extent::Count { slot: count::ROWS, per: 1 }, Extent::Fixed(workgroups), Extent::Fixed(1)];
        let cost = Cost { fixed: 0.0, slot: count::ROWS, each: 2.0 * each };
        recording.push(Step::new(gpu, "attention_combine", combine, &bindings, grid, cost)?);
        Ok(())
    }
}
