//! `mistral perplexity`, run as a user runs it.

use std::process::{Command, Output, Stdio};

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
