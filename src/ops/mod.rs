//! Operations on the device. Each file checks shapes, picks the best variant that the device can
//! run, and appends steps to a [`Recording`](crate::gpu::Recording).

mod adjust_logits;
mod attention;
mod batch;
mod embedding;
mod epilogue;
mod expert_sum;
mod gather;
mod kv;
mod lora;
mod mat_mat;
mod mat_vec;
mod matmul;
mod quantize;
mod residual_add;
mod rms_norm;
mod roofline;
mod rope_kv;
mod route;
mod sample;
mod self_test;
mod swiglu;
mod top_k;
mod trial;
mod tune;
mod variant;
mod weight;

pub use adjust_logits::{ADJUST_LOGITS, AdjustLogits, Adjustments, RowAdjustments};
pub use attention::{ATTENTION_COMBINE, ATTENTION_SINGLE, ATTENTION_TILED, Attention, AttentionCombineShape};
pub use batch::{KEY_SPLIT, PAGE, QUERY_TILE, Row, RowCount, SAMPLED, WorkItem, count};
pub use embedding::{EMBEDDING, Embedding};
pub use epilogue::{Epilogue, EpilogueShape, Fused};
pub use expert_sum::{EXPERT_SUM, ExpertSum};
pub use gather::{Axis, GATHER, Gather, GatherShape};
pub use kv::{AttentionShape, KvFormat, KvSegment};
pub use lora::{
    LORA_DOWN, LORA_UP, Lora, LoraDownShape, LoraFactors, LoraFormat, LoraParts, LoraShape, MAX_ADAPTERS,
};
pub use mat_mat::{MAT_MAT, MatMatShape, rounds_to_f16};
pub use mat_vec::{MAT_VEC, MAT_VEC_NORMED, MAT_VEC_RMS_NORM, MAT_VEC_ROPE_KV, MAT_VEC_SWIGLU, MatVecShape};
pub use matmul::{Matmul, few_read};
pub use quantize::{QUANTIZE, Quantize};
pub use residual_add::{RESIDUAL_ADD, ResidualAdd};
pub use rms_norm::{RMS_NORM, RmsNorm, RmsNormShape};
pub use roofline::{CHAIN, MULTIPLY, Roofline, STREAM};
pub use rope_kv::{ROPE_KV, RopeKv};
pub use route::{ExpertChoice, MAX_EXPERTS, ROUTE, Route, RouteShape, Routes};
pub use sample::{BEYOND, SAMPLE, Sample, SampleRow};
pub use self_test::{SelfTestRow, SelfTestShapes, ensure_self_test, self_test};
pub use swiglu::{SWIGLU, Swiglu};
pub use top_k::{Candidates, MAX_K, TOP_K, TopK, TopKHeader, TopKRecord, TopKRow};
pub use trial::try_kernels;
pub(crate) use tune::timed;
pub use tune::{Tune, TuneLora, TuneMatrix, TuneRow, TuneShapes, ensure_form, ensure_tuned, kept_tuning};
pub use variant::{Operation, Variant, compositions};
pub use weight::{FILL, Weight, WeightPart};
