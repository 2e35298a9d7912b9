//! Summaries, labels and conversations with the demo model: prompts, parts, scores, what is cached.

use std::{
    fs,
    ops::ControlFlow,
    path::Path,
    sync::{Arc, LazyLock},
};

use mistral_wgpu::{
    Error, ErrorKind,
    apps::*,
    generate::*,
    gpu::{Gpu, GpuOptions},
    model::ModelOptions,
    ops::Tune,
    quant::by_name,
    reference::log_sum_exp,
    text::{ChatFormat, Encode, Message, Tokenizer},
};
use pollster::block_on;
use proptest::prelude::*;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo-model");

fn load(dir: &Path, context: u32) -> Arc<Engine> {
    let gpu = Arc::new(block_on(Gpu::open(&GpuOptions::default())).unwrap());
    let model = ModelOptions { context, cache_tokens: Some(8192), ..Default::default() };
    let options = EngineOptions {
        weights: by_name("f16"),
        model,
        skip_self_test: true,
        tune: Tune::Never,
        ..Default::default()
    };
    block_on(Engine::load(gpu, &ModelSource::Folder(dir.into()), &options, &mut |_, _| {})).unwrap()
}

static LARGE: LazyLock<Arc<Engine>> = LazyLock::new(|| load(DEMO.as_ref(), 1024));
static SMALL: LazyLock<Arc<Engine>> = LazyLock::new(|| load(DEMO.as_ref(), 192));
/// The demo model without its chat template.
static PLAIN: LazyLock<Arc<Engine>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "generation_config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(Path::new(DEMO).join(file), dir.path().join(file)).unwrap();
    }
    load(dir.path(), 1024)
});

const TEXT: &str = "I really enjoyed the soup. The cook made a fine dinner.";

fn labels() -> Vec<String> {
    ["positive", "negative", "neutral"].map(String::from).into()
}

fn greedy(max_tokens: usize) -> GenerateOptions {
    let sampling = SamplingParams { temperature: 0.0, ..Default::default() };
    GenerateOptions { max_tokens: Some(max_tokens), sampling, ..Default::default() }
}

fn go_on(_: &str) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn special(engine: &Engine, text: &str) -> Vec<u32> {
    engine.tokenizer().unwrap().encode(text, Encode { special: true, bos: false }).unwrap()
}

fn words(text: &str) -> Result<usize, Error> {
    Ok(text.split_whitespace().count())
}

#[test]
fn parts_end_with_sentences_and_overlap() {
    let sentences: Vec<_> = (0..40).map(|i| format!("This is sentence number {i} (\"of forty.\")")).collect();
    let text = sentences.join(" ");
    // 7 words a sentence: nine fit into 64, and one into an eighth of it.
    let found = parts(&text, 64, &words).unwrap();
    let expected: Vec<_> = (0..5).map(|i| sentences[8 * i..(8 * i + 9).min(40)].join(" ")).collect();
    assert_eq!(found, expected);
    let paragraphs = "One two three.\n\nFour five six. Seven eight.\n\nNine.";
    assert_eq!(parts(paragraphs, 64, &words).unwrap(), [paragraphs]);
    assert_eq!(parts("", 64, &words).unwrap(), [""; 0]);
}

proptest! {
    #[test]
    fn parts_fit_and_leave_nothing_out(text in "([a-z]{1,90}[ .\n!é。]{1,3}){0,60}", room in 64usize..200) {
        let characters = |text: &str| Ok(text.chars().count());
        let parts = parts(&text, room, &characters).unwrap();
        let mut covered = 0;
        for part in parts {
            prop_assert!(part.chars().count() <= room);
            let start = part.as_ptr() as usize - text.as_ptr() as usize;
            prop_assert!(start <= covered || text[covered..start].trim().is_empty());
            prop_assert!(start + part.len() >= covered);
            covered = start + part.len();
        }
        prop_assert!(text[covered..].trim().is_empty());
    }
}

