//! A loaded model with everything around it, shared by its sessions.

use std::sync::Arc;

use futures::lock::Mutex;

use super::{
    ModelSource, Session, StepCounts,
    state::{Current, Plan, State},
};
use crate::{
    Error, ErrorKind, Result,
    checkpoint::Checkpoint,
    gpu::Gpu,
    model::{
        Adapter, AdapterSet, AdapterSource, Chunk, Fit, GenerationConfig, LogitRows, Model, ModelConfig,
        ModelOptions, Progress, Stage, WeightFormats, adapter_bytes, attention_shape, ensure_form_tuned,
        expected_tensors, tune_adapters, tune_shapes,
    },
    ops::{SelfTestShapes, Tune, TuneShapes, ensure_self_test, ensure_tuned, try_kernels},
    quant::{Format, by_name},
    text::{ChatFormat, Tokenizer},
};

/// How to load a model.
#[derive(Debug, Clone, Copy, Default)]
pub struct EngineOptions {
    /// How matrices are stored; `None`: the most exact format that fits, see [`default_formats`].
    pub weights: Option<&'static Format>,
    /// Whether matrices are stored as in the model's file, fit or not, unless `weights` says otherwise.
    pub own_weights: bool,
    /// Another sliding window than the model's, 0 for none.
    pub sliding_window: Option<u32>,
    /// Sizes of the working memory.
    pub model: ModelOptions,
    /// Trust every kernel on this device, instead of trying them at the first load of such a model.
    pub skip_self_test: bool,
    /// Whether kernels are chosen by measurement.
    pub tune: Tune,
}

impl EngineOptions {
    /// The configuration of a model to be loaded.
    ///
    /// # Errors
    /// As [`ModelSource::config`].
    pub fn config(&self, source: &ModelSource) -> Result<ModelConfig> {
        let config = source.config()?;
        Ok(match self.sliding_window {
            Some(window) => config.with_sliding_window(window),
            None => config,
        })
    }
}

/// The formats to choose from, the most exact first: the checkpoint's `own`, `q8_0` and `q4_0`, or only its own if
/// it is quantized.
fn usual_formats(own: &WeightFormats) -> Vec<WeightFormats> {
    let quantized = own.all().iter().any(|format| format.bits_per_weight() < 16.0);
    let others: &[&str] = if quantized { &[] } else { &["q8_0", "q4_0"] };
    let named = |name: &&str| by_name(name).expect("a format of the table").into();
    [own.clone()].into_iter().chain(others.iter().map(named)).collect()
}

/// The formats that matrices have in the model's file; `f16` of a synthetic one.
pub fn own_formats(checkpoint: Option<&Checkpoint>) -> WeightFormats {
    checkpoint.map_or_else(|| by_name("f16").expect("a format of the table").into(), WeightFormats::own)
}

/// The most exact of the checkpoint's `own` formats, `q8_0` and `q4_0` that fits the device's memory beside so many
/// bytes of `adapters`; the smallest when none does or nothing tells how much there is. What is quantized stays as it is.
pub fn default_formats(
    config: &ModelConfig,
    options: &ModelOptions,
    own: &WeightFormats,
    adapters: u64,
    memory: Option<u64>,
) -> WeightFormats {
    let mut formats = usual_formats(own);
    let fits =
        |formats: &WeightFormats| Fit::new(config, options, formats, adapters).fits(memory) == Some(true);
    let chosen = formats.iter().position(fits).unwrap_or(formats.len() - 1);
    formats.swap_remove(chosen)
}

/// A model on a device, with its tokenizer and chat format where it has them.
pub struct Engine {
    pub(super) plan: Plan,
    generation: GenerationConfig,
    tokenizer: Option<Arc<Tokenizer>>,
    chat_format: Option<ChatFormat>,
    pub(super) current: std::sync::Mutex<Current>,
    /// `None` after a loss of the device from which there was no recovery yet.
    pub(super) state: Mutex<Option<State>>,
}

impl Engine {
    /// Loads a model, after a self-test of the kernels that it will use and a measurement of which are the fastest.
    ///
    /// # Errors
    /// Of every file that is missing or wrong; [`ErrorKind::OutOfMemory`] when the model does not fit, which
    /// tells what would and leaves the device as it was.
    pub async fn load(
        gpu: Arc<Gpu>,
        source: &ModelSource,
        options: &EngineOptions,
        progress: Progress<'_>,
    ) -> Result<Arc<Self>> {
        Self::load_with(gpu, source, &[], options, progress).await
    }

