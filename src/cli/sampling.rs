//! Arguments that say how tokens are chosen.

use mistral_wgpu::{
    Error, ErrorKind, Result,
    generate::{GenerateOptions, SamplingParams, Speculate, StepCounts},
    model::GenerationConfig,
};

use super::input::Ids;

/// How tokens are chosen and when to stop.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Divides the logits; 0 takes the likeliest token [default: what the model's
    /// generation_config.json says if it asks for sampling; else 1 if a filter below is given, and 0
    /// otherwise].
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Choose among this many likeliest tokens; 0 for all.
    #[arg(long, value_name = "K")]
    top_k: Option<u32>,
    /// Choose among the fewest likeliest tokens whose probabilities add up to P.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Choose among tokens at least P times as likely as the likeliest.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Divides positive logits of tokens seen so far, multiplies negative ones.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,
    /// Subtracted from a logit for every time its token was generated.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// Subtracted from a logit if its token was generated.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// Adds B to the logit of token ID; may be repeated.
    #[arg(long, value_name = "ID=B", value_parser = bias)]
    logit_bias: Vec<(u32, f32)>,
    /// Only these tokens may be chosen; the end token is one only if listed.
    #[arg(long, value_name = "IDS")]
    allowed_tokens: Option<Ids>,
    /// Random seed: the same one gives the same text on the same device.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Tokens to generate at most [default: as many as the context has room for].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_tokens: Option<u64>,
    /// Text that ends generation and is not printed; may be repeated.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Go on past the model's end tokens.
    #[arg(long)]
    ignore_eos: bool,
    /// Guess tokens that the text repeats and check them in one step, which changes the speed alone:
    /// `auto` while it pays, `on`, `off`, or how many to guess at most, 1 to 7.
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    speculate: Speculate,
}

fn bias(text: &str) -> Result<(u32, f32), String> {
    let parse = |(id, bias): (&str, &str)| Some((id.trim().parse().ok()?, bias.trim().parse().ok()?));
    text.split_once('=').and_then(parse).ok_or_else(|| "expected ID=BIAS, such as 2=-1.5".into())
}

impl SamplingArgs {
    /// Tokens to generate at most, if that was said.
    pub fn max_tokens(&self) -> Option<u64> {
        self.max_tokens
    }

    /// The options for a model of `vocab` tokens whose makers suggest `model`.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] for a token id beyond the vocabulary.
    pub fn options(&self, model: &GenerationConfig, vocab: usize) -> Result<GenerateOptions> {
        let usual = SamplingParams::default();
        // What a model suggests about sampling counts only if it suggests sampling.
        let model = if model.do_sample == Some(true) {
            model.clone()
        } else {
            let filtered = self.top_k.is_some() || self.top_p.is_some() || self.min_p.is_some();
            let temperature = Some(if filtered { 1.0 } else { 0.0 });
            let repetition_penalty = model.repetition_penalty;
            GenerationConfig { temperature, repetition_penalty, ..GenerationConfig::default() }
        };
        let allowed = self.allowed_tokens.as_ref().map(|Ids(ids)| mask(ids, vocab)).transpose()?;
        if let Some((id, _)) = self.logit_bias.iter().find(|(id, _)| *id as usize >= vocab) {
            return Err(beyond("logit-bias", *id, vocab));
        }
        Ok(GenerateOptions {
            max_tokens: self.max_tokens.map(|tokens| tokens as usize),
            sampling: SamplingParams {
                temperature: self.temperature.or(model.temperature).unwrap_or(usual.temperature),
                top_k: self.top_k.or(model.top_k).unwrap_or(usual.top_k),
                top_p: self.top_p.or(model.top_p).unwrap_or(usual.top_p),
                min_p: self.min_p.or(model.min_p).unwrap_or(usual.min_p),
                repetition_penalty: self
                    .repetition_penalty
                    .or(model.repetition_penalty)
                    .unwrap_or(usual.repetition_penalty),
                frequency_penalty: self.frequency_penalty.unwrap_or(usual.frequency_penalty),
                presence_penalty: self.presence_penalty.unwrap_or(usual.presence_penalty),
                logit_bias: self.logit_bias.clone(),
                seed: self.seed,
                ..usual
            },
            stop: self.stop.clone(),
            ignore_eos: self.ignore_eos,
            allowed,
            speculate: self.speculate,
            ..GenerateOptions::default()
        })
    }
}

/// Tokens of a step on average, rounded for printing: more than 1 where guesses were right.
pub fn tokens_per_step(counts: StepCounts) -> f64 {
    (counts.tokens_per_step() * 1000.0).round() / 1000.0
}

/// A mask that allows `ids`, see [`GenerateOptions::allowed`].
fn mask(ids: &[u32], vocab: usize) -> Result<Vec<u32>> {
    let mut mask = vec![0; vocab.div_ceil(32)];
    for id in ids {
        if *id as usize >= vocab {
            return Err(beyond("allowed-tokens", *id, vocab));
        }
        mask[*id as usize / 32] |= 1 << (id % 32);
    }
    Ok(mask)
}

fn beyond(subject: &str, id: u32, vocab: usize) -> Error {
    let expected = format_args!("token ids below the vocabulary's {vocab}");
    Error::expected(ErrorKind::Argument, subject, expected, id)
}
