//! From a draw to a token.

/// Which of a row's likeliest tokens may be drawn, and with which probabilities.
///
/// Filters work in the order of Hugging Face transformers: temperature, top-k, top-p over what top-k
/// kept, min-p. Each keeps the likeliest tokens down to some rank, so all together keep as many as the
/// strictest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Filters {
    /// Divides the logits, above 0.
    pub temperature: f32,
    /// Keep this many likeliest tokens; 0 for all.
    pub top_k: u32,
    /// Keep the fewest likeliest tokens whose probabilities add up to this; 1 for all.
    pub top_p: f32,
    /// Keep tokens at least this many times as likely as the likeliest; 0 for all.
    pub min_p: f32,
}

impl Filters {
    /// Keeps the likeliest token alone.
    pub const GREEDY: Self = Self { temperature: 1.0, top_k: 1, top_p: 1.0, min_p: 0.0 };

    /// The rank that `draw` in [0, 1) chooses in a row over `vocab` tokens, of which `logits` are the
    /// largest in descending order and `log_sum_exp_t` is `ln Σ exp(logit / temperature)`; `None` if
    /// that cannot be told from these. It can be told from all of them.
    pub fn drawn_rank(&self, logits: &[f32], log_sum_exp_t: f64, vocab: usize, draw: f64) -> Option<usize> {
        let masses = self.masses(logits, log_sum_exp_t);
        let kept = self.kept(logits, &masses, vocab)?;
        let total = if kept == vocab { 1.0 } else { *masses.get(kept - 1)? };
        let masses = &masses[..kept.min(masses.len())];
        let rank = masses.partition_point(|mass| *mass <= draw * total);
        if rank < masses.len() {
            Some(rank)
        } else if masses.len() < vocab {
            None
        } else {
            // Rounding left the sum of all below the draw: the last token of any mass is meant.
            Some(masses.partition_point(|mass| *mass < masses[vocab - 1]))
        }
    }

    /// Probabilities at the temperature, summed from the likeliest token to each.
    fn masses(&self, logits: &[f32], log_sum_exp_t: f64) -> Vec<f64> {
        let temperature = f64::from(self.temperature);
        let masses = logits.iter().scan(0.0, |mass, logit| {
            *mass += (f64::from(*logit) / temperature - log_sum_exp_t).exp();
            Some(*mass)
        });
        masses.collect()
    }

    /// How many of the likeliest tokens pass all filters: more than there are logits, or `None`, if
    /// these do not tell.
    fn kept(&self, logits: &[f32], masses: &[f64], vocab: usize) -> Option<usize> {
        let top_k = if self.top_k == 0 { vocab } else { vocab.min(self.top_k as usize) };
        let mut kept = top_k;
        if self.top_p < 1.0 {
            let total = if top_k == vocab { 1.0 } else { *masses.get(top_k - 1)? };
            kept = kept.min(masses.partition_point(|mass| *mass < f64::from(self.top_p) * total) + 1);
        }
        if self.min_p > 0.0 {
            let floor = f64::from(logits[0]) + f64::from(self.temperature) * f64::from(self.min_p).ln();
            let likely = logits.partition_point(|logit| f64::from(*logit) >= floor);
            if likely == logits.len() && kept > likely {
                return None;
            }
            kept = kept.min(likely);
        }
        Some(kept)
    }
}
