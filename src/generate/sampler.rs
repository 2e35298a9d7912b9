//! The choice of the next token.

use crate::{
    Error, ErrorKind, Result,
    generate::uniform,
    ops::{Candidates, MAX_K, TopKRow},
    reference::{FORBIDDEN, Filters, Penalties},
};

/// How tokens are chosen. The default draws from the model's own distribution.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 always takes the likeliest token.
    pub temperature: f32,
    /// Keep this many likeliest tokens; 0 for all.
    pub top_k: u32,
    /// Keep the fewest likeliest tokens whose probabilities add up to this (nucleus sampling,
    /// Holtzman et al. 2019, arXiv:1904.09751); 1 for all.
    pub top_p: f32,
    /// Keep tokens at least this many times as likely as the likeliest (Nguyen et al. 2024,
    /// arXiv:2407.01082); 0 for all.
    pub min_p: f32,
    /// Divides positive logits of tokens seen so far and multiplies negative ones; 1 for none.
    pub repetition_penalty: f32,
    /// Subtracted from a logit for every time its token was generated.
    pub frequency_penalty: f32,
    /// Subtracted from a logit if its token was generated.
    pub presence_penalty: f32,
    /// Added to the logits of tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Log-probabilities of this many likeliest tokens are reported beside the chosen one's.
    pub top_logprobs: u32,
    /// Key of the random numbers.
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
            top_logprobs: 0,
            seed: 0,
        }
    }
}

impl SamplingParams {
    /// Checks every value's range.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`], naming the field.
    pub fn validate(&self) -> Result<()> {
        let within = |name: &str, value: f32, from: f32, to: f32| {
            let expected = format!("a number from {from} to {to}");
            check(name, expected, value, (from..=to).contains(&value))
        };
        let tempered = self.temperature == 0.0 || (0.001..=100.0).contains(&self.temperature);
        check("temperature", "0 or a number from 0.001 to 100", self.temperature, tempered)?;
        check("top_p", "a number above 0, at most 1", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0)?;
        within("min_p", self.min_p, 0.0, 1.0)?;
        within("repetition_penalty", self.repetition_penalty, 0.01, 100.0)?;
        within("frequency_penalty", self.frequency_penalty, -100.0, 100.0)?;
        within("presence_penalty", self.presence_penalty, -100.0, 100.0)?;
        for (id, bias) in &self.logit_bias {
            within(&format!("logit_bias of token {id}"), *bias, -1e6, 1e6)?;
        }
        let reported = self.top_logprobs as usize <= MAX_K;
        check("top_logprobs", format!("at most {MAX_K}"), self.top_logprobs, reported)
    }
}

fn check(
    name: &str,
    expected: impl std::fmt::Display,
    found: impl std::fmt::Display,
    holds: bool,
) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::expected(ErrorKind::Argument, name, expected, found)) }
}

/// A chosen token.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// Token id.
    pub id: u32,
    /// Its log-probability at temperature 1, before top-k, top-p and min-p.
    pub logprob: f32,
    /// The likeliest allowed tokens with theirs, likeliest first.
    pub top: Vec<(u32, f32)>,
}

/// What the candidates at hand were enough for.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// The next token.
    Token(Sampled),
    /// The choice lies beyond the candidates: ask again with [`Candidates::with_all`].
    NeedAll,
}

/// Chooses tokens as [`SamplingParams`] say.
///
/// A token is drawn from what [`Filters`] leave. Where logits are equal the lowest id ranks first, and
/// top-k keeps exactly k.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
}

impl Sampler {
    /// A sampler.
    ///
    /// # Errors
    /// As [`SamplingParams::validate`].
    pub fn new(params: SamplingParams) -> Result<Self> {
        params.validate()?;
        Ok(Self { params })
    }

    /// Penalties of tokens that occurred.
    pub fn penalties(&self) -> Penalties {
        let SamplingParams { repetition_penalty, frequency_penalty, presence_penalty, .. } = self.params;
        Penalties { repetition: repetition_penalty, frequency: frequency_penalty, presence: presence_penalty }
    }

    /// What is added to the logits of tokens.
    pub fn logit_bias(&self) -> &[(u32, f32)] {
        &self.params.logit_bias
    }

    /// Whether penalties or biases change any logit.
    pub fn adjusts(&self) -> bool {
        self.penalties() != Penalties::NONE || !self.params.logit_bias.is_empty()
    }

    /// What to ask of the device: as many candidates as the choice most likely needs.
    pub fn top_k_row(&self) -> TopKRow {
        let SamplingParams { temperature, top_k, top_logprobs, .. } = self.params;
        match (temperature == 0.0, top_k as usize) {
            (true, _) => TopKRow { k: top_logprobs.max(1), temperature: 1.0 },
            (false, 1..=MAX_K) => TopKRow { k: top_logprobs.max(top_k), temperature },
            (false, _) => TopKRow { k: MAX_K as u32, temperature },
        }
    }

    /// What a row's candidates pass through.
    pub fn filters(&self) -> Filters {
        match self.params {
            SamplingParams { temperature: 0.0, .. } => Filters::GREEDY,
            SamplingParams { temperature, top_k, top_p, min_p, .. } => {
                Filters { temperature, top_k, top_p, min_p }
            }
        }
    }

    /// Whether the choice may lie beyond the candidates that the device gives.
    pub fn may_need_all(&self) -> bool {
        !(1..=MAX_K as u32).contains(&self.filters().top_k)
    }

    /// The draw for the token at `position` of sample number `sample` of a prompt.
    pub fn draw(&self, sample: u64, position: u32) -> f64 {
        uniform(self.params.seed, sample, position)
    }

    /// Chooses a token by `draw` in [0, 1) from the candidates of a row over `vocab` tokens.
    ///
    /// With all tokens of the row among the candidates the answer is always a token, and the same as with
    /// fewer if those were enough.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] when the mask of allowed tokens allows none.
    pub fn sample(&self, candidates: &Candidates, vocab: u32, draw: f64) -> Result<Decision> {
        if candidates.max <= FORBIDDEN {
            return Err(Error::expected(
                ErrorKind::Argument,
                "allowed tokens",
                "at least one that is allowed",
                "none",
            ));
        }
        let Candidates { logits, log_sum_exp_t, .. } = candidates;
        let rank = self.filters().drawn_rank(logits, *log_sum_exp_t, vocab as usize, draw);
        Ok(rank.map_or(Decision::NeedAll, |rank| Decision::Token(self.report(candidates, rank))))
    }

    fn report(&self, candidates: &Candidates, rank: usize) -> Sampled {
        let logprob = |rank: usize| (f64::from(candidates.logits[rank]) - candidates.log_sum_exp) as f32;
        let allowed = candidates.logits.partition_point(|logit| *logit > FORBIDDEN);
        let reported = allowed.min(self.params.top_logprobs as usize);
        let top = (0..reported).map(|rank| (candidates.ids[rank], logprob(rank))).collect();
        Sampled { id: candidates.ids[rank], logprob: logprob(rank), top }
    }
}
