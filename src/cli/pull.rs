//! `mistral pull`: a model of the Hugging Face hub into its cache; and models named `hf:…`.

use std::{
    io::{Write, stdout},
    path::Path,
    str::FromStr,
};

use indicatif::{ProgressBar, ProgressStyle};
use mistral_wgpu::{
    Error, ErrorKind, Result,
    generate::ModelSource,
    hub::{Hub, HubModel},
};
use serde_json::json;

use super::Outcome;

/// Fetch a model from the Hugging Face hub, for --model hf:OWNER/REPO.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mistral pull mistralai/Mistral-7B-Instruct-v0.3
  mistral pull bartowski/Mistral-7B-Instruct-v0.3-GGUF:Q4_K_M
  mistral pull mistralai/Mistral-7B-Instruct-v0.3:consolidated.safetensors
  mistral generate --model hf:mistralai/Mistral-7B-v0.3 'Once upon a time'

Prints the model's folder, or its GGUF file. Of safetensors in both layouts, Hugging Face's are taken. What was \
interrupted goes on where it was.

Environment: HF_TOKEN (or the token that `hf auth login` left) for gated and private repositories, HF_ENDPOINT for \
another server, HF_HUB_CACHE or HF_HOME for the place of the cache, HTTPS_PROXY.")]
pub struct Args {
    /// OWNER/REPO, and after a colon a file or a quantization such as Q4_K_M
    #[arg(value_name = "OWNER/REPO[:FILE|QUANT]")]
    model: HubModel,
}

pub fn run(args: &Args, json: bool) -> Outcome {
    let path = pull(&Hub::from_env()?, &args.model)?;
    if json {
        return super::print(&json!({"model": args.model.to_string(), "path": path}));
    }
    Ok(writeln!(stdout(), "{}", path.display())?)
}

/// Fetches a model, with a bar for each file on stderr.
fn pull(hub: &Hub, model: &HubModel) -> Result<std::path::PathBuf> {
    let template = "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
    let bar =
        ProgressBar::new(0).with_style(ProgressStyle::with_template(template).expect("a valid template"));
    let path = hub.pull(model, &mut |fetched| {
        if bar.message() != fetched.file {
            bar.set_message(fetched.file.to_owned());
            bar.reset_eta();
        }
        bar.set_length(fetched.total);
        bar.set_position(fetched.done);
    });
    bar.finish_and_clear();
    path
}

/// What `--model` names: a model here, or one on the hub.
#[derive(Debug, Clone)]
pub enum Named {
    /// Here, or made here.
    Here(ModelSource),
    /// `hf:OWNER/REPO[:FILE|QUANT]`.
    Hub(HubModel),
}

impl FromStr for Named {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.strip_prefix("hf:") {
            Some(model) => model.parse().map(Self::Hub),
            None => here(Path::new(text)).map(Self::Here),
        }
    }
}

impl Named {
    /// The model, fetched if it is on the hub and not all in the cache.
    ///
    /// # Errors
    /// As [`Hub::pull`].
    pub fn get(&self) -> Result<ModelSource> {
        match self {
            Self::Here(source) => Ok(source.clone()),
            Self::Hub(model) => {
                let hub = Hub::from_env()?;
                here(&hub.cached(model).map_or_else(|| pull(&hub, model), Ok)?)
            }
        }
    }
}

fn here(path: &Path) -> Result<ModelSource> {
    let unnamed = || Error::expected(ErrorKind::Argument, path.display(), "a name in Unicode", "another");
    path.to_str().ok_or_else(unnamed)?.parse().map_err(|never| match never {})
}
