//! How fast the device works, and how much it may be given at once.

use std::{collections::VecDeque, time::Instant};

use super::Gpu;

/// Something handed to the device.
#[derive(Debug, Clone)]
pub(super) struct Submission {
    pub index: wgpu::SubmissionIndex,
    number: u64,
    work: f64,
    at: Instant,
}

/// How much work a submission may hold, learned from how long the device took so far.
#[derive(Debug)]
pub(super) struct Pace {
    /// Seconds that a submission should take at most.
    seconds: f64,
    /// Work per second.
    rate: f64,
    /// Submissions that the device was not yet seen to have finished.
    pending: VecDeque<Submission>,
    /// When those before them were finished, as far as that is known.
    finished: Option<Instant>,
    /// Number of the last submission.
    last: u64,
    /// Submissions of work so far.
    submissions: u64,
}

impl Pace {
    /// A slow integrated GPU to begin with; faster ones are learned within a few tokens.
    pub fn new(seconds: f64) -> Self {
        let (pending, finished) = (VecDeque::new(), Some(Instant::now()));
        Self { seconds, rate: 1e9, pending, finished, last: 0, submissions: 0 }
    }

    /// Work that a submission may hold.
    pub fn bound(&self) -> f64 {
        self.rate * self.seconds
    }

    /// The last submission that the device may still be working on.
    pub fn last(&self) -> Option<Submission> {
        self.pending.back().cloned()
    }

    fn submitted(&mut self, index: wgpu::SubmissionIndex, work: f64) -> Submission {
        self.last += 1;
        self.submissions += u64::from(work > 0.0);
        let submission = Submission { index, number: self.last, work, at: Instant::now() };
        self.pending.push_back(submission.clone());
        submission
    }

    /// The device has finished `last` and everything before it, just now if the host has `waited` for
    /// that. Learns from how long it took since it was given that work, or was done with what it had
    /// before. Little work takes most of its time to start, so it is no sign of a slower device; nor is
    /// work that was finished when nobody looked.
    pub fn finished(&mut self, last: &Submission, waited: bool) {
        let now = Instant::now();
        let Some(first) = self.pending.front().map(|submission| submission.at) else { return };
        let done = self.pending.partition_point(|submission| submission.number <= last.number);
        let work: f64 = self.pending.drain(..done).map(|submission| submission.work).sum();
        let begin = self.finished.map(|finished| finished.max(first));
        self.finished = waited.then_some(now);
        if self.pending.is_empty() {
            // Whatever comes next begins when it is submitted.
            self.finished = Some(now);
        }
        let Some(begin) = begin else { return };
        let measured = work / now.duration_since(begin).as_secs_f64().max(1e-6);
        if measured > self.rate || (waited && work >= self.bound()) {
            self.rate = (self.rate + measured) / 2.0;
        }
    }
}

impl Gpu {
    /// Hands `commands` of this estimated work to the device, and whatever was written before.
    pub(super) fn submit(&self, commands: Option<wgpu::CommandBuffer>, work: f64) -> Submission {
        let index = self.queue.submit(commands);
        self.pace().submitted(index, work)
    }

    /// Whether a single step of `work` would take so long that a watchdog might end it: more than ten
    /// times what a submission should take, a second by default, where drivers allow about two.
    pub fn too_long(&self, work: f64) -> bool {
        work / 10.0 > self.pace().bound()
    }

    /// Work per second that the device is taken to do, in the unit of [`Cost`](super::Cost).
    pub fn rate(&self) -> f64 {
        self.pace().rate
    }

    /// Submissions of work made so far.
    pub fn submissions(&self) -> u64 {
        self.pace().submissions
    }
}