#[test]
fn prompts_are_those_the_demo_model_learned() {
    let tokenizer = Tokenizer::from_dir(DEMO.as_ref()).unwrap().unwrap();
    let chat = ChatFormat::from_dir(DEMO.as_ref(), &tokenizer).unwrap().unwrap();
    let format = PromptFormat::new(&tokenizer, Some(&chat));
    let variables = Variables { text: "A b </s> c.", labels: &labels(), style: "one sentence", words: None };
    let request = format.template(Job::Summarize).render(&variables).unwrap();
    assert_eq!(request, "Summarize the following text in one sentence.\n\nText: A b </s> c.");
    assert_eq!(format.show(&request).unwrap(), format!("<s>[INST] {request}[/INST]"));
    let request = format.template(Job::Classify).render(&variables).unwrap();
    let expected =
        "Classify the following text. Answer with one of: positive, negative, neutral.\n\nText: A b </s> c.";
    assert_eq!(request, expected);
    let ids = format.encode_answered(&request, "neutral").unwrap();
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), format!("<s>[INST] {request}[/INST] neutral"));
    assert!(!ids.contains(&tokenizer.eos().unwrap()), "text must not become a control token");
    assert_eq!(ids.iter().filter(|id| Some(**id) == tokenizer.bos()).count(), 1);

    let words = Variables { words: Some(9), style: "two lines", ..variables };
    let request = format.template(Job::Summarize).render(&words).unwrap();
    assert!(request.starts_with("Summarize the following text in two lines, in at most 9 words.\n"));
    let plain = PromptFormat::new(&tokenizer, None);
    let request = plain.template(Job::Summarize).render(&words).unwrap();
    assert!(request.ends_with("Text: A b </s> c.\nSummary in two lines, in at most 9 words:"), "{request}");
    let request = plain.template(Job::Classify).render(&words).unwrap();
    assert!(request.ends_with("Labels: positive, negative, neutral\nText: A b </s> c.\nLabel:"), "{request}");
    assert_eq!(plain.show(&request).unwrap(), request);
}

#[test]
fn templates_are_kept_in_bounds() {
    let render =
        |source: &str| PromptTemplate::new(source)?.render(&Variables { text: "t", ..Default::default() });
    assert_eq!(render("<{{ text.upper() }}>").unwrap(), "<T>");
    for refused in [
        "{{ txt }}",
        "{% if %}",
        "{% include '/etc/passwd' %}",
        "{% for i in range(9999) %}{% for j in range(9999) %}x{% endfor %}{% endfor %}",
    ] {
        assert_eq!(render(refused).unwrap_err().kind(), ErrorKind::Template, "{refused}");
    }
}

/// Mean log-probability of the tokens of `ids` from number `from` on, from the logits of one long forward pass.
fn mean_logprob(engine: &Engine, ids: &[u32], from: usize) -> f64 {
    let (logits, _) = block_on(engine.logits(ids, false)).unwrap();
    let rows: Vec<_> = logits.chunks_exact(engine.config().vocab_size).collect();
    let logprob = |at: usize| f64::from(rows[at - 1][ids[at] as usize]) - log_sum_exp(rows[at - 1], 1.0);
    (from..ids.len()).map(logprob).sum::<f64>() / (ids.len() - from) as f64
}

fn assert_scores(found: &[Score], expected: &[(String, f64)]) {
    let total: f64 = expected.iter().map(|(_, score)| score.exp()).sum();
    assert!(found.windows(2).all(|pair| pair[0].score >= pair[1].score));
    for (label, score) in expected {
        let found = found.iter().find(|found| found.label == *label).unwrap();
        assert!((f64::from(found.score) - score).abs() < 0.02, "{found:?}, expected {score}");
        assert!((f64::from(found.probability) - score.exp() / total).abs() < 0.01, "{found:?}");
    }
}

#[test]
fn labels_are_scored_by_mean_log_probability() {
    let labels = [labels(), vec!["a very good dinner".into()]].concat();
    let mut classifier = Classifier::new(LARGE.clone(), labels.clone(), None).unwrap();
    let list = labels.join(", ");
    let by_hand = |text: &str, label: &String| {
        let request = format!("Classify the following text. Answer with one of: {list}.\n\nText: {text}");
        let prompt = format!("<s>[INST] {request}[/INST]");
        let from = special(&LARGE, &prompt).len();
        mean_logprob(&LARGE, &special(&LARGE, &format!("{prompt} {label}")), from)
    };
    let scores: Vec<_> = labels.iter().map(|label| (label.clone(), by_hand(TEXT, label))).collect();
    assert_scores(&block_on(classifier.classify(TEXT)).unwrap(), &scores);
    block_on(classifier.calibrate()).unwrap();
    let calibrated: Vec<_> =
        scores.iter().map(|(label, score)| (label.clone(), score - by_hand("", label))).collect();
    assert_scores(&block_on(classifier.classify(TEXT)).unwrap(), &calibrated);
}

