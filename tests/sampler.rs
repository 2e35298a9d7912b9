//! The sampler against Hugging Face transformers, against exact probabilities, and against itself with
//! fewer candidates. No device.

use mistral_wgpu::{
    ErrorKind,
    generate::{Decision, Sampled, Sampler, SamplingParams, philox_4x32, uniform},
    ops::{Candidates, MAX_K},
    reference::FORBIDDEN,
};
use serde_json::Value;

/// What the device would find: the `k` likeliest of `logits`.
fn candidates(logits: &[f32], k: usize, temperature: f32) -> Candidates {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let log_sum_exp = |t: f32| {
        let terms = logits.iter().map(|l| ((f64::from(*l) - f64::from(max)) / f64::from(t)).exp());
        f64::from(max) / f64::from(t) + terms.sum::<f64>().ln()
    };
    let row = Candidates {
        ids: Vec::new(),
        logits: Vec::new(),
        max,
        log_sum_exp: log_sum_exp(1.0),
        log_sum_exp_t: log_sum_exp(temperature),
    };
    let mut all = row.with_all(logits);
    all.ids.truncate(k);
    all.logits.truncate(k);
    all
}

fn token(sampler: &Sampler, candidates: &Candidates, vocab: usize, draw: f64) -> Option<Sampled> {
    match sampler.sample(candidates, vocab as u32, draw).unwrap() {
        Decision::Token(sampled) => Some(sampled),
        Decision::NeedAll => None,
    }
}

/// Random logits, normally distributed (Box and Muller).
fn normal(seed: u64, count: usize, deviation: f64) -> Vec<f32> {
    let value = |i| {
        let radius = (-2.0 * (1.0 - uniform(seed, 0, i)).ln()).sqrt();
        (deviation * radius * (std::f64::consts::TAU * uniform(seed, 1, i)).cos()) as f32
    };
    (0..count as u32).map(value).collect()
}

