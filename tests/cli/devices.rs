//! `mistral devices` and `mistral inspect`: what there is, what fits, and what is kept of self-test and tuning.

use std::fs;

use serde_json::Value;
use tempfile::TempDir;

use super::{json, mistral, model, stdout};

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
fn every_format_is_in_the_self_test() {
    // The variants that need more are in tests/self_test, and with all formats in tests/drivers/run.sh.
    let self_test = ["devices", "--self-test", "--disable", "f16,subgroup,integer"];
    let rows = json(&[&self_test[..], &["--json"]].concat());
    let rows = rows.as_array().unwrap();
    for format in ["f32", "f16", "bf16", "q8_0", "q4_0"] {
        let tested = |row: &Value| {
            row["variant"] == "mat_mat/baseline" && row["case"].as_str().unwrap().starts_with(format)
        };
        assert!(rows.iter().any(tested), "{format} was not tested");
    }
    assert!(rows.iter().all(|row| row["ok"] == true), "{rows:?}");
    let table = stdout(&self_test);
    let variants = rows.iter().map(|row| row["variant"].as_str().unwrap());
    assert!(variants.filter(|name| name.ends_with("/baseline")).all(|name| table.contains(name)), "{table}");
}

#[test]
fn self_test_and_tuning_run_once_and_can_be_skipped() {
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
    // What concerns every model, attention, the products of a format, and those with a rotation.
    let tested = |parts, more: &[&'static str]| [&vec!["self-test"; parts], more].concat();
    assert_eq!(kept(&["--no-tune"]), tested(4, &[]));
    assert_eq!(kept(&[]), tested(4, &["tuning"]));
    let measured = tuning();
    assert!(measured.iter().any(|row| row["case"] == "mat_vec, f16 64x64"), "{measured:?}");
    assert_eq!(kept(&[]), tested(4, &["tuning"]));
    assert_eq!(tuning(), measured);
    kept(&["--retune"]);
    assert_ne!(tuning(), measured, "measured anew");
    assert_eq!(kept(&["--weights", "q8_0"]), tested(6, &["tuning"]));
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
    // 512 rows of activations at once, not 256, where there is more memory: each has gate, up and their product, beside others.
    let roomy = json(&["inspect", "synthetic:mistral-7b", "--memory", "8GiB", "--context", "4096", "--json"]);
    let [few, many] = [&report, &roomy].map(|report| report["fit"][0]["scratch_bytes"].as_u64().unwrap());
    assert!((256 * 4 * (28672 + 14336)..few).contains(&(many - few)), "{few} and {many}");

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
    let dir = super::fixture("text/current");
    let tokenize = blind(&["tokenize", "--model", dir.to_str().unwrap(), "the"]).unwrap();
    assert_eq!(tokenize.stdout, b"329\n");
}
