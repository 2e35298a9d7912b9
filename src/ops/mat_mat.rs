//! The matrix-matrix kernels: products with any number of rows of activations.

use super::{
    Operation, Variant,
    matmul::{EXPERTS, MatmulParams},
    weight::{READS_WIDE, reads_integers, reads_small_integers, weight_key},
};
use crate::{
    gpu::{Capability, KernelKey},
    quant::Format,
};

/// What specialises the matrix-matrix kernel.
#[derive(Debug, Clone, Copy)]
pub struct MatMatShape {
    /// Of the weight.
    pub format: &'static Format,
    /// Whether the activations are there rounded, too.
    pub rounded: bool,
    /// Most rows of activations that it is made for, one of [`RowCount::MANY`](super::RowCount::MANY);
    /// right for more, too.
    pub most: u32,
    /// Whether the weight is a matrix for each expert, which multiplies this expert's rows.
    pub experts: bool,
}

/// Constants that every kernel has: outputs that a workgroup computes, rows of activations and rows of the weight.
const TILE_ROWS: &str = "TILE_ROWS";
const TILE_COLS: &str = "TILE_COLS";

/// Rows of activations and rows of the weight that a workgroup of the kernel multiplies.
pub(super) fn mat_mat_tile(key: &KernelKey) -> (u32, u32) {
    let constant = |name| key.constants.iter().find(|(other, _)| *other == name);
    let [(_, rows), (_, cols)] = [TILE_ROWS, TILE_COLS].map(|name| constant(name).expect("a tile"));
    (*rows, *cols)
}

/// Flag of kernels that round both factors to 16-bit floats.
pub(super) const ROUNDS_TO_F16: &str = "rounds_to_f16";

/// Whether the kernel rounds both factors to 16-bit floats: activations beyond 65504 and weights beyond 1023
/// count as these.
pub fn rounds_to_f16(key: &KernelKey) -> bool {
    key.flags.contains(&ROUNDS_TO_F16)
}

/// Whether the format has no more than 16 bits, so that they are what is meant.
fn is_short(shape: &MatMatShape) -> bool {
    shape.format.bits_per_weight() <= 16.0
}

fn key(shader: &'static str, shape: &MatMatShape, [rows, cols]: [u32; 2]) -> KernelKey {
    weight_key(shader, shape.format)
        .with::<MatmulParams>()
        .constant(TILE_ROWS, rows)
        .constant(TILE_COLS, cols)
        .flag(EXPERTS, shape.experts)
}

/// A tile of `rows` by `cols`, of which each invocation computes `each`.
fn tiles(shader: &'static str, shape: &MatMatShape, [rows, cols]: [u32; 2], each: [u32; 2]) -> KernelKey {
    key(shader, shape, [rows, cols])
        .constant("ROWS", each[0])
        .constant("COLS", each[1])
        .constant("WORKGROUP", rows * cols / (each[0] * each[1]))
}

/// As large a tile as the rows fill and workgroup memory holds.
fn baseline(shape: &MatMatShape) -> KernelKey {
    match shape.most {
        16 => tiles("mat_mat", shape, [16, 64], [2, 4]),
        32 => tiles("mat_mat", shape, [32, 64], [4, 4]),
        _ => tiles("mat_mat", shape, [64, 64], [8, 4]),
    }
}

/// Operands that take less room make larger tiles.
fn short(shader: &'static str, shape: &MatMatShape) -> KernelKey {
    match shape.most {
        16 => tiles(shader, shape, [16, 64], [2, 4]),
        32 => tiles(shader, shape, [32, 64], [4, 4]),
        64 => tiles(shader, shape, [64, 64], [8, 4]),
        _ => tiles(shader, shape, [64, 128], [8, 4]),
    }
}

