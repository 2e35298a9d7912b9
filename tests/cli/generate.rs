//! `mistral generate`: tokens, text and samples, and what ends it early.

use std::{fs, io::Read, process::Stdio};

use serde_json::Value;

use super::{
    fixture, golden::Golden, joined, json, mistral, model, model_of, model_with_text, output, piped, stdout,
};

#[test]
fn greedy_tokens_are_those_of_transformers() {
    for name in ["windowed", "sharded"] {
        let golden = Golden::open(&format!("models/{name}/golden.safetensors"));
        let (prompt, greedy) = (golden.ids("prompt"), golden.ids("greedy"));
        let prompt = joined(&prompt);
        let model = model(name);
        let arguments = [
            "generate",
            "--model",
            &model,
            "--tokens",
            &prompt,
            "--max-tokens",
            "48",
            "--ignore-eos",
            "--weights",
            "f32",
            "--kv-cache",
            "f32",
            "--temperature",
            "0",
        ];
        assert_eq!(stdout(&arguments).trim().replace(' ', ","), joined(&greedy), "{name}");
        let object = json(&[&arguments[..], &["--json", "--logprobs", "3"]].concat());
        assert_eq!(object["tokens"], serde_json::json!(greedy));
        assert_eq!(object["finish"], "length");
        assert_eq!(object["text"], "");
        for token in object["logprobs"].as_array().unwrap() {
            assert_eq!(token["id"], token["top"][0]["id"]);
            assert_eq!(token["logprob"], token["top"][0]["logprob"]);
            let top: Vec<_> = token["top"]
                .as_array()
                .unwrap()
                .iter()
                .map(|entry| entry["logprob"].as_f64().unwrap())
                .collect();
            assert!(top.len() == 3 && top[0] >= top[1] && top[1] >= top[2] && top[0] <= 0.0);
        }
    }
}

#[test]
fn generated_text_is_its_tokens_decoded() {
    let model = model_with_text();
    let model = model.path().to_str().unwrap();
    let base = ["generate", "--model", model, "--max-tokens", "40", "--seed", "7", "--temperature", "1.2"];
    let object = json(&[&base[..], &["--json", "--ignore-eos", "the quick fox"]].concat());
    let prompt = stdout(&["tokenize", "--json", "--bos", "--model", model, "the quick fox"]);
    assert_eq!(object["prompt_tokens"].to_string(), prompt.trim());
    assert_eq!(object["tokens"].as_array().unwrap().len(), 40);
    let mut ids = object["prompt_tokens"].as_array().unwrap().clone();
    ids.extend_from_slice(object["tokens"].as_array().unwrap());
    let whole: String = serde_json::from_str(&piped(
        &["detokenize", "--json", "--model", model],
        &Value::from(ids).to_string(),
    ))
    .unwrap();
    let text = object["text"].as_str().unwrap();
    assert!(whole.ends_with(text) && !text.is_empty(), "{whole:?} does not end with {text:?}");

    // Streamed as text it is the same, from standard input too; a stop string cuts it.
    let plain = stdout(&[&base[..], &["--ignore-eos", "the quick fox"]].concat());
    assert_eq!(plain, format!("{text}\n"));
    assert_eq!(piped(&[&base[..], &["--ignore-eos", "-"]].concat(), "the quick fox"), plain);
    let middle = text.char_indices().nth(text.chars().count() / 2).unwrap().0;
    let stop: String = text[middle..].chars().take(2).collect();
    let cut = json(&[&base[..], &["--json", "--ignore-eos", "--stop", &stop, "the quick fox"]].concat());
    assert_eq!(cut["text"], text[..text.find(&stop).unwrap()]);
    assert_eq!(cut["finish"], "stop");
}