    /// As [`Engine::load`], with adapters that its sessions may choose among; see [`Session::set_adapters`].
    ///
    /// # Errors
    /// As [`Engine::load`] and [`Adapter::open`].
    pub async fn load_with(
        gpu: Arc<Gpu>,
        source: &ModelSource,
        adapters: &[AdapterSource],
        options: &EngineOptions,
        progress: Progress<'_>,
    ) -> Result<Arc<Self>> {
        let config = options.config(source)?;
        // What is wrong with them shows before anything that takes time.
        let opened = adapters.iter().map(|adapter| Adapter::open(adapter, &config));
        let opened = opened.collect::<Result<Vec<_>>>()?;
        let adapter_bytes = adapter_bytes(&config, &options.model, &opened);
        let checkpoint = Plan::open(source, &config)?;
        if let Some(checkpoint) = checkpoint.as_ref().filter(|_| options.sliding_window.is_none()) {
            config.warn_of_window(checkpoint);
        }
        let own = own_formats(checkpoint.as_ref());
        let attention = attention_shape(&config, options.model.kv_format);
        attention.supported()?;
        let memory = gpu.memory_left();
        let formats = match options.weights {
            Some(format) => {
                for (name, shape) in expected_tensors(&config).iter().filter(|(_, shape)| shape.len() == 2) {
                    format.check_cols(name, shape[1])?;
                }
                format.into()
            }
            None if options.own_weights => own.clone(),
            None => default_formats(&config, &options.model, &own, adapter_bytes, memory),
        };
        let fit = Fit::new(&config, &options.model, &formats, adapter_bytes);
        let shortage = |memory: u64| fit.shortage(&config, &options.model, &usual_formats(&own), memory);
        if let Some(memory) = memory.filter(|memory| fit.total() > *memory) {
            return Err(shortage(memory));
        }
        if fit.fits(memory) == Some(false) {
            let (needs, has) = (fit.total() >> 20, memory.unwrap_or_default() >> 20);
            tracing::warn!("the model takes {needs} MiB of the device's {has} MiB: see `mistral inspect`");
        }
        let tokenizer = source.tokenizer()?;
        let chat_format =
            tokenizer.as_ref().map(|tokenizer| source.chat_format(tokenizer)).transpose()?.flatten();
        let generation = source.generation_config(config.vocab_size)?;
        if let Some(tokenizer) =
            tokenizer.as_ref().filter(|tokenizer| tokenizer.vocab_size() > config.vocab_size)
        {
            let expected = format!("token ids below the model's vocabulary of {}", config.vocab_size);
            let found = tokenizer.vocab_size() - 1;
            return Err(Error::expected(ErrorKind::Tokenizer, "tokenizer.json", expected, found));
        }
        let shapes = tune_shapes(&config, &options.model, &formats);
        let shapes = TuneShapes { adapters: tune_adapters(&config, &opened), ..shapes };
        let gpu = try_kernels(gpu, None, async |gpu| {
            gpu.load_pipelines(None)?;
            if !options.skip_self_test {
                let (bias, reordered) = (config.attention_bias || config.mlp_bias, formats.reordered());
                let (adapters, experts) = (!opened.is_empty(), config.experts);
                for weights in formats.all() {
                    let shapes = SelfTestShapes { weights, attention, bias, reordered, adapters, experts };
                    ensure_self_test(gpu, &shapes, None).await?;
                }
            }
            let tuned = ensure_tuned(gpu, &shapes, options.tune, None, &mut |done, total| {
                progress(Stage::Tuning(total), done);
            })?;
            // Which form of a step is the faster depends on its kernels.
            if tuned {
                ensure_form_tuned(gpu, &config, &options.model, &formats, options.tune, None)?;
            }
            Ok(())
        })
        .await?;
        let (source, adapters) = (source.clone(), adapters.to_vec());
        let plan = Plan { source, adapters, config: config.clone(), formats, options: options.model };
        let loaded = plan.load(gpu.clone(), checkpoint.as_ref(), progress);
        let state = loaded.map_err(|error| match error.kind() {
            // Less than was thought, or than could be known.
            ErrorKind::OutOfMemory => {
                let left = gpu.memory_left().unwrap_or(u64::MAX);
                shortage(left.min(fit.total() - 1)).because(error)
            }
            _ => error,
        })?;
        gpu.keep_pipelines();
        Ok(Arc::new(Self {
            plan,
            generation,
            tokenizer: tokenizer.map(Arc::new),
            chat_format,
            current: std::sync::Mutex::new(Current::of(&state)),
            state: Mutex::new(Some(state)),
        }))
    }

    /// The device: after the loss of one, the one opened in its place.
    pub fn gpu(&self) -> Arc<Gpu> {
        self.current().gpu.clone()
    }

