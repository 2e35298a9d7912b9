//! The matrix-vector kernels: products with 1 to 8 rows of activations.

use super::{
    EpilogueShape, Operation, Variant,
    matmul::{EXPERTS, MatmulParams},
    weight::{READS_WIDE, reads_integers, reads_small_integers, weight_key},
};
use crate::{
    gpu::{Capability, KernelKey},
    quant::Format,
    tensor::ActivationFormat,
};

/// What specialises the matrix-vector kernel.
#[derive(Debug, Clone, Copy)]
pub struct MatVecShape {
    /// Of the weight.
    pub format: &'static Format,
    /// Rows of activations, each a column vector to the weight.
    pub cols: u32,
    /// Whether the activations are there rounded, too.
    pub rounded: bool,
    /// Whether the weight is a matrix for each expert, which multiplies this expert's rows, `cols` at a time.
    pub experts: bool,
    /// Whether the activations are still to be normalised, row by row: see [`Epilogue::RmsNorm`](super::Epilogue).
    pub normed: bool,
    /// What is done with the outputs.
    pub epilogue: EpilogueShape,
}

impl MatVecShape {
    /// Of a product that may round its activations, and nothing else.
    pub fn new(format: &'static Format, cols: u32) -> Self {
        let (rounded, experts, normed, epilogue) = (true, false, false, EpilogueShape::Plain);
        Self { format, cols, rounded, experts, normed, epilogue }
    }

    /// The table of this shape's variants, which are those of [`MAT_VEC`] by the same names.
    pub fn operation(&self) -> &'static Operation<Self> {
        match self.epilogue {
            EpilogueShape::Plain if self.normed => &MAT_VEC_NORMED,
            EpilogueShape::Plain => &MAT_VEC,
            EpilogueShape::Swiglu => &MAT_VEC_SWIGLU,
            EpilogueShape::RopeKv(_) => &MAT_VEC_ROPE_KV,
            EpilogueShape::RmsNorm => &MAT_VEC_RMS_NORM,
        }
    }
}

/// Weight rows that a workgroup, or an invocation by itself, computes.
const ROWS: &str = "ROWS";

fn key(shader: &'static str, shape: &MatVecShape, rows: u32, workgroup: u32) -> KernelKey {
    shape
        .epilogue
        .specialise(weight_key(shader, shape.format))
        .with::<MatmulParams>()
        .constant("COLS", shape.cols)
        .constant(ROWS, rows)
        .constant("WORKGROUP", workgroup)
        .flag(EXPERTS, shape.experts)
        .flag("normed", shape.normed)
}

/// Few enough rows that their sums stay in registers, or as many as an epilogue takes.
fn baseline(shape: &MatVecShape) -> KernelKey {
    let rows = if shape.cols <= 4 || shape.epilogue == EpilogueShape::RmsNorm { 4 } else { 2 };
    key("mat_vec", shape, rows, 64)
}

/// Of codes with scales, an invocation takes the two quads of a word.
fn words(key: KernelKey, shape: &MatVecShape) -> KernelKey {
    let words = reads_integers(shape.format);
    key.flag("words", words).flag("many_cols", words && shape.cols > 4)
}

/// Twice as many rows of the weight: activations, which are more bytes than weights of few bits, are read half as often.
fn tall(shape: &MatVecShape) -> KernelKey {
    words(key("mat_vec", shape, if shape.cols <= 4 { 8 } else { 4 }, 64), shape)
}

const SUBGROUP: &[Capability] = &[Capability::Subgroup];

/// The second, so that what rounds to 16 bits is switched off with what else does.
const ROUNDED: &[Capability] = &[Capability::Subgroup, Capability::F16Conversion];

/// A workgroup is no more than a subgroup of a CPU.
fn rows(shape: &MatVecShape, rows: u32) -> KernelKey {
    key("mat_vec_rows", shape, rows, 8)
}

/// Whether both factors are there as integers.
fn integer(shape: &MatVecShape) -> bool {
    shape.rounded && reads_integers(shape.format) && !shape.normed
}