#[test]
fn samples_share_a_prompt_and_differ() {
    let arguments = [
        "generate",
        "--model",
        "synthetic:tiny",
        "--tokens",
        "1,5,9",
        "--samples",
        "3",
        "--temperature",
        "1",
        "--max-tokens",
        "12",
        "--ignore-eos",
        "--json",
    ];
    let first = stdout(&arguments);
    let samples: Vec<Value> = first.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(samples.len(), 3);
    for (index, sample) in samples.iter().enumerate() {
        assert_eq!(sample["sample"], index);
        assert_eq!(sample["prompt_tokens"], serde_json::json!([1, 5, 9]));
        assert_eq!(sample["tokens"].as_array().unwrap().len(), 12);
    }
    assert!(samples[0]["tokens"] != samples[1]["tokens"] && samples[1]["tokens"] != samples[2]["tokens"]);
    assert_eq!(stdout(&arguments), first, "the same seed gave another text");
    // The first is what one sample would be.
    let with_samples = |count| arguments.map(|argument| if argument == "3" { count } else { argument });
    for speculate in ["off", "auto", "on", "3"] {
        let alone = json(&[&with_samples("1")[..], &["--speculate", speculate]].concat());
        assert_eq!(alone["tokens"], samples[0]["tokens"], "--speculate {speculate}");
        assert!(alone["tokens_per_step"].as_f64().unwrap() >= 1.0);
    }
    let many = stdout(&with_samples("11"));
    assert!(many.starts_with(&first), "more samples of the same prompt begin with these");
    let other = stdout(&[&arguments[..], &["--seed", "1"]].concat());
    assert_ne!(other, first);
}

#[test]
fn masks_and_biases_reach_the_choice() {
    let base = ["generate", "--model", "synthetic:tiny", "--max-tokens", "10", "--ignore-eos"];
    let text = stdout(&[&base[..], &["--temperature", "1", "--allowed-tokens", "3,64,127"]].concat());
    let words: Vec<_> = text.split_whitespace().collect();
    assert_eq!(words.len(), 10);
    assert!(words.iter().all(|word| ["3", "64", "127"].contains(word)), "{text}");
    let text = stdout(&[&base[..], &["--logit-bias", "77=1000"]].concat());
    assert_eq!(text.trim(), ["77"; 10].join(" "));
}

/// A generation that would take minutes, after its first bytes have been read.
fn long_generation() -> (std::process::Child, std::process::ChildStdout, Vec<u8>) {
    let arguments = [
        "generate",
        "--model",
        "synthetic:tiny",
        "--context",
        "100000",
        "--ignore-eos",
        "--temperature",
        "1",
    ];
    let mut child = mistral(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut first = vec![0; 16];
    out.read_exact(&mut first).unwrap();
    (child, out, first)
}

#[test]
fn a_closed_output_ends_quietly() {
    let (child, out, _) = long_generation();
    drop(out);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
#[cfg(unix)]
fn ctrl_c_keeps_what_was_printed() {
    use std::process::Command;

    let (child, mut out, mut text) = long_generation();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    out.read_to_end(&mut text).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.ends_with('\n') && text.split_whitespace().all(|word| word.parse::<u32>().is_ok()),
        "{text}"
    );
}

/// What stands before the gap and after it, by a vocabulary with the tokens for it.
#[test]
fn a_suffix_asks_for_what_mistral_common_asks() {
    let golden = fs::read_to_string(fixture("text/golden-mistral.json")).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let model = model_of("text/spm", &["tokenizer.model"], 600);
    let model = model.path().to_str().unwrap();
    let files = golden["files"].as_array().unwrap();
    let gaps = &files.iter().find(|file| file["folder"] == "spm").unwrap()["gaps"];
    for gap in gaps.as_array().unwrap() {
        let [prefix, suffix] = ["prefix", "suffix"].map(|part| gap[part].as_str().unwrap());
        let usual = ["generate", "--model", model, "--json", "--max-tokens", "1"];
        let found = json(&[&usual[..], &["--suffix", suffix, "--", prefix]].concat());
        assert_eq!(found["prompt_tokens"], gap["ids"], "{prefix:?} {suffix:?}");
    }
}

#[test]
fn what_it_tells_has_colours_only_on_a_terminal() {
    let arguments = ["generate", "-v", "--model", &model("odd"), "--tokens", "5", "--max-tokens", "1"];
    let told = String::from_utf8(output(&arguments).stderr).unwrap();
    assert!(told.contains("generated") && !told.contains('\x1b'), "{told}");
}