#[test]
fn a_label_that_merges_with_the_prompt_is_scored_as_the_model_reads_it() {
    let template = PromptTemplate::new("{{ text }} Label: ").unwrap();
    let mut classifier = Classifier::new(PLAIN.clone(), labels(), Some(template)).unwrap();
    let encode =
        |text: &str| PLAIN.tokenizer().unwrap().encode(text, Encode { special: false, bos: true }).unwrap();
    let prompt = encode(&format!("{TEXT} Label: "));
    let shared = prompt.len() - 1;
    let scores: Vec<_> = labels()
        .into_iter()
        .map(|label| {
            let ids = encode(&format!("{TEXT} Label: {label}"));
            assert_eq!(ids[..shared], prompt[..shared]);
            assert_ne!(ids[shared], prompt[shared], "the space must merge for this to be a test");
            let score = mean_logprob(&PLAIN, &ids, shared);
            (label, score)
        })
        .collect();
    assert_scores(&block_on(classifier.classify(TEXT)).unwrap(), &scores);
}

#[test]
fn impossible_labels_and_texts_are_refused() {
    for labels in [vec![], vec!["a", "a "], vec!["a", " "]] {
        let labels = labels.into_iter().map(String::from).collect();
        assert_eq!(Classifier::new(SMALL.clone(), labels, None).err().unwrap().kind(), ErrorKind::Argument);
    }
    let mut classifier = Classifier::new(SMALL.clone(), labels(), None).unwrap();
    let error = block_on(classifier.classify(&TEXT.repeat(20))).unwrap_err();
    assert_eq!((error.kind(), error.subject()), (ErrorKind::Argument, "text"));
}

#[test]
fn a_conversation_computes_only_what_is_new() {
    let questions = ["Quick question: how many months are in a year?", "So, how many legs does a dog have?"];
    let mut chat = Chat::new(&LARGE, None).unwrap();
    let mut streamed = String::new();
    let first = block_on(chat.say(questions[0], &greedy(40), &mut |text| {
        streamed += text;
        ControlFlow::Continue(())
    }))
    .unwrap();
    assert_eq!((first.finish, first.cached_tokens), (Some(Finish::Stop), 0));
    assert_eq!(streamed, first.text);
    let text = format!("<s>[INST] {}[/INST]", questions[0]);
    assert_eq!(first.prompt_tokens, special(&LARGE, &text).len());

    let second = block_on(chat.say(questions[1], &greedy(40), &mut go_on)).unwrap();
    let before = special(&LARGE, &format!("{text} {}", first.text));
    let text = format!("{text} {}</s>[INST] {}[/INST]", first.text, questions[1]);
    let all = special(&LARGE, &text);
    // All of the first turn is still there, and its end token was chosen but never read.
    assert_eq!((second.prompt_tokens, second.cached_tokens), (all.len(), before.len()));
    let mut fresh = LARGE.session();
    fresh.feed(&all);
    let alone = block_on(generate_all(&mut [fresh], &greedy(40), 1)).unwrap().remove(0);
    assert_eq!(second.text, alone.text);

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("talk.json");
    chat.save(&file).unwrap();
    let saved: Vec<Message> = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(saved, chat.messages());
    let turns: Vec<_> =
        saved.iter().map(|message| (message.role.as_str(), message.content.as_str())).collect();
    let [q, r] = questions;
    assert_eq!(turns, [("user", q), ("assistant", &first.text), ("user", r), ("assistant", &second.text)]);
    assert_eq!(dir.path().read_dir().unwrap().count(), 1, "a temporary file is left");
    let nowhere = dir.path().join("missing/talk.json");
    assert_eq!(chat.save(&nowhere).unwrap_err().kind(), ErrorKind::Io);

    chat.reset();
    assert!(chat.messages().is_empty());
    assert_eq!(block_on(chat.say(q, &greedy(40), &mut go_on)).unwrap().text, first.text);
}

