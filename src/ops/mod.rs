//! Operations on the device. Each file checks shapes, picks the best variant that the device can
//! run, and appends steps to a [`Recording`](crate::gpu::Recording).

mod batch;
mod rms_norm;
mod variant;

pub use batch::{KEY_SPLIT, PAGE, QUERY_TILE, Row, RowCount, WorkItem, count};
pub use rms_norm::{RMS_NORM, RmsNorm, RmsNormShape};
pub use variant::{Operation, Variant};
