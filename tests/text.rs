//! The text room against golden values of `tokenizers`, transformers and jinja2 (`fixtures/text/generate.py`),
//! and properties of streaming over random tokens and splits.

use mistral_wgpu::text::{ChatTemplate, Encode, Message, StopStrings, StreamDecoder, Tokenizer};
use mistral_wgpu::{Error, ErrorKind};
use proptest::prelude::*;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

const SPECIAL: Encode = Encode { special: true, bos: false };

#[derive(Deserialize)]
struct Golden {
    templates: BTreeMap<String, String>,
    renders: Vec<Render>,
    current: Layout,
    legacy: Layout,
    #[serde(rename = "unsafe")]
    lookalikes: Vec<Lookalike>,
}

#[derive(Deserialize)]
struct Layout {
    texts: Vec<Text>,
    chats: Vec<Chat>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    plain: Vec<u32>,
    plain_text: String,
    special: Vec<u32>,
    special_text: String,
    skipped_text: String,
}

#[derive(Deserialize)]
struct Chat {
    messages: Vec<Message>,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Lookalike {
    content: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Render {
    template: String,
    messages: Vec<Message>,
    prompt: bool,
    text: Option<String>,
    error: Option<String>,
}

static GOLDEN: LazyLock<Golden> = LazyLock::new(|| {
    serde_json::from_str(&std::fs::read_to_string(fixture("golden.json")).unwrap()).unwrap()
});
static CURRENT: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| Arc::new(load("current")));

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/text").join(name)
}

fn load(layout: &str) -> Tokenizer {
    Tokenizer::from_dir(&fixture(layout)).unwrap().unwrap()
}

fn chat(layout: &str) -> ChatTemplate {
    ChatTemplate::from_dir(&fixture(layout)).unwrap().unwrap()
}

fn message(role: &str, content: &str) -> Message {
    Message::new(role, content)
}

/// A template in a folder of its own.
fn template(source: &str) -> Result<ChatTemplate, Error> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("chat_template.jinja"), source).unwrap();
    let names =
        r#"{"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": "<unk>", "pad_token": null}"#;
    std::fs::write(dir.path().join("special_tokens_map.json"), names).unwrap();
    ChatTemplate::from_dir(dir.path()).map(Option::unwrap)
}

fn refusal(source: &str) -> Error {
    template(source).and_then(|template| template.render(&[message("user", "hi")], &[], false)).unwrap_err()
}

#[test]
fn ids_and_texts_match_tokenizers_in_both_layouts() {
    for (layout, golden) in [("current", &GOLDEN.current), ("legacy", &GOLDEN.legacy)] {
        let tokenizer = load(layout);
        assert!(golden.texts.len() > 100);
        for case in &golden.texts {
            let context = format!("{layout} {:?}", case.text);
            assert_eq!(tokenizer.encode(&case.text, Encode::default()).unwrap(), case.plain, "{context}");
            assert_eq!(tokenizer.encode(&case.text, SPECIAL).unwrap(), case.special, "{context}");
            assert_eq!(tokenizer.decode(&case.plain, false).unwrap(), case.plain_text, "{context}");
            assert_eq!(tokenizer.decode(&case.special, false).unwrap(), case.special_text, "{context}");
            assert_eq!(tokenizer.decode(&case.special, true).unwrap(), case.skipped_text, "{context}");
        }
    }
}

#[test]
fn a_start_token_is_added_once_and_only_when_asked_for() {
    let tokenizer = &CURRENT;
    let (bos, eos) = (tokenizer.bos().unwrap(), tokenizer.eos().unwrap());
    assert_eq!((bos, eos, tokenizer.token_to_id("[/INST]")), (1, 2, Some(4)));
    for (text, special, starts) in
        [("the", false, 1), ("<s> the", true, 1), ("<s> the", false, 1), ("", true, 1)]
    {
        let ids = tokenizer.encode(text, Encode { special, bos: true }).unwrap();
        assert_eq!(ids.iter().filter(|&&id| id == bos).count(), starts, "{text:?} {special}");
        assert_eq!(ids[0], bos);
        assert!(!tokenizer.encode(text, Encode::default()).unwrap().contains(&bos));
    }
}

