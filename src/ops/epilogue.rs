//! What a product of few rows does with its outputs before they are written, in place of a dispatch that would read them.

use super::{Matmul, RmsNorm, RopeKv, Swiglu, kv::AttentionShape, matmul::MatmulParams};
use crate::{
    Result,
    gpu::{Buffer, Gpu, KernelKey, Recording},
    tensor::{Activation, Tensor},
};

/// The operation that follows a product and reads its outputs.
#[derive(Debug, Clone, Copy)]
pub enum Epilogue<'a> {
    /// Of `gate_up`, the outputs: to the bit what a step of its own makes of them.
    Swiglu(Swiglu<'a>),
    /// Of `qkv`, the outputs: to the bit what a step of its own makes of them.
    RopeKv(RopeKv<'a>),
    /// Of `delta`, the outputs. Done with the product, it leaves a factor of each row to the product that reads `y`:
    /// [`Fused::eps`].
    RmsNorm(RmsNorm<'a>),
}

/// What a product's kernel depends on of its epilogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EpilogueShape {
    /// None: the outputs are written.
    Plain,
    /// [`Epilogue::Swiglu`].
    Swiglu,
    /// [`Epilogue::RopeKv`].
    RopeKv(AttentionShape),
    /// [`Epilogue::RmsNorm`].
    RmsNorm,
}

/// What a product does beside the product.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fused<'a> {
    /// `eps` of the norm that an [`Epilogue::RmsNorm`] has left unfinished in `x`.
    pub eps: Option<f32>,
    /// What it does with its outputs; `y` is not written then.
    pub epilogue: Option<Epilogue<'a>>,
}

/// Columns of a row for which an unfinished norm has a sum of squares.
const SQUARE_COLS: u32 = 4;

impl EpilogueShape {
    /// The module and what specialises it, added to `key`.
    pub(super) fn specialise(self, key: KernelKey) -> KernelKey {
        match self {
            Self::Plain => key.mount("epilogue", "epilogue/plain"),
            Self::Swiglu => key.mount("epilogue", "epilogue/swiglu"),
            Self::RopeKv(attention) => {
                attention.specialise(key.mount("epilogue", "epilogue/rope_kv").with::<super::Row>())
            }
            Self::RmsNorm => key.mount("epilogue", "epilogue/rms_norm"),
        }
    }
}

impl<'a> Epilogue<'a> {
    /// Room for the result of a norm that products of up to `few` rows do, `[rows, cols]`.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub fn unfinished_norm(gpu: &Gpu, label: &str, rows: u32, cols: u32, few: u32) -> Result<Tensor> {
        Ok(Tensor { rows, ..Tensor::zeros(gpu, label, rows + few.div_ceil(SQUARE_COLS), cols)? })
    }

    pub(super) fn shape(&self) -> EpilogueShape {
        match self {
            Self::Swiglu(_) => EpilogueShape::Swiglu,
            Self::RopeKv(rope_kv) => EpilogueShape::RopeKv(rope_kv.shape),
            Self::RmsNorm(_) => EpilogueShape::RmsNorm,
        }
    }

    /// Whether `product` has outputs that it can do at once, and what it writes besides fits the eight buffers that every
    /// device binds.
    pub(super) fn fits(&self, product: &Matmul) -> bool {
        let weight = product.weight;
        let pairs =
            weight.output_step == 1 && weight.first_output.is_multiple_of(2) && weight.rows.is_multiple_of(2);
        let whole = |y: Activation| matches!(y, Activation::F32(_));
        match self {
            Self::Swiglu(swiglu) => pairs && whole(swiglu.y),
            Self::RopeKv(RopeKv { segments, shape, .. }) => {
                pairs && weight.bias.is_none() && segments.len() == 1 && shape.chunks() == shape.head_dim / 2
            }
            Self::RmsNorm(norm) => {
                let mut first_rows = weight.parts.iter().map(|part| part.first_row);
                (weight.first_output, weight.output_step) == (0, 1)
                    && first_rows.all(|row| row.is_multiple_of(SQUARE_COLS))
                    && norm.row_ids.is_none()
                    && whole(norm.y)
            }
        }
    }

    /// Sets what the kernel needs to know.
    pub(super) fn set(&self, params: &mut MatmulParams) {
        match self {
            Self::Swiglu(swiglu) => params.y_stride = swiglu.y.stride(),
            Self::RopeKv(RopeKv { q, segments, .. }) => {
                (params.y_stride, params.slots) = (q.stride(), segments[0].slots);
            }
            Self::RmsNorm(RmsNorm { y, .. }) => params.first_square = first_square(*y),
        }
    }

    /// What the kernel binds beside the factors.
    pub(super) fn bindings(&self) -> Vec<(&'static str, &'a Buffer)> {
        match self {
            Self::Swiglu(swiglu) => swiglu.y.outputs().collect(),
            Self::RopeKv(RopeKv { q, rows, rope, segments, .. }) => vec![
                ("q", &q.buffer),
                ("rows", rows),
                ("rope", rope),
                ("k_cache", &segments[0].k),
                ("v_cache", &segments[0].v),
            ],
            Self::RmsNorm(RmsNorm { x, weight, y, .. }) => {
                y.outputs().chain([("stream", &x.buffer), ("norm_weight", &weight.buffer)]).collect()
            }
        }
    }

    /// Appends the operation as a step of its own.
    ///
    /// # Errors
    /// As [`Gpu::kernel`] and [`Step::new`](crate::gpu::Step::new).
    pub fn record(&self, gpu: &Gpu, recording: &mut Recording) -> Result<()> {
        match self {
            Self::Swiglu(swiglu) => swiglu.record(gpu, recording),
            Self::RopeKv(rope_kv) => rope_kv.record(gpu, recording),
            Self::RmsNorm(norm) => norm.record(gpu, recording),
        }
    }
}

/// Where the squares of an unfinished norm begin.
pub(super) fn first_square(y: Activation) -> u32 {
    y.rows() * y.stride()
}
