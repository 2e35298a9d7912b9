//! How well a model foretells a text.
//!
//! The text is read in windows that overlap, as in Hugging Face's guide "Perplexity of fixed-length
//! models" (huggingface.co/docs/transformers/perplexity): window k begins at token k · stride, and of its
//! tokens only those count that no window before it has counted, so that each is foretold from as much
//! text as fits before it. The first token of the text has nothing before it and does not count, nor does
//! the first of a window that does not overlap. Perplexity is exp(1/n · Σ −ln p(tokenᵢ | tokens before)),
//! each of the n tokens with the same weight (the guide weights windows by their tokens less one).

use std::{
    ops::{ControlFlow, Range},
    sync::Arc,
};

use rayon::prelude::*;

use super::statistics::{Estimate, Sums};
use crate::{
    Error, ErrorKind, Result,
    generate::{Engine, Logits, Reader, Reading},
    reference::log_sum_exp,
};

/// How a text is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// Tokens in a window.
    pub length: usize,
    /// Tokens from the beginning of one to that of the next; as long as a window or shorter.
    pub stride: usize,
}

/// A window over a text, by token numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Window {
    tokens: Range<usize>,
    /// The first token that counts; all after it do.
    counted: usize,
}

impl Windows {
    /// The windows over a text of `tokens` tokens, each with at least one that counts.
    ///
    /// 10 tokens, length 4 and stride 2: `0..4` from 1, `2..6` from 4, `4..8` from 6, `6..10` from 8.
    fn over(self, tokens: usize) -> Result<Vec<Window>> {
        let Self { length, stride } = self;
        let refuse = |subject, expected: String, found| {
            Err(Error::expected(ErrorKind::Argument, subject, expected, found))
        };
        if length < 2 {
            return refuse("window", "at least 2 tokens".into(), length);
        }
        if stride == 0 || stride > length {
            return refuse("stride", format!("1 to the window's {length} tokens"), stride);
        }
        if tokens < 2 {
            return refuse("text", "at least 2 tokens".into(), tokens);
        }
        let (mut windows, mut counted) = (Vec::new(), 0);
        for begin in (0..tokens).step_by(stride) {
            let end = tokens.min(begin + length);
            let first = counted.max(begin + 1);
            if first < end {
                windows.push(Window { tokens: begin..end, counted: first });
            }
            counted = end;
            if end == tokens {
                break;
            }
        }
        Ok(windows)
    }
}

/// How well a model foretold the tokens that were counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Perplexity {
    /// Mean of −ln p over the tokens, in nats, with its standard error, as if tokens did not depend on one
    /// another.
    pub nll: Estimate,
}

impl Perplexity {
    /// Perplexity.
    pub fn value(&self) -> f64 {
        self.nll.mean.exp()
    }

    /// Its standard error, to first order.
    pub fn error(&self) -> f64 {
        self.value() * self.nll.error
    }

    /// Tokens that were counted.
    pub fn tokens(&self) -> usize {
        self.nll.count
    }
}

/// A token that counts.
pub(super) struct Foretold<'a> {
    /// Its number in the text.
    pub position: usize,
    row: usize,
    logits: &'a Logits<'a>,
}

impl Foretold<'_> {
    /// The logits that foretell it, `[vocab]`, by engine `engine`.
    pub fn logits(&self, engine: usize) -> &[f32] {
        self.logits.row(engine, self.row)
    }
}

