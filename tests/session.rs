//! Sessions and the paged cache: forks, truncation, the rolling window, batches, sampling controls.

mod device;
mod golden;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::{StreamExt, TryStreamExt};
use golden::Golden;
use mistral_wgpu::{
    ErrorKind, Result,
    checkpoint::Checkpoint,
    generate::*,
    gpu::{Gpu, GpuOptions},
    model::{Chunk, Fit, KvCache, LogitRows, Model, ModelConfig, ModelOptions, Sequence},
    ops::{KvFormat, PAGE, Tune},
    quant::{Format, Matrix, by_name},
    reference::{argmax, log_sum_exp},
};
use pollster::block_on;

fn folder(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/models")).join(name)
}

fn options() -> ModelOptions {
    ModelOptions {
        context: 512,
        kv_format: KvFormat::F32,
        max_rows: 64,
        cache_tokens: Some(4096),
        ..Default::default()
    }
}

fn load(gpu: &Arc<Gpu>, source: &ModelSource, weights: &str, model: ModelOptions) -> Arc<Engine> {
    let weights = by_name(weights);
    let (skip_self_test, tune) = (true, Tune::Never);
    let options = EngineOptions { weights, model, skip_self_test, tune, ..Default::default() };
    block_on(Engine::load(gpu.clone(), source, &options, &mut |_, _| {})).unwrap()
}

fn open(options: &GpuOptions) -> Arc<Gpu> {
    Arc::new(block_on(Gpu::open(options)).unwrap())
}

fn engine(name: &str, model: ModelOptions) -> Arc<Engine> {
    load(&open(&GpuOptions::default()), &ModelSource::Folder(folder(name)), "f32", model)
}

fn prompt(length: usize, vocab: u32) -> Vec<u32> {
    (0..length as u32).map(|i| (i * i * 7 + i * 3 + 5) % vocab).collect()
}

fn greedy() -> GenerateOptions {
    let sampling = SamplingParams { temperature: 0.0, ..Default::default() };
    GenerateOptions { sampling, max_tokens: Some(24), ignore_eos: true, ..Default::default() }
}

fn generate(session: &mut Session, options: GenerateOptions) -> Result<Vec<u32>> {
    block_on(session.generate(options).map_ok(|piece| piece.token.id).try_collect())
}

#[test]
fn streams_the_text_of_transformers() {
    let engine = engine("windowed", options());
    let golden = Golden::open("models/windowed/golden.safetensors");
    let mut session = engine.session();
    session.feed(&golden.ids("prompt"));
    let text = generate(&mut session, GenerateOptions { max_tokens: Some(48), ..greedy() }).unwrap();
    assert_eq!(text, golden.ids("greedy"));
    assert_eq!(session.tokens(), [golden.ids("prompt"), text].concat());
}

#[test]
fn forks_share_a_prompt_and_go_their_own_ways() {
    let engine = engine("full", options());
    let text = prompt(75, 64);
    let alone = |continuation: u32| {
        let mut session = engine.session();
        session.feed(&text);
        session.feed(&[continuation]);
        generate(&mut session, greedy()).unwrap()
    };
    let expected = [alone(3), alone(9)];
    let mut first = engine.session();
    first.feed(&text);
    block_on(first.prefill()).unwrap();
    let mut second = first.fork();
    first.feed(&[3]);
    second.feed(&[9]);
    assert_eq!(generate(&mut first, greedy()).unwrap(), expected[0]);
    assert_eq!(generate(&mut second, greedy()).unwrap(), expected[1]);
    assert_ne!(expected[0], expected[1]);
    drop((first, second));
    let used = block_on(engine.with_model(async |_, model| Ok(model.used_pages()))).unwrap();
    assert_eq!(used, 0, "every page returned");
}

#[test]
fn truncating_forgets() {
    let engine = engine("full", options());
    let mut session = engine.session();
    session.feed(&prompt(40, 64));
    let text = generate(&mut session, greedy()).unwrap();
    session.feed(&[1, 2, 3]);
    block_on(session.prefill()).unwrap();
    session.truncate(40).unwrap();
    assert_eq!(generate(&mut session, greedy()).unwrap(), text);
    assert_eq!(session.truncate(1000).unwrap_err().kind(), ErrorKind::Argument);
    session.reset_to(&prompt(40, 64)).unwrap();
    assert_eq!(generate(&mut session, greedy()).unwrap(), text);
}

