//! `mistral merge`: a model with adapters in its weights, as a folder.

use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};
use mistral_wgpu::{
    generate::ModelSource,
    model::{AdapterSource, Stage, merge},
};
use serde_json::json;

use super::{Outcome, model::SourceArgs, usage};

/// Write a model with LoRA adapters merged into its weights.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mistral merge --model ~/Mistral-7B-v0.3 --adapter ~/my-adapter --output ~/Mistral-7B-mine
  mistral merge --model hf:mistralai/Mistral-7B-v0.3 --adapter one:0.7 --adapter two:0.3 --output both

Reads a Hugging Face folder of safetensors and writes another: matrices in the types that they have there, files of at most 5 GB, and \
copies of the configuration and the tokenizer. It is what merge_and_unload() of PEFT gives. Nothing is written over; a \
folder that appears is whole.")]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// A LoRA adapter as PEFT saves it, and how strong it is to be [default: 1]. Several add up.
    #[arg(long = "adapter", value_name = "DIR[:SCALE]", required = true)]
    adapters: Vec<AdapterSource>,
    /// The folder to write.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

pub fn run(args: &Args, json: bool) -> Outcome {
    let ModelSource::Folder(base) = args.source.get()? else {
        return Err(usage("model", "a synthetic model has no weights to merge with"));
    };
    let style = ProgressStyle::with_template("merging {wide_bar} {binary_bytes}/{binary_total_bytes} {eta}");
    let bar = ProgressBar::new(0).with_style(style.expect("a valid template"));
    let merged = merge(&base, &args.adapters, &args.output, &mut |stage, done| {
        if let Stage::Weights(total) = stage {
            bar.set_length(total);
        }
        bar.set_position(done);
    });
    bar.finish_and_clear();
    merged?;
    if json {
        super::print(&json!({"output": args.output}))?;
    }
    Ok(())
}
