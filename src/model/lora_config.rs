//! `adapter_config.json`: what PEFT writes about a LoRA adapter, checked.

use regex::Regex;
use serde_json::Value;

use super::keys::Keys;
use crate::Result;

/// Largest rank that is accepted.
const MAX_RANK: u64 = 1 << 16;

/// Keys that change what is computed in ways that are not known here, when they are set.
const UNSUPPORTED: [&str; 14] = [
    "use_dora",
    "lora_bias",
    "fan_in_fan_out",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "use_bdlora",
    "use_qalora",
    "velora_config",
];

/// Values of `init_lora_weights` that leave the base as it was.
const PLAIN_INIT: [&str; 3] = ["gaussian", "orthogonal", "eva"];

const ADVICE: &str = "merge such an adapter in Python with merge_and_unload(), and load the merged model";

/// The ranks and scales of an adapter's modules.
#[derive(Debug)]
pub(super) struct LoraConfig {
    r: usize,
    alpha: f64,
    use_rslora: bool,
    ranks: Patterns<usize>,
    alphas: Patterns<f64>,
}

impl LoraConfig {
    /// Reads the text of an `adapter_config.json`; `subject` names it in errors.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind) naming the key, for a missing or impossible value, and for whatever
    /// asks for more than plain LoRA.
    pub fn from_json(json: &str, subject: &str) -> Result<Self> {
        let keys = Keys::parse(json, subject)?;
        let kind = keys.required("peft_type", keys.value("peft_type"))?;
        if kind != "LORA" {
            return Err(keys.refuse("peft_type", format_args!("\"LORA\"; {ADVICE}"), kind));
        }
        if let Some(bias) = keys.value("bias").filter(|bias| *bias != "none") {
            return Err(keys.refuse("bias", format_args!("\"none\"; {ADVICE}"), bias));
        }
        for key in UNSUPPORTED {
            if let Some(value) = keys.value(key).filter(|value| is_set(value)) {
                return Err(keys.refuse(key, format_args!("nothing; {ADVICE}"), brief(value)));
            }
        }
        if let Some(init) = keys.value("init_lora_weights").filter(|init| changes_base(init)) {
            let advice = "save it with path_initial_model_for_weight_conversion, which makes it one for the base as published";
            return Err(keys.refuse(
                "init_lora_weights",
                format_args!("none that changes the base; {advice}"),
                brief(init),
            ));
        }
        let rank = |value: &Value| value.as_u64().filter(|r| (1..=MAX_RANK).contains(r)).map(|r| r as usize);
        let alpha = |value: &Value| value.as_f64().filter(|alpha| (0.0..=1e9).contains(alpha));
        let ranks = format!("a whole number from 1 to {MAX_RANK}");
        Ok(Self {
            r: keys.required("r", keys.read("r", &ranks, rank)?)?,
            alpha: keys.required("lora_alpha", keys.read("lora_alpha", "a number", alpha)?)?,
            use_rslora: keys.boolean("use_rslora")?.unwrap_or(false),
            ranks: Patterns::read(&keys, "rank_pattern", rank)?,
            alphas: Patterns::read(&keys, "alpha_pattern", alpha)?,
        })
    }

    /// Rank of the matrices of `module`, such as `model.layers.0.mlp.down_proj`.
    pub fn rank(&self, module: &str) -> usize {
        self.ranks.of(module).unwrap_or(self.r)
    }

    /// What B · A of `module` is multiplied by: alpha / r, or alpha / √r (arXiv:2312.03732).
    pub fn scale(&self, module: &str) -> f64 {
        let (rank, alpha) = (self.rank(module) as f64, self.alphas.of(module).unwrap_or(self.alpha));
        if self.use_rslora { alpha / rank.sqrt() } else { alpha / rank }
    }
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Bool(on) => *on,
        Value::Array(values) => !values.is_empty(),
        Value::Object(values) => !values.is_empty(),
        _ => true,
    }
}

fn changes_base(init: &Value) -> bool {
    init.as_str().is_some_and(|init| !PLAIN_INIT.contains(&init))
}

/// A value for a message.
fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Values for the modules whose names end as a regular expression says, from a dot or the beginning on.
#[derive(Debug)]
struct Patterns<T>(Vec<(Regex, T)>);

impl<T: Copy> Patterns<T> {
    fn read(keys: &Keys, key: &str, convert: impl Fn(&Value) -> Option<T>) -> Result<Self> {
        let Some(object) = keys.read(key, "an object", Value::as_object)? else {
            return Ok(Self(Vec::new()));
        };
        let pattern = |(pattern, value): (&String, &Value)| {
            let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$"));
            let regex = regex
                .map_err(|_| keys.refuse(key, "names or regular expressions", format_args!("{pattern:?}")))?;
            let value = convert(value)
                .ok_or_else(|| keys.refuse(key, format_args!("a number for {pattern}"), brief(value)))?;
            Ok((regex, value))
        };
        Ok(Self(object.iter().map(pattern).collect::<Result<_>>()?))
    }

    /// Of the first pattern that fits.
    fn of(&self, module: &str) -> Option<T> {
        self.0.iter().find(|(pattern, _)| pattern.is_match(module)).map(|(_, value)| *value)
    }
}
