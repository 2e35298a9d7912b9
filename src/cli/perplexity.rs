//! `mistral perplexity`: how well a model foretells a text, and how far it is from another model.

use std::{
    cell::Cell,
    io::{Write, stdout},
    ops::ControlFlow,
    path::PathBuf,
    sync::Arc,
};

use indicatif::{HumanBytes, ProgressBar, ProgressFinish, ProgressStyle};
use mistral_wgpu::{
    ErrorKind, Result,
    apps::{
        Distribution, Divergence, Estimate, Perplexity, Recorded, Shift, Windows, divergence, perplexity,
        same_vocabulary,
    },
    generate::EngineOptions,
    gpu::Gpu,
    model::ModelConfig,
    ops::KvFormat,
    quant::Format,
    text::{Encode, Tokenizer},
};
use pollster::block_on;
use serde_json::{Value, json};

use super::{
    Failure, Outcome,
    input::file,
    interrupt,
    logits::logit_rows,
    model::{ModelArgs, format},
    pull::Named,
    usage,
};

/// The shares of tokens whose limits are shown, the largest first.
const QUANTILES: [(&str, f64); 13] = [
    ("max", 1.0),
    ("99.9 %", 0.999),
    ("99 %", 0.99),
    ("95 %", 0.95),
    ("90 %", 0.9),
    ("75 %", 0.75),
    ("median", 0.5),
    ("25 %", 0.25),
    ("10 %", 0.1),
    ("5 %", 0.05),
    ("1 %", 0.01),
    ("0.1 %", 0.001),
    ("min", 0.0),
];

/// Measure how well a model foretells a text.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mistral perplexity --model ~/Mistral-7B-v0.3 wiki.test.raw
  mistral perplexity --context 2048 --stride 1024 --weights q4_0 book.txt
  mistral perplexity --weights q4_0 --against-weights f16 book.txt
  mistral perplexity --model ~/tuned --against ~/Mistral-7B-v0.3 --json book.txt

The text, after the start token, is read in windows of --context tokens that begin --stride tokens apart, as in \
Hugging Face's guide on perplexity. A window counts only the tokens that none before it has counted, so that each is \
foretold from at least (context - stride) tokens, and the first token of all does not count. Perplexity is exp of the mean \
of -ln p over the tokens that count; its standard error takes tokens as independent.

--against reads the text with a reference model in step and tells how far the model is from it: the Kullback-Leibler \
divergence KL(reference || model) in nats, how often both have the same likeliest token, and how the probability of the \
text's own tokens has changed (\u{394}p), with standard errors, and the places where the divergence is largest. Where the device \
has no room for both models, one reads after the other, and the first one's logits (vocabulary times tokens times 4 bytes) wait in a temporary \
file (in TMPDIR).

The reference has no adapters and keeps the type that its weights have in its file, keys and values are f32, and no kernel that rounds activations is \
used, unless told otherwise (by --against-weights, --kv-cache and --disable; `--disable '' --kv-cache f16` measures what \
generation uses). Ctrl-C ends the reading and prints what was measured so far; the exit status is then 130.")]
pub struct Args {
    /// File with the text; `-` or none: standard input.
    #[arg(value_name = "FILE|-")]
    file: Option<PathBuf>,
    /// Tokens from the beginning of one window to that of the next [default: half a window].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    stride: Option<u32>,
    /// Read no more than the first N tokens.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..))]
    limit: Option<u64>,
    /// Compare with this model [default with --against-weights: the same].
    #[arg(long, value_name = "DIR|synthetic:NAME")]
    against: Option<Named>,
    /// How the reference's weights are stored on the GPU [default: its file's own type].
    #[arg(long, value_name = "FORMAT", value_parser = format())]
    against_weights: Option<&'static Format>,
    #[command(flatten)]
    model: ModelArgs,
}

