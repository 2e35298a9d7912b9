//! What a run of the benchmark found, as JSON and as tables.

use std::fmt::{self, Display, Formatter};

use mistral_wgpu::{
    apps::bench::{Case, Measurement, Pass, Stored, Timed, least_seconds},
    generate::Engine,
    gpu::{AdapterDescription, peak_host_memory},
    model::Fit,
    ops::Roofline,
};
use serde::Serialize;
use serde_json::Value;

use super::cases::name;
use crate::cli::device::human;

/// The device, its limits, the model and the tests.
#[derive(Serialize)]
pub struct Report {
    crate_version: &'static str,
    device: String,
    driver: String,
    backend: String,
    limits: Limits,
    #[serde(flatten)]
    model: Option<Model>,
    pub tests: Vec<Row>,
    /// Bytes that the device has free.
    #[serde(skip)]
    pub memory: Option<u64>,
}

/// What the device does at best.
#[derive(Serialize)]
struct Limits {
    bandwidth: Vec<Bandwidth>,
    rates: Vec<Rate>,
    dispatch_us: f64,
    round_trip_us: f64,
}

#[derive(Serialize)]
struct Bandwidth {
    bytes: u64,
    gb_per_second: f64,
}

#[derive(Serialize)]
struct Rate {
    kind: &'static str,
    gflop_per_second: f64,
}

#[derive(Serialize)]
struct Model {
    model: String,
    model_size: u64,
    model_n_params: u64,
    weights: String,
    n_batch: u32,
    type_k: &'static str,
    type_v: &'static str,
    load_seconds: f64,
    peak_device_bytes: u64,
    peak_host_bytes: Option<u64>,
}

/// One test.
#[derive(Serialize)]
pub struct Row {
    test: String,
    n_prompt: u32,
    n_gen: u32,
    n_depth: u32,
    n_sequences: u32,
    avg_ns: f64,
    stddev_ns: f64,
    avg_ts: f64,
    stddev_ts: f64,
    median_ts: f64,
    samples_ns: Vec<f64>,
    samples_ts: Vec<f64>,
    /// Processor time of the host; all of the work on a software device.
    cpu_ms_per_token: Option<f64>,
    /// Seconds, prompts only.
    time_to_first_token: Option<f64>,
    bytes_per_token: f64,
    operations_per_token: f64,
    gb_per_second: f64,
    gflop_per_second: f64,
    /// Tokens per second at the limit.
    limit_ts: f64,
    percent_of_limit: f64,
    /// Over all passes of a repetition.
    dispatches: u64,
    submissions: u64,
    /// Host time of encoding and submitting.
    encoding_ms_per_token: f64,
    /// Speed by that of the report compared with.
    ratio: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    operations: Vec<Operation>,
}

/// GPU time of an operation in one pass.
#[derive(Serialize)]
pub struct Operation {
    label: &'static str,
    seconds: f64,
    dispatches: u64,
    gb_per_second: Option<f64>,
    gflop_per_second: Option<f64>,
    percent_of_limit: Option<f64>,
}