#[test]
fn a_conversation_outlives_its_context() {
    let mut chat = Chat::new(&SMALL, Some("Be kind.".into())).unwrap();
    let mut dropped = 0;
    for turn in 0..12 {
        let turn = block_on(chat.say(
            &format!("How many legs does dog number {turn} have?"),
            &greedy(24),
            &mut go_on,
        ));
        let turn = turn.unwrap();
        assert!(turn.prompt_tokens <= 192 - 24);
        dropped += turn.dropped;
    }
    assert!(dropped >= 4 && dropped.is_multiple_of(2), "{dropped}");
    assert_eq!(chat.messages().len(), 25);
    let error = block_on(chat.say(&TEXT.repeat(20), &greedy(24), &mut go_on)).unwrap_err();
    assert_eq!((error.kind(), error.subject()), (ErrorKind::Argument, "message"));
    assert_eq!(chat.messages().len(), 25);
    chat.reset();
    assert_eq!(chat.messages().len(), 1);
}

#[test]
fn an_answer_broken_off_stays_as_far_as_it_got() {
    let mut chat = Chat::new(&LARGE, None).unwrap();
    let question = "Tell me, how can I sleep better?";
    let whole = block_on(chat.say(question, &greedy(40), &mut go_on)).unwrap();
    chat.reset();
    let turn = block_on(chat.say(question, &greedy(40), &mut |text| match text {
        "" => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    }))
    .unwrap();
    assert_eq!(turn.finish, None);
    assert!(
        !turn.text.is_empty() && turn.text.len() < whole.text.len() && whole.text.starts_with(&turn.text)
    );
    assert_eq!(chat.messages()[1].content, turn.text);
}

#[test]
fn a_model_without_a_template_talks_in_plain_lines() {
    let mut chat = Chat::new(&PLAIN, Some("A talk.".into())).unwrap();
    let first = block_on(chat.say("Hello", &greedy(8), &mut go_on)).unwrap();
    let plain =
        |text: &str| PLAIN.tokenizer().unwrap().encode(text, Encode { special: false, bos: true }).unwrap();
    let text = "A talk.\n\nUser: Hello\nAssistant:";
    assert_eq!(first.prompt_tokens, plain(text).len());
    let second = block_on(chat.say("Good", &greedy(8), &mut go_on)).unwrap();
    let text = format!("{text} {}\nUser: Good\nAssistant:", first.text);
    assert_eq!(second.prompt_tokens, plain(&text).len());
}

#[test]
fn a_long_text_is_summarized_in_parts_and_then_as_a_whole() {
    let sentence = |i: usize| format!("On day {i} the team went to the river with a lamp and a kite.");
    let text = (0..24).map(sentence).collect::<Vec<_>>().join(" ");
    let summarizer = Summarizer::new(SMALL.clone(), None).unwrap();
    let mut told = Vec::new();
    let mut streamed = String::new();
    let summary = block_on(summarizer.summarize(&text, &mut |progress| {
        match progress {
            Progress::Part { number, of } => told.push((number, of)),
            Progress::Text(text) => streamed += text,
        }
        ControlFlow::Continue(())
    }))
    .unwrap();
    assert!(told.len() >= 3 && told[0] == (1, told[0].1), "{told:?}");
    assert_eq!(summary.parts.len(), told.len());
    assert_eq!(streamed.trim_end(), summary.text);
    // The last round's summaries are what the whole was made from.
    let rounds = told.iter().rposition(|(number, _)| *number == 1).unwrap();
    let again = summary.parts[rounds..].join(" ");
    let whole = block_on(summarizer.summarize(&again, &mut |_| ControlFlow::Continue(()))).unwrap();
    assert_eq!((whole.text, whole.parts), (summary.text, vec![]));

    let broken_off = block_on(summarizer.summarize(&text, &mut |_| ControlFlow::Break(()))).unwrap();
    assert_eq!((broken_off.finish, broken_off.parts), (None, vec![]));
}