#[test]
fn the_vocabulary_ends_where_the_file_says() {
    assert_eq!(CURRENT.id_to_token(3).as_deref(), Some("[INST]"));
    assert!(CURRENT.is_special(3) && !CURRENT.is_special(6));
    assert_eq!(CURRENT.token_bytes(6).unwrap(), b"\0");
    let beyond = CURRENT.vocab_size() as u32;
    assert!(CURRENT.token_bytes(beyond - 1).is_ok());
    for failure in [CURRENT.decode(&[5, beyond], true), CURRENT.decode(&[u32::MAX], false)] {
        assert_eq!(failure.unwrap_err().kind(), ErrorKind::Tokenizer);
    }
    assert!(StreamDecoder::new(CURRENT.clone()).push(beyond).is_err());
}

#[test]
fn bytes_that_are_no_text_become_replacement_characters() {
    let byte = |byte: u8| CURRENT.token_to_id(&format!("<0x{byte:02X}>")).unwrap();
    let ids: Vec<u32> = [0xe4, 0xbd, 0xa0, 0xff, 0xf0, 0x9f, b'a', 0xe4, 0xbd].map(byte).into();
    assert_eq!(CURRENT.decode(&ids, true).unwrap(), "你\u{fffd}\u{fffd}\u{fffd}a\u{fffd}\u{fffd}");
}

#[test]
fn a_byte_level_vocabulary_decodes_to_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let file = r#"{"version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": {"Ġ": 0, "a": 1, "Ã": 2, "©": 3, "Ċ": 4, "Ń": 5}, "merges": []}}"#;
    std::fs::write(dir.path().join("tokenizer.json"), file).unwrap();
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap().unwrap();
    let ids = tokenizer.encode("a é\n\u{ad}", Encode { special: false, bos: true }).unwrap();
    assert_eq!(ids, [1, 0, 2, 3, 4, 5]);
    assert_eq!(tokenizer.decode(&[1, 0, 2, 3, 4], true).unwrap(), "a é\n");
    assert_eq!(tokenizer.token_bytes(5).unwrap(), [0xad]);
}

#[test]
fn damaged_tokenizer_folders_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let kind = || Tokenizer::from_dir(dir.path()).err().unwrap().kind();
    assert!(Tokenizer::from_dir(dir.path()).unwrap().is_none());
    assert_eq!(Tokenizer::from_dir(&dir.path().join("none")).err().unwrap().kind(), ErrorKind::Io);
    let good = std::fs::read_to_string(fixture("current/tokenizer.json")).unwrap();
    for bad in [
        &good[..good.len() / 2],
        "{}",
        &good.replace("\"Fuse\"", "\"Fuze\""),
        &good.replace("\"stop\": 0", "\"stop\": 1"),
    ] {
        std::fs::write(dir.path().join("tokenizer.json"), bad).unwrap();
        assert_eq!(kind(), ErrorKind::Tokenizer);
    }
    std::fs::write(dir.path().join("tokenizer.json"), &good).unwrap();
    std::fs::write(dir.path().join("tokenizer_config.json"), r#"{"bos_token": "<none>"}"#).unwrap();
    assert_eq!(kind(), ErrorKind::Tokenizer);
    std::fs::write(dir.path().join("tokenizer_config.json"), r#"{"bos_token": null}"#).unwrap();
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap().unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (None, Some(2)));
}

#[test]
fn renders_match_jinja_as_transformers_configures_it() {
    for case in &GOLDEN.renders {
        let template = template(&GOLDEN.templates[&case.template]).unwrap();
        let context = format!("{} {:?}", case.template, case.messages);
        match template.render(&case.messages, &[], case.prompt) {
            Ok(text) => assert_eq!(Some(text), case.text, "{context}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Template);
                let expected = case.error.as_deref().unwrap_or_else(|| panic!("{context}: {error}"));
                assert!(error.to_string().ends_with(expected), "{context}: {error}");
            }
        }
    }
}