pub fn run(args: &Args, json: bool) -> Outcome {
    let text = file(args.file.as_deref())?;
    let source = args.model.source.get()?;
    let exact = ModelArgs { device: args.model.device.clone().exact(), ..args.model.clone() };
    let against = args.against.as_ref().map_or_else(|| Ok(source.clone()), Named::get)?;
    let compared = args.against.is_some() || args.against_weights.is_some();
    if compared {
        same_vocabulary(&exact.config(&source)?, &exact.config(&against)?)?;
    }
    let gpu = exact.open()?;
    let engine = exact.load_on(gpu.clone(), &source, |config, options| room(args, config, options))?;
    let reference = |gpu: Arc<Gpu>| {
        let bare = ModelArgs { adapters: Vec::new(), ..exact.clone() };
        bare.load_on(gpu, &against, |config, options| {
            room(args, config, options);
            options.weights = args.against_weights;
            options.own_weights = true;
        })
    };

    let tokenizer = engine.tokenizer()?.clone();
    let mut tokens = tokenizer.encode(&text, Encode { bos: true, special: false })?;
    tokens.truncate(args.limit.map_or(usize::MAX, |limit| limit as usize));
    if tokens.len() < 2 {
        return Err(usage("text", "there is nothing to foretell"));
    }
    let length = engine.context();
    let windows =
        Windows { length, stride: args.stride.map_or(length.div_ceil(2), |stride| stride as usize) };
    interrupt::catch();
    let bar = ProgressBar::new(0).with_finish(ProgressFinish::AndClear);
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} tokens, {eta} left, perplexity {msg}");
    bar.set_style(style.expect("a valid template"));
    let interrupted = Cell::new(false);
    let mut progress = |done: usize, total: usize, so_far: Perplexity| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
        bar.set_message(format!("{:.4}", so_far.value()));
        interrupted.set(done < total && interrupt::take());
        if interrupted.get() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let weights = engine.formats().name();
    let together = |progress: &mut Progress| -> Result<Measured> {
        let reference = reference(gpu.clone())?;
        let found = block_on(divergence(&engine, &reference, &tokens, windows, progress))?;
        Ok(Measured::Compared(Box::new(found), reference.formats().name()))
    };
    let measured = match compared.then(|| together(&mut progress)) {
        None => Measured::Alone(block_on(perplexity(&engine, &tokens, windows, &mut progress))?),
        Some(Err(error)) if error.kind() == ErrorKind::OutOfMemory => {
            let size = HumanBytes(Recorded::bytes(tokens.len(), engine.config().vocab_size));
            eprintln!(
                "note: the device has no room for both models: one reads after the other, with {size} in a \
                 temporary file"
            );
            let (recorded, alone) = block_on(Recorded::new(&engine, &tokens, windows, &mut progress))?;
            drop((engine, gpu));
            if interrupted.get() {
                Measured::Alone(alone)
            } else {
                let reference = reference(exact.open()?)?;
                let found = recorded.divergence(&reference, &tokens, &mut progress);
                Measured::Compared(Box::new(block_on(found)?), reference.formats().name())
            }
        }
        Some(measured) => measured?,
    };
    bar.finish_and_clear();
    let interrupted = interrupted.get();
    let report = Report { weights, windows, tokenizer: &tokenizer, interrupted };
    if json {
        super::print(&report.json(&measured))?
    } else {
        report.print(&measured)?
    }
    if interrupted { Err(Failure::Interrupted) } else { Ok(()) }
}

/// Gets how many tokens are done, of how many, and the perplexity so far.
type Progress<'a> = dyn FnMut(usize, usize, Perplexity) -> ControlFlow<()> + 'a;

/// Makes room for as many windows as fill a batch.
fn room(args: &Args, config: &ModelConfig, options: &mut EngineOptions) {
    let model = &mut options.model;
    model.kv_format = args.model.kv_cache.unwrap_or(KvFormat::F32);
    model.max_logit_rows = model.max_rows.min(logit_rows(config));
    let width = model.max_rows.div_ceil(model.context);
    model.cache_tokens = Some(width.saturating_mul(model.cache_tokens(config)));
}

enum Measured {
    Alone(Perplexity),
    /// With how the reference's weights are stored.
    Compared(Box<Divergence>, String),
}

struct Report<'a> {
    /// How the model's weights are stored.
    weights: String,
    windows: Windows,
    tokenizer: &'a Tokenizer,
    interrupted: bool,
}

