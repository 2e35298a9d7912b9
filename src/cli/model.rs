//! Arguments that choose a model, and its loading.

use std::{env, path::PathBuf, sync::Arc};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use indicatif::{ProgressBar, ProgressStyle};
use mistral_wgpu::{
    Error, ErrorKind, Result,
    generate::{Engine, EngineOptions, ModelSource},
    gpu::Gpu,
    model::{AdapterSource, ModelConfig, ModelOptions, Stage},
    ops::{KvFormat, PAGE, Tune},
    quant::{FORMATS, Format, by_name},
    text::Tokenizer,
};
use pollster::block_on;

use super::{device::DeviceArgs, pull::Named};

/// Longest context unless `--context` says otherwise.
const USUAL_CONTEXT: u32 = 4096;

/// The model and where it comes from.
#[derive(Debug, Clone, clap::Args)]
pub struct SourceArgs {
    /// Model folder as on Hugging Face or Mistral's own, GGUF file, `hf:OWNER/REPO[:FILE|QUANT]` for one of
    /// the hub, or `synthetic:NAME` for random weights [default: the demo model].
    #[arg(long, value_name = "DIR|FILE.gguf|hf:…|synthetic:NAME")]
    pub model: Option<Named>,
}

/// A model to be loaded, and the GPU to load it on.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    /// A LoRA adapter as PEFT saves it, and how strong it is to be [default: 1]. Several add up.
    #[arg(long = "adapter", value_name = "DIR[:SCALE]")]
    pub adapters: Vec<AdapterSource>,
    /// How weights are stored on the GPU [default: the file's own type if that fits or is quantized, else
    /// q8_0, else q4_0].
    #[arg(long, value_name = "FORMAT", value_parser = format())]
    pub weights: Option<&'static Format>,
    /// Longest text in tokens, prompt included [default: the model's own, at most 4096].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    pub context: Option<u32>,
    /// Tokens that attention sees, the last one included; `none` or 0: all [default: as the model says, which
    /// GGUF files of Mistral 7B v0.1 do not].
    #[arg(long, value_name = "N|none", value_parser = sliding_window)]
    pub sliding_window: Option<u32>,
    /// How keys and values are stored [default: f16].
    #[arg(long, value_name = "FORMAT", value_parser = kv_format())]
    pub kv_cache: Option<KvFormat>,
    /// Trust the device's kernels instead of trying them once against the CPU.
    #[arg(long)]
    pub no_self_test: bool,
    /// Take the kernels that suit this kind of device instead of those that were measured fastest on it.
    #[arg(long)]
    pub no_tune: bool,
    /// Measure anew which kernels are the fastest on this device.
    #[arg(long, conflicts_with = "no_tune")]
    pub retune: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// A weight format by its name.
pub fn format() -> impl TypedValueParser<Value = &'static Format> {
    let names = PossibleValuesParser::new(FORMATS.map(|format| format.name));
    names.map(|name| by_name(&name).expect("a name of the table"))
}

/// A number of tokens; 0 is none.
fn sliding_window(text: &str) -> std::result::Result<u32, std::num::ParseIntError> {
    if text == "none" { Ok(0) } else { text.parse() }
}

fn kv_format() -> impl TypedValueParser<Value = KvFormat> {
    let names = PossibleValuesParser::new(KvFormat::all().map(KvFormat::name));
    names.map(|name| KvFormat::by_name(&name).expect("a name of the table"))
}

impl SourceArgs {
    /// The model asked for, or the demo model, with a line on stderr that says so.
    ///
    /// # Errors
    /// When no model is named and there is no demo model.
    pub fn get(&self) -> Result<ModelSource> {
        if let Some(named) = &self.model {
            return named.get();
        }
        let demo = env::var_os("MISTRAL_DEMO_MODEL").map_or_else(
            || concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo-model").into(),
            PathBuf::from,
        );
        if !demo.join("config.json").exists() {
            let message = "not there; name a model folder with --model, or the demo model's in \
                           MISTRAL_DEMO_MODEL";
            return Err(Error::new(ErrorKind::Argument, demo.display(), message));
        }
        eprintln!(
            "note: using the small demo model; for Mistral 7B: --model hf:mistralai/Mistral-7B-Instruct-v0.3"
        );
        Ok(ModelSource::Folder(demo))
    }

