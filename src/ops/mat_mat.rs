//! The matrix-matrix kernels: products with any number of rows of activations.

use super::{
    Operation, Variant,
    matmul::MatmulParams,
    weight::{reads_f16, reads_integers, weight_key},
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
    /// Whether the activations are there in 8-bit codes, too.
    pub q8: bool,
    /// Most rows of activations that it is made for, one of [`RowCount::MANY`](super::RowCount::MANY);
    /// right for more, too.
    pub most: u32,
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

fn key(shader: &'static str, shape: &MatMatShape, [rows, cols]: [u32; 2]) -> KernelKey {
    weight_key(shader, shape.format)
        .with::<MatmulParams>()
        .constant(TILE_ROWS, rows)
        .constant(TILE_COLS, cols)
}

fn baseline(shape: &MatMatShape) -> KernelKey {
    let (rows, cols, side) = (32, 64, 4);
    key("mat_mat", shape, [rows, cols])
        .constant("SIDE", side)
        .constant("WORKGROUP", rows * cols / (side * side))
}

/// Each invocation computes 8 rows by 8 columns.
fn registers(shape: &MatMatShape) -> KernelKey {
    let (rows, cols, workgroup) = (8, 8, 32);
    key("mat_mat_registers", shape, [rows, cols * workgroup])
        .constant("COLS", cols)
        .constant("WORKGROUP", workgroup)
}

/// Whether both factors are there as integers.
fn integer(shape: &MatMatShape) -> bool {
    shape.q8 && reads_integers(shape.format)
}

/// The table of variants for any number of rows of activations.
pub static MAT_MAT: Operation<MatMatShape> = Operation {
    name: "mat_mat",
    variants: &[
        Variant {
            name: "f16",
            fits: |shape| reads_f16(shape.format),
            key: |shape| KernelKey { needs: &[Capability::F16], ..baseline(shape) },
        },
        Variant { name: "baseline", fits: |_| true, key: baseline },
        // These need no barrier, but have so few invocations that they starve a GPU: faster on a CPU.
        Variant {
            name: "registers_integer",
            fits: integer,
            key: |shape| KernelKey { needs: &[Capability::Integer], ..registers(shape) },
        },
        Variant { name: "registers", fits: |_| true, key: registers },
    ],
};
