//! `mistral generate`: completion of a text, streamed.

use std::{
    io::{Write, stdout},
    path::Path,
};

use mistral_wgpu::{
    generate::{Batch, Engine, Finish, GenerateOptions, Piece, Sampled, Session},
    model::FEW_ROWS,
    text::Encode,
};
use pollster::block_on;
use serde::Serialize;

use super::{
    Failure, Outcome, finish_name,
    input::{Ids, file, text},
    interrupt,
    model::{ModelArgs, room_for_forks},
    sampling::{SamplingArgs, tokens_per_step},
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
  mistral generate --model ~/Codestral-22B-v0.1 --suffix '    return total' 'def add(numbers):\n'
  mistral generate --model synthetic:mistral-7b --weights q4_0 --max-tokens 4 --tokens 1,5,7

Without sampling options the likeliest token is taken each time, unless the model's generation_config.json \
asks for sampling; then its temperature and filters hold where none are given here.

With --json each sample is one line, an object of `sample` (its number), `prompt_tokens` and `tokens` (ids), \
`text`, `finish` (`stop`, `length` or `interrupted`), `tokens_per_step` (of all samples, see --speculate) and, \
with --logprobs, `logprobs`: for each token `id`, `logprob` and `top`, the likeliest tokens with theirs. A model \
without a tokenizer prints token ids.

Ctrl-C ends generation and keeps what was printed; the exit status is then 130.")]
pub struct Args {
    /// Text to continue; `-` is standard input, as it is; none: the start token alone.
    #[arg(value_name = "PROMPT|-")]
    prompt: Option<String>,
    /// Token ids to continue, in place of a text.
    #[arg(long, value_name = "IDS", conflicts_with = "prompt")]
    tokens: Option<Ids>,
    /// What follows the gap to fill in after PROMPT, or a file that holds it; for models that can, as Codestral.
    #[arg(long, value_name = "TEXT|FILE", requires = "prompt", conflicts_with_all = ["no_bos", "tokens"])]
    suffix: Option<String>,
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
    let mut width = 1_usize;
    let engine = args.model.load_with(|config, options| {
        if args.samples > 1 {
            let context = options.model.context;
            let tokens = args.sampling.max_tokens().map_or(context, |most| context.min(most as u32));
            // As many in a step as leave every text its own, and no more than two contexts of memory.
            width = (2 * context as usize / tokens as usize).clamp(1, FEW_ROWS);
            room_for_forks(config, &mut options.model, width as u32, tokens);
        }
    })?;
    let mut options = args.sampling.options(engine.generation_config(), engine.config().vocab_size)?;
    options.sampling.top_logprobs = args.logprobs.unwrap_or(0);
    if args.samples > 1 && options.sampling.temperature == 0.0 {
        return Err(usage("samples", "the likeliest text is always the same; give a --temperature above 0"));
    }

    let mut prompt = engine.session();
    prompt.feed(&prompt_tokens(args, &engine)?);
    let logprobs = args.logprobs.is_some();
    if args.samples == 1 {
        return continue_texts(&mut [prompt], &options, None, json, logprobs);
    }
    block_on(prompt.prefill())?;
    for first in (0..args.samples).step_by(width) {
        let count = (args.samples - first).min(width as u64);
        let mut samples: Vec<_> = (0..count).map(|_| prompt.fork()).collect();
        continue_texts(&mut samples, &options, Some(first), json, logprobs)?;
    }
    Ok(())
}

fn prompt_tokens(args: &Args, engine: &Engine) -> Result<Vec<u32>, Failure> {
    if let Some(Ids(ids)) = &args.tokens {
        return Ok(ids.clone());
    }
    if let (Some(prompt), Some(suffix)) = (&args.prompt, &args.suffix) {
        let path = Path::new(suffix);
        let suffix = if path.is_file() { file(Some(path))? } else { suffix.clone() };
        return Ok(engine.tokenizer()?.encode_fim(&text(Some(prompt))?, &suffix)?);
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

/// Continues samples of a prompt together, and prints one after the other, numbered from `first` on if there
/// are many.
fn continue_texts(
    samples: &mut [Session],
    options: &GenerateOptions,
    first: Option<u64>,
    json: bool,
    logprobs: bool,
) -> Outcome {
    let mut out = stdout().lock();
    let engine = samples[0].engine().clone();
    let prompt_tokens = samples[0].tokens().to_vec();
    let mut texts: Vec<Text> = samples.iter().map(|_| Text::default()).collect();
    let numbers = first.unwrap_or(0)..;
    let mut batch = Batch::new(samples.len());
    for (session, sample) in samples.iter_mut().zip(numbers.clone()) {
        batch.push(session, GenerateOptions { sample, ..options.clone() });
    }
    let gpu = engine.gpu();
    let (start, before) = (std::time::Instant::now(), gpu.counters());
    // The one that is being printed; those after it wait for its end.
    let mut shown = 0;
    let mut interrupted = false;
    while shown < texts.len() {
        if let Some((number, piece)) = block_on(batch.next())? {
            texts[number].take(piece, engine.tokenizer().is_ok());
        }
        // Until there is something to keep, Ctrl-C ends the program at once.
        interrupt::catch();
        interrupted = interrupt::take();
        while let Some(text) = texts.get_mut(shown) {
            let sample = numbers.start + shown as u64;
            let ended = text.finish.is_some() || interrupted;
            if json && ended {
                let tokens_per_step = tokens_per_step(block_on(engine.step_counts()));
                let object = text.object(sample, &prompt_tokens, tokens_per_step, logprobs);
                writeln!(out, "{}", serde_json::to_string(&object)?)?;
            } else if !json {
                if first.is_some() && !text.begun {
                    writeln!(out, "[{}]", sample + 1)?;
                    text.begun = true;
                }
                write!(out, "{}", std::mem::take(&mut text.unprinted))?;
                if ended {
                    writeln!(out)?;
                }
            }
            out.flush()?;
            if interrupted || !ended {
                break;
            }
            shown += 1;
        }
        if interrupted {
            break;
        }
    }
    let tokens: usize = texts.iter().map(|text| text.tokens.len()).sum();
    let tokens_per_step = tokens_per_step(block_on(engine.step_counts()));
    let host_ms_per_token = (gpu.counters() - before).encoding_ns as f64 / 1e6 / tokens.max(1) as f64;
    let seconds = start.elapsed().as_secs_f64();
    tracing::info!(tokens, seconds, tokens_per_step, host_ms_per_token, "generated");
    if interrupted { Err(Failure::Interrupted) } else { Ok(()) }
}

/// A sample as far as it has come.
#[derive(Default)]
struct Text {
    text: String,
    tokens: Vec<Sampled>,
    finish: Option<Finish>,
    /// Whether its number was printed.
    begun: bool,
    unprinted: String,
}

impl Text {
    fn take(&mut self, piece: Piece, has_text: bool) {
        self.text += &piece.text;
        self.unprinted += &match (has_text, self.tokens.is_empty()) {
            (true, _) => piece.text,
            (false, true) => piece.token.id.to_string(),
            (false, false) => format!(" {}", piece.token.id),
        };
        self.tokens.push(piece.token);
        self.finish = piece.finish;
    }

    fn object(
        &self,
        sample: u64,
        prompt_tokens: &[u32],
        tokens_per_step: f64,
        logprobs: bool,
    ) -> Continuation {
        Continuation {
            sample,
            prompt_tokens: prompt_tokens.to_vec(),
            text: self.text.clone(),
            tokens: self.tokens.iter().map(|token| token.id).collect(),
            finish: finish_name(self.finish),
            tokens_per_step,
            logprobs: logprobs.then(|| self.tokens.iter().map(Logprobs::from).collect()),
        }
    }
}

/// What --json prints for a sample.
#[derive(Serialize)]
struct Continuation {
    sample: u64,
    prompt_tokens: Vec<u32>,
    text: String,
    tokens: Vec<u32>,
    finish: &'static str,
    tokens_per_step: f64,
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