fn golden() -> Value {
    serde_json::from_str(include_str!("fixtures/sampling/golden.json")).unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

#[test]
fn philox_gives_the_known_answers() {
    // Random123 1.14, tests/kat_vectors, `philox4x32 10`.
    let known = [
        ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
        ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
        (
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        ),
    ];
    for (counter, key, expected) in known {
        assert_eq!(philox_4x32(counter, key), expected);
    }
    assert_eq!(uniform(0, 0, 0), f64::from(0x6627_e8d5u32) / 2f64.powi(32));
    let draws = [uniform(1, 2, 3), uniform(1 << 32, 2, 3), uniform(1, 2 << 32, 3), uniform(1, 2, 4)];
    assert!((0..4).all(|i| (0..i).all(|j| draws[i] != draws[j])), "{draws:?} use every word of the counter");
}

/// Every token that transformers keeps, and none else, with its probability: the draws that choose a token
/// are those between the sums of the probabilities before and with it.
#[test]
fn filters_agree_with_transformers() {
    const SLACK: f64 = 2e-6; // transformers adds up in f32
    let golden = golden();
    for case in golden["cases"].as_array().unwrap() {
        let row = &golden["rows"][case["row"].as_str().unwrap()];
        let logits: Vec<f32> = floats(row).into_iter().map(|l| l as f32).collect();
        let number = |key: &str| case[key].as_f64().unwrap() as f32;
        let sampler = Sampler::new(SamplingParams {
            temperature: number("temperature"),
            top_k: number("top_k") as u32,
            top_p: number("top_p"),
            min_p: number("min_p"),
            ..Default::default()
        })
        .unwrap();
        let all = candidates(&logits, logits.len(), number("temperature"));
        let mut before = 0.0;
        for (id, probability) in floats(&case["ids"]).into_iter().zip(floats(&case["probabilities"])) {
            let after = before + probability;
            for draw in [before + SLACK, after - SLACK] {
                let sampled = token(&sampler, &all, logits.len(), draw).unwrap();
                assert_eq!(f64::from(sampled.id), id, "draw {draw} of {case}");
            }
            before = after;
        }
        let last = 1.0 - 2f64.powi(-32);
        let sampled = token(&sampler, &all, logits.len(), last).unwrap();
        assert_eq!(f64::from(sampled.id), *floats(&case["ids"]).last().unwrap(), "{case}");
    }
}

/// Draws with fixed seeds follow the exact probabilities (Pearson's chi-square, 99.9 %).
#[test]
fn draws_follow_the_probabilities() {
    let logits = normal(3, 32, 1.5);
    let settings =
        [(1.0, 0, 1.0, 0.0), (0.5, 0, 1.0, 0.0), (1.0, 6, 1.0, 0.0), (1.0, 0, 0.8, 0.0), (1.4, 0, 1.0, 0.2)];
    let draws = 40_000u32;
    for (i, (temperature, top_k, top_p, min_p)) in settings.into_iter().enumerate() {
        let params =
            SamplingParams { temperature, top_k, top_p, min_p, seed: 100 + i as u64, ..Default::default() };
        let sampler = Sampler::new(params).unwrap();
        let all = candidates(&logits, 32, temperature);
        let mut counts = [0u32; 32];
        for position in 0..draws {
            let draw = sampler.draw(7, position);
            counts[token(&sampler, &all, 32, draw).unwrap().id as usize] += 1;
        }

        let mut weights: Vec<(usize, f64)> =
            logits.iter().map(|l| (f64::from(*l) / f64::from(temperature)).exp()).enumerate().collect();
        weights.sort_by(|a, b| b.1.total_cmp(&a.1));
        let total: f64 = weights.iter().map(|(_, w)| w).sum();
        let mut above = 0.0;
        let survivors: Vec<_> = weights
            .iter()
            .enumerate()
            .filter(|(rank, (_, weight))| {
                let reached = above >= f64::from(top_p) * total;
                above += weight;
                (top_k == 0 || *rank < top_k as usize)
                    && (top_p == 1.0 || !reached)
                    && *weight >= f64::from(min_p) * weights[0].1
            })
            .map(|(_, survivor)| *survivor)
            .collect();
        let kept: f64 = survivors.iter().map(|(_, w)| w).sum();
        let mut chi_square = 0.0;
        let mut counted = 0;
        for (id, weight) in &survivors {
            let expected = f64::from(draws) * weight / kept;
            chi_square += (f64::from(counts[*id]) - expected).powi(2) / expected;
            counted += counts[*id];
        }
        assert_eq!(counted, draws, "only survivors are drawn");
        // The 99.9 % point by Wilson and Hilferty's approximation.
        let freedom = survivors.len() as f64 - 1.0;
        let spread = 2.0 / (9.0 * freedom);
        let limit = freedom * (1.0 - spread + 3.09 * spread.sqrt()).powi(3);
        assert!(chi_square < limit, "settings {i}: {chi_square} of {limit} at {freedom} degrees");
    }
}

/// What fewer candidates decide is what all would have decided, and they decide all they can.
#[test]
fn fewer_candidates_decide_the_same() {
    let vocab = 2000;
    // (deviation, top_k, top_p, min_p, share of draws that 256 candidates must decide)
    let settings = [
        (4.0, 0, 1.0, 0.0, 0.9),
        (4.0, 0, 0.9, 0.0, 1.0),
        (1.0, 40, 0.9, 0.0, 1.0),
        (1.0, 256, 1.0, 0.0, 1.0),
        (1.0, 0, 1.0, 0.3, 1.0),
        (1.0, 300, 0.9, 0.0, 0.0),
        (0.1, 0, 1.0, 0.0, 0.1),
        (0.1, 0, 0.9, 0.0, 0.0),
        (0.1, 0, 1.0, 0.001, 0.0),
        (0.1, 40, 0.9, 0.001, 1.0),
    ];
    for (i, (deviation, top_k, top_p, min_p, share)) in settings.into_iter().enumerate() {
        let logits = normal(i as u64, vocab, deviation);
        let params = SamplingParams { temperature: 0.9, top_k, top_p, min_p, seed: 5, ..Default::default() };
        let sampler = Sampler::new(params).unwrap();
        let few = candidates(&logits, sampler.top_k_row().k as usize, 0.9);
        let all = few.with_all(&logits);
        let mut decided = 0;
        let draws = 300;
        for position in 0..draws {
            let draw = sampler.draw(0, position);
            let truth = token(&sampler, &all, vocab, draw).expect("all candidates always decide");
            if let Some(sampled) = token(&sampler, &few, vocab, draw) {
                assert_eq!(sampled, truth, "settings {i}, draw {draw}");
                decided += 1;
            }
        }
        assert!(f64::from(decided) >= share * f64::from(draws), "settings {i}: {decided} decided");
        assert!(share > 0.0 || decided == 0, "settings {i}: {decided} decided beyond what is known");
    }
}

#[test]
fn greedy_takes_the_likeliest_and_reports_log_probabilities() {
    let logits = [0.5, 2.0, -1.0, 2.0, FORBIDDEN];
    let params = SamplingParams { temperature: 0.0, top_logprobs: 5, top_k: 3, ..Default::default() };
    let sampler = Sampler::new(params).unwrap();
    assert_eq!(sampler.top_k_row().k, 5);
    let sampled = token(&sampler, &candidates(&logits, 5, 1.0), 5, 0.99).unwrap();
    // torch.log_softmax of [0.5, 2, -1, 2] in float64.
    let close = |a: f32, b: f32| (a - b).abs() < 1e-6;
    assert_eq!(sampled.id, 1, "the lower id of two equal logits");
    assert!(close(sampled.logprob, -0.821_064_1), "{}", sampled.logprob);
    assert_eq!(sampled.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 3, 0, 2]);
    assert!(close(sampled.top[2].1, -2.321_064) && close(sampled.top[3].1, -3.821_064_2));
}

