//! Guesses at what comes next, cheap to make and checked all at once: speculative decoding
//! (Leviathan et al. 2022, arXiv:2211.17192).
//!
//! Every token is still chosen from the model's own distribution, with the random number of its own position,
//! and a guess counts only while it equals that choice. So the text is the one without guesses, greedy or drawn.

use std::str::FromStr;

use crate::{Error, ErrorKind, model::FEW_ROWS};

/// Guesses how texts go on.
pub trait Proposer {
    /// Up to `most` tokens that may follow `tokens`; none when there is nothing to go by.
    fn propose(&mut self, tokens: &[u32], most: usize) -> Vec<u32>;
}

/// Proposes what followed the last time that the text went as it does now: summaries quote, and code repeats.
#[derive(Debug, Clone, Copy)]
pub struct PromptLookup {
    /// Tokens that must agree, at least.
    pub shortest: usize,
    /// Tokens compared, at most.
    pub longest: usize,
}

impl Default for PromptLookup {
    fn default() -> Self {
        Self { shortest: 2, longest: 8 }
    }
}

impl Proposer for PromptLookup {
    /// Goes by the longest agreement, the latest of equally long ones. What followed may reach into the
    /// proposal itself: `1 2 1 2` goes on with `1 2 1 2 …`.
    fn propose(&mut self, tokens: &[u32], most: usize) -> Vec<u32> {
        let mut best = (0, 0);
        for end in (1..tokens.len()).rev() {
            let agree = tokens[..end].iter().rev().zip(tokens.iter().rev()).take(self.longest);
            let length = agree.take_while(|(a, b)| a == b).count();
            if length > best.0 {
                best = (length, end);
                if length == self.longest {
                    break;
                }
            }
        }
        let (length, end) = best;
        if length < self.shortest.max(1) {
            return Vec::new();
        }
        let mut proposed = Vec::with_capacity(most);
        for at in end..end + most {
            proposed.push(tokens.get(at).copied().unwrap_or_else(|| proposed[at - tokens.len()]));
        }
        proposed
    }
}

/// When to propose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Speculate {
    /// Never.
    #[default]
    Off,
    /// While it pays: as many tokens as promise the most for the time that a step takes with them.
    Auto,
    /// So many tokens in every step, at most 7.
    Always(usize),
}

/// Tokens proposed in a step at most: with the certain one, rows that have the same bits in any number.
const MOST: usize = FEW_ROWS - 1;

impl FromStr for Speculate {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match (text, text.parse()) {
            ("off", _) => Ok(Self::Off),
            ("auto", _) => Ok(Self::Auto),
            ("on", _) => Ok(Self::Always(MOST)),
            (_, Ok(most @ 1..=MOST)) => Ok(Self::Always(most)),
            _ => {
                let expected = format!("auto, on, off or a number from 1 to {MOST}");
                Err(Error::expected(ErrorKind::Argument, "speculate", expected, format_args!("`{text}`")))
            }
        }
    }
}

/// Seconds that a step of one text takes, by its rows; the first time, which compiles kernels, aside.
#[derive(Debug, Default)]
pub(super) struct StepCosts([(u32, f64); FEW_ROWS + 1]);

impl StepCosts {
    pub fn learn(&mut self, rows: usize, seconds: f64) {
        let Some((count, known)) = self.0.get_mut(rows) else { return };
        // Whoever reads the text may be slow: what was quick counts more.
        let share = if *count == 1 || seconds < *known { 0.5 } else { 0.1 };
        *known = if *count < 2 { seconds } else { *known + share * (seconds - *known) };
        *count += 1;
    }

    fn of(&self, rows: usize) -> Option<f64> {
        let (count, seconds) = self.0[rows];
        (count > 1).then_some(seconds)
    }
}

/// A text's proposals, and how they have fared.
pub(super) struct Speculation {
    proposer: Box<dyn Proposer + Send>,
    when: Speculate,
    /// First token of the latest proposal, used or not.
    expected: Option<u32>,
    /// Proposed tokens, each after others that were right, and those right among them.
    seen: f64,
    right: f64,
}

impl Speculation {
    pub fn new(proposer: Box<dyn Proposer + Send>, when: Speculate) -> Self {
        Self { proposer, when, expected: None, seen: 2.0, right: 1.4 }
    }

    /// What to take to follow `tokens`, of which there will be `left` more at most.
    pub fn propose(&mut self, tokens: &[u32], left: usize, costs: &StepCosts) -> Vec<u32> {
        let most = match self.when {
            Speculate::Off => 0,
            Speculate::Auto => MOST,
            Speculate::Always(most) => most.min(MOST),
        };
        let most = most.min(left.saturating_sub(1));
        if most == 0 {
            return Vec::new();
        }
        let mut proposed = self.proposer.propose(tokens, most);
        self.expected = proposed.first().copied();
        if self.when == Speculate::Auto {
            proposed.truncate(self.worthwhile(proposed.len(), costs));
        }
        proposed
    }

    /// How many of `available` tokens promise the most for the time. Few different numbers are tried, for
    /// each needs kernels of its own; what a number costs is found out by trying it.
    fn worthwhile(&self, available: usize, costs: &StepCosts) -> usize {
        let chance = self.right / self.seen;
        let rate = |proposed: usize| {
            let tokens = (0..=proposed as i32).map(|index| chance.powi(index)).sum::<f64>();
            tokens / costs.of(1 + proposed).or(costs.of(1)).unwrap_or(1.0)
        };
        let choices = [0, MOST / 2, MOST].into_iter().filter(|proposed| *proposed <= available);
        choices.max_by(|a, b| rate(*a).total_cmp(&rate(*b))).unwrap_or(0)
    }

    /// Learns from a step that took `proposed` to follow and found `tokens`.
    pub fn learn(&mut self, proposed: &[u32], found: impl Iterator<Item = u32>) {
        let expected = self.expected.take();
        let expected = if proposed.is_empty() { expected.as_slice() } else { proposed };
        for (expected, found) in expected.iter().zip(found) {
            self.seen += 1.0;
            self.right += f64::from(u8::from(*expected == found));
        }
        if self.seen > 40.0 {
            self.seen /= 2.0;
            self.right /= 2.0;
        }
    }
}

/// How many tokens steps have given to texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StepCounts {
    /// Steps of texts: one that continues three texts counts three times.
    pub steps: u64,
    /// Tokens that were proposed.
    pub proposed: u64,
    /// Tokens that came of the steps.
    pub tokens: u64,
}

impl StepCounts {
    /// Tokens of a step on average: 1 without proposals.
    pub fn tokens_per_step(&self) -> f64 {
        self.tokens as f64 / self.steps.max(1) as f64
    }
}

impl std::ops::Sub for StepCounts {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            steps: self.steps - before.steps,
            proposed: self.proposed - before.proposed,
            tokens: self.tokens - before.tokens,
        }
    }
}
