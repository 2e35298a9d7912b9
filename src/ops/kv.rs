//! The KV cache as kernels see it: formats, and segments of a layer's pool.

use super::PAGE;
use crate::gpu::{Buffer, KernelKey};

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// Half precision, rounded to nearest even and clamped to ±65504.
    F16,
    /// Single precision.
    F32,
}

struct FormatRow {
    format: KvFormat,
    name: &'static str,
    shader: &'static str,
    bytes: u64,
}

const FORMATS: [FormatRow; 2] = [
    FormatRow { format: KvFormat::F16, name: "f16", shader: "kv/f16", bytes: 2 },
    FormatRow { format: KvFormat::F32, name: "f32", shader: "kv/f32", bytes: 4 },
];

impl KvFormat {
    /// Every format.
    pub fn all() -> impl Iterator<Item = Self> {
        FORMATS.iter().map(|row| row.format)
    }

    /// The format called `name`.
    pub fn by_name(name: &str) -> Option<Self> {
        FORMATS.iter().find(|row| row.name == name).map(|row| row.format)
    }

    fn row(self) -> &'static FormatRow {
        FORMATS.iter().find(|row| row.format == self).expect("every format has its row")
    }

    /// Its name in options and listings.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Bytes of one number.
    pub fn bytes(self) -> u64 {
        self.row().bytes
    }
}

/// Heads of an attention layer and how their keys and values are stored: the shape of the kernels
/// that touch the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: u32,
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: u32,
    /// Dimensions of a head, even, 2 to 256.
    pub head_dim: u32,
    /// Storage of keys and values.
    pub kv: KvFormat,
}

impl AttentionShape {
    /// Query heads per KV head.
    pub fn group(&self) -> u32 {
        self.heads / self.kv_heads
    }

    /// Bytes that a page takes in the key buffer of one layer, and again in its value buffer.
    pub fn page_bytes(&self) -> u64 {
        u64::from(PAGE) * u64::from(self.kv_heads) * u64::from(self.head_dim) * self.kv.bytes()
    }

    /// Floats of one partial result of a row, all heads together.
    pub fn partial_floats(&self) -> u64 {
        u64::from(self.heads) * (u64::from(self.head_dim) + 2)
    }

    /// The constants and the storage format, added to `key`.
    pub(super) fn specialise(&self, key: KernelKey) -> KernelKey {
        key.mount("kv", self.kv.row().shader)
            .constant("HEADS", self.heads)
            .constant("KV_HEADS", self.kv_heads)
            .constant("HEAD_DIM", self.head_dim)
            .constant("PAGE", PAGE)
    }

    pub(super) fn check(&self) {
        let Self { heads, kv_heads, head_dim, .. } = *self;
        assert!(kv_heads > 0 && heads % kv_heads == 0, "{heads} heads do not share {kv_heads} KV heads");
        assert!(head_dim % 2 == 0 && (2..=256).contains(&head_dim), "head_dim {head_dim}");
        assert!(self.group() <= 32, "{} query heads per KV head", self.group());
    }
}

/// A part of a layer's KV pool that one binding can hold.
///
/// The element of (page, KV head, place, dimension) has the number
/// `((page * kv_heads + kv_head) * PAGE + place) * head_dim + dimension` in both buffers.
#[derive(Debug, Clone)]
pub struct KvSegment {
    /// Keys, `[slots / PAGE, kv_heads, PAGE, head_dim]`.
    pub k: Buffer,
    /// Values, as `k`.
    pub v: Buffer,
    /// The first slot of the pool that lies in it.
    pub first_slot: u32,
    /// Slots in it, a multiple of [`PAGE`].
    pub slots: u32,
}