#[test]
fn the_cache_stays_within_the_window_over_10_000_tokens() {
    const LENGTH: usize = 10_000;
    let options =
        |max_rows| ModelOptions { context: LENGTH as u32, max_rows, cache_tokens: None, ..options() };
    let text = prompt(LENGTH, 64);
    let run = |rows: u32| {
        let engine = engine("windowed", options(rows));
        block_on(engine.with_model(async |gpu, model| {
            let window = model.config.sliding_window.unwrap();
            let mut sequence = model.sequence();
            let mut most = 0;
            for tokens in text.chunks(rows as usize) {
                let logits = LogitRows::Last;
                model.forward(gpu, &mut [Chunk { sequence: &mut sequence, tokens, logits }], None)?;
                most = most.max(model.used_pages());
            }
            // The window, and a page of tokens that could be taken back.
            assert!(most as u32 <= (window + PAGE).div_ceil(PAGE) + 1, "{most} pages after a chunk");
            model.logits.download(gpu, 1).await
        }))
        .unwrap()
    };
    let (long, short) = (run(64), run(37));
    let difference = device::difference(&long, &short) / device::largest(&long);
    assert!(difference < 1e-4, "{difference:e}");
}

/// Ministral's layers without a window keep the whole text, those with one do not: whatever is taken back or shared,
/// and wherever pages lie.
#[test]
fn layers_with_a_window_return_their_pages() {
    let text = prompt(250, 80);
    let config = ModelConfig::from_dir(&folder("ministral")).unwrap();
    assert_eq!(config.windows(), [None, Some(8)]);
    let page = KvCache::bytes(&config, KvFormat::F32, |_| 1) / 2 / config.num_hidden_layers as u64;
    // Room for one long text: 36 layers, of which 27 have the window.
    let (config_8b, long) = (
        ModelConfig::synthetic("ministral-8b").unwrap(),
        ModelOptions { context: 131_072, ..Default::default() },
    );
    let [all, windowed] = [131_072 + 4 * PAGE, 32_768 + long.max_rows + 4 * PAGE].map(u64::from);
    let token = KvCache::bytes(&config_8b, long.kv_format, |_| PAGE.into()) / 36 / u64::from(PAGE);
    let fit = Fit::new(&config_8b, &long, by_name("q4_0").unwrap(), 0);
    assert_eq!(fit.kv_cache, (9 * all + 27 * windowed) * token);
    let run = |max_rows, segment_bytes, steps: &[usize]| {
        let engine = engine("ministral", ModelOptions { max_rows, segment_bytes, ..options() });
        block_on(engine.with_model(async |gpu, model| {
            let mut sequence = model.sequence();
            let mut at = 0;
            for step in steps.iter().cycle() {
                let tokens = &text[at..text.len().min(at + step)];
                at += tokens.len();
                // What goes on elsewhere and is forgotten changes nothing.
                let mut other = sequence.fork();
                for sequence in [&mut other, &mut sequence] {
                    let logits = LogitRows::Last;
                    model.forward(gpu, &mut [Chunk { sequence, tokens, logits }], None)?;
                }
                drop(other);
                let used = model.used_pages_by_window();
                assert_eq!(used[0], at.div_ceil(PAGE as usize));
                assert!(used[1] <= 3, "{} pages after {at} tokens", used[1]);
                if at == text.len() {
                    break;
                }
                if tokens.len() > 20 {
                    sequence.truncate(at as u32 - 20)?;
                    at -= 20;
                }
            }
            let logits = model.logits.download(gpu, 1).await?;
            drop(sequence);
            assert_eq!(model.used_pages(), 0);
            Ok(logits)
        }))
        .unwrap()
    };
    let whole = run(250, u64::MAX, &[250]);
    for (max_rows, segment_bytes, steps) in [(64, u64::MAX, &[64, 1, 37][..]), (50, 2 * page, &[50, 3])] {
        let error =
            device::difference(&run(max_rows, segment_bytes, steps), &whole) / device::largest(&whole);
        assert!(error < 1e-5, "{steps:?}: {error:e}");
    }
}