/// What kernels of integers need; in the second place with the epilogue that binds most: each factor has its scales in a buffer
/// of its own, so that there are nine.
type Needs = [&'static [Capability]; 2];

const INTEGER: Needs = [&[Capability::Integer], &[Capability::Integer, Capability::NineBuffers]];

const INTEGER_SUBGROUP: Needs = [
    &[Capability::Integer, Capability::Subgroup],
    &[Capability::Integer, Capability::Subgroup, Capability::NineBuffers],
];

const INTEGER_WIDE: Needs = [
    READS_WIDE,
    &[Capability::Cpu, Capability::Integer, Capability::Int64, Capability::Subgroup, Capability::NineBuffers],
];

fn integer_key(needs: Needs, shape: &MatVecShape, key: KernelKey) -> KernelKey {
    let binds_nine = matches!(shape.epilogue, EpilogueShape::RopeKv(_));
    KernelKey { needs: needs[usize::from(binds_nine)], ..key }
}

fn rows_integer(shape: &MatVecShape) -> KernelKey {
    integer_key(INTEGER_WIDE, shape, rows(shape, 8))
}

const VARIANTS: &[Variant<MatVecShape>] = &[
    Variant {
        name: "rows_pairs",
        fits: |shape| integer(shape) && reads_small_integers(shape.format),
        key: |shape| rows_integer(shape).flag("pairs", true),
    },
    Variant {
        name: "rows_integer",
        fits: |shape| integer(shape) && !reads_small_integers(shape.format),
        key: rows_integer,
    },
    Variant {
        name: "rows",
        fits: |_| true,
        key: |shape| KernelKey { needs: &[Capability::Cpu, Capability::Subgroup], ..rows(shape, 4) },
    },
    Variant {
        name: "integer_subgroup",
        fits: integer,
        key: |shape| integer_key(INTEGER_SUBGROUP, shape, baseline(shape)),
    },
    Variant { name: "integer", fits: integer, key: |shape| integer_key(INTEGER, shape, baseline(shape)) },
    Variant {
        name: "subgroup_tall",
        fits: |_| true,
        key: |shape| KernelKey { needs: SUBGROUP, ..tall(shape) },
    },
    Variant {
        name: "subgroup",
        fits: |_| true,
        key: |shape| KernelKey { needs: SUBGROUP, ..words(baseline(shape), shape) },
    },
    // Rounds what the others do not, so that it has to be faster than they are.
    Variant {
        name: "f16_activations",
        fits: |shape| shape.rounded && !shape.normed,
        key: |shape| KernelKey { needs: ROUNDED, ..ActivationFormat::F16.specialise(tall(shape)) },
    },
    Variant { name: "baseline", fits: |_| true, key: |shape| words(baseline(shape), shape) },
];

/// The table of variants for 1 to 8 rows of activations.
pub static MAT_VEC: Operation<MatVecShape> = Operation { name: "mat_vec", variants: VARIANTS };

/// The same for activations that are still to be normalised.
pub static MAT_VEC_NORMED: Operation<MatVecShape> = Operation { name: "mat_vec_normed", variants: VARIANTS };

/// The same with [`Swiglu`](super::Swiglu) of the outputs.
pub static MAT_VEC_SWIGLU: Operation<MatVecShape> = Operation { name: "mat_vec_swiglu", variants: VARIANTS };

/// The same with [`RopeKv`](super::RopeKv) of the outputs.
pub static MAT_VEC_ROPE_KV: Operation<MatVecShape> =
    Operation { name: "mat_vec_rope_kv", variants: VARIANTS };

/// The same with the beginning of [`RmsNorm`](super::RmsNorm) of the outputs.
pub static MAT_VEC_RMS_NORM: Operation<MatVecShape> =
    Operation { name: "mat_vec_rms_norm", variants: VARIANTS };

/// Workgroups that a kernel of this table runs over `rows` rows of the weight.
pub(super) fn mat_vec_workgroups(key: &KernelKey, rows: u32) -> u32 {
    let constant = |wanted| key.constants.iter().find(|(name, _)| *name == wanted).map_or(1, |(_, n)| *n);
    let alone = key.shader == "mat_vec_rows";
    rows.div_ceil(constant(ROWS) * if alone { constant("WORKGROUP") } else { 1 })
}
