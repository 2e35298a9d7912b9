//! `mistral perplexity` and `mistral evaluate`, run as a user runs them.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo-model");
const STORIES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo-model/heldout/stories.txt");

fn mistral(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mistral"));
    command.args(arguments).stdin(Stdio::null()).env("MISTRAL_DEMO_MODEL", DEMO);
    command.env("MISTRAL_CACHE", env!("CARGO_TARGET_TMPDIR")).output().unwrap()
}

fn stdout(arguments: &[&str]) -> String {
    let output = mistral(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Exit status and stderr of a run that fails.
fn failure(arguments: &[&str]) -> (i32, String) {
    let output = mistral(arguments);
    assert!(output.stdout.is_empty(), "{arguments:?}");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

const PERPLEXITY: [&str; 7] = ["perplexity", STORIES, "--limit", "200", "--context", "64", "--no-tune"];

#[test]
fn perplexity_as_text_and_json() {
    let text = stdout(&PERPLEXITY);
    assert!(text.starts_with("199 tokens, windows of 64, stride 32\nperplexity "), "{text}");
    let object: Value = serde_json::from_str(&stdout(
        &[&PERPLEXITY[..], &["--json", "--weights", "q4_0", "--against-weights", "f16"]].concat(),
    ))
    .unwrap();
    let printed: f64 = text.split_whitespace().nth(8).unwrap().parse().unwrap();
    assert!((object["reference"]["perplexity"].as_f64().unwrap() - printed).abs() < 1e-4, "{object}");
    assert_eq!((&object["weights"], &object["reference"]["weights"]), (&"q4_0".into(), &"f16".into()));
    assert_eq!(object["shifts"].as_array().unwrap().len(), 10);
    assert!(object["kl_divergence"]["mean"].as_f64().unwrap() > 1e-5);
}

#[test]
fn a_device_without_room_for_both_models_reads_with_one_after_the_other() {
    let arguments = [&PERPLEXITY[..], &["--json", "--weights", "q4_0", "--against-weights", "f16"]].concat();
    let together: Value = serde_json::from_str(&stdout(&arguments)).unwrap();
    // Too little for the second model, and enough for that, but not for what a batch takes beside it.
    for memory in ["20MiB", "28MiB"] {
        let output = mistral(&[&arguments[..], &["--memory", memory]].concat());
        let note = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && note.contains("no room for both models"), "{note}");
        assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), together);
    }
}

#[test]
fn what_cannot_be_measured_is_refused() {
    for (arguments, status, word) in [
        (&["perplexity", "/there/is/no/file"][..], 1, "/there/is/no/file"),
        (&["perplexity", "/dev/null"], 2, "nothing to foretell"),
        (&["perplexity", STORIES, "--context", "64", "--stride", "65"], 2, "stride"),
        (&["perplexity", STORIES, "--against-weights", "none"], 2, "--against-weights"),
        (&["perplexity", STORIES, "--against", "synthetic:tiny"], 2, "vocabulary"),
    ] {
        let (found, error) = failure(arguments);
        assert!(found == status && error.contains(word), "{arguments:?}: {found}, {error}");
    }
}

/// A copy of a task file in `dir`.
fn task(dir: &Path, name: &str) -> String {
    let path = dir.join(name);
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/quality/tasks").join(name), &path)
        .unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn an_evaluation_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let file = task(dir.path(), "hellaswag.jsonl");
    let arguments = ["evaluate", "--no-tune", "--task", &file];
    let text = stdout(&[&arguments[..], &["--limit", "2"]].concat());
    assert!(text.starts_with("HellaSwag, 2 of 2 questions answered\nacc   "), "{text}");

    let results = dir.path().join("hellaswag.results.jsonl");
    let first = fs::read_to_string(&results).unwrap();
    assert_eq!(first.lines().count(), 2);
    // A run with other settings writes into the same file; a crash leaves a line that is not whole.
    stdout(&[&arguments[..], &["--limit", "1", "--weights", "q4_0"]].concat());
    let both = fs::read_to_string(&results).unwrap();
    assert_eq!(both.lines().count(), 3);
    fs::write(&results, format!("{both}{}", &first[..40])).unwrap();
    let text = stdout(&[&arguments[..], &["--json"]].concat());
    let object: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&object["answered"], &object["acc"]["right"]), (&4.into(), &4.into()));
    assert_eq!(object["acc_norm"]["accuracy"], 0.75);
    let whole = fs::read_to_string(&results).unwrap();
    assert!(whole.starts_with(&both) && whole.lines().count() == 5, "{whole}");
    // What is known is not asked again.
    assert_eq!(stdout(&[&arguments[..], &["--json"]].concat()), text);
    assert_eq!(fs::read_to_string(&results).unwrap(), whole);
}