/// Logits of the last of `text`'s tokens, fed in chunks of 64 but for the tail. After the first 192, keys and values of
/// `zeros` tokens are zeros.
fn last_logits(engine: &Engine, text: &[u32], zeros: usize, tails: &[&[usize]]) -> Vec<Vec<f32>> {
    let run = async |gpu: &Gpu, model: &mut Model| {
        let head = text.len() - tails[0].iter().sum::<usize>();
        let mut sequence = model.sequence();
        let feed = |model: &mut Model, sequence: &mut Sequence, tokens: &[u32]| {
            model.forward(gpu, &mut [Chunk { sequence, tokens, logits: LogitRows::Last }], None)
        };
        text[..192].chunks(64).try_for_each(|tokens| feed(model, &mut sequence, tokens))?;
        model.skip(gpu, &mut sequence, zeros as u32)?;
        text[192 + zeros..head].chunks(64).try_for_each(|tokens| feed(model, &mut sequence, tokens))?;
        let mut logits = Vec::new();
        for tail in tails {
            let mut sequence = sequence.fork();
            let mut rest = &text[head..];
            for length in *tail {
                let (tokens, after) = rest.split_at(*length);
                feed(model, &mut sequence, tokens)?;
                rest = after;
            }
            logits.push(model.logits.download(gpu, 1).await?);
        }
        Ok(logits)
    };
    block_on(engine.with_model(run)).unwrap()
}

fn assert_close(a: &[f32], b: &[f32]) {
    let difference = device::difference(a, b) / device::largest(b);
    assert!(difference < 1e-4, "{difference:e}");
}

#[test]
fn splits_of_long_contexts_change_nothing() {
    // Past 8192 keys the splits of single rows become longer.
    let text = prompt(8230, 64);
    let engine = engine("full", ModelOptions { context: 8230, cache_tokens: Some(9000), ..options() });
    let logits = last_logits(&engine, &text, 7680, &[&[40], &[39, 1], &[32, 8]]);
    assert_close(&logits[1], &logits[0]);
    assert_close(&logits[2], &logits[0]);
}

#[test]
fn segments_change_nothing() {
    let text = prompt(1000, 64);
    // A layer's keys in six segments, the last of them shorter.
    let config = ModelConfig::from_dir(&folder("full")).unwrap();
    let keys = KvCache::bytes(&config, KvFormat::F32, |_| 1100) / 2 / config.num_hidden_layers as u64;
    let options = ModelOptions { context: 1000, cache_tokens: Some(1100), ..options() };
    let tails: &[&[usize]] = &[&[30], &[22, 8], &[29, 1]];
    let cut = ModelOptions { segment_bytes: keys / 11 * 2, ..options };
    let [whole, cut] = [options, cut].map(|options| last_logits(&engine("full", options), &text, 0, tails));
    for (whole, cut) in whole.iter().zip(&cut) {
        assert_close(cut, whole);
    }
}

#[test]
fn a_batch_gives_each_text_what_it_gets_alone() {
    let engine = engine("windowed", options());
    let prompts: Vec<_> = (1..14).map(|length| prompt(length * 5, 60)).collect();
    let session = |tokens: &Vec<u32>| {
        let mut session = engine.session();
        session.feed(tokens);
        session
    };
    let alone: Vec<_> =
        prompts.iter().map(|tokens| generate(&mut session(tokens), greedy()).unwrap()).collect();
    let mut sessions: Vec<_> = prompts.iter().map(session).collect();
    let together = block_on(generate_all(&mut sessions, &greedy(), 6)).unwrap();
    for (alone, together) in alone.iter().zip(together) {
        assert_eq!(*alone, together.tokens);
        assert_eq!(together.finish, Finish::Length);
    }
}

#[test]
fn a_seed_decides_the_text() {
    let engine = engine("full", options());
    let text = |seed, sample| {
        let mut session = engine.session();
        session.feed(&prompt(9, 64));
        let sampling = SamplingParams { temperature: 3.0, seed, ..Default::default() };
        generate(&mut session, GenerateOptions { sampling, sample, ..greedy() }).unwrap()
    };
    assert_eq!(text(7, 0), text(7, 0));
    assert_ne!(text(7, 0), text(8, 0));
    assert_ne!(text(7, 0), text(7, 1));
}

#[test]
fn masks_biases_and_penalties_act() {
    let engine = engine("full", options());
    let text = |options: GenerateOptions| {
        let mut session = engine.session();
        session.feed(&prompt(9, 64));
        generate(&mut session, options).unwrap()
    };
    let allowed = text(GenerateOptions { allowed: Some(vec![1 << 4 | 1 << 9, 0, 0]), ..greedy() });
    assert!(allowed.iter().all(|id| [4, 9].contains(id)), "{allowed:?}");
    let sampling = SamplingParams { logit_bias: vec![(11, 1e6)], ..greedy().sampling };
    assert!(text(GenerateOptions { sampling, ..greedy() }).iter().all(|id| *id == 11));
    // A large presence penalty forbids every token that was generated before.
    let sampling = SamplingParams { presence_penalty: 100.0, ..greedy().sampling };
    let mut distinct = text(GenerateOptions { sampling, ..greedy() });
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 24);
}

