//! Tokenizers other than `tokenizer.json`, and Mistral's instruct formats, against sentencepiece, mistral-common and
//! llama.cpp (`fixtures/text/generate_mistral.py`); `tests/tokenizers/compare.py` does so on the real files.

use mistral_wgpu::ErrorKind;
use mistral_wgpu::generate::ModelSource;
use mistral_wgpu::text::{
    ChatFormat, ChatTemplate, Encode, GgufVocabulary, Json, Message, Refusal, StreamDecoder, Tokenizer, Tool,
    Version,
};
use proptest::prelude::*;
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

#[derive(Deserialize)]
struct Golden {
    files: Vec<File>,
    gguf: Vec<Gguf>,
}

#[derive(Deserialize)]
struct Gguf {
    file: String,
    texts: Vec<GgufText>,
}

#[derive(Deserialize)]
struct GgufText {
    text: String,
    plain: Vec<u32>,
    special: Vec<u32>,
}

#[derive(Deserialize)]
struct File {
    folder: String,
    texts: Vec<Text>,
    chats: Vec<Chat>,
    gaps: Vec<Gap>,
}

#[derive(Deserialize)]
struct Gap {
    prefix: String,
    suffix: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Text {
    encode: Option<String>,
    ids: Vec<u32>,
    text: String,
}

#[derive(Deserialize)]
struct Chat {
    version: String,
    messages: Vec<Message>,
    tools: Vec<Tool>,
    ids: Option<Vec<u32>>,
}

static GOLDEN: LazyLock<Golden> = LazyLock::new(|| {
    serde_json::from_str(&fs::read_to_string(fixture("golden-mistral.json")).unwrap()).unwrap()
});
static SPM: LazyLock<Tokenizer> = LazyLock::new(|| load("spm"));
static TEKKEN: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| Arc::new(load("tekken")));

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/text").join(name)
}

fn load(folder: &str) -> Tokenizer {
    Tokenizer::from_dir(&fixture(folder)).unwrap().unwrap()
}

fn user(content: &str) -> Message {
    Message::new("user", content)
}

#[test]
fn ids_and_texts_are_those_of_sentencepiece_and_mistral_common() {
    for file in &GOLDEN.files {
        let tokenizer = load(&file.folder);
        assert!(file.texts.len() > 100);
        for case in &file.texts {
            if let Some(text) = &case.encode {
                let ids = tokenizer.encode(text, Encode::default()).unwrap();
                assert_eq!(ids, case.ids, "{} {text:?}", file.folder);
            }
            assert_eq!(
                tokenizer.decode(&case.ids, true).unwrap(),
                case.text,
                "{} {:?}",
                file.folder,
                case.ids
            );
        }
    }
}

#[test]
fn conversations_are_those_of_mistral_common_in_every_format() {
    for file in &GOLDEN.files {
        let tokenizer = load(&file.folder);
        for case in &file.chats {
            let version: Version = case.version.parse().unwrap();
            let found = version.encode(&tokenizer, &case.messages, &case.tools);
            let context = format!("{} {version:?} {:?}", file.folder, case.messages);
            match &case.ids {
                Some(ids) => assert_eq!(&found.unwrap(), ids, "{context}"),
                None => assert_eq!(found.unwrap_err().kind(), ErrorKind::Argument, "{context}"),
            }
        }
        assert!(file.chats.iter().filter(|case| case.ids.is_some()).count() > 50);
    }
}

#[test]
fn texts_with_a_gap_are_those_of_mistral_common() {
    for file in &GOLDEN.files {
        let tokenizer = load(&file.folder);
        for Gap { prefix, suffix, ids } in &file.gaps {
            let found = tokenizer.encode_fim(prefix, suffix).unwrap();
            assert_eq!(&found, ids, "{} {prefix:?} {suffix:?}", file.folder);
        }
        assert!(!file.gaps.is_empty());
    }
}

#[test]
fn ids_of_gguf_vocabularies_are_those_of_llama_cpp() {
    for file in &GOLDEN.gguf {
        let source = ModelSource::Gguf(fixture("gguf").join(&file.file));
        let tokenizer = source.tokenizer().unwrap().unwrap();
        for GgufText { text, plain, special } in &file.texts {
            let ids = |special| tokenizer.encode(text, Encode { special, bos: false }).unwrap();
            assert_eq!((&ids(false), &ids(true)), (plain, special), "{} {text:?}", file.file);
        }
        assert!(file.texts.len() > 80);
        assert_eq!(tokenizer.encode("a", Encode { special: false, bos: true }).unwrap()[0], 1);
    }
}