    /// The model's tokenizer, without anything else of it.
    ///
    /// # Errors
    /// As [`ModelSource::tokenizer`]; for a model that has none.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let none = || Error::new(ErrorKind::Tokenizer, "tokenizer.json", "this model has no tokenizer");
        self.get()?.tokenizer()?.ok_or_else(none)
    }
}

/// Makes the KV cache hold a text and `forks` of it that go on for `tokens` tokens each.
pub fn room_for_forks(config: &ModelConfig, options: &mut ModelOptions, forks: u32, tokens: u32) {
    let each = tokens.min(options.context).saturating_add(2 * PAGE);
    let more = forks.saturating_mul(each);
    options.cache_tokens = Some(options.cache_tokens(config).saturating_add(more));
}

impl ModelArgs {
    /// Sizes of the working memory for a model of `config` on a device with so many bytes left.
    pub fn model_options(&self, config: &ModelConfig, memory: Option<u64>) -> ModelOptions {
        let usual = USUAL_CONTEXT.min(config.max_position_embeddings as u32);
        let defaults = ModelOptions::default();
        ModelOptions {
            context: self.context.unwrap_or(usual),
            kv_format: self.kv_cache.unwrap_or(defaults.kv_format),
            ..defaults
        }
        .with_batches_for(config, memory)
    }

    /// The configuration of the model at `source`, with the window asked for.
    ///
    /// # Errors
    /// As [`ModelSource::config`].
    pub fn config(&self, source: &ModelSource) -> Result<ModelConfig> {
        EngineOptions { sliding_window: self.sliding_window, ..Default::default() }.config(source)
    }

    /// Opens the GPU and loads the model.
    ///
    /// # Errors
    /// As [`Gpu::open`] and [`Engine::load`].
    pub fn load(&self) -> Result<Arc<Engine>> {
        self.load_with(|_, _| {})
    }

    /// As [`load`](Self::load), with `adjust` having the last word on the options.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with(&self, adjust: impl FnOnce(&ModelConfig, &mut EngineOptions)) -> Result<Arc<Engine>> {
        self.load_from(&self.source.get()?, adjust)
    }

    /// As [`load_with`](Self::load_with), from `source`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_from(
        &self,
        source: &ModelSource,
        adjust: impl FnOnce(&ModelConfig, &mut EngineOptions),
    ) -> Result<Arc<Engine>> {
        self.load_on(self.open()?, source, adjust)
    }

    /// Opens the GPU.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    pub fn open(&self) -> Result<Arc<Gpu>> {
        let gpu = block_on(Gpu::open(&self.device.options()))?;
        tracing::info!(device = gpu.description().name, capabilities = %gpu.capabilities(), "opened");
        Ok(Arc::new(gpu))
    }

    /// As [`load_from`](Self::load_from), on an open GPU.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub fn load_on(
        &self,
        gpu: Arc<Gpu>,
        source: &ModelSource,
        adjust: impl FnOnce(&ModelConfig, &mut EngineOptions),
    ) -> Result<Arc<Engine>> {
        let config = self.config(source)?;
        let mut options = EngineOptions {
            weights: self.weights,
            sliding_window: self.sliding_window,
            model: self.model_options(&config, gpu.memory_left()),
            skip_self_test: self.no_self_test,
            tune: match (self.no_tune, self.retune) {
                (true, _) => Tune::Never,
                (_, true) => Tune::Again,
                _ => Tune::Once,
            },
            ..EngineOptions::default()
        };
        adjust(&config, &mut options);
        let style = |template| ProgressStyle::with_template(template).expect("a valid template");
        let tuning = style("trying kernels {wide_bar} {pos}/{len}");
        let loading = style("loading {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}");
        let bar = ProgressBar::new(0);
        let mut shown = None;
        let engine =
            block_on(Engine::load_with(gpu, source, &self.adapters, &options, &mut |stage, done| {
                if shown != Some(stage) {
                    let (style, total) = match stage {
                        Stage::Tuning(operations) => (&tuning, operations),
                        Stage::Weights(bytes) => (&loading, bytes),
                    };
                    bar.set_style(style.clone());
                    bar.set_length(total);
                    shown = Some(stage);
                }
                bar.set_position(done);
            }));
        bar.finish_and_clear();
        let engine = engine?;
        tracing::info!(weights = engine.formats().name(), "loaded");
        Ok(engine)
    }
}