    /// Shape and constants of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.plan.config
    }

    /// How its matrices are stored.
    pub fn formats(&self) -> &WeightFormats {
        &self.plan.formats
    }

    /// Longest sequence, in tokens.
    pub fn context(&self) -> usize {
        self.plan.options.context as usize
    }

    /// Sizes of the working memory.
    pub fn model_options(&self) -> &ModelOptions {
        &self.plan.options
    }

    /// What the model's makers suggest for generation.
    pub fn generation_config(&self) -> &GenerationConfig {
        &self.generation
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`] when the model has none.
    pub fn tokenizer(&self) -> Result<&Arc<Tokenizer>> {
        let missing = || Error::new(ErrorKind::Tokenizer, "tokenizer.json", "this model has no tokenizer");
        self.tokenizer.as_ref().ok_or_else(missing)
    }

    /// How the model takes conversations, where anything tells.
    pub fn chat_format(&self) -> Option<&ChatFormat> {
        self.chat_format.as_ref()
    }

    /// Tokens after which a text ends.
    pub fn eos_token_ids(&self) -> &[u32] {
        self.generation.eos_token_ids.as_deref().unwrap_or(&self.plan.config.eos_token_ids)
    }

    /// What the steps of all its sessions have come to so far.
    pub async fn step_counts(&self) -> StepCounts {
        self.state.lock().await.as_ref().map(|state| state.counts).unwrap_or_default()
    }

    /// The adapters, the first of which is number 0.
    pub fn adapters(&self) -> &[AdapterSource] {
        &self.plan.adapters
    }

    /// An empty session, with all adapters.
    pub fn session(self: &Arc<Self>) -> Session {
        Session::new(self.clone(), self.empty(AdapterSet::first(self.plan.adapters.len())))
    }

    /// Logits of every token, `[tokens, vocab]`, and with `hidden` the hidden states in transformers'
    /// order, `[layers + 1][tokens, hidden]`, the last one after the final norm.
    ///
    /// # Errors
    /// As [`Model::forward`]; [`ErrorKind::NonFinite`].
    pub async fn logits(&self, tokens: &[u32], hidden: bool) -> Result<(Vec<f32>, Vec<Vec<f32>>)> {
        self.persist(async || self.try_logits(tokens, hidden).await).await
    }

    async fn try_logits(&self, tokens: &[u32], hidden: bool) -> Result<(Vec<f32>, Vec<Vec<f32>>)> {
        let State { gpu, model, .. } = &mut *self.state().await?;
        let mut sequence = model.sequence();
        let mut logits = Vec::new();
        let mut states = vec![Vec::new(); if hidden { self.config().num_hidden_layers + 1 } else { 0 }];
        let rows = model.options.max_rows.min(model.options.max_logit_rows) as usize;
        for tokens in tokens.chunks(rows) {
            let mut chunks = [Chunk { sequence: &mut sequence, tokens, logits: LogitRows::All }];
            let rows = tokens.len() as u32;
            if hidden {
                model.forward_with_hidden_states(gpu, &mut chunks)?;
                for (all, state) in states.iter_mut().zip(model.hidden_states()) {
                    all.extend(state.download(gpu, rows).await?);
                }
            } else {
                model.forward(gpu, &mut chunks, None)?;
            }
            logits.extend(model.logits.download(gpu, rows).await?);
        }
        match logits.iter().position(|logit| !logit.is_finite()) {
            None => Ok((logits, states)),
            Some(at) => {
                let token = at / self.config().vocab_size;
                Err(Error::new(
                    ErrorKind::NonFinite,
                    "logits",
                    format_args!("NaN or infinite at token {token}"),
                ))
            }
        }
    }

    /// Runs `batch` on the model itself: what benchmarks time.
    ///
    /// # Errors
    /// As `batch`.
    pub async fn with_model<T>(&self, batch: impl AsyncFnOnce(&Gpu, &mut Model) -> Result<T>) -> Result<T> {
        let State { gpu, model, .. } = &mut *self.state().await?;
        batch(gpu, model).await
    }

    /// Computes all but the last `keep` tokens that `session` has not computed yet.
    pub(super) fn prefill(&self, state: &mut State, session: &mut Session, keep: usize) -> Result<()> {
        let State { gpu, model, .. } = state;
        loop {
            let (sequence, pending) = session.pending();
            let left = pending.len().saturating_sub(keep);
            if left == 0 {
                return Ok(());
            }
            let rows = model.chunk_rows(gpu, sequence.len())? as usize;
            let tokens = &pending[..left.min(rows)];
            model.forward(gpu, &mut [Chunk { sequence, tokens, logits: LogitRows::None }], None)?;
            // Keeps the pace honest, and the queue from growing without bound.
            gpu.wait()?;
        }
    }
}
