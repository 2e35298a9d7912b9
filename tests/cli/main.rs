//! The program `mistral`, run as a user runs it: output, JSON, exit status and words of errors.

mod bench;
mod devices;
mod generate;
#[path = "../golden/mod.rs"]
mod golden;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use golden::Golden;
use mistral_wgpu::model::{ModelConfig, expected_tensors};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::Value;
use tempfile::TempDir;

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

fn model(name: &str) -> String {
    fixture("models").join(name).to_str().unwrap().to_owned()
}

fn mistral(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mistral"));
    command.args(arguments).stdin(Stdio::null()).env("MISTRAL_CACHE", env!("CARGO_TARGET_TMPDIR"));
    command
}

fn output(arguments: &[&str]) -> Output {
    mistral(arguments).output().unwrap()
}

/// Standard output of a run that succeeds.
fn stdout(arguments: &[&str]) -> String {
    let output = output(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&stdout(arguments)).unwrap()
}

/// Standard output of a run with `input`.
fn piped(arguments: &[&str], input: &str) -> String {
    let mut child = mistral(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn joined(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// A random model with the fixture's tokenizer.
fn model_with_text() -> TempDir {
    model_of("text/current", &["tokenizer.json", "tokenizer_config.json"], 530)
}

/// A random model of one block with the vocabulary in `files` of a folder.
fn model_of(folder: &str, files: &[&str], vocab_size: usize) -> TempDir {
    let dir = TempDir::new().unwrap();
    for file in files {
        fs::copy(fixture(folder).join(file), dir.path().join(file)).unwrap();
    }
    let config = r#"{"architectures": ["MistralForCausalLM"], "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": VOCAB,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 1e4, "sliding_window": null}"#;
    fs::write(dir.path().join("config.json"), config.replace("VOCAB", &vocab_size.to_string())).unwrap();
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let tensors: Vec<_> = expected_tensors(&ModelConfig::from_dir(dir.path()).unwrap())
        .into_iter()
        .map(|(name, shape)| {
            let values = (0..shape.iter().product()).flat_map(|_| random().to_le_bytes());
            (name, values.collect::<Vec<u8>>(), shape)
        })
        .collect();
    let views = tensors
        .iter()
        .map(|(name, bytes, shape)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, &dir.path().join("model.safetensors")).unwrap();
    dir
}

#[test]
fn logits_are_those_of_transformers() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out.safetensors");
    let mut checked = 0;
    for entry in fs::read_dir(fixture("models")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let golden = Golden::open(&format!("models/{name}/golden.safetensors"));
        let ids = dir.path().join("ids.txt");
        fs::write(&ids, format!("[{}]\n", joined(&golden.ids("tokens")))).unwrap();
        let (ids, out) = (ids.to_str().unwrap(), out.to_str().unwrap());
        for more in [&[][..], &["--chunk", "7", "--limits", "floor", "--disable", "f16,subgroup"]] {
            let model = model(&name);
            let arguments = ["logits", "--model", &model, "--tokens-file", ids, "--output", out, "--hidden"];
            stdout(&[&arguments, more].concat());
            let written = Golden::open(out);
            for tensor in ["logits", "hidden_states"] {
                let (found, expected) = (written.f32(tensor), golden.f32(tensor));
                assert_eq!(found.len(), expected.len());
                let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
                for (found, expected) in found.iter().zip(&expected) {
                    assert!((found - expected).abs() <= 1e-4 * largest, "{name} {more:?} {tensor}");
                }
            }
        }
        checked += 1;
    }
    assert!(checked >= 9);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "a partial file was left");
}

#[test]
fn logits_describe_what_they_wrote() {
    let out = TempDir::new().unwrap().path().join("none/out.safetensors");
    refused(
        &["logits", "--model", "synthetic:tiny", "--tokens", "1", "-o", out.to_str().unwrap()],
        2,
        "none",
    );
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out.safetensors");
    let written = json(&[
        "logits",
        "--json",
        "--hidden",
        "--tokens",
        "1,5,7",
        "--model",
        &model("odd"),
        "-o",
        out.to_str().unwrap(),
    ]);
    assert_eq!(written["weights"], "f32");
    assert_eq!(written["tensors"], serde_json::json!({"logits": [3, 101], "hidden_states": [3, 3, 51]}));
    let bytes = fs::read(out).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("logits").unwrap().dtype(), Dtype::F32);
    assert_eq!(tensors.tensor("hidden_states").unwrap().shape(), [3, 3, 51]);
}

