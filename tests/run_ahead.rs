//! Steps submitted before the tokens of the one before are known, and steps that guess several tokens: nothing
//! of either may show.

use std::{path::PathBuf, pin::pin, sync::Arc};

use futures::{StreamExt, TryStreamExt};
use mistral_wgpu::{
    ErrorKind,
    generate::*,
    gpu::{Gpu, GpuOptions, SHADERS},
    model::ModelOptions,
    ops::{KvFormat, Tune},
    quant::by_name,
    text::Encode,
};
use pollster::block_on;

fn options() -> ModelOptions {
    ModelOptions {
        context: 512,
        kv_format: KvFormat::F32,
        max_rows: 64,
        cache_tokens: Some(2048),
        ..Default::default()
    }
}

/// The engine of a model under `tests/fixtures/models`, or of the demo model; `sample` replaces a part of the
/// shader that chooses tokens on the device.
fn engine(name: &str, model: ModelOptions, sample: Option<&str>) -> Arc<Engine> {
    let mut options = GpuOptions::default();
    if let Some(wrong) = sample {
        let (_, text) = SHADERS.iter().find(|(name, _)| *name == "sample").unwrap();
        let right = "select(id, BEYOND, beyond)";
        assert!(text.contains(right));
        options.shaders.insert("sample".into(), text.replace(right, wrong));
    }
    let gpu = Arc::new(block_on(Gpu::open(&options)).unwrap());
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let folder = match name {
        "demo" => root.join("examples/demo-model"),
        name => root.join("tests/fixtures/models").join(name),
    };
    let options = EngineOptions {
        weights: by_name("f32"),
        model,
        skip_self_test: true,
        tune: Tune::Never,
        ..Default::default()
    };
    block_on(Engine::load(gpu, &ModelSource::Folder(folder), &options, &mut |_, _| {})).unwrap()
}

fn session(engine: &Arc<Engine>, prompt: &[u32]) -> Session {
    let mut session = engine.session();
    session.feed(prompt);
    session
}

fn prompt(length: usize) -> Vec<u32> {
    (0..length as u32).map(|i| (i * i * 7 + i * 3 + 5) % 60).collect()
}

fn greedy() -> GenerateOptions {
    let sampling = SamplingParams { temperature: 0.0, ..Default::default() };
    GenerateOptions { sampling, max_tokens: Some(40), ignore_eos: true, ..Default::default() }
}

fn sampled(params: SamplingParams) -> GenerateOptions {
    GenerateOptions { sampling: SamplingParams { seed: 11, ..params }, ..greedy() }
}

/// Every way to choose tokens, in the tiny models' vocabulary of 60 and more.
fn ways() -> Vec<GenerateOptions> {
    let usual = SamplingParams { temperature: 2.0, ..Default::default() };
    let penalties = SamplingParams {
        repetition_penalty: 1.3,
        frequency_penalty: 0.4,
        presence_penalty: 0.3,
        logit_bias: vec![(3, 1.0), (40, 2.0)],
        ..usual.clone()
    };
    vec![
        greedy(),
        sampled(usual.clone()),
        sampled(SamplingParams { top_k: 20, top_p: 0.9, min_p: 0.01, top_logprobs: 3, ..usual }),
        sampled(penalties.clone()),
        sampled(SamplingParams { temperature: 0.0, ..penalties }),
        GenerateOptions { allowed: Some(vec![0x0f0f_3333, 0x0fff, 0]), ..sampled(SamplingParams::default()) },
    ]
}

fn generate(session: &mut Session, options: &GenerateOptions) -> Vec<Sampled> {
    block_on(session.generate(options.clone()).map_ok(|piece| piece.token).try_collect()).unwrap()
}

/// The same with the device waiting for the host after each token.
fn one_by_one(session: &mut Session, options: &GenerateOptions) -> Vec<Sampled> {
    let sampler = Sampler::new(options.sampling.clone()).unwrap();
    let next = |_| {
        let allowed = options.allowed.as_deref();
        let lane = Lane { session: &mut *session, sampler: &sampler, sample: options.sample, allowed };
        block_on(step(&mut [lane])).unwrap().remove(0)
    };
    (0..options.max_tokens.unwrap()).map(next).collect()
}