#[test]
fn scores_are_the_log_softmax_of_the_logits() {
    let engine = engine("windowed", options());
    let text = prompt(20, 60);
    // One of many pieces, and groups of a few.
    let continuations =
        [vec![5], vec![7, 9, 30], prompt(150, 60), vec![], vec![30, 2], prompt(7, 60), vec![9]];
    let mut session = engine.session();
    session.feed(&text);
    let scores = block_on(engine.score(&mut session, &continuations)).unwrap();
    let vocab = engine.config().vocab_size;
    for (continuation, scores) in continuations.iter().zip(scores) {
        let alone = block_on(engine.score(&mut session, std::slice::from_ref(continuation))).unwrap();
        assert_eq!(alone, [scores.as_slice()], "the same in company");
        assert_eq!(scores.len(), continuation.len());
        let all = [text.as_slice(), continuation].concat();
        let (logits, _) = block_on(engine.logits(&all, false)).unwrap();
        for (index, (target, score)) in continuation.iter().zip(scores).enumerate() {
            let row = &logits[(text.len() + index - 1) * vocab..][..vocab];
            let expected = f64::from(row[*target as usize]) - log_sum_exp(row, 1.0);
            assert!((f64::from(score) - expected).abs() < 1e-4, "{score} for {expected}");
        }
    }
}

#[test]
fn texts_are_scored_in_common_batches() {
    let engine = engine("windowed", options());
    // Shorter and longer than a batch of 64, and one that shares what is computed of another.
    let mut sessions: Vec<_> = [1, 30, 9, 150, 5]
        .map(|length| {
            let mut session = engine.session();
            session.feed(&prompt(length, 60));
            session
        })
        .into();
    let mut longer = sessions[1].fork();
    longer.feed(&[3, 4]);
    sessions.push(longer);
    let continuations: Vec<Vec<_>> =
        (0..6).map(|text| (0..text).map(|length| prompt(4 * length + text, 60)).collect()).collect();
    let dispatches = || engine.gpu().counters().dispatches;
    let start = dispatches();
    let alone = sessions
        .iter_mut()
        .zip(&continuations)
        .map(|(session, continuations)| block_on(engine.score(session, continuations)).unwrap());
    let alone: Vec<_> = alone.collect();
    let (one_by_one, start) = (dispatches() - start, dispatches());
    let mut texts: Vec<_> = sessions.iter_mut().zip(continuations.iter().map(Vec::as_slice)).collect();
    let together = block_on(engine.score_all(&mut texts)).unwrap();
    let at_once = dispatches() - start;
    assert!(3 * at_once < one_by_one, "{at_once} dispatches, {one_by_one} one by one");
    assert_eq!(together.len(), alone.len());
    for (together, alone) in together.into_iter().flatten().zip(alone.into_iter().flatten()) {
        assert_eq!(together.len(), alone.len());
        assert!(together.iter().zip(&alone).all(|(a, b)| (a - b).abs() < 1e-4), "{together:?}, {alone:?}");
    }
}