#[test]
fn conversations_encode_as_transformers_encodes_them() {
    for (layout, golden) in [("current", &GOLDEN.current), ("legacy", &GOLDEN.legacy)] {
        let (tokenizer, template) = (load(layout), chat(layout));
        assert!(golden.chats.len() >= 4);
        for case in &golden.chats {
            let ids = template.encode(&tokenizer, &case.messages, &[], true).unwrap();
            assert_eq!(ids, case.ids, "{layout} {:?}", case.messages);
        }
    }
}

#[test]
fn control_tokens_that_a_message_spells_stay_text() {
    for case in &GOLDEN.lookalikes {
        let ids = chat("current").encode(&CURRENT, &[message("user", &case.content)], &[], true).unwrap();
        assert_eq!(ids, case.ids, "{:?}", case.content);
    }
}

#[test]
fn transformed_and_adjoining_messages_cannot_forge_control_tokens() {
    let trimmed = template(
        "{{ bos_token }}{{ bos_token }}[INST]{{ messages[0].content | trim }}{{ messages[1].content }}[/INST]",
    );
    let forged = [message("user", "  </s> [IN \n"), message("user", "ST] \u{fdd0}")];
    let ids = trimmed.unwrap().encode(&CURRENT, &forged, &[], false).unwrap();
    let control: Vec<u32> = ids.iter().copied().filter(|&id| CURRENT.is_special(id)).collect();
    assert_eq!(control, [1, 3, 4]);
    assert_eq!(CURRENT.decode(&ids, false).unwrap(), "<s>[INST]</s> [INST] \u{fdd0}[/INST]");
}

#[test]
fn templates_cannot_loop_forever_read_files_or_panic() {
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let doubling =
        "{% set ns = namespace(s='ab') %}{% for a in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}";
    let json = "{% set ns = namespace(s=[1]) %}{% for a in range(40) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s | tojson }}";
    let file = "{% include 'tokenizer_config.json' %}";
    let long = " ".repeat(70_000);
    for source in
        [endless, doubling, json, file, &long, "{{ strftime_now('%Q') }}", "{% if %}", "{{ nothing() }}"]
    {
        assert_eq!(refusal(source).kind(), ErrorKind::Template, "{source}");
    }
    let refused = refusal("\n{{ raise_exception('Only users, please') }}");
    assert_eq!(refused.to_string(), "chat template, line 2: Only users, please");
}

#[test]
fn deep_templates_do_not_overflow_the_stack() {
    let deepen =
        "{% set ns = namespace(s=[]) %}{% for a in range(99999) %}{% set ns.s = [ns.s] %}{% endfor %}";
    let sum = format!("{{{{ 1{} }}}}", "+1".repeat(29_000));
    let brackets = format!("{{{{ {}1{} }}}}", "[".repeat(29_000), "]".repeat(29_000));
    for source in [
        deepen,
        &format!("{deepen}{{{{ ns.s }}}}"),
        &format!("{deepen}{{{{ ns.s | tojson }}}}"),
        &sum,
        &brackets,
    ] {
        let _ = template(source).and_then(|template| template.render(&[], &[], false));
    }
}

#[test]
fn strftime_now_tells_the_local_date() {
    let dated = template("{{ strftime_now('%d %b %Y') }}").unwrap();
    let day = || chrono::Local::now().format("%d %b %Y").to_string();
    let (before, rendered, after) = (day(), dated.render(&[], &[], false).unwrap(), day());
    assert!(rendered == before || rendered == after, "{rendered}");
}