#[test]
fn gguf_vocabularies_that_contradict_themselves_are_refused() {
    let sound = GgufVocabulary {
        model: "gpt2".into(),
        pre: Some("tekken".into()),
        tokens: (0..=255u8).map(|byte| stand_in(byte).to_string()).chain(["ab".into()]).collect(),
        merges: vec!["a b".into()],
        ..GgufVocabulary::default()
    };
    let tokenizer = Tokenizer::from_gguf(&sound).unwrap();
    assert_eq!(tokenizer.encode("ab ", Encode::default()).unwrap(), [256, 32]);
    let refused = |change: &dyn Fn(&mut GgufVocabulary), named: &str| {
        let mut vocabulary = sound.clone();
        change(&mut vocabulary);
        let error = Tokenizer::from_gguf(&vocabulary).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Tokenizer);
        assert!(error.to_string().contains(named), "{error}");
    };
    refused(&|v| v.model = "t5".into(), "t5");
    refused(&|v| v.pre = Some("qwen2".into()), "qwen2");
    refused(&|v| v.merges.push("ab c d".into()), "ab c d");
    refused(&|v| v.token_types = vec![1; 3], "token_type");
    refused(&|v| v.token_types = vec![9; 257], "token_type");
    refused(&|v| v.bos = Some(257), "bos_token_id");
    refused(&|v| drop(v.tokens.remove(7)), "byte");
    refused(&|v| v.model = "llama".into(), "byte");
}

/// GPT-2's printable character for a byte.
fn stand_in(byte: u8) -> char {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match (0..byte).filter(|byte| !printable(byte)).count() as u32 {
        _ if printable(&byte) => byte.into(),
        others => char::from_u32(256 + others).unwrap(),
    }
}

#[test]
fn control_tokens_count_only_when_asked_for() {
    for tokenizer in [&*SPM, &**TEKKEN] {
        let ids = |special| tokenizer.encode("[INST]a</s>", Encode { special, bos: true }).unwrap();
        let control: Vec<u32> = ids(true).into_iter().filter(|id| tokenizer.is_special(*id)).collect();
        assert_eq!(control, [1, 3, 2]);
        assert!(ids(false)[1..].iter().all(|id| !tokenizer.is_special(*id)));
        assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(2)));
        assert_eq!(tokenizer.id_to_token(3).as_deref(), Some("[INST]"));
        assert_eq!(tokenizer.token_to_id("[/INST]"), Some(4));
        let beyond = tokenizer.vocab_size() as u32;
        assert_eq!(tokenizer.decode(&[beyond], true).unwrap_err().kind(), ErrorKind::Tokenizer);
    }
}

#[test]
fn the_tokenizer_of_a_folder_is_found_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let put = |from: &str, name: &str| fs::copy(fixture(from), dir.path().join(name)).unwrap();
    let version = || Tokenizer::from_dir(dir.path()).unwrap().and_then(|tokenizer| tokenizer.version());
    fs::write(dir.path().join("params.json"), "{}").unwrap();
    assert!(Tokenizer::from_dir(dir.path()).unwrap().is_none());
    put("spm/tokenizer.model", "tokenizer.model");
    assert_eq!(version(), Some(Version::V7), "told by its control tokens");
    put("spm/tokenizer.model", "tokenizer.model.v2");
    put("spm/tokenizer.model", "mistral_instruct_tokenizer_240323.model.v3m1");
    assert_eq!(version(), Some(Version::V3));
    put("tekken/tekken.json", "tekken_240718.json");
    assert_eq!(Tokenizer::from_dir(dir.path()).unwrap().unwrap().vocab_size(), TEKKEN.vocab_size());
    put("current/tokenizer.json", "tokenizer.json");
    assert_eq!(version(), None);
    let other = Tokenizer::from_file(&dir.path().join("params.txt")).err().unwrap();
    assert_eq!(other.kind(), ErrorKind::Tokenizer);
}