#[test]
fn forbidden_tokens_are_never_drawn() {
    let mut logits = vec![FORBIDDEN; 1000];
    (logits[17], logits[900]) = (-3.0, -3.0);
    for (top_k, top_p, min_p) in [(0, 1.0, 0.0), (50, 1.0, 0.0), (0, 0.99, 0.0), (0, 1.0, 1e-6)] {
        let sampler = Sampler::new(SamplingParams { top_k, top_p, min_p, ..Default::default() }).unwrap();
        let few = candidates(&logits, sampler.top_k_row().k as usize, 1.0);
        let last = 1.0 - 2f64.powi(-32);
        for (draw, id) in [(0.0, 17), (0.49, 17), (0.51, 900), (last, 900)] {
            let sampled = token(&sampler, &few, 1000, draw)
                .unwrap_or_else(|| token(&sampler, &few.with_all(&logits), 1000, draw).unwrap());
            assert_eq!(sampled.id, id, "draw {draw}");
        }
    }
    let nothing = candidates(&[FORBIDDEN; 9], 9, 1.0);
    let sampler = Sampler::new(SamplingParams::default()).unwrap();
    assert_eq!(sampler.sample(&nothing, 9, 0.5).unwrap_err().kind(), ErrorKind::Argument);
}

/// A sum of probabilities that rounding left below the draw still yields a token, the last of any mass.
#[test]
fn rounding_never_leaves_a_draw_without_a_token() {
    let logits = [1.0, 0.0, -2.0, FORBIDDEN];
    let mut all = candidates(&logits, 4, 1.0);
    all.log_sum_exp_t += 1e-5;
    let sampler = Sampler::new(SamplingParams::default()).unwrap();
    assert_eq!(token(&sampler, &all, 4, 1.0 - 2f64.powi(-32)).unwrap().id, 2);
}

#[test]
fn parameters_out_of_range_are_named() {
    let good = SamplingParams::default();
    assert!(good.validate().is_ok());
    let bad = [
        ("temperature", SamplingParams { temperature: -0.1, ..good.clone() }),
        ("temperature", SamplingParams { temperature: f32::NAN, ..good.clone() }),
        ("temperature", SamplingParams { temperature: 1e-9, ..good.clone() }),
        ("top_p", SamplingParams { top_p: 0.0, ..good.clone() }),
        ("top_p", SamplingParams { top_p: 1.01, ..good.clone() }),
        ("min_p", SamplingParams { min_p: f32::NAN, ..good.clone() }),
        ("repetition_penalty", SamplingParams { repetition_penalty: 0.0, ..good.clone() }),
        ("frequency_penalty", SamplingParams { frequency_penalty: f32::INFINITY, ..good.clone() }),
        ("presence_penalty", SamplingParams { presence_penalty: f32::NAN, ..good.clone() }),
        (
            "logit_bias of token 3",
            SamplingParams { logit_bias: vec![(2, 1.0), (3, f32::NAN)], ..good.clone() },
        ),
        ("top_logprobs", SamplingParams { top_logprobs: MAX_K as u32 + 1, ..good.clone() }),
    ];
    for (name, params) in bad {
        let error = params.validate().unwrap_err();
        assert_eq!((error.kind(), error.subject()), (ErrorKind::Argument, name), "{error}");
    }
}
