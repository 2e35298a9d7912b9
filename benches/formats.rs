//! What every weight format costs and loses, measured with the demo model: writes the table "Formats" of RESULTS.md.
//! `cargo bench --bench formats`, or `cargo bench --bench formats -- q4_0 q8_0` to print the rows of some formats only.

#[allow(dead_code)] // what only tests use
#[path = "../tests/held_out/mod.rs"]
mod held_out;

use std::{env, error::Error, fs, ops::ControlFlow, path::Path, sync::Arc};

use mistral_wgpu::{
    apps::{
        Windows,
        bench::{Case, Depth, measure},
        divergence,
    },
    generate::*,
    gpu::{Gpu, GpuOptions},
    model::{Fit, ModelOptions},
    ops::{KvFormat, Tune},
    quant::{FORMATS, Format, by_name},
    text::Encode,
};
use pollster::block_on;

/// The checkpoint's own type.
const OWN: &str = "f16";
const WINDOWS: Windows = Windows { length: 512, stride: 256 };
const GENERATED: u32 = 32;
/// Generations of which the fastest counts.
const ROUNDS: usize = 12;
const BEGIN: &str = "<!-- formats: cargo bench --bench formats -->\n";
const END: &str = "<!-- end of formats -->\n";

fn main() -> Result<(), Box<dyn Error>> {
    let wanted: Vec<String> = env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let reference = exact(by_name(OWN).expect("a format of the table"))?;
    let text = fs::read_to_string(Path::new(held_out::DEMO).join("heldout/stories.txt"))?;
    let tokens = reference.tokenizer()?.encode(&text, Encode { bos: true, special: false })?;
    let mut table = format!(
        "{}, {} tokens of stories, windows of {}, stride {}; {} held-out texts of each kind.\n\n",
        reference.gpu().description().name,
        tokens.len(),
        WINDOWS.length,
        WINDOWS.stride,
        env::var("MISTRAL_HELDOUT").unwrap_or_else(|_| "50".into()),
    );
    table += "| format | bits per weight | weights | perplexity | KL divergence | 99 % | same likeliest token | labels | summaries | code | tokens/s |\n";
    table += "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n";
    print!("{table}");
    let formats = FORMATS.into_iter().filter(|f| wanted.is_empty() || wanted.iter().any(|w| w == f.name));
    let mut rows = Vec::new();
    for format in formats {
        let engine = held_out::engine(format, Tune::Once);
        let row = row(&reference, &tokens, format, &engine)?;
        println!("{row}");
        rows.push((row, engine, f64::INFINITY));
    }
    // Formats by turns, so that what else the machine does disturbs all of them.
    let case = Case { n_prompt: 0, n_gen: GENERATED, n_depth: 0, n_sequences: 1 };
    for _ in 0..ROUNDS {
        for (_, engine, fastest) in &mut rows {
            let measured = block_on(measure(engine, case, Depth::Prefill, 1))?;
            *fastest = measured.seconds.into_iter().fold(*fastest, f64::min);
        }
    }
    for (row, _, fastest) in rows {
        let row = format!("{row} {:.0} |\n", f64::from(GENERATED) / fastest);
        print!("{row}");
        table += &row;
    }
    if wanted.is_empty() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/RESULTS.md");
        let results = fs::read_to_string(&path)?;
        let parts =
            results.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
        let (before, after) = parts.ok_or("benches/RESULTS.md has no place for the table")?;
        fs::write(&path, format!("{before}{BEGIN}\n{table}\n{END}{after}"))?;
    }
    Ok(())
}

/// The demo model without anything else that rounds.
fn exact(format: &'static Format) -> Result<Arc<Engine>, Box<dyn Error>> {
    let disable = "f16,integer,cooperative_matrix".parse()?;
    let gpu = Arc::new(block_on(Gpu::open(&GpuOptions { disable, ..Default::default() }))?);
    let model = ModelOptions {
        context: WINDOWS.length as u32,
        kv_format: KvFormat::F32,
        max_logit_rows: 256,
        ..Default::default()
    };
    let options = EngineOptions {
        weights: Some(format),
        model,
        skip_self_test: true,
        tune: Tune::Never,
        ..Default::default()
    };
    let source = ModelSource::Folder(held_out::DEMO.into());
    Ok(block_on(Engine::load(gpu, &source, &options, &mut |_, _| {}))?)
}

/// The row of a format up to its speed, of which `engine` is as it is used.
fn row(
    reference: &Arc<Engine>,
    tokens: &[u32],
    format: &'static Format,
    engine: &Arc<Engine>,
) -> Result<String, Box<dyn Error>> {
    let mut go_on = |_, _, _| ControlFlow::Continue(());
    let found = block_on(divergence(&exact(format)?, reference, tokens, WINDOWS, &mut go_on))?;
    let [labels, summaries, code] = held_out::scores(engine).map(|share| 1e2 * share);
    let weights = Fit::new(engine.config(), engine.model_options(), format, 0).weights;
    Ok(format!(
        "| {} | {} | {:.2} MiB | {:.4} | {:.2e} ± {:.1e} | {:.2e} | {:.2} % | {labels:.0} % | {summaries:.0} % | {code:.0} % |",
        format.name,
        format.bits_per_weight(),
        weights as f64 / f64::from(1 << 20),
        found.perplexity.value(),
        found.divergence.mean.mean,
        found.divergence.mean.error,
        found.divergence.quantile(0.99),
        1e2 * found.same_top.value(),
    ))
}
