//! `mistral chat`, `summarize` and `classify`, run as a user runs them.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo-model");
const LABELS: [&str; 3] = ["classify", "--labels", "positive,negative,neutral"];
const TEXT: &str = "I really enjoyed the soup. The cook made a fine dinner.";

/// Runs `mistral` on the demo model with `input`.
fn mistral(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mistral"))
        .args(arguments)
        .env("MISTRAL_DEMO_MODEL", DEMO)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that refuses its arguments does not read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn stdout(arguments: &[&str], input: &str) -> String {
    let output = mistral(arguments, input);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn json_lines(arguments: &[&str], input: &str) -> Vec<Value> {
    stdout(arguments, input).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Exit status and stderr of a run that fails.
fn failure(arguments: &[&str], input: &str) -> (i32, String) {
    let output = mistral(arguments, input);
    assert!(output.stdout.is_empty(), "{arguments:?}");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn file(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().into()
}

#[test]
fn classify_prints_labels_by_probability() {
    let text = stdout(&LABELS, TEXT);
    let rows: Vec<_> = text.lines().map(|line| line.split_once('\t').unwrap()).collect();
    assert_eq!(rows[0].0, "positive");
    let shares: Vec<f64> = rows.iter().map(|(_, share)| share.parse().unwrap()).collect();
    assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-3 && shares.is_sorted_by(|a, b| a >= b), "{text}");

    let arguments = [&LABELS[..], &["--json"]].concat();
    let object = &json_lines(&arguments, TEXT)[0];
    assert_eq!(object["label"], "positive");
    assert!((object["probability"].as_f64().unwrap() - shares[0]).abs() < 1e-3);
    assert_eq!(object["labels"].as_array().unwrap().len(), 3);
    let calibrated = &json_lines(&[&arguments[..], &["--calibrate"]].concat(), TEXT)[0];
    assert_ne!(calibrated["labels"][0]["score"], object["labels"][0]["score"]);
}

#[test]
fn classify_reads_json_lines() {
    let input = format!(
        "{}\n{{\"text\": \"The choir has twenty members. They spoke about the concert.\"}}\n",
        Value::from(TEXT)
    );
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), "texts.jsonl", &input);
    let piped = json_lines(&[&LABELS[..], &["--jsonl"]].concat(), &input);
    let labels: Vec<_> = piped.iter().map(|line| line["label"].as_str().unwrap()).collect();
    assert_eq!(labels, ["positive", "neutral"]);
    assert_eq!(json_lines(&[&LABELS[..], &["--jsonl", &path]].concat(), ""), piped);
    let (status, error) = failure(&[&LABELS[..], &["--jsonl"]].concat(), "{\"txt\": 1}\n");
    assert!(status == 2 && error.contains("line 1"), "{error}");
}

#[test]
fn prompts_are_shown_and_replaced_without_a_gpu() {
    let no_gpu = ["--gpu", "there is no such GPU", "--show-prompt"];
    let prompt = stdout(&[&LABELS[..], &no_gpu].concat(), "T.\n");
    let request = "Classify the following text. Answer with one of: positive, negative, neutral.\n\nText: T.";
    assert_eq!(prompt, format!("<s>[INST] {request}[/INST]\n"));
    let prompt =
        &json_lines(&[&["summarize", "--words", "7", "--json"], &no_gpu[..]].concat(), "T.")[0]["prompt"];
    assert_eq!(
        prompt,
        "<s>[INST] Summarize the following text in one sentence, in at most 7 words.\n\nText: T.[/INST]"
    );

    let dir = tempfile::tempdir().unwrap();
    let template = file(dir.path(), "ask.jinja", "{{ style }}: {{ text | upper }}");
    let arguments =
        [&["summarize", "--style", "haiku", "--prompt-template", &template], &no_gpu[..]].concat();
    assert_eq!(stdout(&arguments, "the sea"), "<s>[INST] haiku: THE SEA[/INST]\n");
    let wrong = file(dir.path(), "wrong.jinja", "{{ nothing }}");
    let (status, error) = failure(&["summarize", "--prompt-template", &wrong, "--show-prompt"], "a");
    assert!(status == 1 && error.contains("prompt template, line 1"), "{error}");
}

#[test]
fn summarize_reads_files_and_pipes() {
    let text = "Oscar is coming on Sunday. Noah is waiting for the visit. They will meet in the garden. He was very happy.";
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), "text", text);
    let summary = stdout(&["summarize", &path], "");
    assert_eq!(summary, "Noah will meet Oscar in the garden on Sunday.\n");
    let object = &json_lines(&["summarize", "--json", "-"], text)[0];
    assert_eq!(object["summary"], summary.trim_end());
    assert_eq!((&object["finish"], object["parts"].as_array().unwrap().len()), (&"stop".into(), 0));
    let output = mistral(&["summarize", "--context", "160", "--max-tokens", "24", "-"], &[text; 8].join(" "));
    let progress = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && progress.contains("part 2 of "), "{progress}");
    for (arguments, status, word) in [
        (&["summarize", "-"][..], 2, "nothing to summarize"),
        (&["summarize", "/there/is/no/file"], 1, "/there/is/no/file"),
        (&["summarize", "--words", "0"], 2, "--words"),
        (&["classify"], 2, "--labels"),
        (&["classify", "--labels", "a,a"], 2, "`a`"),
        (&["classify", "--labels", "a", "--model", "/no/model"], 1, "/no/model"),
    ] {
        let (found, error) = failure(arguments, " ");
        assert!(found == status && error.contains(word), "{arguments:?}: {found}, {error}");
    }
}