#[test]
fn tokenize_and_detokenize_are_those_of_tokenizers() {
    let golden: Value = serde_json::from_slice(&fs::read(fixture("text/golden.json")).unwrap()).unwrap();
    for layout in ["current", "legacy"] {
        let dir = fixture("text").join(layout);
        let dir = dir.to_str().unwrap();
        let texts = golden[layout]["texts"].as_array().unwrap();
        let lines = |key: &str| texts.iter().map(|text| text[key].to_string() + "\n").collect::<String>();
        assert_eq!(piped(&["tokenize", "--lines", "--model", dir], &lines("text")), lines("plain"));
        assert_eq!(
            piped(&["tokenize", "--lines", "--special", "--model", dir], &lines("text")),
            lines("special")
        );
        let special = lines("special");
        assert_eq!(piped(&["detokenize", "--lines", "--model", dir], &special), lines("skipped_text"));
        assert_eq!(
            piped(&["detokenize", "--lines", "--special", "--model", dir], &special),
            lines("special_text")
        );
    }
    let dir = fixture("text/current");
    let dir = dir.to_str().unwrap();
    assert_eq!(stdout(&["tokenize", "--model", dir, "the"]), "329\n");
    assert_eq!(stdout(&["tokenize", "--model", dir, "--bos", "--json", "the"]), "[1,329]\n");
    assert_eq!(stdout(&["detokenize", "--model", dir, "1, 329"]), "the\n");
    assert_eq!(stdout(&["detokenize", "--model", dir, "--json", "[329]"]), "\"the\"\n");
}

/// Asserts that a run fails with `status` and an error that says `part`.
#[track_caller]
fn refused(arguments: &[&str], status: i32, part: &str) {
    let output = output(arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {stderr}");
    assert!(stderr.contains("error: ") && stderr.contains(part), "{arguments:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
}

#[test]
fn errors_have_a_status_and_a_name() {
    let odd = &model("odd");
    let texts = fixture("text/current");
    let texts = texts.to_str().unwrap();
    let missing = Path::new("/none").join("config.json");
    refused(&["generate", "--model", "/none"], 1, missing.to_str().unwrap());
    refused(&["inspect", "/none"], 1, missing.to_str().unwrap());
    refused(&["generate", "--model", "synthetic:none"], 2, "mistral-7b");
    refused(&["generate", "--model", odd, "a text"], 1, "tokenizer");
    refused(&["generate", "--model", odd, "--tokens", "5,101"], 2, "101");
    refused(&["generate", "--model", odd, "--tokens", "5,x"], 2, "x");
    refused(&["generate", "--model", odd, "--tokens", "5", "text"], 2, "cannot be used");
    refused(&["generate", "--model", odd, "--no-bos"], 2, "prompt");
    refused(&["generate", "--model", odd, "--allowed-tokens", "101"], 2, "allowed-tokens");
    refused(&["generate", "--model", odd, "--logit-bias", "101=1"], 2, "logit-bias");
    refused(&["generate", "--model", odd, "--logit-bias", "1"], 2, "ID=BIAS");
    refused(&["generate", "--model", odd, "--temperature", "-1"], 2, "temperature");
    refused(&["generate", "--model", odd, "-n", "2"], 2, "temperature");
    refused(&["generate", "--model", odd, "--logprobs", "2"], 2, "--json");
    refused(&["generate", "--model", odd, "--gpu", "no such gpu"], 2, "no such gpu");
    refused(&["generate", "--model", odd, "--disable", "f17"], 2, "f17");
    refused(&["generate", "--model", odd, "--memory", "8XB"], 2, "unknown unit");
    refused(&["generate", "--model", odd, "--weights", "q9"], 2, "q4_0");
    refused(
        &["generate", "--model", odd, "--weights", "q4_k", "--tokens", "1,2"],
        2,
        "multiple of 256 columns",
    );
    refused(&["generate", "--model", odd, "--context", "2", "--tokens", "1,2,3"], 2, "context");
    refused(&["logits", "--model", odd, "--output", "x"], 2, "--tokens");
    refused(&["logits", "--model", odd, "--output", "x", "--tokens", "101"], 2, "101");
    refused(&["logits", "--model", odd, "--output", "x", "--tokens-file", "/none"], 1, "/none");
    refused(&["tokenize", "--model", "synthetic:tiny", "a"], 1, "no tokenizer");
    refused(&["tokenize", "--model", odd, "a"], 1, "tokenizer.json");
    refused(&["tokenize", "--model", texts, "--lines", "no json"], 2, "line 1");
    refused(&["detokenize", "--model", texts, "99999"], 1, "99999");
    refused(&["bench", "--model", odd, "-p", "0", "-n", "0"], 2, "above 0");
    refused(&["sing"], 2, "sing");
    refused(&["devices", "--loud"], 2, "--loud");
}

#[test]
fn a_missing_demo_model_is_named() {
    let output = mistral(&["generate", "x"]).env("MISTRAL_DEMO_MODEL", "/none").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("/none") && stderr.contains("--model") && stderr.contains("MISTRAL_DEMO_MODEL"));
    let dir = model_with_text();
    let output = mistral(&["tokenize", "the"]).env("MISTRAL_DEMO_MODEL", dir.path()).output().unwrap();
    assert_eq!(output.stdout, b"329\n");
    let note = String::from_utf8(output.stderr).unwrap();
    assert!(note.lines().count() == 1 && note.contains("demo model") && note.contains("--model"), "{note}");
}

#[test]
fn every_help_has_examples() {
    let help = stdout(&["--help"]);
    let names =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names: Vec<_> =
        names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").collect();
    assert!(names.len() >= 7, "{help}");
    for name in names {
        let help = stdout(&[name, "--help"]);
        assert!(help.contains(&format!("Examples:\n  mistral {name}")), "{name}: {help}");
    }
}
