//! `mistral tokenize` and `mistral detokenize`: between text and token ids, without a GPU.

use std::io::{Write, stdout};

use mistral_wgpu::text::Encode;

use super::{
    Outcome,
    input::{ids, json_lines, text},
    model::SourceArgs,
};

/// Turn text into token ids.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mistral tokenize 'Once upon a time'
  mistral tokenize --bos --json 'Once upon a time'
  printf '\"one\"\\n\"two\\\\nlines\"\\n' | mistral tokenize --lines
  mistral tokenize --special '<s>[INST] Hello[/INST]' --model ~/Mistral-7B-Instruct-v0.3

The text is plain: what looks like a control token is spelled out unless --special is given. \
Prints ids separated by spaces, with --json as an array. Needs only the tokenizer's files of the model.")]
pub struct Args {
    /// The text; `-` or none: standard input, as it is.
    #[arg(value_name = "TEXT|-", allow_hyphen_values = false)]
    text: Option<String>,
    #[command(flatten)]
    source: SourceArgs,
    /// Read control tokens such as `[INST]` in the text as those tokens.
    #[arg(long)]
    special: bool,
    /// Begin with the start token.
    #[arg(long)]
    bos: bool,
    /// Every line of the text is a JSON string, and gives a line with a JSON array.
    #[arg(long)]
    lines: bool,
}

/// Turn token ids into text.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mistral detokenize 415,2936
  mistral tokenize 'Once upon a time' | mistral detokenize
  printf '[415, 2936]\\n[1]\\n' | mistral detokenize --lines --special

Prints the text and a line feed, with --json as a JSON string. Needs only the tokenizer's files of the model.")]
pub struct DecodeArgs {
    /// Ids separated by commas or spaces, or as a JSON array; `-` or none: standard input.
    #[arg(value_name = "IDS|-")]
    ids: Option<String>,
    #[command(flatten)]
    source: SourceArgs,
    /// Print control tokens too.
    #[arg(long)]
    special: bool,
    /// Every line is a JSON array of ids, and gives a line with a JSON string.
    #[arg(long)]
    lines: bool,
}

pub fn run(args: &Args, json: bool) -> Outcome {
    let tokenizer = args.source.tokenizer()?;
    let encode = Encode { special: args.special, bos: args.bos };
    let mut out = stdout().lock();
    if args.lines {
        for text in json_lines::<String>(args.text.as_deref()) {
            let ids = tokenizer.encode(&text?, encode)?;
            writeln!(out, "{}", serde_json::to_string(&ids)?)?;
        }
        return Ok(());
    }
    let ids = tokenizer.encode(&text(args.text.as_deref())?, encode)?;
    if json {
        writeln!(out, "{}", serde_json::to_string(&ids)?)?;
    } else {
        let words: Vec<_> = ids.iter().map(u32::to_string).collect();
        writeln!(out, "{}", words.join(" "))?;
    }
    Ok(())
}

pub fn run_decode(args: &DecodeArgs, json: bool) -> Outcome {
    let tokenizer = args.source.tokenizer()?;
    let mut out = stdout().lock();
    if args.lines {
        for ids in json_lines::<Vec<u32>>(args.ids.as_deref()) {
            let text = tokenizer.decode(&ids?, !args.special)?;
            writeln!(out, "{}", serde_json::to_string(&text)?)?;
        }
        return Ok(());
    }
    let text = tokenizer.decode(&ids(&text(args.ids.as_deref())?)?, !args.special)?;
    if json {
        writeln!(out, "{}", serde_json::to_string(&text)?)?;
    } else {
        writeln!(out, "{text}")?;
    }
    Ok(())
}
