//! Attention over the keys that a token in the midst of a text sees.

use super::{TuneShapes, Tuner, Use};
use crate::{
    Result,
    gpu::{Buffer, Gpu, Recording},
    ops::{
        ATTENTION_COMBINE, ATTENTION_SINGLE, ATTENTION_TILED, Attention, AttentionCombineShape, KEY_SPLIT,
        KvSegment, Operation, PAGE, QUERY_TILE, Row, WorkItem, count,
    },
    tensor::{Activation, ActivationFormat, Q8Tensor, Tensor},
};

/// Rows of a prompt that are tried at most.
const PROMPT_ROWS: u32 = 128;

/// The merge alone, into blocks: there is nothing else to choose.
pub fn combine(tuner: &mut Tuner, shapes: &TuneShapes) -> Result<()> {
    if !shapes.attention.whole_blocks() {
        return Ok(());
    }
    let shape = AttentionCombineShape { attention: shapes.attention, format: ActivationFormat::Q8 };
    measure(tuner, &ATTENTION_COMBINE, shape, shapes, 1, Vec::new(), Vec::new())
}

pub fn single(tuner: &mut Tuner, shapes: &TuneShapes) -> Result<()> {
    let splits = |first_row| {
        let begins = (0..shapes.keys).step_by(KEY_SPLIT as usize);
        let item = move |(split, key_begin)| {
            let key_end = shapes.keys.min(key_begin + KEY_SPLIT);
            WorkItem { first_row, rows: 1, pages: 0, key_begin, key_end, split }
        };
        (0..).zip(begins).map(item).collect()
    };
    measure(tuner, &ATTENTION_SINGLE, shapes.attention, shapes, 1, splits(0), Vec::new())
}

pub fn tiled(tuner: &mut Tuner, shapes: &TuneShapes) -> Result<()> {
    let rows = PROMPT_ROWS.min(shapes.rows).min(shapes.keys);
    let tile = |first_row: u32| {
        let rows = QUERY_TILE.min(rows - first_row);
        WorkItem { first_row, rows, pages: 0, key_begin: 0, key_end: shapes.keys, split: 0 }
    };
    let tiles = (0..rows).step_by(QUERY_TILE as usize).map(tile).collect();
    measure(tuner, &ATTENTION_TILED, shapes.attention, shapes, rows, Vec::new(), tiles)
}

/// Times one operation with these items, of `rows` rows that end with the last key.
fn measure<S>(
    tuner: &mut Tuner,
    operation: &Operation<S>,
    specialised: S,
    shapes: &TuneShapes,
    rows: u32,
    single: Vec<WorkItem>,
    tiled: Vec<WorkItem>,
) -> Result<()> {
    let shape = shapes.attention;
    let candidates = tuner.candidates(operation, &[specialised], &shape.to_string(), "");
    if candidates.is_empty() {
        return Ok(());
    }
    let gpu = tuner.gpu;
    let cols = shape.heads * shape.head_dim;
    let (q, out) = (Tensor::zeros(gpu, "q", rows, cols)?, Tensor::zeros(gpu, "out", rows, cols)?);
    let blocks = Q8Tensor::zeros(gpu, "out", rows, cols)?;
    let merges = single.is_empty() && tiled.is_empty();
    let partials = shapes.keys.div_ceil(KEY_SPLIT);
    let row = |row| Row {
        position: shapes.keys - rows + row,
        partial: row * partials,
        partials,
        ..bytemuck::Zeroable::zeroed()
    };
    let rows_table = gpu.upload("rows", &(0..rows).map(row).collect::<Vec<_>>())?;
    let pages: Vec<u32> = (0..shapes.keys.div_ceil(PAGE)).collect();
    let page_table = gpu.upload("page table", &pages)?;
    let pool = || gpu.allocate("pages", pages.len() as u64 * shape.page_bytes());
    let segment = KvSegment { k: pool()?, v: pool()?, first_slot: 0, slots: pages.len() as u32 * PAGE };
    let partial_bytes = 4 * u64::from(rows * partials) * shape.partial_floats();
    let scratch = gpu.allocate("partials", partial_bytes)?;
    let counts = count::table(rows as usize, 0, &[(&single, &tiled)]);
    let [single, tiled] = [single, tiled].map(|items| gpu.upload::<WorkItem>("items", &items));
    let (single, tiled): (Buffer, Buffer) = (single?, tiled?);
    let record = |gpu: &Gpu, recording: &mut Recording, _| {
        Attention {
            first_segment: 0,
            q: &q,
            y: if merges { Activation::Q8(&blocks) } else { Activation::F32(&out) },
            rows: &rows_table,
            single_items: std::slice::from_ref(&single),
            tiled_items: std::slice::from_ref(&tiled),
            page_table: &page_table,
            segments: std::slice::from_ref(&segment),
            partials: &scratch,
            shape,
            window: None,
        }
        .record(gpu, recording)
    };
    let uses = [Use { record: &record, counts, tokens: rows.into() }];
    tuner.measure(operation, shape, candidates, &uses)
}