#[test]
fn generated_answers_and_examples() {
    let dir = tempfile::tempdir().unwrap();
    let (file, results) = (task(dir.path(), "gsm8k.jsonl"), dir.path().join("results"));
    let arguments = ["evaluate", "--no-tune", "--json", "--task", &file, "--max-tokens", "20", "--results"];
    let arguments =
        [&arguments[..], &[results.to_str().unwrap(), "--shots", "1", "--shots-from", &file]].concat();
    let object: Value = serde_json::from_str(&stdout(&arguments)).unwrap();
    assert_eq!((&object["layout"], &object["answered"]), (&"GSM8K".into(), &3.into()));
    assert!(object["strict_match"]["right"].is_u64() && object["flexible_extract"]["interval"].is_array());
    assert_eq!(fs::read_to_string(results).unwrap().lines().count(), 3);
}

#[test]
fn tasks_that_cannot_be_read_are_refused_by_line() {
    let dir = tempfile::tempdir().unwrap();
    let good = r#"{"question": "a", "choices": ["b", "c"], "answer": 1}"#;
    for (text, words) in [
        ("", "at least one line"),
        ("{", "line 1: JSON"),
        ("\n\n[]", "line 3: JSON"),
        (r#"{"text": "a", "b": 1}"#, "GSM8K, found text, b"),
        (r#"{"question": "a", "choices": ["b", "c"], "answer": 2}"#, "one of 2 choices, found 3"),
        (r#"{"question": "a", "choices": ["b"], "answer": 0}"#, "two or more"),
        (r#"{"question": "a", "choices": ["b", 1], "answer": 0}"#, "MMLU: JSON"),
        (
            r#"{"question": "a", "choices": {"text": ["b", "c"], "label": ["A"]}, "answerKey": "A"}"#,
            "2 labels, found 1",
        ),
        (r#"{"sentence": "no gap", "option1": "b", "option2": "c", "answer": "1"}"#, "a gap `_`"),
        (
            r#"{"sentence": "a _", "option1": "b", "option2": "c", "answer": ""}"#,
            "answer: expected the number",
        ),
        (
            &format!("{good}\n{{\"question\": \"a\", \"answer\": \"b\"}}"),
            "line 2: expected MMLU as before, found GSM8K",
        ),
    ] {
        let path = dir.path().join("task.jsonl");
        fs::write(&path, text).unwrap();
        let (status, error) = failure(&["evaluate", "--task", path.to_str().unwrap()]);
        assert!(status == 2 && error.contains(words), "{text}: {status}, {error}");
    }
    let path = dir.path().join("task.jsonl");
    fs::write(&path, format!("{good}\n")).unwrap();
    fs::write(dir.path().join("task.results.jsonl"), "{\"run\": 1}\n").unwrap();
    let (status, error) = failure(&["evaluate", "--no-tune", "--task", path.to_str().unwrap()]);
    assert!(status == 2 && error.contains("task.results.jsonl, line 1: not a result"), "{error}");
    let (status, error) = failure(&["evaluate", "--task", "x", "--shots", "2"]);
    assert!(status == 2 && error.contains("--shots-from"), "{error}");
}
