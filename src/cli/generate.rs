//! `mistral generate`: completion of a text, streamed.

use std::io::{Write, stdout};

use futures::TryStreamExt;
use mistral_wgpu::{
    generate::{Engine, Finish, GenerateOptions, Sampled, Session},
    text::Encode,
};
use pollster::block_on;
use serde::Serialize;

use super::{
    Failure, Outcome,
    input::{Ids, text},
    interrupt,
    model::{ModelArgs, room_for_a_fork},
    sampling::SamplingArgs,
    usage,
};

/// Complete a text or a piece of code.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mistral generate 'Once upon a time'
  mistral generate --temperature 0.8 --top-p 0.95 -n 3 --max-tokens 64 'Once upon a time'
  printf 'def add_three(x):\\n' | mistral generate - --stop 'def '
  mistral generate --json --logprobs 5 --max-tokens 8 'The capital of France is'
  mistral generate --model ~/Mistral-7B-v0.3 --weights q8_0 'My favourite recipe is'
  mistral generate --model synthetic:mistral-7b --weights q4_0 --max-tokens 4 --tokens 1,5,7

Without sampling options the likeliest token is taken each time, unless the model's generation_config.json \
asks for sampling; then its temperature and filters hold where none are given here.

With --json each sample is one line, an object of `sample` (its number), `prompt_tokens` and `tokens` (ids), \
`text`, `finish` (`stop`, `length` or `interrupted`) and, with --logprobs, `logprobs`: for each token `id`, \
`logprob` and `top`, the likeliest tokens with theirs. A model without a tokenizer prints token ids.

Ctrl-C ends generation and keeps what was printed; the exit status is then 130.")]
pub struct Args {
    /// Text to continue; `-` is standard input, as it is; none: the start token alone.
    #[arg(value_name = "PROMPT|-")]
    prompt: Option<String>,
    /// Token ids to continue, in place of a text.
    #[arg(long, value_name = "IDS", conflicts_with = "prompt")]
    tokens: Option<Ids>,
    /// Do not begin with the start token.
    #[arg(long)]
    no_bos: bool,
    /// Number of continuations.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..))]
    samples: u64,
    /// With --json: log-probabilities of the chosen token and of the N likeliest.
    #[arg(long, value_name = "N")]
    logprobs: Option<u32>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
}

pub fn run(args: &Args, json: bool) -> Outcome {
    if args.logprobs.is_some() && !json {
        return Err(usage("logprobs", "printed with --json only"));
    }
    let engine = args.model.load_with(|config, options| {
        if args.samples > 1 {
            room_for_a_fork(config, &mut options.model);
        }
    })?;
    let mut options = args.sampling.options(engine.generation_config(), engine.config().vocab_size)?;
    options.sampling.top_logprobs = args.logprobs.unwrap_or(0);
    if args.samples > 1 && options.sampling.temperature == 0.0 {
        return Err(usage("samples", "the likeliest text is always the same; give a --temperature above 0"));
    }

    let mut prompt = engine.session();
    prompt.feed(&prompt_tokens(args, &engine)?);
    if args.samples == 1 {
        return continue_text(&mut prompt, options, json, args.logprobs.is_some());
    }
    block_on(prompt.prefill())?;
    for sample in 0..args.samples {
        if !json {
            writeln!(stdout(), "[{}]", sample + 1)?;
        }
        let options = GenerateOptions { sample, ..options.clone() };
        continue_text(&mut prompt.fork(), options, json, args.logprobs.is_some())?;
    }
    Ok(())
}

fn prompt_tokens(args: &Args, engine: &Engine) -> Result<Vec<u32>, Failure> {
    if let Some(Ids(ids)) = &args.tokens {
        return Ok(ids.clone());
    }
    if let Some(prompt) = &args.prompt {
        let encode = Encode { special: false, bos: !args.no_bos };
        return Ok(engine.tokenizer()?.encode(&text(Some(prompt))?, encode)?);
    }
    let bos = engine.tokenizer().ok().and_then(|tokenizer| tokenizer.bos()).or(engine.config().bos_token_id);
    match bos {
        Some(bos) if !args.no_bos => Ok(vec![bos]),
        _ => Err(usage("prompt", "expected a text or --tokens to continue, found nothing")),
    }
}

/// Prints the continuation of one session.
fn continue_text(session: &mut Session, options: GenerateOptions, json: bool, logprobs: bool) -> Outcome {
    let mut out = stdout().lock();
    let has_text = session.engine().tokenizer().is_ok();
    let sample = options.sample;
    let prompt_tokens = session.tokens().to_vec();
    let (mut text, mut tokens) = (String::new(), Vec::new());
    let mut finish = "length";
    let start = std::time::Instant::now();
    {
        let mut pieces = std::pin::pin!(session.generate(options));
        while let Some(piece) = block_on(pieces.try_next())? {
            // Until there is something to keep, Ctrl-C ends the program at once.
            interrupt::catch();
            match (json, has_text) {
                (true, _) => text += &piece.text,
                (false, true) => write!(out, "{}", piece.text)?,
                (false, false) if tokens.is_empty() => write!(out, "{}", piece.token.id)?,
                (false, false) => write!(out, " {}", piece.token.id)?,
            }
            out.flush()?;
            tokens.push(piece.token);
            if piece.finish == Some(Finish::Stop) {
                finish = "stop";
            }
            if interrupt::take() {
                finish = "interrupted";
                break;
            }
        }
    }
    tracing::info!(tokens = tokens.len(), seconds = start.elapsed().as_secs_f64(), "generated");
    if json {
        let object = Continuation {
            sample,
            prompt_tokens,
            text,
            tokens: tokens.iter().map(|token| token.id).collect(),
            finish,
            logprobs: logprobs.then(|| tokens.iter().map(Logprobs::from).collect()),
        };
        writeln!(out, "{}", serde_json::to_string(&object)?)?;
    } else {
        writeln!(out)?;
    }
    if finish == "interrupted" { Err(Failure::Interrupted) } else { Ok(()) }
}

/// What --json prints for a sample.
#[derive(Serialize)]
struct Continuation {
    sample: u64,
    prompt_tokens: Vec<u32>,
    text: String,
    tokens: Vec<u32>,
    finish: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<Logprobs>>,
}

/// Log-probabilities of a chosen token and of the likeliest ones.
#[derive(Serialize)]
struct Logprobs {
    id: u32,
    logprob: f32,
    top: Vec<Logprob>,
}

#[derive(Serialize)]
struct Logprob {
    id: u32,
    logprob: f32,
}

impl From<&Sampled> for Logprobs {
    fn from(token: &Sampled) -> Self {
        let top = token.top.iter().map(|&(id, logprob)| Logprob { id, logprob }).collect();
        Self { id: token.id, logprob: token.logprob, top }
    }
}
