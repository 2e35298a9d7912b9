//! `mistral logits`: what the model computes for given tokens, as a file, to compare with other
//! implementations.

use std::{
    borrow::Cow,
    fs,
    path::{Path, PathBuf},
};

use mistral_wgpu::{Error, ErrorKind, Result, model::ModelConfig, ops::KvFormat};
use pollster::block_on;
use safetensors::{Dtype, View};
use serde_json::json;

use super::{
    Outcome,
    input::{Ids, ids_of_file},
    model::ModelArgs,
    usage,
};

/// Largest logits in one piece: what every device can bind.
const LOGIT_BYTES: usize = 128 << 20;

/// Write the logits of given tokens to a safetensors file.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mistral logits --tokens 1,5,7 --output out.safetensors
  mistral logits --model ~/Mistral-7B-v0.3 --tokens-file ids.txt --hidden --output out.safetensors

The file holds float32 `logits` [T, vocab], and with --hidden `hidden_states` [layers+1, T, hidden] in the order of \
transformers: the embedding, the output of each block, with the final norm applied to the last. Weights keep the type that \
they have in the model's file, keys and values are f32, no kernel that rounds activations is used, and the context is as \
long as the tokens, unless told otherwise (by --weights, --kv-cache, --disable and --context). The model needs no tokenizer.")]
pub struct Args {
    /// Token ids.
    #[arg(long, value_name = "IDS", required_unless_present = "tokens_file")]
    tokens: Option<Ids>,
    /// File with token ids, separated by commas or white space, or as a JSON array.
    #[arg(long, value_name = "FILE", conflicts_with = "tokens")]
    tokens_file: Option<PathBuf>,
    /// Where to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Write the hidden states too.
    #[arg(long)]
    hidden: bool,
    /// Tokens computed at once, at most: fewer where the logits of so many could not be bound at once.
    #[arg(long, value_name = "N", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    chunk: u32,
    #[command(flatten)]
    model: ModelArgs,
}

pub fn run(args: &Args, json: bool) -> Outcome {
    let tokens = match (&args.tokens, &args.tokens_file) {
        (Some(Ids(ids)), _) => ids.clone(),
        (None, Some(file)) => ids_of_file(file)?,
        (None, None) => Vec::new(),
    };
    if tokens.is_empty() {
        return Err(usage("tokens", "expected at least one id, found none"));
    }
    let folder = args.output.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        return Err(usage("output", format_args!("there is no folder {}", folder.display())));
    }
    let source = args.model.source.get()?;
    let vocab = args.model.config(&source)?.vocab_size;
    if let Some(id) = tokens.iter().find(|id| **id as usize >= vocab) {
        return Err(usage("tokens", format_args!("expected ids below the vocabulary's {vocab}, found {id}")));
    }
    let exact = ModelArgs { device: args.model.device.clone().exact(), ..args.model.clone() };
    let engine = exact.load_from(&source, |config, options| {
        options.own_weights = true;
        let model = &mut options.model;
        model.context = args.model.context.unwrap_or(tokens.len() as u32);
        model.kv_format = args.model.kv_cache.unwrap_or(KvFormat::F32);
        model.max_rows = args.chunk;
        model.max_logit_rows = args.chunk.min(logit_rows(config));
    })?;
    let (logits, states) = block_on(engine.logits(&tokens, args.hidden))?;

    let config = engine.config();
    let mut tensors =
        vec![("logits", Floats { shape: vec![tokens.len(), config.vocab_size], values: logits })];
    if args.hidden {
        let shape = vec![states.len(), tokens.len(), config.hidden_size];
        tensors.push(("hidden_states", Floats { shape, values: states.concat() }));
    }
    if json {
        let shapes: serde_json::Map<_, _> =
            tensors.iter().map(|(name, tensor)| ((*name).to_owned(), json!(tensor.shape))).collect();
        super::print(&json!({"output": args.output, "weights": engine.formats().name(), "tensors": shapes}))?;
    }
    Ok(write(&args.output, tensors)?)
}

/// Rows of logits that are had at once, at most.
pub fn logit_rows(config: &ModelConfig) -> u32 {
    (LOGIT_BYTES / (4 * config.vocab_size.next_multiple_of(32))).max(1) as u32
}

/// Writes beside `path` first, so that a file of that name is always whole.
fn write(path: &Path, tensors: Vec<(&str, Floats)>) -> Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let written = safetensors::serialize_to_file(tensors, None, &partial)
        .map_err(|error| Error::new(ErrorKind::Io, partial.display(), &error).because(error))
        .and_then(|()| fs::rename(&partial, path).map_err(|error| Error::io(path, error)));
    if written.is_err() {
        // What is left of it is of no use, and may not even exist.
        let _ = fs::remove_file(&partial);
    }
    written
}

/// A tensor of `f32`.
struct Floats {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl View for Floats {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    fn data_len(&self) -> usize {
        4 * self.values.len()
    }
}