/// A device that chooses right, and two whose choices are always wrong.
const DEVICES: [Option<&str>; 3] = [None, Some("BEYOND"), Some("(id + 1u) % params.vocab")];

#[test]
fn steps_ahead_change_nothing() {
    for (model, sample) in
        [("full", DEVICES[0]), ("windowed", DEVICES[0]), ("full", DEVICES[1]), ("windowed", DEVICES[2])]
    {
        let engine = engine(model, options(), sample);
        for (way, options) in ways().iter().enumerate() {
            let at = format!("{model}, device {sample:?}, way {way}");
            let mut waiting = session(&engine, &prompt(30));
            let expected = one_by_one(&mut waiting, options);
            let mut ahead = session(&engine, &prompt(30));
            assert_eq!(generate(&mut ahead, options), expected, "{at}");
            assert_eq!((ahead.tokens(), ahead.computed()), (waiting.tokens(), waiting.computed()), "{at}");
        }
        let pages = block_on(engine.with_model(async |_, model| Ok(model.used_pages()))).unwrap();
        assert_eq!(pages, 0, "every page returned");
    }
}

#[test]
fn a_dropped_stream_leaves_what_it_handed_out() {
    let engine = engine("windowed", options(), None);
    for speculate in [Speculate::Off, Speculate::Always(7)] {
        let options = GenerateOptions { speculate, ..greedy() };
        for count in [0, 1, 2, 5, 33] {
            let mut waiting = session(&engine, &prompt(21));
            let few = GenerateOptions { max_tokens: Some(count), ..greedy() };
            let handed_out = one_by_one(&mut waiting, &few);
            let mut dropped = session(&engine, &prompt(21));
            {
                let mut pieces = pin!(dropped.generate(options.clone()));
                for expected in &handed_out {
                    assert_eq!(block_on(pieces.next()).unwrap().unwrap().token, *expected);
                }
            }
            let at = format!("{count} tokens, {speculate:?}");
            assert_eq!(
                (dropped.tokens(), dropped.computed()),
                (waiting.tokens(), waiting.computed()),
                "{at}"
            );
            assert_eq!(generate(&mut dropped, &options), one_by_one(&mut waiting, &greedy()), "{at}");
        }
    }
}

#[test]
fn texts_end_where_they_should() {
    let engine = engine("full", options(), None);
    let all = one_by_one(&mut session(&engine, &prompt(30)), &greedy());
    for at in [0, 1, 6, 13] {
        let first = all.iter().position(|token| token.id == all[at].id).unwrap();
        for speculate in [Speculate::Off, Speculate::Auto, Speculate::Always(7)] {
            let options = GenerateOptions { stop_ids: vec![all[at].id], speculate, ..greedy() };
            let mut ended = session(&engine, &prompt(30));
            let pieces: Vec<_> = block_on(ended.generate(options).map(Result::unwrap).collect());
            assert!(pieces.iter().map(|piece| &piece.token).eq(&all[..=first]));
            assert_eq!(pieces[first].finish, Some(Finish::Stop));
            assert_eq!((ended.tokens().len(), ended.computed()), (31 + first, 30 + first));
            let options = GenerateOptions { max_tokens: Some(at + 1), speculate, ..greedy() };
            assert_eq!(generate(&mut session(&engine, &prompt(30)), &options), all[..=at]);
        }
    }
}

#[test]
fn a_full_cache_ends_the_text_at_the_same_token() {
    let engine = engine("full", ModelOptions { cache_tokens: Some(64), ..options() }, None);
    for speculate in [Speculate::Off, Speculate::Always(7)] {
        let mut full = session(&engine, &prompt(60));
        let results: Vec<_> =
            block_on(full.generate(GenerateOptions { speculate, ..greedy() }).collect::<Vec<_>>());
        // The last is computed by the 64th token; the 65th has no room.
        assert_eq!(results.len(), 6, "{speculate:?}");
        assert_eq!(results[5].as_ref().unwrap_err().kind(), ErrorKind::OutOfMemory);
        assert!(results[..5].iter().all(Result::is_ok));
        assert_eq!((full.tokens().len(), full.computed()), (65, 64));
    }
}

