//! The matrix-vector kernels: products with 1 to 8 rows of activations.

use super::{
    Operation, Variant,
    matmul::MatmulParams,
    weight::{reads_f16, reads_integers, weight_key},
};
use crate::{
    gpu::{Capability, KernelKey},
    quant::Format,
};

/// What specialises the matrix-vector kernel.
#[derive(Debug, Clone, Copy)]
pub struct MatVecShape {
    /// Of the weight.
    pub format: &'static Format,
    /// Rows of activations, each a column vector to the weight.
    pub cols: u32,
    /// Whether the activations are there in 8-bit codes, too.
    pub q8: bool,
}

const MAT_VEC_WORKGROUP: u32 = 64;

/// Weight rows that a workgroup handles together, or an invocation by itself, such that its sums stay
/// in registers.
fn mat_vec_rows(shape: &MatVecShape) -> u32 {
    if shape.cols <= 4 { 4 } else { 2 }
}

fn mat_vec(shape: &MatVecShape) -> KernelKey {
    weight_key("mat_vec", shape.format)
        .with::<MatmulParams>()
        .constant("WORKGROUP", MAT_VEC_WORKGROUP)
        .constant("COLS", shape.cols)
        .constant("ROWS", mat_vec_rows(shape))
}

/// Whether both factors are there as integers.
fn integer(shape: &MatVecShape) -> bool {
    shape.q8 && reads_integers(shape.format)
}

/// Gives every invocation rows of its own.
const WHOLE_ROWS: &str = "whole_rows";

/// The table of variants for 1 to 8 rows of activations.
pub static MAT_VEC: Operation<MatVecShape> = Operation {
    name: "mat_vec",
    variants: &[
        Variant {
            name: "integer_subgroup",
            fits: integer,
            key: |shape| KernelKey { needs: &[Capability::Integer, Capability::Subgroup], ..mat_vec(shape) },
        },
        Variant {
            name: "integer",
            fits: integer,
            key: |shape| KernelKey { needs: &[Capability::Integer], ..mat_vec(shape) },
        },
        Variant {
            name: "f16",
            fits: |shape| reads_f16(shape.format),
            key: |shape| KernelKey { needs: &[Capability::F16, Capability::Subgroup], ..mat_vec(shape) },
        },
        Variant {
            name: "subgroup",
            fits: |_| true,
            key: |shape| KernelKey { needs: &[Capability::Subgroup], ..mat_vec(shape) },
        },
        Variant { name: "baseline", fits: |_| true, key: mat_vec },
        // Needs no barrier, but fills a large GPU only with many rows: faster on a CPU.
        Variant { name: "rows", fits: |_| true, key: |shape| mat_vec(shape).flag(WHOLE_ROWS, true) },
    ],
};

/// Workgroups that `variant` runs over `rows` rows of the weight.
pub(super) fn mat_vec_workgroups(variant: &Variant<MatVecShape>, shape: &MatVecShape, rows: u32) -> u32 {
    let whole_rows = (variant.key)(shape).flags.contains(&WHOLE_ROWS);
    rows.div_ceil(mat_vec_rows(shape) * if whole_rows { MAT_VEC_WORKGROUP } else { 1 })
}
