//! Rotary embeddings for contexts longer than a model was first trained on: how fast each pair turns.

use std::f64::consts::TAU;

use super::{ModelConfig, keys::Keys};
use crate::{Result, reference::rope_frequencies};

/// How a model's rotary angles were scaled, by the names and formulas of transformers' `modeling_rope_utils.py`.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Positions divided by `factor`.
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// For contexts beyond `max_position_embeddings` a larger base, which depends on the context: that of a text as
    /// long as the whole of it. Below, none.
    Dynamic {
        /// At least 1.
        factor: f64,
    },
    /// Llama 3.1: slow pairs turn `factor` times slower, fast ones as ever, those between as mixed.
    Llama3 {
        /// At least 1.
        factor: f64,
        /// Pairs that turn less often than this within the original context are slow.
        low_freq_factor: f64,
        /// Pairs that turn more often than this are fast.
        high_freq_factor: f64,
        /// The context before scaling, in tokens.
        original_context: f64,
    },
    /// Frequencies divided one by one.
    Factors(
        /// `[head_dim / 2]`, positive.
        Vec<f64>,
    ),
    /// YaRN (Peng et al. 2023, arXiv:2309.00071).
    Yarn {
        /// At least 1: slow pairs turn `factor` times slower.
        factor: f64,
        /// Pairs that turn more often than this within the original context are fast.
        beta_fast: f64,
        /// Pairs that turn less often than this are slow.
        beta_slow: f64,
        /// Whether the bounds between these are rounded to whole pairs.
        truncate: bool,
        /// The context before scaling, in tokens.
        original_context: f64,
        /// What q and k are multiplied by.
        attention_factor: f64,
    },
}

impl RopeScaling {
    /// The scaling that `rope` asks for: transformers 4's `rope_scaling`, transformers 5's `rope_parameters`. `keys`
    /// are those beside it, and `context` is the model's.
    pub(super) fn read(rope: &Keys, keys: &Keys, context: usize) -> Result<Option<Self>> {
        let name = if rope.value("rope_type").is_some() { "rope_type" } else { "type" };
        let factor = || rope.required("factor", rope.number("factor", 1.0..=1e6)?);
        let positive = |key: &str| rope.number(key, 1e-6..=1e6);
        let original_context = || -> Result<f64> {
            let key = "original_max_position_embeddings";
            let given = match keys.number(key, 1.0..=1e9)? {
                Some(given) => Some(given),
                None => rope.number(key, 1.0..=1e9)?,
            };
            Ok(given.unwrap_or(context as f64))
        };
        let Some(kind) = rope.value(name) else { return Ok(None) };
        Ok(match kind.as_str() {
            Some("default") => None,
            Some("linear") => Some(Self::Linear { factor: factor()? }),
            Some("dynamic") => Some(Self::Dynamic { factor: factor()? }),
            Some("llama3") => {
                let low_freq_factor = rope.required("low_freq_factor", positive("low_freq_factor")?)?;
                let above = low_freq_factor.next_up()..=1e6;
                let high_freq_factor = rope.number("high_freq_factor", above)?;
                Some(Self::Llama3 {
                    factor: factor()?,
                    low_freq_factor,
                    high_freq_factor: rope.required("high_freq_factor", high_freq_factor)?,
                    original_context: original_context()?,
                })
            }
            Some("yarn") => {
                let original_context = original_context()?;
                let factor = match rope.value("factor") {
                    Some(_) => factor()?,
                    None => (context as f64 / original_context).max(1.0),
                };
                let attention_factor = match positive("attention_factor")? {
                    Some(given) => given,
                    None => yarn_attention_factor(rope, factor)?,
                };
                if let Some(other) =
                    rope.value("llama_4_scaling_beta").filter(|beta| beta.as_f64() != Some(0.0))
                {
                    return Err(rope.refuse("llama_4_scaling_beta", "none", other));
                }
                Some(Self::Yarn {
                    factor,
                    beta_fast: positive("beta_fast")?.unwrap_or(32.0),
                    beta_slow: positive("beta_slow")?.unwrap_or(1.0),
                    truncate: rope.boolean("truncate")?.unwrap_or(true),
                    original_context,
                    attention_factor,
                })
            }
            _ => return Err(rope.refuse(name, "default, linear, dynamic, llama3 or yarn", kind)),
        })
    }

    /// What q and k are multiplied by.
    pub fn attention_factor(&self) -> f64 {
        if let Self::Yarn { attention_factor, .. } = self { *attention_factor } else { 1.0 }
    }
}

/// `0.1 m ln(factor) + 1`, or the ratio of two of these where the model says so.
fn yarn_attention_factor(rope: &Keys, factor: f64) -> Result<f64> {
    let scale = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
    let given = |key: &str| Ok(rope.number(key, 0.0..=1e6)?.filter(|m| *m != 0.0));
    Ok(match (given("mscale")?, given("mscale_all_dim")?) {
        (Some(m), Some(all)) => scale(m) / scale(all),
        _ => scale(1.0),
    })
}

impl ModelConfig {
    /// The angle in radians by which each pair of dimensions turns per position, `[head_dim / 2]`, in texts of up to
    /// `context` tokens.
    pub fn rope_frequencies(&self, context: u32) -> Vec<f64> {
        let (head_dim, theta) = (self.head_dim, self.rope_theta);
        let frequencies = rope_frequencies(head_dim, theta);
        let mixed = |plain: f64, factor: f64, share: f64| plain * share + plain / factor * (1.0 - share);
        match self.rope_scaling.clone() {
            None => frequencies,
            Some(RopeScaling::Factors(factors)) => {
                frequencies.into_iter().zip(factors).map(|(f, factor)| f / factor).collect()
            }
            Some(RopeScaling::Linear { factor }) => frequencies.into_iter().map(|f| f / factor).collect(),
            Some(RopeScaling::Dynamic { factor }) => {
                let longer = (f64::from(context) / self.max_position_embeddings as f64).max(1.0);
                let exponent = head_dim as f64 / (head_dim as f64 - 2.0);
                rope_frequencies(head_dim, theta * (factor * longer - (factor - 1.0)).powf(exponent))
            }
            Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context }) => {
                let share = |f: f64| {
                    let turns = original_context * f / TAU;
                    ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0)
                };
                frequencies.into_iter().map(|f| mixed(f, factor, share(f))).collect()
            }
            Some(RopeScaling::Yarn { factor, beta_fast, beta_slow, truncate, original_context, .. }) => {
                // The pair that turns so often within the original context.
                let pair = |turns: f64| {
                    head_dim as f64 * (original_context / (turns * TAU)).ln() / (2.0 * theta.ln())
                };
                let (mut low, mut high) = (pair(beta_fast), pair(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(head_dim as f64 - 1.0));
                if low == high {
                    high += 0.001;
                }
                let slow = |pair: usize| ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
                let pairs = frequencies.into_iter().enumerate();
                pairs.map(|(pair, f)| mixed(f, factor, 1.0 - slow(pair))).collect()
            }
        }
    }

    /// What the cosines and sines of the rotary angles are multiplied by.
    pub fn rope_attention_factor(&self) -> f64 {
        self.rope_scaling.as_ref().map_or(1.0, RopeScaling::attention_factor)
    }
}