/// Perplexity of `engine` for a text. `progress` gets how many tokens are done, of how many, and the
/// perplexity so far; when it breaks off, what was read so far is the result.
///
/// # Errors
/// [`ErrorKind::Argument`] for a text of less than two tokens, windows that cannot be or are longer than
/// the engine's context; [`ErrorKind::NonFinite`]; as [`Reader::next`].
pub async fn perplexity(
    engine: &Arc<Engine>,
    tokens: &[u32],
    windows: Windows,
    progress: &mut dyn FnMut(usize, usize, Perplexity) -> ControlFlow<()>,
) -> Result<Perplexity> {
    let mut sums = Sums::default();
    read(std::slice::from_ref(engine), tokens, windows, &mut |foretold, total| {
        let surprises = |token: &Foretold| surprise(token.logits(0), tokens[token.position]);
        sums.extend(foretold.par_iter().map(surprises).collect::<Result<Vec<_>>>()?);
        let nll = sums.estimate();
        Ok(progress(nll.count, total, Perplexity { nll }))
    })
    .await?;
    Ok(Perplexity { nll: sums.estimate() })
}

/// Gets tokens that count, and how many there are in all; may break off.
type Each<'a> = dyn FnMut(&[Foretold], usize) -> Result<ControlFlow<()>> + 'a;

/// Hands the tokens that count to `each`, batch after batch.
pub(super) async fn read(
    engines: &[Arc<Engine>],
    tokens: &[u32],
    windows: Windows,
    each: &mut Each<'_>,
) -> Result<()> {
    let context = engines.iter().map(|engine| engine.context()).min().unwrap_or(0);
    if windows.length > context {
        let expected = format!("at most the context's {context} tokens");
        return Err(Error::expected(ErrorKind::Argument, "window", expected, windows.length));
    }
    let windows = windows.over(tokens.len())?;
    let total = windows.iter().map(|window| window.tokens.end - window.counted).sum();
    // A token is foretold by the logits of the one before; the last one's foretell nothing.
    let reading = |Window { tokens: range, counted }: &Window| Reading {
        tokens: &tokens[range.start..range.end - 1],
        from: counted - 1 - range.start,
    };
    let mut reader = Reader::new(engines, windows.iter().map(reading).collect()).await?;
    while let Some(batch) = reader.next().await? {
        let logits: Vec<_> = batch.logits().collect();
        let foretold = logits.iter().flat_map(|logits| {
            let first = windows[logits.reading].tokens.start + 1;
            logits.tokens.clone().map(move |row| Foretold { position: first + row, row, logits })
        });
        if each(&foretold.collect::<Vec<_>>(), total)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// −ln p of a token by the logits that foretell it.
///
/// # Errors
/// [`ErrorKind::NonFinite`].
pub(super) fn surprise(logits: &[f32], token: u32) -> Result<f64> {
    let surprise = log_sum_exp(logits, 1.0) - f64::from(logits[token as usize]);
    match surprise.is_finite() {
        true => Ok(surprise),
        false => Err(Error::new(ErrorKind::NonFinite, "logits", "NaN or infinite")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over(tokens: usize, length: usize, stride: usize) -> Vec<(Range<usize>, usize)> {
        let windows = Windows { length, stride }.over(tokens).unwrap();
        windows.into_iter().map(|window| (window.tokens, window.counted)).collect()
    }

    #[test]
    fn windows_count_every_token_once() {
        assert_eq!(over(10, 4, 2), [(0..4, 1), (2..6, 4), (4..8, 6), (6..10, 8)]);
        assert_eq!(over(9, 4, 4), [(0..4, 1), (4..8, 5)]);
        assert_eq!(over(3, 4, 1), [(0..3, 1)]);
        assert_eq!(over(5, 4, 3), [(0..4, 1), (3..5, 4)]);
        for (tokens, length, stride) in [(100, 7, 3), (64, 16, 15), (33, 32, 1)] {
            let windows = over(tokens, length, stride);
            let counted: Vec<_> = windows.into_iter().flat_map(|(range, from)| from..range.end).collect();
            assert_eq!(counted, (1..tokens).collect::<Vec<_>>());
        }
    }

    #[test]
    fn impossible_windows_are_refused() {
        for (tokens, length, stride) in [(1, 4, 2), (9, 1, 1), (9, 4, 0), (9, 4, 5)] {
            let error = Windows { length, stride }.over(tokens).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Argument, "{error}");
        }
    }
}
