//! LoRA adapters by the program `mistral`: applied at run time, merged, counted, and refused.

mod golden;

use std::{
    path::Path,
    process::{Command, Output},
};

use golden::Golden;
use serde_json::Value;
use tempfile::TempDir;

fn fixture(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path).to_str().unwrap().to_owned()
}

fn adapter(name: &str) -> String {
    fixture("adapters") + "/" + name
}

fn output(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mistral"));
    command.args(arguments).env("MISTRAL_CACHE", env!("CARGO_TARGET_TMPDIR")).output().unwrap()
}

/// Standard output of a run that succeeds.
fn stdout(arguments: &[&str]) -> String {
    let output = output(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Standard error of a run that ends with `status`.
fn refused(arguments: &[&str], status: i32) -> String {
    let output = output(arguments);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn joined(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// Largest difference between the logits that `mistral logits` writes for a model with adapters and PEFT's of `case`,
/// relative to the largest of them.
fn error(base: &str, adapters: &[&str], case: &str, golden: &str) -> f32 {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out.safetensors");
    let tokens = joined(&Golden::open(golden).ids("tokens"));
    let mut arguments = vec!["logits", "--model", base, "--tokens", &tokens, "-o", out.to_str().unwrap()];
    arguments.extend(["--no-self-test", "--no-tune", "--kv-cache", "f32"]);
    arguments.extend(["--disable", "f16,integer,cooperative_matrix"]);
    arguments.extend(adapters.iter().flat_map(|adapter| ["--adapter", adapter]));
    stdout(&arguments);
    let found = Golden::open(out.to_str().unwrap()).f32("logits");
    let file =
        if case.contains('/') { "adapters/quantized.safetensors" } else { "adapters/golden.safetensors" };
    let expected = Golden::open(file).f32(&format!("{case}.logits"));
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    found.iter().zip(&expected).fold(0.0f32, |error, (a, b)| error.max((a - b).abs())) / largest
}

#[test]
fn adapters_are_applied_with_their_scales_on_any_base() {
    let windowed = ("models/windowed", "models/windowed/golden.safetensors");
    let [linear, half, qv, head] = [("linear", ""), ("linear", ":0.5"), ("qv", ":-0.75"), ("head", ":1.25")]
        .map(|(name, scale)| adapter(name) + scale);
    let (gguf, packed) = (adapter("gguf"), adapter("packed"));
    for ((base, golden), adapters, case) in [
        (windowed, &[linear.as_str()][..], "linear"),
        (windowed, &[&half], "linear-half"),
        (windowed, &[&linear, &qv, &head], "sum"),
        (("gguf/split-00001-of-00003.gguf", "gguf/split.safetensors"), &[&gguf], "gguf/split"),
        (("quantized/awq", "quantized/awq/golden.safetensors"), &[&packed], "quantized/awq"),
    ] {
        let error = error(&fixture(base), adapters, case, golden);
        assert!(error <= 1e-4, "{case}: {error:e}");
    }
}

#[test]
fn texts_are_those_of_peft_unmerged_and_merged() {
    let golden = Golden::open("adapters/golden.safetensors");
    let base = fixture("models/windowed");
    let prompt = joined(&Golden::open("models/windowed/golden.safetensors").ids("prompt"));
    let texts = |model: &str, adapters: &[&str]| {
        let mut arguments = vec!["generate", "--model", model, "--tokens", &prompt, "--max-tokens", "16"];
        arguments.extend(["--ignore-eos", "--kv-cache", "f32", "--temperature", "0"]);
        arguments.extend(adapters.iter().flat_map(|adapter| ["--adapter", adapter]));
        stdout(&arguments).trim().replace(' ', ",")
    };
    let [linear, qv, head] =
        [("linear", ""), ("qv", ":-0.75"), ("head", ":1.25")].map(|(name, scale)| adapter(name) + scale);
    let all = [linear.as_str(), &qv, &head];
    let expected = joined(&golden.ids("sum.greedy"));
    assert_eq!(texts(&base, &all), expected);

    let dir = TempDir::new().unwrap();
    let merged = dir.path().join("merged");
    let merged = merged.to_str().unwrap();
    let arguments = ["merge", "--model", &base, "--output", merged, "--json"];
    let printed = stdout(&[&arguments[..], &all.map(|adapter| ["--adapter", adapter]).concat()].concat());
    assert_eq!(serde_json::from_str::<Value>(&printed).unwrap()["output"], merged);
    assert_eq!(texts(merged, &[]), expected);
    assert!(refused(&[&arguments[..], &["--adapter", &linear]].concat(), 2).contains("a new folder"));
}

/// A model in several files, whose merged form is as transformers' reads it.
#[test]
fn a_model_in_several_files_is_merged() {
    let dir = TempDir::new().unwrap();
    let merged = dir.path().join("merged");
    let (merged, base) = (merged.to_str().unwrap(), fixture("models/sharded"));
    stdout(&["merge", "--model", &base, "--adapter", &adapter("sharded"), "--output", merged]);
    let golden = "models/sharded/golden.safetensors";
    let of_base = error(&base, &[&adapter("sharded")], "sharded", golden);
    assert!(of_base <= 1e-4, "{of_base:e}");
    // Rounded to the base's bf16.
    let of_merged = error(merged, &[], "sharded", golden);
    assert!(of_merged <= 0.05, "{of_merged:e}");
}

#[test]
fn what_is_wrong_with_an_adapter_is_said() {
    let base = fixture("models/windowed");
    let generate = |adapter: &str| {
        let base =
            ["generate", "--model", &base, "--tokens", "1,2", "--max-tokens", "1", "--adapter", adapter];
        base.map(str::to_owned)
    };
    let said = |adapter: &str, status| refused(&generate(adapter).each_ref().map(String::as_str), status);
    assert!(said(&adapter("none"), 1).contains("adapter_config.json"));
    assert!(said(&adapter("linear:inf"), 2).contains("a finite scale"));
    assert!(said(&adapter("rslora"), 1).contains("shape"));
    let packed =
        ["merge", "--model", &fixture("quantized/awq"), "--adapter", &adapter("packed"), "-o", "none"];
    assert!(refused(&packed, 2).contains("GPTQ or AWQ"));
}

#[test]
fn adapters_count_in_what_fits() {
    let (base, linear) = (fixture("models/windowed"), adapter("linear"));
    let inspect = |more: &[&str]| -> Value {
        let printed = stdout(&[&["inspect", "--json", &base], more].concat());
        serde_json::from_str(&printed).unwrap()
    };
    let (without, with) = (inspect(&[]), inspect(&["--adapter", &linear, "--adapter", &linear]));
    let bytes = with["adapters_bytes"].as_u64().unwrap();
    assert!(without["adapters_bytes"] == 0 && bytes > 0);
    let total = |report: &Value| report["fit"][0]["total_bytes"].as_u64().unwrap();
    assert_eq!(total(&with), total(&without) + bytes);
    assert!(stdout(&["inspect", &base, "--adapter", &linear]).contains("adapters    1, "));
    let arguments = ["generate", "--model", &base, "--tokens", "1", "--memory", "1MiB", "--adapter", &linear];
    let said = refused(&arguments, 1);
    assert!(said.contains("adapters 1 MiB"), "{said}");
}