impl Report {
    pub fn new(device: &AdapterDescription, roofline: &Roofline) -> Self {
        let bandwidth = |&(bytes, rate): &(u64, f64)| Bandwidth { bytes, gb_per_second: rate * 1e-9 };
        let rate = |&(kind, rate): &(&'static str, f64)| Rate { kind, gflop_per_second: rate * 1e-9 };
        Self {
            crate_version: env!("CARGO_PKG_VERSION"),
            device: device.name.clone(),
            driver: device.driver.clone(),
            backend: device.backend.clone(),
            limits: Limits {
                bandwidth: roofline.bandwidth.iter().map(bandwidth).collect(),
                rates: roofline.rates.iter().map(rate).collect(),
                dispatch_us: roofline.dispatch_seconds * 1e6,
                round_trip_us: roofline.round_trip_seconds * 1e6,
            },
            model: None,
            tests: Vec::new(),
            memory: device.memory.free,
        }
    }

    pub fn set_model(&mut self, engine: &Engine, model: String, load_seconds: f64) {
        let options = engine.model_options();
        self.model = Some(Model {
            model,
            model_size: Fit::new(engine.config(), options, engine.formats(), 0).weights,
            model_n_params: engine.config().parameters(),
            weights: engine.formats().name(),
            n_batch: options.max_rows,
            type_k: options.kv_format.name(),
            type_v: options.kv_format.name(),
            load_seconds,
            peak_device_bytes: 0,
            peak_host_bytes: None,
        });
    }

    /// Notes the most memory that was taken so far.
    pub fn set_memory(&mut self, engine: &Engine) {
        if let Some(model) = &mut self.model {
            model.peak_device_bytes = engine.gpu().peak_memory();
            model.peak_host_bytes = peak_host_memory();
        }
    }

    /// Sets the ratios to the tests of the same name in `old`.
    pub fn compare(&mut self, old: &Value) {
        for row in &mut self.tests {
            let same = |test: &&Value| test["test"] == row.test;
            let old = old["tests"].as_array().and_then(|tests| tests.iter().find(same));
            row.ratio = old.and_then(|test| test["median_ts"].as_f64()).map(|old| row.median_ts / old);
        }
    }
}

impl Row {
    pub fn new(
        engine: &Engine,
        roofline: &Roofline,
        case: Case,
        measured: Measurement,
        operations: Vec<Operation>,
    ) -> Self {
        let Measurement { seconds, host_seconds, counters } = measured;
        let tokens = f64::from(case.tokens());
        let samples_ns: Vec<_> = seconds.iter().map(|seconds| seconds * 1e9).collect();
        let samples_ts: Vec<_> = seconds.iter().map(|seconds| tokens / seconds).collect();
        let (avg_ns, stddev_ns) = statistics(&samples_ns);
        let (avg_ts, stddev_ts) = statistics(&samples_ts);
        let median_ts = median(&samples_ts);
        let dispatches = counters.dispatches as f64;
        let (work, least) = least_seconds(case, &stored(engine), roofline, dispatches);
        let limit_ts = tokens / least;
        Self {
            test: name(&case),
            n_prompt: case.n_prompt,
            n_gen: case.n_gen,
            n_depth: case.n_depth,
            n_sequences: case.n_sequences,
            avg_ns,
            stddev_ns,
            avg_ts,
            stddev_ts,
            median_ts,
            time_to_first_token: (case.n_gen == 0).then_some(median(&seconds)),
            samples_ns,
            samples_ts,
            cpu_ms_per_token: (!host_seconds.is_empty()).then(|| 1e3 * median(&host_seconds) / tokens),
            bytes_per_token: work.bytes / tokens,
            operations_per_token: work.operations / tokens,
            gb_per_second: work.bytes / tokens * median_ts * 1e-9,
            gflop_per_second: work.operations / tokens * median_ts * 1e-9,
            limit_ts,
            percent_of_limit: 100.0 * median_ts / limit_ts,
            dispatches: counters.dispatches,
            submissions: counters.submissions,
            encoding_ms_per_token: counters.encoding_ns as f64 * 1e-6 / tokens,
            ratio: None,
            operations,
        }
    }
}

fn stored(engine: &Engine) -> Stored<'_> {
    Stored { config: engine.config(), formats: engine.formats(), options: engine.model_options() }
}

impl Operation {
    /// The operations of a pass beside their own limits. Attention has one work and several steps, which share its
    /// limit by their time.
    pub fn all(engine: &Engine, roofline: &Roofline, (pass, timed): &(Pass, Vec<Timed>)) -> Vec<Self> {
        let works = [pass.operations(&stored(engine)), pass.activations(&stored(engine))].concat();
        let family = |label: &'static str| if label.starts_with("attention") { "attention" } else { label };
        let of_family = |label| timed.iter().filter(move |other| family(other.0) == family(label));
        let one = |&(label, seconds, dispatches): &Timed| {
            let whole: f64 = of_family(label).map(|other| other.1).sum();
            let calls: u64 = of_family(label).map(|other| other.2).sum();
            let work = works.iter().find(|(known, _)| *known == family(label)).map(|(_, work)| *work);
            let per_second = |amount: f64| amount / whole.max(1e-9) * 1e-9;
            let limit = |work: mistral_wgpu::apps::bench::Work| {
                100.0 * roofline.seconds(work.bytes, work.operations, calls as f64) / whole.max(1e-9)
            };
            Self {
                label,
                seconds,
                dispatches,
                gb_per_second: work.map(|work| per_second(work.bytes)),
                gflop_per_second: work.map(|work| per_second(work.operations)),
                percent_of_limit: work.map(limit),
            }
        };
        timed.iter().map(one).collect()
    }
}

