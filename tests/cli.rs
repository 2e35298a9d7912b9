//! The program `mistral`, run as a user runs it: output, JSON, exit status and words of errors.

mod golden;

use std::{
    fs,
    io::{Read, Write},
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

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// A random model with the fixture's tokenizer.
fn model_with_text() -> TempDir {
    let dir = TempDir::new().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(fixture("text/current").join(file), dir.path().join(file)).unwrap();
    }
    let config = r#"{"architectures": ["MistralForCausalLM"], "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 530,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 1e4, "sliding_window": null}"#;
    fs::write(dir.path().join("config.json"), config).unwrap();
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

#[test]
fn devices_are_listed() {
    let devices = json(&["devices", "--json"]);
    let devices = devices.as_array().unwrap();
    assert!(!devices.is_empty());
    for (index, device) in devices.iter().enumerate() {
        assert_eq!(device["index"], index);
        let kind = device["kind"].as_str().unwrap();
        assert!(["discrete", "integrated", "virtual", "software", "other"].contains(&kind));
        assert!(device["limits"]["binding"].as_u64().unwrap() >= 128 << 20, "below WebGPU's floor");
        assert!(device["limits"]["invocations"].as_u64().unwrap() >= 256);
    }
    let text = stdout(&["devices"]);
    assert!(text.contains(devices[0]["name"].as_str().unwrap()) && text.starts_with("0: "), "{text}");
}

#[test]
fn self_test_and_tuning_run_once_and_can_be_skipped() {
    let rows = json(&["devices", "--json", "--self-test"]);
    let rows = rows.as_array().unwrap();
    for format in ["f32", "f16", "bf16", "q8_0", "q4_0"] {
        let tested = |row: &Value| {
            row["variant"] == "mat_mat/baseline" && row["case"].as_str().unwrap().starts_with(format)
        };
        assert!(rows.iter().any(tested), "{format} was not tested");
    }
    assert!(rows.iter().all(|row| row["ok"] == true), "{rows:?}");
    let table = stdout(&["devices", "--self-test"]);
    assert!(rows.iter().all(|row| table.contains(row["variant"].as_str().unwrap())), "{table}");
    let cache = TempDir::new().unwrap();
    let kept = |more: &[&str]| {
        let arguments = ["generate", "--model", "synthetic:tiny", "--max-tokens", "1"];
        let status =
            mistral(&[&arguments, more].concat()).env("MISTRAL_CACHE", cache.path()).output().unwrap().status;
        assert!(status.success());
        let kind =
            |entry: fs::DirEntry| entry.file_name().to_str().unwrap().rsplit_once('-').unwrap().0.to_owned();
        let mut kinds: Vec<_> =
            fs::read_dir(cache.path()).unwrap().map(|entry| kind(entry.unwrap())).collect();
        // What a driver compiled may be kept, too.
        kinds.retain(|kind| kind != "pipelines");
        kinds.sort();
        kinds
    };
    let tuning = || {
        let output =
            mistral(&["devices", "--tuning", "--json"]).env("MISTRAL_CACHE", cache.path()).output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap().as_array().unwrap().clone()
    };
    assert!(kept(&["--no-self-test", "--no-tune"]).is_empty() && tuning().is_empty());
    assert_eq!(kept(&["--no-tune"]), ["self-test"]);
    assert_eq!(kept(&[]), ["self-test", "tuning"]);
    let measured = tuning();
    assert!(measured.iter().any(|row| row["case"] == "mat_vec, f16 64x64"), "{measured:?}");
    assert_eq!(kept(&[]), ["self-test", "tuning"]);
    assert_eq!(tuning(), measured);
    kept(&["--retune"]);
    assert_ne!(tuning(), measured, "measured anew");
    assert_eq!(kept(&["--weights", "q8_0"]), ["self-test", "self-test", "tuning"]);
    assert!(tuning().len() > measured.len());
}

#[test]
fn inspect_tells_what_fits() {
    let arguments = ["inspect", "synthetic:mistral-7b", "--memory", "5GiB", "--context", "4096", "--json"];
    let report = json(&arguments);
    // The published number of parameters.
    assert_eq!(report["parameters"], 7_241_732_096u64);
    assert_eq!(report["memory"], 5u64 << 30);
    let fit = report["fit"].as_array().unwrap();
    let of = |name: &str| fit.iter().find(|fit| fit["weights"] == name).unwrap();
    // 18 bytes for 32 weights, but f32 for the 65 norms of 4096.
    let norms = 65 * 4096;
    assert_eq!(of("q4_0")["weights_bytes"], (7_241_732_096u64 - norms) / 32 * 18 + 4 * norms);
    // Keys and values of 32 layers, 8 heads of 128 and two bytes, for 4096 positions and 4 pages of 32.
    assert_eq!(of("q4_0")["kv_cache_bytes"], 2u64 * 32 * (4096 + 4 * 32) * 8 * 128 * 2);
    assert_eq!(of("q4_0")["fits"], true);
    assert_eq!(of("q8_0")["fits"], false);
    assert!(report["advice"].as_str().unwrap().contains("--weights q4_0"));

    let report = json(&["inspect", "--model", &model("odd-f16"), "--tensors", "--json"]);
    assert_eq!(report["dtypes"]["f16"]["count"], 21);
    assert_eq!(report["tensors"].as_array().unwrap().len(), 21);
    let text = stdout(&["inspect", "--tensors", &model("odd")]);
    assert!(
        text.contains("model.layers.1.self_attn.q_proj.weight") && text.contains("sliding window 9"),
        "{text}"
    );
}

#[test]
#[cfg(target_os = "linux")]
fn without_a_gpu_files_are_still_read() {
    let blind = |arguments: &[&str]| {
        mistral(arguments).env("VK_DRIVER_FILES", "/none").env("VK_ICD_FILENAMES", "/none").output()
    };
    let devices = blind(&["devices"]).unwrap();
    assert_eq!(devices.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&devices.stderr).contains("mesa-vulkan-drivers"));
    let inspect = blind(&["inspect", "--json", &model("odd")]).unwrap();
    let report: Value = serde_json::from_slice(&inspect.stdout).unwrap();
    assert_eq!((&report["device"], &report["memory"]), (&Value::Null, &Value::Null));
    assert_eq!(report["fit"][0]["fits"], Value::Null);
    assert!(report["advice"].as_str().unwrap().contains("--memory"));
    let dir = fixture("text/current");
    let tokenize = blind(&["tokenize", "--model", dir.to_str().unwrap(), "the"]).unwrap();
    assert_eq!(tokenize.stdout, b"329\n");
}