impl Report<'_> {
    fn print(&self, measured: &Measured) -> Outcome {
        let mut out = stdout().lock();
        let perplexity = match measured {
            Measured::Alone(perplexity) => perplexity,
            Measured::Compared(divergence, _) => &divergence.perplexity,
        };
        let Windows { length, stride } = self.windows;
        let tokens = perplexity.tokens();
        let until = if self.interrupted { ", interrupted" } else { "" };
        writeln!(out, "{tokens} tokens, windows of {length}, stride {stride}{until}")?;
        let mut line = |name: &str, weights: &str, perplexity: &Perplexity| {
            let (value, error) = (perplexity.value(), perplexity.error());
            writeln!(out, "{name} {value:.4} ± {error:.4} ({weights})")
        };
        line("perplexity", &self.weights, perplexity)?;
        if let Measured::Compared(divergence, weights) = measured {
            line("reference ", weights, &divergence.reference)?;
            self.compare(&mut out, divergence)?;
        }
        Ok(())
    }

    fn compare(&self, out: &mut impl Write, found: &Divergence) -> Outcome {
        let Estimate { mean, error, .. } = found.ln_ratio;
        let ratio = mean.exp();
        writeln!(out, "ratio      {ratio:.5} ± {:.5}, ln {mean:.5} ± {error:.5}", ratio * error)?;
        writeln!(out, "correlation of ln p {:.3} %", 1e2 * found.correlation)?;
        let (share, error) = (1e2 * found.same_top.value(), 1e2 * found.same_top.error());
        writeln!(out, "same likeliest token {share:.3} ± {error:.3} %\n")?;

        let (divergence, delta) = (&found.divergence, &found.delta);
        writeln!(out, "{:<8} {:>22} {:>20}", "", "KL divergence", "Δp")?;
        let (kl, p) = (divergence.mean, delta.mean);
        let (kl, p) = (
            format!("{:.3e} ± {:.1e}", kl.mean, kl.error),
            format!("{:.3} ± {:.3} %", 1e2 * p.mean, 1e2 * p.error),
        );
        writeln!(out, "{:<8} {kl:>22} {p:>20}", "mean")?;
        writeln!(out, "{:<8} {:>22} {:>18.3} %", "rms", "", 1e2 * delta.rms())?;
        for (name, share) in QUANTILES {
            let (kl, p) = (divergence.quantile(share), 1e2 * delta.quantile(share));
            writeln!(out, "{name:<8} {kl:>22.3e} {p:>18.3} %")?;
        }

        writeln!(out, "\nlargest shifts: ln p of the token, and the likeliest one, by model and reference")?;
        writeln!(out, "{:>8} {:>10} {:>17}", "token", "KL", "ln p")?;
        for Shift { position, token, logprob: [q, p], top, divergence } in &found.shifts {
            let [token, top_q, top_p] = [*token, top[0], top[1]].map(|id| self.name(id));
            writeln!(out, "{position:>8} {divergence:>10.3e} {q:>8.3} {p:>8.3}  {token}: {top_q}, {top_p}")?;
        }
        Ok(())
    }

    /// A token as it stands in the vocabulary.
    fn name(&self, id: u32) -> String {
        format!("{:?}", self.tokenizer.id_to_token(id).unwrap_or_default())
    }

    fn json(&self, measured: &Measured) -> Value {
        let perplexity = |weights: &str, perplexity: &Perplexity| {
            json!({
                "weights": weights,
                "perplexity": perplexity.value(),
                "error": perplexity.error(),
                "nll": estimate(&perplexity.nll),
            })
        };
        let (found, compared) = match measured {
            Measured::Alone(found) => (found, None),
            Measured::Compared(found, weights) => (&found.perplexity, Some((found, weights))),
        };
        let mut object = perplexity(&self.weights, found);
        object["tokens"] = found.tokens().into();
        object["window"] = self.windows.length.into();
        object["stride"] = self.windows.stride.into();
        object["interrupted"] = self.interrupted.into();
        if let Some((found, weights)) = compared {
            let shift = |shift: &Shift| {
                json!({
                    "position": shift.position,
                    "token": shift.token,
                    "text": self.tokenizer.id_to_token(shift.token),
                    "logprob": shift.logprob,
                    "top": shift.top,
                    "kl_divergence": shift.divergence,
                })
            };
            object["reference"] = perplexity(weights, &found.reference);
            object["ln_ratio"] = estimate(&found.ln_ratio);
            object["correlation"] = found.correlation.into();
            object["same_top"] = json!({"share": found.same_top.value(), "error": found.same_top.error()});
            object["kl_divergence"] = distribution(&found.divergence);
            object["delta_p"] = distribution(&found.delta);
            object["shifts"] = found.shifts.iter().map(shift).collect();
        }
        object
    }
}

fn estimate(estimate: &Estimate) -> Value {
    json!({"mean": estimate.mean, "error": estimate.error})
}

fn distribution(distribution: &Distribution) -> Value {
    let mut object = estimate(&distribution.mean);
    object["rms"] = distribution.rms().into();
    for (name, share) in QUANTILES {
        object[name.replace(" %", "%")] = distribution.quantile(share).into();
    }
    object
}
