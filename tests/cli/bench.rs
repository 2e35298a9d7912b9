//! `mistral bench`: rows that add up, the device's limits, the comparison with an earlier run.

use std::fs;

use serde_json::Value;
use tempfile::TempDir;

use super::{json, model, refused, stdout};

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
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