#[test]
fn streams_may_take_turns() {
    let engine = engine("full", options(), None);
    let ways = ways();
    let expected: Vec<_> =
        (0..3).map(|i| generate(&mut session(&engine, &prompt(20 + i)), &ways[i])).collect();
    let mut sessions: Vec<_> = (0..3).map(|i| session(&engine, &prompt(20 + i))).collect();
    let mut streams: Vec<_> = sessions
        .iter_mut()
        .zip(&ways)
        .map(|(session, way)| Box::pin(session.generate(way.clone())))
        .collect();
    for index in 0..40 {
        for (stream, expected) in streams.iter_mut().zip(&expected) {
            assert_eq!(block_on(stream.next()).unwrap().unwrap().token, expected[index]);
        }
    }
}

#[test]
fn batches_give_each_text_its_own() {
    let engine = engine("windowed", options(), None);
    let ways = ways();
    let lengths = [40, 3, 17, 1, 9, 25];
    let way = |index: usize| GenerateOptions { max_tokens: Some(lengths[index]), ..ways[index].clone() };
    let mut sessions: Vec<_> = (0..6).map(|i| session(&engine, &prompt(20 + 7 * i))).collect();
    let mut found = vec![Vec::new(); 6];
    let mut batch = Batch::new(4);
    for (index, session) in sessions.iter_mut().enumerate() {
        batch.push(session, way(index));
    }
    while let Some((number, piece)) = block_on(batch.next()).unwrap() {
        found[number].push(piece.token);
    }
    drop(batch);
    for (index, (together, found)) in sessions.iter().zip(found).enumerate() {
        let mut alone = session(&engine, &prompt(20 + 7 * index));
        let expected = one_by_one(&mut alone, &way(index));
        assert_eq!(
            found.iter().map(|t| t.id).collect::<Vec<_>>(),
            expected.iter().map(|t| t.id).collect::<Vec<_>>()
        );
        assert_eq!((together.tokens(), together.computed()), (alone.tokens(), alone.computed()));
    }
}

/// Knows the text, but for every `wrong`-th token.
struct Knows {
    text: Vec<u32>,
    wrong: usize,
}

impl Proposer for Knows {
    fn propose(&mut self, tokens: &[u32], most: usize) -> Vec<u32> {
        let rest = self.text.iter().enumerate().skip(tokens.len()).take(most);
        rest.map(|(at, token)| if at % self.wrong == 0 { 1 } else { *token }).collect()
    }
}

#[test]
fn guesses_change_nothing_but_the_number_of_steps() {
    for (model, repeats) in [("full", 1), ("windowed", 3)] {
        let engine = engine(model, options(), None);
        let text = prompt(12).repeat(repeats);
        for (way, options) in ways().iter().enumerate() {
            let mut waiting = session(&engine, &text);
            let expected = one_by_one(&mut waiting, options);
            for speculate in ["auto", "on", "1", "3"].map(|text| text.parse().unwrap()) {
                let options = GenerateOptions { speculate, ..options.clone() };
                let mut guessing = session(&engine, &text);
                assert_eq!(generate(&mut guessing, &options), expected, "{model}, {way}, {speculate:?}");
                assert_eq!((guessing.tokens(), guessing.computed()), (waiting.tokens(), waiting.computed()));
            }
            for (wrong, steps) in [(1, 20..=40), (8, 5..=16), (1000, 5..=7)] {
                let before = block_on(engine.step_counts());
                let mut guessing = session(&engine, &text);
                let knows = Knows { text: waiting.tokens().to_vec(), wrong };
                let mut batch = Batch::new(1);
                let options = GenerateOptions { speculate: Speculate::Always(7), ..options.clone() };
                batch.push_with(&mut guessing, options, Box::new(knows));
                let mut found = Vec::new();
                while let Some((_, piece)) = block_on(batch.next()).unwrap() {
                    found.push(piece.token);
                }
                assert_eq!(found, expected, "{model}, {way}, {wrong}");
                let counts = block_on(engine.step_counts()) - before;
                assert!(steps.contains(&counts.steps), "{model}, {way}, {wrong}: {counts:?}");
            }
        }
    }
    let refused = "8".parse::<Speculate>().unwrap_err();
    assert_eq!((refused.kind(), refused.subject()), (ErrorKind::Argument, "speculate"));
}

