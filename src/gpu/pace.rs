//! How fast the device works, and how much it may be given at once.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{Gpu, host::thread_time, recording::Commands};

/// Something handed to the device.
#[derive(Debug, Clone)]
pub(super) struct Submission {
    pub index: wgpu::SubmissionIndex,
    number: u64,
    work: f64,
    at: Instant,
    /// When a throttled device may be done with it.
    pub due: Instant,
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
    /// Most work of one of them since somebody asked.
    heaviest: f64,
    /// See [`GpuOptions::throttle`](super::GpuOptions).
    throttle: Option<f64>,
    /// When a throttled device may be done with everything.
    due: Instant,
}

impl Pace {
    /// A slow integrated GPU to begin with; faster ones are learned within a few tokens.
    pub fn new(seconds: f64, throttle: Option<f64>) -> Self {
        let now = Instant::now();
        Self {
            seconds,
            rate: 1e9,
            pending: VecDeque::new(),
            finished: Some(now),
            last: 0,
            submissions: 0,
            heaviest: 0.0,
            throttle,
            due: now,
        }
    }

    /// Work that a submission may hold.
    pub fn bound(&self) -> f64 {
        self.rate * self.seconds
    }

    /// Work that a single step may hold at most where there is a choice: ten times as much, a second by
    /// default, where drivers allow about two.
    pub fn longest_step(&self) -> f64 {
        10.0 * self.bound()
    }

    /// The last submission that the device may still be working on.
    pub fn last(&self) -> Option<Submission> {
        self.pending.back().cloned()
    }

    fn submitted(&mut self, index: wgpu::SubmissionIndex, work: f64) -> Submission {
        self.last += 1;
        self.submissions += u64::from(work > 0.0);
        self.heaviest = self.heaviest.max(work);
        let at = Instant::now();
        let least = self.throttle.map_or(0.0, |rate| work / rate);
        self.due = self.due.max(at) + Duration::from_secs_f64(least);
        let submission = Submission { index, number: self.last, work, at, due: self.due };
        self.pending.push_back(submission.clone());
        submission
    }

    /// The device has finished `last` and everything before it, just now if the host has `waited` for
    /// that. Learns from how long it took since it was given that work, or was done with what it had
    /// before: at once when that was longer than a submission may take, by degrees when the device is
    /// faster. Little work takes most of its time to start, so it counts for as much of a submission as it
    /// fills; work that was finished when nobody looked is no sign of a slower device.
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
        let elapsed = now.duration_since(begin).as_secs_f64().max(1e-6);
        let measured = work / elapsed;
        if measured > self.rate {
            self.rate = (self.rate + measured) / 2.0;
        } else if waited && elapsed >= self.seconds {
            self.rate += (measured - self.rate) * (work / self.bound()).min(1.0);
        }
    }
}

impl Gpu {
    /// Hands `commands` to the device, and whatever was written before.
    pub(super) fn submit(&self, commands: Option<Commands>) -> Submission {
        let work = commands.as_ref().map_or(0.0, |commands| commands.work);
        let index = self.queue.submit(commands.map(|commands| commands.encoder.finish()));
        self.pace().submitted(index, work)
    }

    /// Hands what was encoded so far to the device.
    pub(super) fn submit_encoded(&self) {
        let mut unsubmitted = self.unsubmitted();
        if let Some(commands) = unsubmitted.take() {
            let start = thread_time();
            self.submit(Some(commands));
            self.count(0, (thread_time() - start).as_nanos() as u64);
        }
    }

    /// Whether a single step of `work` would take so long that a watchdog might end it: more than ten
    /// times what a submission should take.
    pub fn too_long(&self, work: f64) -> bool {
        work > self.pace().longest_step()
    }

    /// Work per second that the device is taken to do, in the unit of [`Cost`](super::Cost).
    pub fn rate(&self) -> f64 {
        self.pace().rate
    }

    /// Most work of a single submission since this was last asked.
    pub fn take_heaviest_submission(&self) -> f64 {
        std::mem::take(&mut self.pace().heaviest)
    }

    /// Submissions of work made so far.
    pub fn submissions(&self) -> u64 {
        self.pace().submissions
    }
}