#[test]
fn a_full_cache_is_an_error_that_changes_nothing() {
    let engine = engine("full", ModelOptions { cache_tokens: Some(64), ..options() });
    let mut first = engine.session();
    first.feed(&prompt(30, 64));
    let before = generate(&mut first.fork(), GenerateOptions { max_tokens: Some(2), ..greedy() }).unwrap();
    let mut second = engine.session();
    second.feed(&prompt(100, 64));
    let error = generate(&mut second, greedy()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert!(error.to_string().contains("--context"), "{error}");
    drop(second);
    assert_eq!(generate(&mut first, GenerateOptions { max_tokens: Some(2), ..greedy() }).unwrap(), before);
}

#[test]
fn wrong_requests_are_refused() {
    let engine = engine("full", options());
    let refused = |tokens: &[u32], options: GenerateOptions| {
        let mut session = engine.session();
        session.feed(tokens);
        generate(&mut session, options).unwrap_err().kind()
    };
    assert_eq!(refused(&[], greedy()), ErrorKind::Argument);
    assert_eq!(refused(&[1_000_000], greedy()), ErrorKind::Argument);
    assert_eq!(refused(&prompt(600, 64), greedy()), ErrorKind::Argument);
    let sampling = SamplingParams { top_p: 2.0, ..Default::default() };
    assert_eq!(refused(&[1], GenerateOptions { sampling, ..greedy() }), ErrorKind::Argument);
}

#[test]
fn generation_ends_at_the_context() {
    let engine = engine("full", ModelOptions { context: 32, ..options() });
    let mut session = engine.session();
    session.feed(&prompt(30, 64));
    let options = GenerateOptions { max_tokens: None, ..greedy() };
    let pieces: Vec<_> = block_on(session.generate(options).map(Result::unwrap).collect());
    assert_eq!(pieces.len(), 3);
    assert_eq!(pieces[2].finish, Some(Finish::Length));
}

#[test]
fn logits_that_are_no_numbers_are_an_error() {
    // The same model with a final norm so large that the logits overflow.
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(folder("full").join(file), dir.path().join(file)).unwrap();
    }
    let path = dir.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let offsets = &json["model.norm.weight"]["data_offsets"];
    let range = [0, 1].map(|end| 8 + header + offsets[end].as_u64().unwrap() as usize);
    bytes[range[0]..range[1]]
        .chunks_exact_mut(4)
        .for_each(|value| value.copy_from_slice(&3e38f32.to_le_bytes()));
    std::fs::write(&path, bytes).unwrap();

    let source = ModelSource::Folder(dir.path().into());
    let engine = load(&open(&GpuOptions::default()), &source, "f32", options());
    let mut session = engine.session();
    session.feed(&[1, 2, 3]);
    assert_eq!(generate(&mut session, greedy()).unwrap_err().kind(), ErrorKind::NonFinite);
    assert_eq!(block_on(engine.logits(&[1, 2, 3], false)).unwrap_err().kind(), ErrorKind::NonFinite);
}

/// The model `full` with every matrix encoded in `format` and decoded again, as `f32`.
fn decoded_copy(format: &'static Format) -> tempfile::TempDir {
    let checkpoint = Checkpoint::open(&folder("full")).unwrap();
    let decoded: Vec<_> = checkpoint
        .tensors()
        .map(|tensor| {
            let mut values = vec![0.0; tensor.elements()];
            tensor.to_f32(0, &mut values);
            if let [rows, cols] = *tensor.shape {
                let matrix = Matrix::encode(format, rows, cols, &values);
                values = (0..rows).flat_map(|row| matrix.row(row)).collect();
            }
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            (tensor.name, tensor.shape.to_vec(), bytes)
        })
        .collect();
    let views = decoded.iter().map(|(name, shape, bytes)| {
        (*name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(folder("full").join("config.json"), dir.path().join("config.json")).unwrap();
    safetensors::serialize_to_file(views, None, &dir.path().join("model.safetensors")).unwrap();
    dir
}

#[test]
fn quantized_models_compute_with_their_decoded_weights() {
    let tokens = Golden::open("models/full/golden.safetensors").ids("tokens");
    // Without kernels that round activations.
    let disable = "f16,integer,cooperative_matrix".parse().unwrap();
    let gpu = open(&GpuOptions { disable, ..Default::default() });
    let logits = |dir: &Path, format| {
        let engine = load(&gpu, &ModelSource::Folder(dir.into()), format, options());
        block_on(engine.logits(&tokens, false)).unwrap().0
    };
    let exact = logits(&folder("full"), "f32");
    for name in ["f16", "bf16", "q8_0", "q4_0"] {
        let decoded = logits(decoded_copy(by_name(name).unwrap()).path(), "f32");
        let found = logits(&folder("full"), name);
        let difference = |other: &[f32]| device::difference(&found, other) / device::largest(other);
        assert!(difference(&decoded) < 1e-5, "{name}: {:e}", difference(&decoded));
        assert!(difference(&exact) > 1e-4, "{name} is not in use");
    }
}

#[test]
fn synthetic_models_need_no_file() {
    let gpu = open(&GpuOptions { floor_limits: true, ..Default::default() });
    let engine = load(&gpu, &"synthetic:tiny".parse().unwrap(), "q4_0", options());
    let mut session = engine.session();
    session.feed(&[1]);
    let text = generate(&mut session, greedy()).unwrap();
    assert_eq!(text.len(), 24);
    let (logits, _) = block_on(engine.logits(&[1], false)).unwrap();
    assert_eq!(argmax(&logits), text[0]);
    assert_eq!(engine.tokenizer().err().unwrap().kind(), ErrorKind::Tokenizer);
}
