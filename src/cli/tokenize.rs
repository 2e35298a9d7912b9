//! `mistral tokenize` and `mistral detokenize`: between text and token ids, without a GPU.

use std::io::{Write, stdout};

use mistral_wgpu::{
    Result,
    text::{ChatFormat, Encode, Tokenizer},
};

use super::{
    Outcome, conversation,
    conversation::Conversation,
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
  mistral tokenize --model ~/Mistral-Nemo-Instruct-2407/tekken.json 'Once upon a time'
  mistral tokenize --chat '[{\"role\": \"user\", \"content\": \"Hello\"}]'

The text is plain: what looks like a control token is spelled out unless --special is given. \
Prints ids separated by spaces, with --json as an array. Needs only the tokenizer's files of the model; \
--model may also be a tokenizer's file itself.")]
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
    /// The text is a conversation, encoded in the model's chat format: a JSON array of messages as OpenAI lays them
    /// out, or an object with `messages` and `tools`.
    #[arg(long, conflicts_with_all = ["special", "bos"])]
    chat: bool,
    /// Every line of the text is a JSON string (with --chat a conversation), and gives a line with a JSON array.
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
    let format = if args.chat { args.source.get()?.chat_format(&tokenizer)? } else { None };
    let chat = |conversation: &Conversation| encode_chat(&tokenizer, format.as_ref(), conversation);
    let plain = |text: &str| tokenizer.encode(text, Encode { special: args.special, bos: args.bos });
    let mut out = stdout().lock();
    if args.lines {
        let input = args.text.as_deref();
        let lines: Box<dyn Iterator<Item = Result<Vec<u32>>>> = match args.chat {
            true => Box::new(json_lines(input).map(|line| chat(&line?))),
            false => Box::new(json_lines::<String>(input).map(|line| plain(&line?))),
        };
        for ids in lines {
            writeln!(out, "{}", serde_json::to_string(&ids?)?)?;
        }
        return Ok(());
    }
    let text = text(args.text.as_deref())?;
    let ids = if args.chat { chat(&conversation::parse(&text)?)? } else { plain(&text)? };
    if json {
        writeln!(out, "{}", serde_json::to_string(&ids)?)?;
    } else {
        let words: Vec<_> = ids.iter().map(u32::to_string).collect();
        writeln!(out, "{}", words.join(" "))?;
    }
    Ok(())
}

fn encode_chat(
    tokenizer: &Tokenizer,
    format: Option<&ChatFormat>,
    conversation: &Conversation,
) -> Result<Vec<u32>> {
    let format = format.ok_or_else(conversation::no_format)?;
    format.encode(tokenizer, conversation.messages(), conversation.tools(), true)
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