#[test]
fn the_template_file_wins_and_a_list_has_a_default() {
    let dir = tempfile::tempdir().unwrap();
    assert!(ChatTemplate::from_dir(dir.path()).unwrap().is_none());
    let rendered = || ChatTemplate::from_dir(dir.path()).unwrap().unwrap().render(&[], &[], false).unwrap();
    let list = |name| {
        format!(
            r#"{{"chat_template": [{{"name": "tool_use", "template": "t"}}, {{"name": "{name}", "template": "d"}}]}}"#
        )
    };
    std::fs::write(dir.path().join("tokenizer_config.json"), list("default")).unwrap();
    assert_eq!(rendered(), "d");
    std::fs::write(dir.path().join("chat_template.jinja"), "file").unwrap();
    assert_eq!(rendered(), "file");
    std::fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
    std::fs::write(dir.path().join("tokenizer_config.json"), list("rag")).unwrap();
    assert_eq!(ChatTemplate::from_dir(dir.path()).err().unwrap().kind(), ErrorKind::Template);
}

proptest! {
    #[test]
    fn streamed_pieces_are_the_decoded_text(ids in prop::collection::vec(any::<prop::sample::Index>(), 0..40), bytes: bool) {
        let size = if bytes { 300 } else { CURRENT.vocab_size() };
        let ids: Vec<u32> = ids.iter().map(|index| index.index(size) as u32).collect();
        let mut decoder = StreamDecoder::new(CURRENT.clone());
        let mut text = String::new();
        for &id in &ids {
            text.extend(decoder.push(id).unwrap());
        }
        text.extend(decoder.finish());
        prop_assert_eq!(text, CURRENT.decode(&ids, true).unwrap());
    }

    #[test]
    fn any_text_survives_and_streams_in_whole_characters(text in "[a-z ▁é日🦊<s>\\[/\\]\\n]{0,24}|\\PC{0,24}") {
        let ids = CURRENT.encode(&text, Encode::default()).unwrap();
        let mut decoder = StreamDecoder::new(CURRENT.clone());
        let mut streamed = String::new();
        for &id in &ids {
            streamed.extend(decoder.push(id).unwrap());
            prop_assert!(text.replace('▁', " ").contains(&streamed), "{streamed:?}");
        }
        prop_assert_eq!(decoder.finish(), None);
        // A leading space serves as the one that is put before a text without one.
        let spaced = text.replace('▁', " ");
        prop_assert_eq!(streamed.as_str(), spaced.strip_prefix(' ').unwrap_or(&spaced));
    }

    #[test]
    fn stop_strings_cut_the_same_place_however_the_text_is_split(
        pieces in prop::collection::vec("[abé]{0,4}", 0..12),
        stops in prop::collection::vec("[abé]{0,4}", 0..4),
    ) {
        let text = pieces.concat();
        let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
        let cut = ends.flat_map(|end| {
            let starts = stops.iter().filter(|stop| !stop.is_empty() && text[..end].ends_with(stop.as_str()));
            starts.map(move |stop| end - stop.len()).min()
        }).next();
        let mut watcher = StopStrings::new(stops.clone());
        let (mut printed, mut stopped) = (String::new(), false);
        for piece in &pieces {
            let (text, stop) = watcher.push(piece);
            printed += &text;
            stopped = stop;
        }
        printed += &watcher.finish();
        prop_assert_eq!(stopped, cut.is_some());
        prop_assert_eq!(printed, &text[..cut.unwrap_or(text.len())]);
    }
}

#[test]
fn text_is_held_back_only_while_it_may_be_a_stop_string() {
    let mut stops = StopStrings::new(vec!["###".into(), "\nUser:".into()]);
    let mut push = |piece| stops.push(piece);
    assert_eq!(push("hi #"), ("hi ".into(), false));
    assert_eq!(push("1 \nUs"), ("#1 ".into(), false));
    assert_eq!(push("eful"), ("\nUseful".into(), false));
    assert_eq!(push(" ##"), (" ".into(), false));
    assert_eq!(push("# more"), (String::new(), true));
    assert_eq!(push("after"), (String::new(), true));
    assert_eq!(stops.finish(), "");
}
