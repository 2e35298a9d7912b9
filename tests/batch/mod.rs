//! The host's side of an attention batch, made from a list of sequences.

use mistral_wgpu::{
    gpu::*,
    ops::*,
    reference::KvSide,
    tensor::{Activation, Tensor},
};

use super::device::{download, noise};

/// A sequence of `keys` tokens, the last `rows` of which are queries in the batch.
#[derive(Clone)]
pub struct Sequence {
    pub keys: u32,
    pub rows: u32,
    /// `[rows, heads, head_dim]`.
    pub q: Vec<f32>,
    /// `[keys, kv_heads, head_dim]`, exact in the KV format.
    pub k: Vec<f32>,
    /// As `k`.
    pub v: Vec<f32>,
}

impl Sequence {
    pub fn random(seed: u64, shape: &AttentionShape, keys: u32, rows: u32) -> Self {
        let kv_count = (keys * shape.kv_heads * shape.head_dim) as usize;
        let scaled = |seed, count, scale: f32| -> Vec<f32> {
            noise(seed, count).into_iter().map(|value| value * scale).collect()
        };
        let stored = |values: &[f32]| shape.page_layout().stored(values);
        Self {
            keys,
            rows,
            q: scaled(3 * seed, (rows * shape.heads * shape.head_dim) as usize, 2.0),
            k: stored(&scaled(3 * seed + 1, kv_count, 3.0)),
            v: stored(&scaled(3 * seed + 2, kv_count, 2.0)),
        }
    }
}

/// Which segment holds the page of a sequence: runs of three pages each.
fn segment_of(page: u32, segments: u32) -> u32 {
    page / 3 % segments
}

/// The words of a page of keys or values, before the token `first_seen` and where there is none NaN, or
/// garbage where the format has no NaN.
fn page_words(shape: &AttentionShape, side: KvSide, values: &[f32], page: u32, first_seen: u32) -> Vec<u32> {
    let layout = shape.page_layout();
    let mut words = vec![u32::MAX; layout.page_words()];
    let first = (page * PAGE) as usize;
    let tokens = values.chunks_exact(layout.kv_heads * layout.head_dim).enumerate();
    let tokens = tokens.skip(first.max(first_seen as usize)).take_while(|(at, _)| at - first < PAGE as usize);
    for (position, token) in tokens {
        for (head, numbers) in token.chunks_exact(layout.head_dim).enumerate() {
            let places = layout.words(side, position - first, head);
            for (at, word) in places.into_iter().zip(layout.encode(numbers)) {
                words[at] = word;
            }
        }
    }
    words
}

/// Attention over some sequences, ready to run.
pub struct Batch {
    pub recording: Recording,
    pub counts: Vec<u64>,
    out: Tensor,
    partials: Buffer,
    /// Partial results of rows that see none of their item's keys.
    empty: Vec<u32>,
}

/// Runs attention over `sequences` in one batch and returns each one's `[rows, heads, head_dim]`.
pub fn attention(
    gpu: &Gpu,
    shape: AttentionShape,
    window: Option<u32>,
    segments: u32,
    sequences: &[Sequence],
) -> Vec<Vec<f32>> {
    let Batch { recording, counts, out, partials, empty } = batch(gpu, shape, window, segments, sequences);
    gpu.replay(&recording, &counts, None).unwrap();
    let stored = pollster::block_on(gpu.download::<f32>(&[partials])).unwrap().remove(0);
    for partial in empty {
        let heads = stored.chunks_exact(shape.head_dim as usize + 2).skip((partial * shape.heads) as usize);
        let sums = heads.take(shape.heads as usize).flat_map(|head| &head[1..]);
        assert!(sums.into_iter().all(|sum| *sum == 0.0), "a partial result of no key is not zero");
    }
    let rows = counts[count::ROWS] as usize;
    let all = download(gpu, &out, rows);
    let mut rest = all.as_slice();
    let per_sequence = sequences.iter().map(|sequence| {
        let (own, others) = rest.split_at((sequence.rows * shape.heads * shape.head_dim) as usize);
        rest = others;
        own.to_vec()
    });
    per_sequence.collect()
}

