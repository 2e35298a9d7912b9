//! The matrix-matrix kernels: products with any number of rows of activations.

use super::{
    Operation, Variant,
    matmul::MatmulParams,
    weight::{reads_f16, weight_key},
};
use crate::{
    gpu::{Capability, KernelKey},
    quant::Format,
};

/// Outputs that a workgroup of the matrix-matrix kernel computes: rows of activations, rows of the
/// weight, and the side of each invocation's square.
pub(super) const TILE_ROWS: u32 = 32;
pub(super) const TILE_COLS: u32 = 64;
const SIDE: u32 = 4;

fn mat_mat(format: &'static Format) -> KernelKey {
    weight_key("mat_mat", format)
        .with::<MatmulParams>()
        .constant("TILE_ROWS", TILE_ROWS)
        .constant("TILE_COLS", TILE_COLS)
        .constant("SIDE", SIDE)
        .constant("WORKGROUP", TILE_ROWS * TILE_COLS / (SIDE * SIDE))
}

/// The table of variants for any number of rows of activations.
pub static MAT_MAT: Operation<&Format> = Operation {
    name: "mat_mat",
    variants: &[
        Variant {
            name: "f16",
            fits: |format| reads_f16(format),
            key: |format| KernelKey { needs: &[Capability::F16], ..mat_mat(format) },
        },
        Variant { name: "baseline", fits: |_| true, key: |format| mat_mat(format) },
    ],
};