#[test]
fn other_kinds_of_models_are_refused_by_name() {
    let bytes = fs::read(fixture("spm/tokenizer.model")).unwrap();
    // TrainerSpec.model_type, field 3: 2 is BPE, 1 unigram.
    let at = bytes.windows(4).rposition(|bytes| bytes == [0x18, 2, 0x20, 0xd8]).unwrap();
    let mut unigram = bytes.clone();
    unigram[at + 1] = 1;
    let error = Tokenizer::from_sentencepiece(&unigram, None).err().unwrap().to_string();
    assert!(error.contains("byte pairs"), "{error}");
    let tekken = fs::read_to_string(fixture("tekken/tekken.json")).unwrap();
    for (from, to, named) in [
        (r#""version": "v3""#, r#""version": "v99""#, "v99"),
        (r#""rank": 300"#, r#""rank": 301"#, "rank 300"),
        (r#""default_vocab_size": "#, r#""default_vocab_size": 9"#, "default_vocab_size"),
        (r#""default_num_special_tokens": 24"#, r#""default_num_special_tokens": 23"#, "default_vocab_size"),
        (r#""token_bytes": "AA==""#, r#""token_bytes": "AQ==""#, "rank 0"),
        (r#""pattern": ""#, r#""pattern": "("#, "pattern"),
    ] {
        assert!(tekken.contains(from));
        let error = Tokenizer::from_tekken(&tekken.replacen(from, to, 1)).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Tokenizer);
        assert!(error.to_string().contains(named), "{error}");
    }
}

/// The official template of each version as far as it concerns a conversation without tools.
const V1: &str = "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ ' [INST] ' + m['content'] + ' [/INST]' }}{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}{% else %}{{ raise_exception('no') }}{% endif %}{% endfor %}";
const V3_TEKKEN: &str = "{{ bos_token }}{% for m in messages if m['role'] != 'system' %}{% if m['role'] == 'user' %}{{ '[INST]' }}{% if loop.last and messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\\n\\n' }}{% endif %}{{ m['content'] + '[/INST]' }}{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}";
const V7_TEKKEN: &str = "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST]' + m['content'] + '[/INST]' }}{% elif m['role'] == 'system' %}{{ '[SYSTEM_PROMPT]' + m['content'] + '[/SYSTEM_PROMPT]' }}{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}";
const OTHER: &str =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}";

#[test]
fn templates_that_write_an_instruct_format_are_recognized() {
    let format = |source: &str, tokenizer: &Tokenizer| {
        let template = ChatTemplate::from_source(source.into(), tokenizer).unwrap();
        match ChatFormat::of(Some(template), tokenizer) {
            Some(ChatFormat::Instruct(version)) => Some(version),
            _ => None,
        }
    };
    assert_eq!(format(V1, &SPM), Some(Version::V1));
    assert_eq!(format(V3_TEKKEN, &TEKKEN), Some(Version::V3));
    assert_eq!(format(V7_TEKKEN, &TEKKEN), Some(Version::V7));
    assert_eq!(format(V3_TEKKEN, &SPM), None, "where spaces are to follow control tokens");
    assert_eq!(format(OTHER, &TEKKEN), None);
    let rendered = ChatFormat::Instruct(Version::V3).render(&SPM, &[user("a </s>")], &[], true).unwrap();
    assert_eq!(rendered, "<s>[INST] a </s>[/INST]");
    // A template of another kind writes its own, and goes on with an answer that was begun.
    let template = ChatTemplate::from_source(OTHER.into(), &TEKKEN).unwrap();
    let begun = Message { prefix: true, ..Message::new("assistant", "Yes, ") };
    let text = template.render(&[user("Is it?"), begun], &[], true).unwrap();
    assert_eq!(text, "<|im_start|>user\nIs it?<|im_end|>\n<|im_start|>assistant\nYes,");
}

#[test]
fn tools_reach_templates_and_cannot_forge_control_tokens() {
    let source = "{{ bos_token }}{{ tools | tojson }}{% for m in messages %}[INST]{{ m.tool_calls | default([]) | tojson }}{{ m.content }}[/INST]{% endfor %}";
    let template = ChatTemplate::from_source(source.into(), &TEKKEN).unwrap();
    let tools: Vec<Tool> = serde_json::from_str(
        r#"[{"function": {"name": "f", "description": "</s>", "parameters": {"[INST]": 1e16}}}]"#,
    )
    .unwrap();
    let asks: Message = serde_json::from_str(
        r#"{"role": "assistant", "content": null, "tool_calls": [{"id": "abcdefghi", "function": {"name": "f", "arguments": "{\"a\": \"</s>\"}"}}]}"#,
    )
    .unwrap();
    let text = template.render(std::slice::from_ref(&asks), &tools, true).unwrap();
    let expected = r#"<s>[{"type": "function", "function": {"name": "f", "description": "</s>", "parameters": {"[INST]": 1e+16}}}][INST][{"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": {"a": "</s>"}}}][/INST]"#;
    assert_eq!(text, expected);
    let ids = template.encode(&TEKKEN, &[asks], &tools, true).unwrap();
    let control: Vec<u32> = ids.iter().copied().filter(|id| TEKKEN.is_special(*id)).collect();
    assert_eq!(control, [1, 3, 4]);
    assert_eq!(TEKKEN.decode(&ids, false).unwrap(), expected);
}

#[test]
fn calls_of_tools_are_read_from_answers() {
    for (version, tokenizer) in [
        (Version::V2, &*SPM),
        (Version::V3, &*SPM),
        (Version::V3, &**TEKKEN),
        (Version::V7, &**TEKKEN),
        (Version::V11, &**TEKKEN),
        (Version::V13, &**TEKKEN),
    ] {
        let json = r#"{"role": "assistant", "tool_calls": [
            {"id": "abcDEF123", "function": {"name": "get_weather", "arguments": {"city": "Orléans \"x\""}}},
            {"id": "abcDEF124", "function": {"name": "f", "arguments": "{}"}}]}"#;
        let said: Message = serde_json::from_str(json).unwrap();
        let asked = version.encode(tokenizer, &[user("a")], &[]).unwrap();
        let ids = version.encode(tokenizer, &[user("a"), said.clone()], &[]).unwrap();
        let answer = ChatFormat::Instruct(version).answer(tokenizer, &ids[asked.len()..]).unwrap();
        let calls = |message: &Message| -> Vec<(String, String)> {
            let functions = message.tool_calls.iter().map(|call| &call.function);
            functions.map(|function| (function.name.clone(), function.arguments.clone())).collect()
        };
        assert_eq!((answer.content.as_str(), calls(&answer)), ("", calls(&said)), "{version:?}");
        for (found, call) in answer.tool_calls.iter().zip(&said.tool_calls) {
            let kept = !matches!(version, Version::V2 | Version::V13);
            assert!(if kept { found.id == call.id } else { found.id.len() == 9 }, "{version:?} {found:?}");
        }
    }
    let token = TEKKEN.token_to_id("[TOOL_CALLS]").unwrap();
    let broken = [&[token][..], &TEKKEN.encode("[{\"name\":", Encode::default()).unwrap()].concat();
    let answer = ChatFormat::Instruct(Version::V3).answer(&TEKKEN, &broken).unwrap();
    assert_eq!((answer.content.as_str(), answer.tool_calls.len()), ("[{\"name\":", 0));
}

#[test]
fn messages_are_read_and_written_as_openai_lays_them_out() {
    let json = r#"[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":""},{"type":"text","text":"b"}]},
        {"role":"assistant","content":null,"tool_calls":null},{"role":"tool","content":"1","tool_call_id":"abcdefghi","name":"f"}]"#;
    let messages: Vec<Message> = serde_json::from_str(json).unwrap();
    assert_eq!((messages[0].content.as_str(), messages[1].content.as_str()), ("a\n\nb", ""));
    let written = serde_json::to_string(&messages).unwrap();
    let expected = r#"[{"role":"user","content":"a\n\nb"},{"role":"assistant","content":""},{"role":"tool","content":"1","tool_call_id":"abcdefghi","name":"f"}]"#;
    assert_eq!(written, expected);
    let picture = r#"{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}"#;
    let refused = serde_json::from_str::<Message>(picture).unwrap_err().to_string();
    assert!(refused.contains("parts of type `text`"), "{refused}");
}

#[test]
fn json_is_written_as_python_writes_it() {
    let written = |text: &str| Json::parse(text).map(|value| value.to_string());
    for (text, expected) in [
        (" [1,2.50, 1e20,1E-7 ,-0,-0.0, 1e15]\n", "[1, 2.5, 1e+20, 1e-07, 0, -0.0, 1000000000000000.0]"),
        ("12345678901234567890123", "12345678901234567890123"),
        ("[NaN,Infinity,-Infinity,1e999]", "[NaN, Infinity, -Infinity, Infinity]"),
        (r#"{"b":1,"a":2,"b":3}"#, r#"{"b": 3, "a": 2}"#),
        (r#""\u00e9\ud83e\udd8a\/\u0000\u007f\n""#, "\"é🦊/\\u0000\u{7f}\\n\""),
        ("0.0001", "0.0001"),
        ("[0.00001, 123456789012345678.0]", "[1e-05, 1.2345678901234568e+17]"),
        ("[[],{}, true,null]", "[[], {}, true, null]"),
    ] {
        assert_eq!(written(text).as_deref(), Ok(expected));
    }
    for text in
        ["", "01", "1.", ".5", "+1", "[1,]", "{a:1}", "'a'", "\"\t\"", "[1 2]", "nul", "1 1", "\u{feff}1"]
    {
        assert_eq!(written(text), Err(Refusal::NotJson), "{text:?}");
    }
    assert_eq!(written(r#""\ud800""#), Err(Refusal::Surrogate));
    assert_eq!(written(&"[".repeat(100_000)), Err(Refusal::TooDeep));
}

/// Texts that look like what parsers look for.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "([a-zé日🦊 \\n\\t]|\\[INST\\]|</s>|<0x0A>|\\[REF\\]s?|▁){0,20}",
        "[\\[\\]{}\",:\\\\u0-9a-fe.+ -]{0,30}",
    ]
}

fn message() -> impl Strategy<Value = Message> {
    let role = prop::sample::select(vec!["user", "user", "assistant", "assistant", "system", "tool", "x"]);
    let call = prop::option::of((prop::sample::select(vec!["abcdefghi", "abc"]), text()));
    (role, text(), call, any::<bool>()).prop_map(|(role, content, call, prefix)| {
        let calls: Vec<_> = call
            .iter()
            .map(|(id, arguments)| serde_json::json!({"id": id, "function": {"name": "f", "arguments": arguments}}))
            .collect();
        let tool_calls = serde_json::from_value(calls.into()).unwrap();
        let tool_call_id = Some("abcdefghi".to_owned()).filter(|_| role == "tool");
        Message { tool_calls, tool_call_id, prefix, ..Message::new(role, content) }
    })
}

proptest! {
    #[test]
    fn any_text_survives(text in text()) {
        for tokenizer in [&*SPM, &**TEKKEN] {
            for special in [false, true] {
                let ids = tokenizer.encode(&text, Encode { special, bos: false }).unwrap();
                let back = tokenizer.decode(&ids, false).unwrap();
                let spaced = text.replace('▁', " ");
                let same = back == text || back == spaced || spaced.strip_prefix(' ') == Some(&back);
                prop_assert!(same || special, "{text:?} {back:?}");
            }
        }
    }

    #[test]
    fn streamed_pieces_are_the_decoded_text(ids in prop::collection::vec(0u32..300, 0..40)) {
        let mut decoder = StreamDecoder::new(TEKKEN.clone());
        let mut text = String::new();
        for &id in &ids {
            text.extend(decoder.push(id).unwrap());
        }
        text.extend(decoder.finish());
        prop_assert_eq!(text, TEKKEN.decode(&ids, true).unwrap());
    }

    #[test]
    fn json_written_is_read_as_the_same(text in text()) {
        if let Ok(value) = Json::parse(&text) {
            prop_assert_eq!(Json::parse(&value.to_string()), Ok(value));
        }
    }

    #[test]
    fn conversations_are_encoded_or_refused(messages in prop::collection::vec(message(), 0..6)) {
        use Version::*;
        let looks: usize = messages.iter().map(|message| message.content.matches("</s>").count()).sum();
        for version in [V1, V2, V3, V7, V11, V13] {
            match version.encode(&TEKKEN, &messages, &[]) {
                Ok(ids) => {
                    let ends = messages.iter().filter(|message| message.role == "assistant").count();
                    let found = ids.iter().filter(|id| **id == 2).count();
                    prop_assert!(found <= ends, "{looks} look-alikes became tokens");
                    ChatFormat::Instruct(version).answer(&TEKKEN, &ids).unwrap();
                }
                Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Argument),
            }
        }
    }
}
