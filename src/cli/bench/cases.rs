//! Which tests a run consists of.

use mistral_wgpu::{
    apps::bench::{Case, Stored, fits, least_seconds},
    ops::Roofline,
};

use super::Args;

/// Seconds that one run of a test may be expected to take, unless it is asked for.
const PATIENCE: f64 = 20.0;

/// How much slower than the limit a test is expected to be.
const FACTOR: f64 = 4.0;

/// Every depth with every prompt, then with every generation by every number of texts; without any wish, a
/// selection of what this model and device can do.
pub fn cases(args: &Args, stored: &Stored, roofline: &Roofline, memory: Option<u64>) -> Vec<Case> {
    let lists = [&args.n_prompt, &args.n_gen, &args.n_depth, &args.n_sequences];
    if lists.iter().all(|list| list.is_none()) {
        return usual(stored, roofline, memory);
    }
    let or = |list: &Option<Vec<u32>>, default: u32| list.clone().unwrap_or_else(|| vec![default]);
    let neither = args.n_prompt.is_none() && args.n_gen.is_none();
    let prompts = or(&args.n_prompt, if neither { 512 } else { 0 });
    let generations = or(&args.n_gen, if neither { 128 } else { 0 });
    let sequences = or(&args.n_sequences, 1);
    let mut all = Vec::new();
    for n_depth in or(&args.n_depth, 0) {
        all.extend(prompts.iter().map(|&n_prompt| Case { n_prompt, n_gen: 0, n_depth, n_sequences: 1 }));
        for &n_sequences in &sequences {
            all.extend(generations.iter().map(|&n_gen| Case { n_prompt: 0, n_gen, n_depth, n_sequences }));
        }
    }
    all.retain(|case| case.tokens() > 0);
    all
}

fn usual(stored: &Stored, roofline: &Roofline, memory: Option<u64>) -> Vec<Case> {
    let prompts =
        [16, 128, 512, 2048].map(|n_prompt| Case { n_prompt, n_gen: 0, n_depth: 0, n_sequences: 1 });
    let depths =
        [0, 1024, 4096, 16384].map(|n_depth| Case { n_prompt: 0, n_gen: 128, n_depth, n_sequences: 1 });
    let batches = [4, 16, 64].map(|n_sequences| Case { n_prompt: 0, n_gen: 32, n_depth: 0, n_sequences });
    let mut chosen = Vec::new();
    let mut left_out = Vec::new();
    for mut case in prompts.into_iter().chain(depths).chain(batches) {
        let expected = |case: Case| FACTOR * least_seconds(case, stored, roofline, 0.0).1;
        while case.n_gen > 8 && expected(case) > PATIENCE {
            case.n_gen /= 2;
        }
        if case.context() as usize > stored.config.max_position_embeddings {
            continue;
        }
        if !fits(case, stored, memory) {
            left_out.push(format!("{} (memory)", name(&case)));
        } else if expected(case) > PATIENCE {
            left_out.push(format!("{} (time)", name(&case)));
        } else {
            chosen.push(case);
        }
    }
    if !left_out.is_empty() {
        eprintln!("note: left out: {}; ask for them with -p, -n, -d and -b", left_out.join(", "));
    }
    chosen
}

/// What llama-bench calls a case, with the number of texts if there are several.
pub fn name(case: &Case) -> String {
    let test = match case.n_gen {
        0 => format!("pp{}", case.n_prompt),
        n_gen => format!("tg{n_gen}"),
    };
    let test = if case.n_sequences == 1 { test } else { format!("{test} × {}", case.n_sequences) };
    if case.n_depth == 0 { test } else { format!("{test} @ d{}", case.n_depth) }
}
