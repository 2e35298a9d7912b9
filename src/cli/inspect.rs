//! `mistral inspect`: what a model is, and what of it fits on the device.

use std::{
    collections::BTreeMap,
    io::{Write, stdout},
};

use mistral_wgpu::{
    ErrorKind, Result,
    checkpoint::{Checkpoint, TensorView},
    generate::{default_formats, own_formats},
    gpu::{AdapterDescription, Gpu},
    model::{Adapter, Fit, ModelConfig, ModelOptions, WeightFormats, adapter_bytes, check},
    ops::RouteShape,
    quant::FORMATS,
};
use pollster::block_on;
use serde_json::{Value, json};

use super::{Outcome, device::human, devices, model::ModelArgs, pull::Named};

/// Show a model's architecture and tensors, and what fits on the device.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mistral inspect ~/Mistral-7B-v0.3
  mistral inspect --tensors --json ~/Mistral-7B-v0.3
  mistral inspect synthetic:mistral-7b --context 32768 --memory 8GiB

Nothing is allocated on the device, and none is needed. A model fits when a tenth of the memory stays free \
for the driver.")]
pub struct Args {
    /// Model folder, GGUF file, `hf:…` or `synthetic:NAME`; another way to give --model.
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    folder: Option<Named>,
    /// List every tensor.
    #[arg(long)]
    tensors: bool,
    #[command(flatten)]
    model: ModelArgs,
}

pub fn run(args: &Args, json: bool) -> Outcome {
    let source = args.folder.as_ref().map_or_else(|| args.model.source.get(), Named::get)?;
    let config = args.model.config(&source)?;
    let checkpoint = source.checkpoint()?;
    if let Some(checkpoint) = &checkpoint {
        check(checkpoint, &config)?;
        if args.model.sliding_window.is_none() {
            config.warn_of_window(checkpoint);
        }
    }
    let adapter = adapter(args)?;
    let memory = args.model.device.memory.or(adapter.as_ref().and_then(|adapter| adapter.memory.free));
    let options = args.model.model_options(&config, memory);
    let adapters = args.model.adapters.iter().map(|source| Adapter::open(source, &config));
    let adapters = adapters.collect::<Result<Vec<_>>>()?;
    let report = Report {
        adapter_bytes: adapter_bytes(&config, &options, &adapters),
        adapters: adapters.len(),
        options,
        own: own_formats(checkpoint.as_ref()),
        listed: args.tensors,
        config,
        checkpoint,
        adapter,
        memory,
    };
    if json { super::print(&report.json()) } else { report.print() }
}

/// The adapter that the model would be loaded on, if there is any.
fn adapter(args: &Args) -> Result<Option<AdapterDescription>> {
    match block_on(Gpu::open(&args.model.device.options())) {
        Ok(gpu) => Ok(Some(gpu.description().clone())),
        Err(error) if error.kind() == ErrorKind::Device => Ok(None),
        Err(error) => Err(error),
    }
}

struct Report {
    config: ModelConfig,
    options: ModelOptions,
    checkpoint: Option<Checkpoint>,
    /// The types of the checkpoint's weights.
    own: WeightFormats,
    /// Whether every tensor is wanted.
    listed: bool,
    /// How many LoRA adapters there are, and what they take.
    adapters: usize,
    adapter_bytes: u64,
    adapter: Option<AdapterDescription>,
    memory: Option<u64>,
}

