//! What a device was asked to do so far.

use std::{ops::Sub, sync::PoisonError};

use super::Gpu;

/// Sums over all replays of a device's recordings; the difference of two is what lies between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Dispatches of at least one workgroup.
    pub dispatches: u64,
    /// Submissions.
    pub submissions: u64,
    /// Processor time of the host spent encoding and submitting, in nanoseconds; on Windows all the time that passed.
    pub encoding_ns: u64,
}

impl Sub for Counters {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            dispatches: self.dispatches - before.dispatches,
            submissions: self.submissions - before.submissions,
            encoding_ns: self.encoding_ns - before.encoding_ns,
        }
    }
}

impl Gpu {
    /// What was done so far.
    pub fn counters(&self) -> Counters {
        let counters = *self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        Counters { submissions: self.submissions(), ..counters }
    }

    pub(super) fn count(&self, dispatches: u64, encoding_ns: u64) {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        counters.dispatches += dispatches;
        counters.encoding_ns += encoding_ns;
    }
}