/// Records attention over `sequences` in one batch.
///
/// Pages are scattered over the segments, whatever no key may read is NaN, and pages that have left
/// the window are not in the page table. One row is an item of single-row attention, more are tiles.
pub fn batch(
    gpu: &Gpu,
    shape: AttentionShape,
    window: Option<u32>,
    segments: u32,
    sequences: &[Sequence],
) -> Batch {
    let pages = 2 + sequences.iter().map(|sequence| sequence.keys.div_ceil(PAGE)).sum::<u32>();
    let page_size = (shape.page_bytes() / 4) as usize;
    let nothing = vec![f32::NAN.to_bits(); page_size * pages as usize];
    let mut words = vec![(nothing.clone(), nothing); segments as usize];
    let scattered = (0..pages).step_by(2).chain((1..pages).step_by(2).rev()).collect::<Vec<_>>();
    let mut free = vec![scattered; segments as usize];
    let (mut rows, mut table, mut q) = (Vec::new(), Vec::new(), Vec::new());
    let (mut partials, mut empty) = (0, Vec::new());
    let mut items = vec![(Vec::new(), Vec::new()); segments as usize];
    for sequence in sequences {
        let begin_of = |position: u32| position + 1 - window.unwrap_or(u32::MAX).min(position + 1);
        let first_position = sequence.keys - sequence.rows;
        let first_seen = begin_of(first_position);
        let first_page = first_seen / PAGE;
        let pages_at = (table.len() as u32).wrapping_sub(first_page);
        for page in first_page..sequence.keys.div_ceil(PAGE) {
            let segment = segment_of(page, segments) as usize;
            let number = free[segment].pop().unwrap();
            let at = number as usize * page_size;
            let (k, v) = &mut words[segment];
            k[at..][..page_size].copy_from_slice(&page_words(
                &shape,
                KvSide::Keys,
                &sequence.k,
                page,
                first_seen,
            ));
            v[at..][..page_size].copy_from_slice(&page_words(
                &shape,
                KvSide::Values,
                &sequence.v,
                page,
                first_seen,
            ));
            table.push(number);
        }
        q.extend_from_slice(&sequence.q);
        for tile in (0..sequence.rows).step_by(QUERY_TILE as usize) {
            let count = QUERY_TILE.min(sequence.rows - tile);
            let first_row = rows.len() as u32;
            let end = first_position + tile + count;
            let mut begin = begin_of(first_position + tile);
            let mut split = 0;
            let mut unseen = Vec::new();
            while begin < end {
                let segment = segment_of(begin / PAGE, segments);
                let cut = (begin + 1..end)
                    .find(|key| key % KEY_SPLIT == 0 || segment_of(key / PAGE, segments) != segment);
                let (key_begin, key_end) = (begin, cut.unwrap_or(end));
                let item = WorkItem { first_row, rows: count, pages: pages_at, key_begin, key_end, split };
                let (single, tiled) = &mut items[segment as usize];
                if sequence.rows == 1 {
                    single.push(item)
                } else {
                    tiled.push(item)
                }
                let sees = |row: &u32| {
                    let position = first_position + tile + row;
                    begin_of(position) < key_end && key_begin <= position
                };
                unseen.extend((0..count).filter(|row| !sees(row)).map(|row| (row, split)));
                begin = key_end;
                split += 1;
            }
            empty.extend(unseen.iter().map(|(row, own)| partials + row * split + own));
            for row in 0..count {
                let position = first_position + tile + row;
                rows.push(Row {
                    token: 0,
                    position,
                    slot: 0,
                    adapters: 0,
                    partial: partials + row * split,
                    partials: split,
                });
            }
            partials += count * split;
        }
    }

    let upload = |contents: &[u32]| gpu.upload("test", contents).unwrap();
    let pool: Vec<_> = words
        .iter()
        .map(|(k, v)| KvSegment { k: upload(k), v: upload(v), first_slot: 0, slots: pages * PAGE })
        .collect();
    let cols = shape.heads * shape.head_dim;
    let q = Tensor::from_values(gpu, "q", &q, cols).unwrap();
    let out = Tensor::from_values(gpu, "out", &vec![f32::NAN; rows.len() * cols as usize], cols).unwrap();
    let scratch = upload(&vec![f32::NAN.to_bits(); partials as usize * shape.partial_floats() as usize]);
    let of_segments: Vec<_> =
        items.iter().map(|(single, tiled)| (single.as_slice(), tiled.as_slice())).collect();
    let counts = count::table(rows.len(), 0, &of_segments);
    let upload_items = |items: &[WorkItem]| gpu.upload("items", items).unwrap();
    let mut recording = Recording::default();
    Attention {
        first_segment: 0,
        q: &q,
        y: Activation::F32(&out),
        rows: &gpu.upload("rows", &rows).unwrap(),
        single_items: &items.iter().map(|(single, _)| upload_items(single)).collect::<Vec<_>>(),
        tiled_items: &items.iter().map(|(_, tiled)| upload_items(tiled)).collect::<Vec<_>>(),
        page_table: &upload(&table),
        segments: &pool,
        partials: &scratch,
        shape,
        window,
    }
    .record(gpu, &mut recording)
    .unwrap();
    Batch { recording, counts, out, partials: scratch, empty }
}
