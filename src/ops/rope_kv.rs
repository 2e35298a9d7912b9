//! Rotary position embedding and the write to the KV cache.

use super::{AttentionShape, KvSegment, Operation, Row, Variant, count};
use crate::{
    Result,
    gpu::{Buffer, Capability, Cost, Extent, Gpu, KernelKey, Recording, Step},
    tensor::Tensor,
    uniform,
};

uniform! {
    struct RopeKvParams { qkv_stride: u32, q_stride: u32, first_slot: u32, slots: u32 }
}

const WORKGROUP: u32 = 256;

/// The table of variants.
pub static ROPE_KV: Operation<AttentionShape> = Operation {
    name: "rope_kv",
    variants: &[
        // Reads two numbers at once.
        Variant {
            name: "int64",
            fits: |_| true,
            key: |shape| KernelKey { needs: &[Capability::Cpu, Capability::Int64], ..key(shape) },
        },
        Variant { name: "baseline", fits: |_| true, key },
    ],
};

fn key(shape: &AttentionShape) -> KernelKey {
    let key = KernelKey::new("rope_kv").with::<RopeKvParams>().with::<Row>();
    shape.specialise(key).constant("WORKGROUP", WORKGROUP)
}

/// Turns q and k by their row's position, pairs `(2i, 2i + 1)` of each head, and writes k and v into
/// the KV cache.
#[derive(Debug, Clone, Copy)]
pub struct RopeKv<'a> {
    /// `[rows, (heads + 2 * kv_heads) * head_dim]`: q, then k, then v.
    pub qkv: &'a Tensor,
    /// Result, `[rows, heads * head_dim]`.
    pub q: &'a Tensor,
    /// [`Row`] of each row.
    pub rows: &'a Buffer,
    /// `[positions, head_dim / 2]` pairs of cosine and sine.
    pub rope: &'a Buffer,
    /// The layer's KV pool; each row is written where its slot lies.
    pub segments: &'a [KvSegment],
    /// Heads and storage.
    pub shape: AttentionShape,
}

impl RopeKv<'_> {
    /// Appends one step per segment. All of them write the same q.
    ///
    /// # Errors
    /// As [`Gpu::kernel`] and [`Step::new`].
    ///
    /// # Panics
    /// When the shapes contradict each other.
    pub fn record(&self, gpu: &Gpu, recording: &mut Recording) -> Result<()> {
        let AttentionShape { heads, kv_heads, head_dim, .. } = self.shape;
        self.shape.check();
        let cols = (heads + 2 * kv_heads) * head_dim;
        assert!(self.qkv.cols == cols && self.q.cols == heads * head_dim, "shapes differ");
        let (_, kernel) = ROPE_KV.choose(gpu, &self.shape)?;
        for segment in self.segments {
            let params = gpu.uniform(&RopeKvParams {
                qkv_stride: self.qkv.stride(),
                q_stride: self.q.stride(),
                first_slot: segment.first_slot,
                slots: segment.slots,
            })?;
            let bindings = [
                ("params", &params),
                ("qkv", &self.qkv.buffer),
                ("q", &self.q.buffer),
                ("rows", self.rows),
                ("rope", self.rope),
                ("k_cache", &segment.k),
                ("v_cache", &segment.v),
            ];
            let slot = count::ROWS;
            let grid = [
                Extent::Count { slot, per: 1 },
                Extent::Fixed(((heads + 2 * kv_heads) * self.shape.chunks()).div_ceil(WORKGROUP)),
                Extent::Fixed(1),
            ];
            let cost = Cost { fixed: 0.0, slot, each: 12.0 * f64::from(cols) };
            recording.push(Step::new(gpu, "rope_kv", kernel.clone(), &bindings, grid, cost)?);
        }
        Ok(())
    }
}