/// Each invocation computes `rows` rows by 8 columns; of few rows that experts share, each expert has fewer.
fn registers(shader: &'static str, shape: &MatMatShape, rows: u32) -> KernelKey {
    let rows = if shape.experts && shape.most == 16 { 8 } else { rows };
    let (cols, workgroup) = (8, 8);
    key(shader, shape, [rows, cols * workgroup]).constant("COLS", cols).constant("WORKGROUP", workgroup)
}

fn registers_integer(shape: &MatMatShape) -> KernelKey {
    KernelKey { needs: READS_WIDE, ..registers("mat_mat_registers_integer", shape, shape.most.min(32)) }
}

/// Subgroups multiply matrices of `size`. Each of the four that there are, if they have a quarter of the workgroup, has one slot of
/// a tile of `rows` rows or as many as there are: as many matrices as keep both their sums and what is loaded for them small.
fn matrices(shape: &MatMatShape, size: u32, rows: u32, workgroup: u32) -> KernelKey {
    let rows = rows.min(shape.most);
    let slots_down = (rows / (2 * size)).clamp(1, 2);
    key("mat_mat_matrices", shape, [rows, 8 * size])
        .constant("SLOTS_DOWN", slots_down)
        .constant("SLOTS_ACROSS", 4 / slots_down)
        .constant("WORKGROUP", workgroup)
        .flag(ROUNDS_TO_F16, true)
        .matrices(size)
}

/// Square tiles: a weight is decoded for twice as many rows, and what a subgroup loads is multiplied more often.
fn large_matrices(shape: &MatMatShape, workgroup: u32) -> KernelKey {
    let needs =
        &[Capability::F16, Capability::Subgroup, Capability::CooperativeMatrix16, Capability::LargeTiles];
    KernelKey { needs, ..matrices(shape, 16, 128, workgroup) }
}

/// Whether there are rows enough to fill large tiles, of a format that [`is_short`].
fn is_large(shape: &MatMatShape) -> bool {
    is_short(shape) && shape.most == u32::MAX
}

/// Whether both factors are there as integers.
fn integer(shape: &MatMatShape) -> bool {
    shape.rounded && reads_integers(shape.format)
}

/// The table of variants for any number of rows of activations.
pub static MAT_MAT: Operation<MatMatShape> = Operation {
    name: "mat_mat",
    variants: &[
        // These need no barrier, and have few invocations.
        Variant {
            name: "registers_pairs",
            fits: |shape| integer(shape) && reads_small_integers(shape.format),
            key: |shape| registers_integer(shape).flag("pairs", true),
        },
        Variant {
            name: "registers_integer",
            fits: |shape| integer(shape) && !reads_small_integers(shape.format),
            key: registers_integer,
        },
        Variant {
            name: "registers",
            fits: |_| true,
            key: |shape| KernelKey {
                needs: &[Capability::Cpu, Capability::Subgroup],
                ..registers("mat_mat_registers", shape, 16)
            },
        },
        Variant { name: "matrices_16", fits: is_short, key: |shape| matrices(shape, 16, 64, 128) },
        // For subgroups of 64, of which 128 invocations are two: they would go twice through all blocks.
        Variant {
            name: "matrices_16_wide",
            fits: |shape| is_short(shape) && shape.most > 16,
            key: |shape| matrices(shape, 16, 64, 256),
        },
        Variant { name: "matrices_16_large", fits: is_large, key: |shape| large_matrices(shape, 128) },
        Variant { name: "matrices_16_large_wide", fits: is_large, key: |shape| large_matrices(shape, 256) },
        Variant { name: "matrices_8", fits: is_short, key: |shape| matrices(shape, 8, 32, 128) },
        Variant {
            name: "integer",
            fits: integer,
            key: |shape| KernelKey { needs: &[Capability::Integer], ..short("mat_mat_integer", shape) },
        },
        Variant {
            name: "f16_tiles",
            fits: is_short,
            key: |shape| KernelKey {
                needs: &[Capability::F16],
                ..short("mat_mat", shape).flag(ROUNDS_TO_F16, true)
            },
        },
        Variant { name: "baseline", fits: |_| true, key: baseline },
    ],
};
