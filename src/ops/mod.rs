//! Operations on the device. Each file checks shapes, picks the best variant that the device can
//! run, and appends steps to a [`Recording`](crate::gpu::Recording).

mod adjust_logits;
mod batch;
mod rms_norm;
mod top_k;
mod variant;

pub use adjust_logits::{ADJUST_LOGITS, AdjustLogits, Adjustments, RowAdjustments};
pub use batch::{KEY_SPLIT, PAGE, QUERY_TILE, Row, RowCount, WorkItem, count};
pub use rms_norm::{RMS_NORM, RmsNorm, RmsNormShape};
pub use top_k::{Candidates, MAX_K, TOP_K, TopK, TopKHeader, TopKRecord, TopKRow};
pub use variant::{Operation, Variant};
