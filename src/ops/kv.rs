//! The KV cache as kernels see it: formats, and segments of a layer's pool.

use super::PAGE;
use crate::{
    Error, ErrorKind, Result,
    gpu::{Buffer, KernelKey},
    quant,
    reference::KvPageLayout,
};

/// How keys and values are stored. Each format is one of [`FORMATS`](quant::FORMATS) too, whose numbers
/// it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// Half precision, rounded to nearest even and clamped to ±65504.
    F16,
    /// Single precision.
    F32,
    /// Blocks of 32 dimensions of a head: signed bytes with a half precision scale.
    Q8_0,
    /// Blocks of 32 dimensions of a head: 4 bits each with a half precision scale.
    Q4_0,
}

struct FormatRow {
    format: KvFormat,
    name: &'static str,
    shader: &'static str,
    /// 32-bit words of an octet's codes.
    octet_words: u32,
    /// Dimensions that one invocation encodes.
    chunk: u32,
    /// Whether blocks of 32 dimensions have scales, two of which share a word.
    scaled: bool,
}

#[rustfmt::skip]
const FORMATS: [FormatRow; 4] = [
    FormatRow { format: KvFormat::F16, name: "f16", shader: "kv/f16", octet_words: 4, chunk: 2, scaled: false },
    FormatRow { format: KvFormat::F32, name: "f32", shader: "kv/f32", octet_words: 8, chunk: 2, scaled: false },
    FormatRow { format: KvFormat::Q8_0, name: "q8_0", shader: "kv/q8_0", octet_words: 2, chunk: 64, scaled: true },
    FormatRow { format: KvFormat::Q4_0, name: "q4_0", shader: "kv/q4_0", octet_words: 1, chunk: 64, scaled: true },
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

    /// The weight format with the same numbers.
    pub fn numbers(self) -> &'static quant::Format {
        quant::by_name(self.name()).expect("a format of weights")
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

impl std::fmt::Display for AttentionShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { heads, kv_heads, head_dim, kv } = self;
        write!(f, "{heads} heads over {kv_heads} of {head_dim}, {}", kv.name())
    }
}

impl AttentionShape {
    /// Query heads per KV head.
    pub fn group(&self) -> u32 {
        self.heads / self.kv_heads
    }

    /// Whether the storage can hold heads of this size.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] for blocks that do not divide a head.
    pub fn supported(&self) -> Result<()> {
        if self.kv.row().scaled && !self.whole_blocks() {
            let expected =
                format!("a head_dim that is a multiple of {} for {}", quant::BLOCK, self.kv.name());
            return Err(Error::expected(ErrorKind::Argument, "kv cache", expected, self.head_dim));
        }
        Ok(())
    }

    /// How a page of keys or of values is laid out.
    pub fn page_layout(&self) -> KvPageLayout {
        KvPageLayout {
            kv_heads: self.kv_heads as usize,
            head_dim: self.head_dim as usize,
            page: PAGE as usize,
            format: self.kv.numbers(),
        }
    }

    /// Bytes that a page takes in the key buffer of one layer, and again in its value buffer.
    pub fn page_bytes(&self) -> u64 {
        4 * self.page_layout().page_words() as u64
    }

    /// Whether a head is a whole number of blocks.
    pub fn whole_blocks(&self) -> bool {
        self.head_dim.is_multiple_of(quant::BLOCK as u32)
    }

    /// Floats of one partial result of a row, all heads together.
    pub fn partial_floats(&self) -> u64 {
        u64::from(self.heads) * (u64::from(self.head_dim) + 2)
    }

    /// The constants and the storage format, added to `key`.
    pub(super) fn specialise(&self, key: KernelKey) -> KernelKey {
        let row = self.kv.row();
        key.mount("kv", row.shader)
            .constant("HEADS", self.heads)
            .constant("KV_HEADS", self.kv_heads)
            .constant("HEAD_DIM", self.head_dim)
            .constant("PAGE", PAGE)
            .constant("KV_OCTET_WORDS", row.octet_words)
            .constant("KV_SCALE_WORDS", if row.scaled { self.head_dim.div_ceil(row.chunk) } else { 0 })
            .flag("kv_scales", row.scaled)
            .flag("whole_octets", self.head_dim.is_multiple_of(8))
    }

    /// Invocations that encode a head.
    pub(super) fn chunks(&self) -> u32 {
        self.head_dim.div_ceil(self.kv.row().chunk)
    }

    pub(super) fn check(&self) {
        let Self { heads, kv_heads, head_dim, .. } = *self;
        assert!(kv_heads > 0 && heads % kv_heads == 0, "{heads} heads do not share {kv_heads} KV heads");
        assert!(head_dim % 2 == 0 && (2..=256).contains(&head_dim), "head_dim {head_dim}");
        assert!(self.supported().is_ok(), "head_dim {head_dim} in {}", self.kv.name());
        assert!(self.group() <= 32, "{} query heads per KV head", self.group());
    }
}

/// A part of a layer's KV pool that one binding can hold: pages, see [`AttentionShape::page_layout`].
#[derive(Debug, Clone)]
pub struct KvSegment {
    /// Keys of `slots / PAGE` pages.
    pub k: Buffer,
    /// Values, as `k`.
    pub v: Buffer,
    /// The first slot of the pool that lies in it.
    pub first_slot: u32,
    /// Slots in it, a multiple of [`PAGE`].
    pub slots: u32,
}
