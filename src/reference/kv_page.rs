//! The layout of the KV cache's pages, which `shaders/kv/page.wgsl` describes.

use crate::quant::{BLOCK, Format};

/// Neighbouring dimensions that are stored together.
const OCTET: usize = 8;

/// Pages of keys or of values of one layer.
#[derive(Debug, Clone, Copy)]
pub struct KvPageLayout {
    /// KV heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Tokens in a page.
    pub page: usize,
    /// Format of the numbers.
    pub format: &'static Format,
}

/// Keys and values differ in how they are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvSide {
    /// Octets of neighbouring tokens lie side by side.
    Keys,
    /// Octets of a token lie side by side.
    Values,
}

impl KvPageLayout {
    fn octets(&self) -> usize {
        self.head_dim.div_ceil(OCTET)
    }

    fn octet_words(&self) -> usize {
        self.format.code_words * OCTET / BLOCK
    }

    /// Words of scales that a token's head has: two halves each.
    fn scale_words(&self) -> usize {
        (self.format.scale_halves * self.format.blocks(self.head_dim)).div_ceil(2)
    }

    fn head_words(&self) -> usize {
        self.page * (self.octets() * self.octet_words() + self.scale_words())
    }

    /// 32-bit words of a page.
    pub fn page_words(&self) -> usize {
        self.kv_heads * self.head_words()
    }

    /// Where the words of a token's head lie: those of its codes in the order of dimensions, then those of
    /// its scales. `slot` is page × tokens in a page + place in the page.
    pub fn words(&self, side: KvSide, slot: usize, head: usize) -> Vec<usize> {
        let (octets, words) = (self.octets(), self.octet_words());
        let (page, place) = (slot / self.page, slot % self.page);
        let start = page * self.page_words() + head * self.head_words();
        let octet = |octet| match side {
            KvSide::Keys => octet * self.page + place,
            KvSide::Values => place * octets + octet,
        };
        let codes = (0..octets * words).map(|word| start + octet(word / words) * words + word % words);
        let scales = start + self.page * octets * words;
        codes.chain((0..self.scale_words()).map(|word| scales + word * self.page + place)).collect()
    }

    /// The words of a head, in the order of [`words`](Self::words).
    pub fn encode(&self, values: &[f32]) -> Vec<u32> {
        let blocks = self.format.blocks(self.head_dim);
        let mut codes = vec![0; blocks * self.format.code_words];
        let mut scales = vec![0; blocks * self.format.scale_halves];
        self.format.encode_rows(values, self.head_dim, &mut codes, &mut scales);
        codes.chunks_exact_mut(self.format.code_words).for_each(|codes| self.reorder(codes, false));
        codes.truncate(self.octets() * self.octet_words());
        let scale = |pair: &[u16]| u32::from(pair[0]) | u32::from(*pair.get(1).unwrap_or(&0)) << 16;
        codes.into_iter().chain(scales.chunks(2).map(scale)).collect()
    }

    /// The numbers of a head from its words.
    pub fn decode(&self, words: &[u32]) -> Vec<f32> {
        let blocks = self.format.blocks(self.head_dim);
        let (codes, scales) = words.split_at(self.octets() * self.octet_words());
        let mut codes = codes.to_vec();
        codes.resize(blocks * self.format.code_words, 0);
        codes.chunks_exact_mut(self.format.code_words).for_each(|codes| self.reorder(codes, true));
        let mut scales: Vec<u16> =
            scales.iter().flat_map(|word| [*word as u16, (word >> 16) as u16]).collect();
        scales.truncate(blocks * self.format.scale_halves);
        let mut values = vec![0.0; self.head_dim];
        self.format.decode_row(&codes, &scales, &mut values);
        values
    }

    /// The numbers as they come out of the cache: `values`, `[tokens, kv_heads, head_dim]`.
    pub fn stored(&self, values: &[f32]) -> Vec<f32> {
        values.chunks_exact(self.head_dim).flat_map(|head| self.decode(&self.encode(head))).collect()
    }

    /// Between a weight's order of 4-bit codes, whose byte `i` has numbers `i` and `16 + i` of the block, and
    /// the cache's, whose byte `i` of an octet has numbers `i` and `4 + i` of the octet.
    fn reorder(&self, codes: &mut [u32], back: bool) {
        if self.octet_words() != 1 {
            return;
        }
        let weight = |i: usize| (i / 4 % 4, 8 * (i % 4) + i / 16 * 4);
        let cache = |i: usize| (i / 8, 8 * (i % 4) + i / 4 % 2 * 4);
        let from = codes.to_vec();
        codes.fill(0);
        for i in 0..BLOCK {
            let [(word, shift), (to, to_shift)] =
                if back { [cache(i), weight(i)] } else { [weight(i), cache(i)] };
            codes[to] |= (from[word] >> shift & 15) << to_shift;
        }
    }
}