/// Mean and standard deviation of a sample.
fn statistics(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0).max(1.0)).sqrt())
}

/// The middle of a sample, or the mean of the two in the middle.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        writeln!(f, "{} ({}), {}\n", self.device, self.backend, self.driver)?;
        self.limits.fmt(f)?;
        let Some(model) = &self.model else { return Ok(()) };
        write!(
            f,
            "\n{}, {} in {}, loaded in {:.2} s",
            model.model,
            human(model.model_size),
            model.weights,
            model.load_seconds
        )?;
        write!(f, "; peak memory {} on the device", human(model.peak_device_bytes))?;
        match model.peak_host_bytes {
            Some(bytes) => writeln!(f, ", {} on the host\n", human(bytes))?,
            None => writeln!(f, "\n")?,
        }
        let compared = self.tests.iter().any(|row| row.ratio.is_some());
        let end = if compared { " by the old |" } else { "" };
        writeln!(
            f,
            "| test | t/s | first token | MB/token | GFLOP/token | GB/s | GFLOP/s | of the limit | dispatches | encoding |{end}"
        )?;
        let end = if compared { " ---: |" } else { "" };
        writeln!(f, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |{end}")?;
        self.tests.iter().try_for_each(|row| writeln!(f, "{row}"))?;
        for row in self.tests.iter().filter(|row| !row.operations.is_empty()) {
            writeln!(f, "\n{}, GPU time of the last pass:\n", row.test)?;
            writeln!(f, "| operation | dispatches | ms | share | GB/s | GFLOP/s | of its limit |")?;
            writeln!(f, "| --- | ---: | ---: | ---: | ---: | ---: | ---: |")?;
            let whole: f64 = row.operations.iter().map(|operation| operation.seconds).sum();
            for Operation { label, seconds, dispatches, gb_per_second, gflop_per_second, percent_of_limit } in
                &row.operations
            {
                let cell = |value: &Option<f64>, unit: &str| {
                    value.map_or(String::new(), |x| format!("{x:.1}{unit}"))
                };
                let share = 100.0 * seconds / whole;
                let cells =
                    [cell(gb_per_second, ""), cell(gflop_per_second, ""), cell(percent_of_limit, " %")]
                        .join(" | ");
                writeln!(f, "| {label} | {dispatches} | {:.3} | {share:.1} % | {cells} |", 1e3 * seconds)?;
            }
        }
        Ok(())
    }
}

impl Display for Limits {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        writeln!(f, "| limit of the device | measured |\n| --- | ---: |")?;
        for Bandwidth { bytes, gb_per_second } in &self.bandwidth {
            writeln!(f, "| reading {} | {gb_per_second:.1} GB/s |", human(*bytes))?;
        }
        for Rate { kind, gflop_per_second } in &self.rates {
            writeln!(f, "| multiply-add, {kind} | {gflop_per_second:.1} GFLOP/s |")?;
        }
        writeln!(f, "| a dispatch that depends on the one before | {:.2} µs |", self.dispatch_us)?;
        writeln!(f, "| submitting and waiting | {:.0} µs |", self.round_trip_us)
    }
}

impl Display for Row {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let first = self.time_to_first_token.map_or(String::new(), |seconds| format!("{seconds:.3} s"));
        write!(
            f,
            "| {} | {:.2} ± {:.2} | {first} | {:.1} | {:.2} | {:.2} | {:.1} | {:.0} % | {} | {:.3} ms |",
            self.test,
            self.median_ts,
            self.stddev_ts,
            self.bytes_per_token * 1e-6,
            self.operations_per_token * 1e-9,
            self.gb_per_second,
            self.gflop_per_second,
            self.percent_of_limit,
            self.dispatches,
            self.encoding_ms_per_token,
        )?;
        self.ratio.map_or(Ok(()), |ratio| write!(f, " {ratio:.2} |"))
    }
}