#[test]
fn lookup_proposes_what_followed_before() {
    let propose = |tokens: &[u32], most| PromptLookup::default().propose(tokens, most);
    assert_eq!(propose(&[1, 2, 3, 4, 5, 9, 2, 3], 3), [4, 5, 9]);
    assert_eq!(propose(&[7, 1, 2, 8, 1, 2, 9, 1, 2], 1), [9], "the latest of two");
    assert_eq!(propose(&[7, 1, 2, 8, 1, 2, 9, 7, 1, 2], 2), [8, 1], "the longer of two");
    assert_eq!(propose(&[1, 2, 1, 2], 5), [1, 2, 1, 2, 1], "it may go round in circles");
    assert_eq!(propose(&[4, 4, 4], 3), [4, 4, 4]);
    assert!(propose(&[1, 2, 3, 4, 3], 3).is_empty(), "one token is no evidence");
    assert!(propose(&[], 3).is_empty() && propose(&[5], 3).is_empty());
}

/// The demo model: text, end tokens, stop strings, and choices beyond the candidates.
#[test]
fn the_demo_model_says_the_same() {
    let engine = engine("demo", options(), None);
    let tokens =
        |text: &str| engine.tokenizer().unwrap().encode(text, Encode { bos: true, special: false }).unwrap();
    let text = |prompt: &str, options: GenerateOptions| -> (String, Vec<Sampled>) {
        let pieces: Vec<Piece> =
            block_on(session(&engine, &tokens(prompt)).generate(options).try_collect()).unwrap();
        (
            pieces.iter().map(|piece| piece.text.as_str()).collect(),
            pieces.into_iter().map(|p| p.token).collect(),
        )
    };
    let story = "Once upon a time there was a";
    let wild = sampled(SamplingParams { temperature: 1.6, ..Default::default() });
    let expected = one_by_one(&mut session(&engine, &tokens(story)), &wild);
    for speculate in [Speculate::Off, Speculate::Auto, Speculate::Always(5)] {
        assert_eq!(text(story, GenerateOptions { speculate, ..wild.clone() }).1, expected);
    }

    let code = "def add_two(x):\n    return x + 2\n\n\ndef add_three(x):\n";
    let plain = greedy();
    let (whole, ids) = text(code, plain.clone());
    for stop in [&whole[1..3], &whole[whole.len() / 2..whole.len() / 2 + 4]] {
        let at = whole.find(stop).unwrap();
        for speculate in [Speculate::Off, Speculate::Auto, Speculate::Always(7)] {
            assert_eq!(
                text(code, GenerateOptions { speculate, ..plain.clone() }),
                (whole.clone(), ids.clone())
            );
            let stopped = text(code, GenerateOptions { speculate, stop: vec![stop.into()], ..plain.clone() });
            assert_eq!(stopped.0, whole[..at]);
            assert_eq!(stopped.1, ids[..stopped.1.len()]);
        }
    }
    // What repeats is guessed.
    let before = block_on(engine.step_counts());
    let options = GenerateOptions { speculate: Speculate::Always(7), ..plain };
    let repeated = text(&code.repeat(2), options);
    let counts = block_on(engine.step_counts()) - before;
    assert!(counts.tokens_per_step() > 1.5, "{counts:?} for {repeated:?}");
}
