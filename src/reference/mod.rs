//! Scalar twins of the operations: plain loops with `f64` sums, the oracle of the kernel tests and of
//! the device self-test. Matrices are row-major.

mod activations;
mod attention;
mod experts;
mod kv_page;
mod linear;
mod logits;
mod lora;
mod rope;
mod sample;

pub use activations::{residual_add, rms_norm, swiglu};
pub use attention::{AttentionShape, attention, f16_load, f16_store};
pub use experts::{choose_experts, expert_sum, order_by_expert};
pub use kv_page::{KvPageLayout, KvSide};
pub use linear::{add_bias, embedding, gather_cols, gather_rows, matmul, quantize};
pub use logits::{FORBIDDEN, Penalties, TokenAdjustment, adjust_logits, argmax, log_sum_exp, top_k};
pub use lora::lora;
pub use rope::{rope, rope_frequencies, rope_table};
pub use sample::Filters;