#[test]
fn bench_rows_add_up() {
    for source in ["synthetic:tiny", &model("windowed")] {
        let report = json(&[
            "bench", "--model", source, "-p", "20,0", "-n", "3", "-d", "0,70", "-b", "1,2", "-r", "3",
            "--json",
        ]);
        let rows = report["tests"].as_array().unwrap();
        let case = |row: &Value| {
            ["n_prompt", "n_gen", "n_depth", "n_sequences"].map(|key| row[key].as_u64().unwrap())
        };
        let cases: Vec<_> = rows.iter().map(case).collect();
        let at = |depth| [[20, 0, depth, 1], [0, 3, depth, 1], [0, 3, depth, 2]];
        assert_eq!(cases, [at(0), at(70)].concat());
        for row in rows {
            let [prompt, generated, _, sequences] = case(row);
            let number = |key: &str| row[key].as_f64().unwrap();
            let mut speeds = numbers(&row["samples_ts"]);
            assert_eq!(speeds.len(), 3);
            for (speed, time) in speeds.iter().zip(numbers(&row["samples_ns"])) {
                assert!((speed * time * 1e-9 - ((prompt + generated) * sequences) as f64).abs() < 1e-6);
            }
            let mean = speeds.iter().sum::<f64>() / 3.0;
            let deviation = (speeds.iter().map(|speed| (speed - mean).powi(2)).sum::<f64>() / 2.0).sqrt();
            speeds.sort_by(f64::total_cmp);
            let near = |key: &str, expected: f64| {
                assert!((number(key) - expected).abs() <= 1e-6 * expected.abs(), "{key}: {row}");
            };
            near("avg_ts", mean);
            near("stddev_ts", deviation);
            near("median_ts", speeds[1]);
            near("percent_of_limit", 100.0 * speeds[1] / number("limit_ts"));
            near("gb_per_second", 1e-9 * number("bytes_per_token") * speeds[1]);
            near("gflop_per_second", 1e-9 * number("operations_per_token") * speeds[1]);
            assert_eq!(row["time_to_first_token"].is_null(), prompt == 0);
            assert!(number("dispatches") >= 10.0 * generated.max(1) as f64 && number("submissions") > 0.0);
            assert!(number("encoding_ms_per_token") > 0.0 && row["operations"].is_null());
        }
        assert!(report["peak_device_bytes"].as_u64() > report["model_size"].as_u64());
    }
}

#[test]
fn bench_measures_the_device_and_compares_with_an_earlier_run() {
    let limits = stdout(&["bench", "--limits-only"]);
    assert!(
        limits.contains("| multiply-add, f32 |") && limits.contains("| submitting and waiting |"),
        "{limits}"
    );

    let arguments = ["bench", "--model", "synthetic:tiny", "-p", "8", "-n", "2", "-d", "40", "-r", "1"];
    let old = json(&[&arguments[..], &["-o", "json", "--profile"]].concat());
    let bandwidth = old["limits"]["bandwidth"].as_array().unwrap();
    assert!(
        bandwidth.len() >= 2 && bandwidth.iter().all(|size| size["gb_per_second"].as_f64().unwrap() > 0.1)
    );
    assert!(old["limits"]["dispatch_us"].as_f64().unwrap() > 0.0);
    let operations = old["tests"][0]["operations"].as_array().unwrap();
    for part in ["qkv", "gate_up", "attention", "lm_head"] {
        let named = |operation: &&Value| operation["label"].as_str().unwrap().starts_with(part);
        let operation = operations.iter().find(named).unwrap_or_else(|| panic!("{part}: {operations:?}"));
        assert!(operation["percent_of_limit"].as_f64().unwrap() > 0.0, "{operation}");
    }

    let dir = TempDir::new().unwrap();
    let path = dir.path().join("old.json");
    fs::write(&path, old.to_string()).unwrap();
    let table = stdout(&[&arguments[..], &["--compare", path.to_str().unwrap()]].concat());
    let row = table.lines().find(|line| line.starts_with("| pp8 @ d40 |")).unwrap();
    let ratio: f64 = row.trim_end_matches(" |").rsplit(' ').next().unwrap().parse().unwrap();
    assert!(ratio > 0.0 && table.contains("| tg2 @ d40 |") && table.contains("by the old"), "{table}");
    fs::write(&path, "[]").unwrap();
    refused(&[&arguments[..], &["--compare", path.to_str().unwrap()]].concat(), 2, "compare");
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
    refused(&["generate", "--model", "/none"], 1, "/none/config.json");
    refused(&["inspect", "/none"], 1, "/none/config.json");
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