#[test]
fn chat_answers_each_line_and_obeys_commands() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("talk.json");
    let question = "Quick question: how many months are in a year?";
    let save = format!("/save {}", path.display());
    let input = [
        question,
        "",
        "So, how many legs does a dog have?",
        &save,
        "/help",
        "/reset",
        question,
        "/quit",
        "never read",
    ];
    let answers = json_lines(&["chat", "--json", "--temperature", "0"], &input.join("\n"));
    assert_eq!(answers.len(), 3);
    assert_eq!(answers[0]["content"], "A year has twelve months.");
    assert_eq!(answers[1]["content"], "A dog has four legs.");
    assert_eq!(answers[2]["content"], answers[0]["content"]);
    assert!(answers[1]["cached_tokens"].as_u64().unwrap() > answers[0]["prompt_tokens"].as_u64().unwrap());
    let saved: Vec<Value> = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(saved.len(), 4);
    assert_eq!((&saved[3]["role"], &saved[3]["content"]), (&"assistant".into(), &answers[1]["content"]));

    assert_eq!(stdout(&["chat"], question), "A year has twelve months.\n");
    for line in ["/save", "/unknown", "/save /no/such/folder/talk.json"] {
        let (status, error) = failure(&["chat"], line);
        assert!(status > 0 && error.contains("error: "), "{line}: {error}");
    }
}

#[test]
fn chat_takes_up_a_conversation_and_goes_on_with_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let question = r#"{"role": "user", "content": "So, how many legs does a dog have?"}"#;
    let asked = file(dir.path(), "asked.json", &format!("[{question}]"));
    let said = |path: &str| {
        let lines = json_lines(
            &["chat", "--json", "--temperature", "0", "--max-tokens", "20", "--messages", path],
            "",
        );
        assert_eq!(lines.len(), 1);
        lines[0]["content"].as_str().unwrap().to_owned()
    };
    let answer = said(&asked);
    let (begun, _) = answer.split_once(' ').unwrap();
    let begun = format!(
        r#"{{"messages": [{question}, {{"role": "assistant", "content": "{begun}", "prefix": true}}]}}"#
    );
    assert_eq!(said(&file(dir.path(), "begun.json", &begun)), answer);
    let tools = r#"[{"function": {"name": "f"}}]"#;
    let with_tools = ["chat", "--messages", &asked, "--tools", &file(dir.path(), "tools.json", tools)];
    let (status, error) = failure(&with_tools, "");
    assert!(status == 1 && error.contains("[AVAILABLE_TOOLS]"), "{error}");
    let (status, error) = failure(&["chat", "--messages", &file(dir.path(), "bad.json", "[1]")], "");
    assert!(status == 2 && error.contains("bad.json"), "{error}");
    let ids = stdout(&["tokenize", "--chat", &format!("[{question}]")], "");
    assert_eq!(
        stdout(&["detokenize", "--special", ids.trim()], ""),
        "<s>[INST] So, how many legs does a dog have?[/INST]\n"
    );
}
