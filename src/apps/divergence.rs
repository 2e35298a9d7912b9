//! How far the predictions of one model are from those of another, over the same tokens: what a weight
//! format changes.
//!
//! The measures are those that llama.cpp's `llama-perplexity --kl-divergence` prints.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    ops::ControlFlow,
    sync::Arc,
};

use rayon::prelude::*;

use super::{
    Perplexity, Windows,
    perplexity::{Foretold, read, surprise},
    statistics::{Distribution, Estimate, Share, Sums},
};
use crate::{
    Error, ErrorKind, Result,
    generate::Engine,
    model::ModelConfig,
    reference::{argmax, log_sum_exp},
};

/// Largest shifts that are kept.
const SHIFTS: usize = 10;

/// What a model Q and a reference P predicted for one token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shift {
    /// Number of the token in the text.
    pub position: usize,
    /// The token that is there.
    pub token: u32,
    /// Natural logarithm of its probability by Q and by P.
    pub logprob: [f64; 2],
    /// The likeliest tokens by Q and by P.
    pub top: [u32; 2],
    /// KL(P ‖ Q) = Σ p · ln(p / q) over the vocabulary, in nats.
    pub divergence: f64,
}

/// How far a model Q is from a reference P.
#[derive(Debug, Clone)]
pub struct Divergence {
    /// Perplexity of Q.
    pub perplexity: Perplexity,
    /// Perplexity of P.
    pub reference: Perplexity,
    /// ln of the ratio of Q's perplexity to P's, with the error of a difference between pairs.
    pub ln_ratio: Estimate,
    /// Correlation of the tokens' ln probabilities by Q and by P.
    pub correlation: f64,
    /// KL(P ‖ Q) at every token.
    pub divergence: Distribution,
    /// How much more probable the text's own token is by Q than by P.
    pub delta: Distribution,
    /// Tokens at which both have the same likeliest token.
    pub same_top: Share,
    /// Where the divergence is largest, that first.
    pub shifts: Vec<Shift>,
}

/// Compares `engine`, Q, with `reference`, P, which read the text in step. `progress` as in
/// [`perplexity`](super::perplexity()), with Q's perplexity.
///
/// # Errors
/// As [`perplexity`](super::perplexity()); [`ErrorKind::Argument`] for vocabularies of different lengths.
pub async fn divergence(
    engine: &Arc<Engine>,
    reference: &Arc<Engine>,
    tokens: &[u32],
    windows: Windows,
    progress: &mut dyn FnMut(usize, usize, Perplexity) -> ControlFlow<()>,
) -> Result<Divergence> {
    same_vocabulary(engine.config(), reference.config())?;
    let mut sums = PairSums::default();
    let engines = [engine.clone(), reference.clone()];
    read(&engines, tokens, windows, &mut |foretold, total| {
        let shift = |token: &Foretold| {
            let logits = [0, 1].map(|engine| token.logits(engine));
            compare(token.position, tokens[token.position], logits)
        };
        let nll = sums.add(foretold.par_iter().map(shift).collect::<Result<_>>()?);
        Ok(progress(nll.count, total, Perplexity { nll }))
    })
    .await?;
    Ok(sums.finish())
}

/// The logits that a model Q had for the tokens of a text that count, in a temporary file that is gone with this:
/// for a comparison with a reference P that does not fit on the device beside Q.
pub struct Recorded {
    /// `[tokens − 1, vocab]` as `f32`; rows of tokens that do not count are holes.
    file: File,
    windows: Windows,
    config: ModelConfig,
}

impl Recorded {
    /// Bytes of the file for a text of `tokens` tokens.
    pub fn bytes(tokens: usize, vocab: usize) -> u64 {
        tokens.saturating_sub(1) as u64 * vocab as u64 * 4
    }

    /// Reads the text with Q alone. `progress` as in [`perplexity`](super::perplexity()); the result has Q's perplexity
    /// beside, of what was read.
    ///
    /// # Errors
    /// As [`perplexity`](super::perplexity()); [`ErrorKind::Io`] where there is no room for the file.
    pub async fn new(
        engine: &Arc<Engine>,
        tokens: &[u32],
        windows: Windows,
        progress: &mut dyn FnMut(usize, usize, Perplexity) -> ControlFlow<()>,
    ) -> Result<(Self, Perplexity)> {
        let config = engine.config().clone();
        let wrong = |error| in_file(tokens.len(), engine.config().vocab_size, error);
        let recorded = Self { file: tempfile::tempfile().map_err(wrong)?, windows, config };
        let mut sums = Sums::default();
        read(std::slice::from_ref(engine), tokens, windows, &mut |foretold, total| {
            for token in foretold {
                let logits = token.logits(0);
                sums.extend([surprise(logits, tokens[token.position])?]);
                let row = recorded.row(token.position);
                row.and_then(|mut row| row.write_all(bytemuck::cast_slice(logits))).map_err(wrong)?;
            }
            let nll = sums.estimate();
            Ok(progress(nll.count, total, Perplexity { nll }))
        })
        .await?;
        Ok((recorded, Perplexity { nll: sums.estimate() }))
    }