impl Report {
    fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        self.checkpoint.iter().flat_map(Checkpoint::tensors)
    }

    /// Number of tensors and bytes by type.
    fn dtypes(&self) -> BTreeMap<String, (u64, u64)> {
        let mut dtypes = BTreeMap::new();
        for tensor in self.tensors() {
            let (count, bytes) = dtypes.entry(tensor.dtype.to_string()).or_default();
            *count += 1;
            *bytes += tensor.bytes.len() as u64;
        }
        dtypes
    }

    fn fits(&self) -> impl Iterator<Item = Fit> {
        let mixed = Some(self.own.clone()).filter(|own| matches!(own, WeightFormats::Own(_)));
        let formats = mixed.into_iter().chain(FORMATS.into_iter().map(WeightFormats::from));
        formats.map(|formats| self.fit(&formats))
    }

    fn fit(&self, formats: &WeightFormats) -> Fit {
        Fit::new(&self.config, &self.options, formats, self.adapter_bytes)
    }

    /// What to do, in a sentence.
    fn advice(&self) -> String {
        let formats =
            default_formats(&self.config, &self.options, &self.own, self.adapter_bytes, self.memory);
        let fit = self.fit(&formats);
        let name = formats.name();
        match fit.fits(self.memory) {
            None if formats == self.own => {
                format!("nothing tells how much memory there is: {name}, the type of its file, is taken")
            }
            None => format!(
                "nothing tells how much memory there is: --weights {name} is taken; give --memory for a better choice"
            ),
            Some(true) if formats == self.own => {
                format!("fits as it is: {name}, the type of its file, is taken")
            }
            Some(true) => format!("--weights {name} is taken: the most exact that fits"),
            Some(false) if fit.weights < fit.total() / 2 => {
                format!(
                    "nothing fits: most is for the context of {} tokens, lower --context",
                    self.options.context
                )
            }
            Some(false) => format!("nothing fits: even {name} takes {}", human(fit.total())),
        }
    }

    fn print(&self) -> Outcome {
        let mut out = stdout().lock();
        let ModelConfig { num_hidden_layers, hidden_size, intermediate_size, vocab_size, .. } = self.config;
        let ModelConfig { num_attention_heads, num_key_value_heads, head_dim, .. } = self.config;
        writeln!(
            out,
            "layers      {num_hidden_layers}, hidden size {hidden_size}, intermediate size {intermediate_size}"
        )?;
        writeln!(
            out,
            "attention   {num_attention_heads} query heads over {num_key_value_heads} KV heads of {head_dim}"
        )?;
        if let Some(RouteShape { experts, chosen }) = self.config.experts {
            writeln!(out, "experts     {experts} in each layer, of which a token goes through {chosen}")?;
        }
        let window = self.config.sliding_window.map_or("no window".into(), |w| format!("sliding window {w}"));
        let (context, theta) = (self.config.max_position_embeddings, self.config.rope_theta);
        writeln!(out, "context     {context} tokens, {window}, rope theta {theta}")?;
        let tied = if self.config.tie_word_embeddings { ", tied embeddings" } else { "" };
        writeln!(out, "vocabulary  {vocab_size} tokens{tied}")?;
        writeln!(out, "parameters  {:.1} million", self.config.parameters() as f64 / 1e6)?;
        for file in self.checkpoint.iter().flat_map(Checkpoint::files) {
            writeln!(out, "file        {}", file.display())?;
        }
        for (dtype, (count, bytes)) in self.dtypes() {
            writeln!(out, "tensors     {count} of {dtype}, {}", human(bytes))?;
        }
        for tensor in self.tensors().filter(|_| self.listed) {
            writeln!(out, "  {:<48} {:<5} {:?}", tensor.name, tensor.dtype, tensor.shape)?;
        }
        if self.adapters > 0 {
            writeln!(
                out,
                "adapters    {}, {}, part of each total",
                self.adapters,
                human(self.adapter_bytes)
            )?;
        }
        let adapter = self.adapter.as_ref();
        let device = adapter.map_or("none".into(), |a| format!("{}, memory {}", a.name, devices::memory(a)));
        writeln!(out, "device      {device}\n")?;
        let (context, kv) = (self.options.context, self.options.kv_format.name());
        writeln!(out, "Memory at a context of {context} tokens with a KV cache in {kv}:")?;
        let mut line = |cells: [&str; 6]| {
            let [weights, size, cache, scratch, total, fits] = cells;
            writeln!(out, "{weights:<8} {size:>11} {cache:>11} {scratch:>11} {total:>11}  {fits}")
        };
        line(["weights", "size", "KV cache", "scratch", "total", "fits"])?;
        for fit in self.fits() {
            let [size, cache, scratch, total] =
                [fit.weights, fit.kv_cache, fit.scratch, fit.total()].map(human);
            let fits = match fit.fits(self.memory) {
                None => "unknown",
                Some(true) => "yes",
                Some(false) => "no",
            };
            let name = match &fit.formats {
                WeightFormats::Uniform(format) => format.name,
                WeightFormats::Own(_) => "as it is",
            };
            line([name, &size, &cache, &scratch, &total, fits])?;
        }
        writeln!(out, "\n{}", self.advice())?;
        Ok(())
    }

    fn json(&self) -> Value {
        let config = &self.config;
        let dtypes = self
            .dtypes()
            .into_iter()
            .map(|(dtype, (count, bytes))| (dtype, json!({"count": count, "bytes": bytes})));
        let mut object = json!({
            "architecture": {
                "hidden_size": config.hidden_size,
                "intermediate_size": config.intermediate_size,
                "num_hidden_layers": config.num_hidden_layers,
                "num_attention_heads": config.num_attention_heads,
                "num_key_value_heads": config.num_key_value_heads,
                "head_dim": config.head_dim,
                "vocab_size": config.vocab_size,
                "max_position_embeddings": config.max_position_embeddings,
                "sliding_window": config.sliding_window,
                "rope_theta": config.rope_theta,
                "rms_norm_eps": config.rms_norm_eps,
                "tie_word_embeddings": config.tie_word_embeddings,
            },
            "parameters": config.parameters(),
            "files": self.checkpoint.iter().flat_map(Checkpoint::files).collect::<Vec<_>>(),
            "dtypes": dtypes.collect::<serde_json::Map<_, _>>(),
            "device": self.adapter.as_ref().map(|adapter| &adapter.name),
            "memory": self.memory,
            "context": self.options.context,
            "kv_cache": self.options.kv_format.name(),
            "adapters_bytes": self.adapter_bytes,
            "fit": self.fits().map(|fit| json!({
                "weights": fit.formats.name(),
                "weights_bytes": fit.weights,
                "kv_cache_bytes": fit.kv_cache,
                "scratch_bytes": fit.scratch,
                "total_bytes": fit.total(),
                "fits": fit.fits(self.memory),
            })).collect::<Vec<_>>(),
            "advice": self.advice(),
        });
        if self.listed {
            let entry = |tensor: TensorView| json!({"name": tensor.name, "dtype": tensor.dtype.to_string(), "shape": tensor.shape});
            object["tensors"] = self.tensors().map(entry).collect();
        }
        object
    }
}