    /// Compares what Q predicted for all of `tokens`, the text that it read, with `reference`; as [`divergence()`].
    ///
    /// # Errors
    /// As [`divergence()`]; [`ErrorKind::Io`].
    pub async fn divergence(
        &self,
        reference: &Arc<Engine>,
        tokens: &[u32],
        progress: &mut dyn FnMut(usize, usize, Perplexity) -> ControlFlow<()>,
    ) -> Result<Divergence> {
        same_vocabulary(&self.config, reference.config())?;
        let vocab = self.config.vocab_size;
        let mut sums = PairSums::default();
        read(std::slice::from_ref(reference), tokens, self.windows, &mut |foretold, total| {
            let mut logits = vec![0f32; foretold.len() * vocab];
            for (token, logits) in foretold.iter().zip(logits.chunks_exact_mut(vocab)) {
                let row = self.row(token.position);
                let read = row.and_then(|mut row| row.read_exact(bytemuck::cast_slice_mut(logits)));
                read.map_err(|error| in_file(tokens.len(), vocab, error))?;
            }
            let pairs = foretold.par_iter().zip(logits.par_chunks_exact(vocab));
            let shift = |(token, logits): (&Foretold, &[f32])| {
                compare(token.position, tokens[token.position], [logits, token.logits(0)])
            };
            let nll = sums.add(pairs.map(shift).collect::<Result<_>>()?);
            Ok(progress(nll.count, total, Perplexity { nll }))
        })
        .await?;
        Ok(sums.finish())
    }

    /// The file, at the row of the token at `position`: the first that can count is number 1.
    fn row(&self, position: usize) -> io::Result<&File> {
        (&self.file).seek(SeekFrom::Start(Self::bytes(position, self.config.vocab_size)))?;
        Ok(&self.file)
    }
}

fn in_file(tokens: usize, vocab: usize, error: io::Error) -> Error {
    let size = Recorded::bytes(tokens, vocab) as f64 / f64::from(1 << 30);
    let dir = std::env::temp_dir();
    Error::io(&dir, error).within(format_args!("a temporary file of {size:.1} GiB"))
}

/// Whether the predictions of a model can be compared with those of a reference.
///
/// # Errors
/// [`ErrorKind::Argument`] for vocabularies of different lengths.
pub fn same_vocabulary(model: &ModelConfig, reference: &ModelConfig) -> Result<()> {
    let (vocab, other) = (model.vocab_size, reference.vocab_size);
    if vocab != other {
        let expected = format!("the model's vocabulary of {vocab} tokens");
        return Err(Error::expected(ErrorKind::Argument, "reference", expected, other));
    }
    Ok(())
}

/// What the logits of Q and of P, `[vocab]` each, say at one token.
fn compare(position: usize, token: u32, logits: [&[f32]; 2]) -> Result<Shift> {
    let totals = logits.map(|logits| log_sum_exp(logits, 1.0));
    let (q, p) = (logits[0].iter(), logits[1].iter());
    let terms = q.zip(p).map(|(q, p)| {
        let (q, p) = (f64::from(*q) - totals[0], f64::from(*p) - totals[1]);
        p.exp() * (p - q)
    });
    let divergence: f64 = terms.sum();
    if !divergence.is_finite() {
        return Err(Error::new(
            ErrorKind::NonFinite,
            "logits",
            format_args!("NaN or infinite before token {position}"),
        ));
    }
    let logprob = [0, 1].map(|i| f64::from(logits[i][token as usize]) - totals[i]);
    // It is never negative but by rounding.
    Ok(Shift { position, token, logprob, top: logits.map(argmax), divergence: divergence.max(0.0) })
}

#[derive(Default)]
struct PairSums {
    /// −ln p by Q and by P, their product, and their difference.
    nll: [Sums; 2],
    product: Sums,
    ratio: Sums,
    divergence: Vec<f32>,
    delta: Vec<f32>,
    same_top: Share,
    shifts: Vec<Shift>,
}

impl PairSums {
    /// Adds tokens, and returns −ln p by Q so far.
    fn add(&mut self, shifts: Vec<Shift>) -> Estimate {
        for Shift { logprob: [q, p], top, divergence, .. } in &shifts {
            self.nll[0].extend([-q]);
            self.nll[1].extend([-p]);
            self.product.extend([q * p]);
            self.ratio.extend([p - q]);
            self.divergence.push(*divergence as f32);
            self.delta.push((q.exp() - p.exp()) as f32);
            self.same_top.extend([top[0] == top[1]]);
        }
        self.shifts.extend(shifts);
        self.shifts.sort_by(|a, b| b.divergence.total_cmp(&a.divergence));
        self.shifts.truncate(SHIFTS);
        self.nll[0].estimate()
    }

    fn finish(self) -> Divergence {
        let [q, p] = self.nll.map(|sums| sums.estimate());
        let covariance = self.product.estimate().mean - q.mean * p.mean;
        // Standard deviation of the mean times √(n − 1).
        let deviations = q.error * p.error * (q.count as f64 - 1.0);
        Divergence {
            perplexity: Perplexity { nll: q },
            reference: Perplexity { nll: p },
            ln_ratio: self.ratio.estimate(),
            correlation: covariance / deviations,
            divergence: Distribution::new(self.divergence),
            delta: Distribution::new(self.delta),
            same_top: self.same_top,
            shifts: self.shifts,
        }
    }
}
