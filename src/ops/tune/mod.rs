//! Tuning: times the kernel variants that a model may use on layers of its true shapes, and prefers
//! the fastest of each operation. What suits one device starves another, and only a measurement tells.

mod attention;
mod form;
mod linear;
mod lora;
mod pointwise;

use std::{
    fmt::Display,
    path::Path,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

pub use form::ensure_form;

use super::{AttentionShape, LoraParts, Operation, RowCount, Variant, count};
use crate::{
    ErrorKind, Result,
    gpu::{Gpu, Kept, Recording},
    quant::Format,
};

/// What to measure: all that the speed of a model depends on.
#[derive(Debug, Clone)]
pub struct TuneShapes {
    /// The different matrices.
    pub matrices: Vec<TuneMatrix>,
    /// The different products that adapters change.
    pub adapters: Vec<TuneLora>,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Tokens of the vocabulary.
    pub vocab: u32,
    /// Heads, and storage of the KV cache.
    pub attention: AttentionShape,
    /// Keys that a token in the midst of a text sees.
    pub keys: u32,
    /// Most tokens in a batch.
    pub rows: u32,
    /// Time for all measurements together. What is left then is measured at the next load; until then it is
    /// done as the same operation is on another shape, a product with a weight of the same format.
    pub budget: Duration,
}

/// Matrices of one shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TuneMatrix {
    /// How they are stored.
    pub format: &'static Format,
    /// Outputs.
    pub rows: u32,
    /// Inputs.
    pub cols: u32,
    /// How many of them a forward pass reads: what is read again at once would be found in caches.
    pub count: u32,
}

/// Adapters of a product.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TuneLora {
    /// Inputs of the product.
    pub inputs: u32,
    /// What it stacks.
    pub parts: LoraParts,
    /// Ranks of an adapter.
    pub ranks: u32,
    /// How many adapters there are.
    pub adapters: u32,
}

/// What was measured of one operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TuneRow {
    /// `operation, subject`.
    pub case: String,
    /// The variant that is preferred.
    pub variant: String,
    /// Seconds for a token by each variant, in the order of the table: by itself, and in a batch of each of the
    /// sizes tried, added up.
    pub seconds: Vec<(String, f64)>,
}

/// Whether kernels are chosen by measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tune {
    /// Measured once for each device, and kept.
    #[default]
    Once,
    /// Measured anew.
    Again,
    /// The first of the table that runs.
    Never,
}

/// Measures are kept in files of this kind.
const KIND: &str = "tuning";

/// Rows of activations that kernels for few are tried with.
const FEW: [u32; 2] = [1, 8];

/// How long a run should take: so long that what surrounds it hardly matters, so short that some run is left
/// alone by whatever else the machine does.
const RUN_SECONDS: f64 = 2e-3;

/// Runs of each variant that there is always time for.
const SURE_RUNS: usize = 4;

/// Time for the runs of an operation's variants, beside the first of each.
const OPERATION: Duration = Duration::from_millis(300);

/// Runs of a variant, of which the fastest counts.
const RUNS: usize = 8;

/// How much faster than one that comes before it in the table a variant must be: less is chance.
const MARGIN: f64 = 0.97;

/// A variant that takes so many times as long as the fastest is not run again.
const HOPELESS: f64 = 3.0;

/// Steps in a run at most.
const STEPS: f64 = 256.0;

/// Makes `gpu` prefer the variants that are the fastest for a model of these shapes: as kept in
/// `cache_dir` (see [`Kept::new`]), otherwise measured, and kept. `progress` is told how many operations of how many have been looked at.
/// Returns whether there was time for all of them.
///
/// # Errors
/// [`ErrorKind::DeviceLost`]; a kernel that does not run is not preferred, and what there is no memory
/// for is not measured.
pub fn ensure_tuned(
    gpu: &Gpu,
    shapes: &TuneShapes,
    tune: Tune,
    cache_dir: Option<&Path>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<bool> {
    if tune == Tune::Never {
        return Ok(true);
    }
    let known = kept_tuning(gpu, cache_dir);
    for row in &known {
        gpu.prefer(row.case.clone(), row.variant.clone());
    }
    // The larger a batch, the more time it takes: the smallest come last.
    let batches = RowCount::MANY.into_iter().rev().filter(|most| *most == u32::MAX || *most < shapes.rows);
    let total = (1 + batches.clone().count()) * shapes.matrices.len() + 4 * shapes.adapters.len() + 6;
    let mut tuner = Tuner {
        gpu,
        again: tune == Tune::Again,
        deadline: Instant::now() + shapes.budget,
        known: &known,
        rows: Vec::new(),
        complete: true,
        progress: (progress, 0, total as u64),
    };
    let done = as_far_as_memory_goes(tuner.all(shapes, batches));
    let Tuner { rows: measured, complete, .. } = tuner;
    keep(gpu, cache_dir, known, measured);
    done.map(|()| complete)
}

fn as_far_as_memory_goes(measured: Result<()>) -> Result<()> {
    match measured {
        Err(error) if error.kind() == ErrorKind::OutOfMemory => {
            tracing::warn!("not all was measured: {error}");
            Ok(())
        }
        done => done,
    }
}

/// Keeps what was `known`, and in its place or beside it what was `measured`.
fn keep(gpu: &Gpu, cache_dir: Option<&Path>, known: Vec<TuneRow>, measured: Vec<TuneRow>) {
    if measured.is_empty() {
        return;
    }
    let mut rows: Vec<_> =
        known.into_iter().filter(|row| measured.iter().all(|new| new.case != row.case)).collect();
    rows.extend(measured);
    rows.sort_by(|a, b| a.case.cmp(&b.case));
    Kept::new(gpu, KIND, "", cache_dir).write_json(&rows);
}

/// What [`ensure_tuned`] has kept of this device so far, in alphabetical order.
pub fn kept_tuning(gpu: &Gpu, cache_dir: Option<&Path>) -> Vec<TuneRow> {
    Kept::new(gpu, KIND, "", cache_dir).read_json().unwrap_or_default()
}

/// One use of an operation, to be timed.
struct Use<'a> {
    /// Appends the operation; the number differs each time, for those that choose among several weights by it.
    record: &'a dyn Fn(&Gpu, &mut Recording, usize) -> Result<()>,
    /// Counts of the replay.
    counts: Vec<u64>,
    /// Tokens that it serves.
    tokens: f64,
}

struct Tuner<'a> {
    gpu: &'a Gpu,
    again: bool,
    deadline: Instant,
    /// Measured earlier, and now.
    known: &'a [TuneRow],
    rows: Vec<TuneRow>,
    /// Whether there has been time for all so far.
    complete: bool,
    /// Whom to tell, operations looked at, and all.
    progress: (&'a mut dyn FnMut(u64, u64), u64, u64),
}

impl Tuner<'_> {
    /// What takes little time comes first, then what matters most.
    fn all(&mut self, shapes: &TuneShapes, batches: impl Iterator<Item = u32>) -> Result<()> {
        pointwise::rms_norm(self, shapes)?;
        pointwise::swiglu(self, shapes)?;
        pointwise::top_k(self, shapes)?;
        for adapters in &shapes.adapters {
            lora::lora(self, adapters, RowCount::Few(1))?;
            lora::lora(self, adapters, RowCount::many(count::ROWS, u32::MAX))?;
        }
        attention::combine(self, shapes)?;
        for matrix in &shapes.matrices {
            linear::mat_vec(self, matrix)?;
        }
        attention::single(self, shapes)?;
        attention::tiled(self, shapes)?;
        for most in batches {
            for matrix in &shapes.matrices {
                linear::mat_mat(self, matrix, most, shapes.rows)?;
            }
        }
        Ok(())
    }

    /// The variants to choose from for `subject`, which all run in all of `shapes`; none when there is
    /// nothing to choose, or the choice is made, as it is after the deadline if one was measured whose subject begins with
    /// `like`. To be called once for each operation.
    fn candidates<S>(
        &mut self,
        operation: &Operation<S>,
        shapes: &[S],
        subject: &str,
        like: &str,
    ) -> Vec<&'static Variant<S>> {
        let (tell, done, total) = &mut self.progress;
        tell(*done, *total);
        *done += 1;
        let case = operation.case(subject);
        if !self.again && self.gpu.preferred(&case).is_some() {
            return Vec::new();
        }
        let runs = |variant: &Variant<S>| {
            let mut shapes = shapes.iter();
            shapes.all(|shape| operation.runnable(self.gpu, shape).any(|other| other.name == variant.name))
        };
        let all: Vec<_> = operation.variants.iter().filter(|variant| runs(variant)).collect();
        if all.len() < 2 {
            return Vec::new();
        }
        if Instant::now() > self.deadline {
            self.complete = false;
            let like = operation.case(like);
            if let Some(row) =
                self.rows.iter().rev().chain(self.known).find(|row| row.case.starts_with(&like))
            {
                self.gpu.prefer(case, row.variant.clone());
            }
            return Vec::new();
        }
        all
    }

    /// Times `candidates` in all of `uses`, by turns so that what else the device does disturbs all of them alike,
    /// and prefers the fastest.
    fn measure<S>(
        &mut self,
        operation: &Operation<S>,
        subject: impl Display,
        candidates: Vec<&'static Variant<S>>,
        uses: &[Use],
    ) -> Result<()> {
        let mut contenders: Vec<Contender> = Vec::new();
        let mut steps = vec![0; uses.len()];
        for variant in candidates {
            let only = operation.only(self.gpu, variant);
            let mut contender = Contender::new(variant.name, uses.len());
            contender.first_run(&only, uses, &mut steps, HOPELESS * best(&contenders)).or_else(|error| {
                contender.seconds.fill(f64::MAX);
                match error.kind() {
                    ErrorKind::Shader | ErrorKind::Device => {
                        tracing::warn!("{}: {error}", operation.full_name(variant));
                        Ok(())
                    }
                    _ => Err(operation.tried(variant.name, error)),
                }
            })?;
            contenders.push(contender);
        }
        let end = Instant::now() + OPERATION;
        for round in 0..RUNS {
            if round >= SURE_RUNS && Instant::now() > end {
                break;
            }
            let hopeless = HOPELESS * best(&contenders);
            for contender in contenders.iter_mut().filter(|contender| contender.total() <= hopeless) {
                let ran = contender.run(self.gpu, uses, &steps);
                ran.map_err(|error| operation.tried(contender.name, error))?;
            }
        }
        let seconds: Vec<_> =
            contenders.iter().map(|contender| (contender.name.to_owned(), contender.total())).collect();
        self.rows.extend(prefer(self.gpu, operation.case(subject), seconds));
        Ok(())
    }

    /// Prefers for `subject`, of those variants that compute `shape`, what was the fastest of more if they were measured now.
    fn prefer_among<S>(
        &mut self,
        operation: &Operation<S>,
        more: impl Display,
        subject: impl Display,
        shape: &S,
    ) {
        let more = operation.case(more);
        let Some(row) = self.rows.iter().find(|row| row.case == more) else { return };
        let fits = |name: &str| operation.variants.iter().any(|one| one.name == name && (one.fits)(shape));
        let seconds: Vec<_> = row.seconds.iter().filter(|(name, _)| fits(name)).cloned().collect();
        if seconds.len() > 1 {
            self.rows.extend(prefer(self.gpu, operation.case(subject), seconds));
        }
    }
}

/// Makes `gpu` prefer for `case` the fastest of these, if any has run.
fn prefer(gpu: &Gpu, case: String, seconds: Vec<(String, f64)>) -> Option<TuneRow> {
    let variant = fastest(&seconds)?;
    tracing::debug!("{case}: {variant} of {seconds:?}");
    gpu.prefer(case.clone(), variant.clone());
    Some(TuneRow { case, variant, seconds })
}

/// A variant that is timed.
struct Contender {
    name: &'static str,
    /// Steps of each use.
    recordings: Vec<Recording>,
    /// Seconds for a token in each use, at best so far.
    seconds: Vec<f64>,
}

impl Contender {
    fn new(name: &'static str, uses: usize) -> Self {
        Self { name, recordings: vec![Recording::default(); uses], seconds: vec![0.0; uses] }
    }

    fn total(&self) -> f64 {
        self.seconds.iter().sum::<f64>().min(f64::MAX)
    }

    /// Runs one step of each use, and prepares runs of `steps`, which the first contender finds out. Gives up when more than `hopeless` seconds are
    /// certain.
    fn first_run(&mut self, gpu: &Gpu, uses: &[Use], steps: &mut [usize], hopeless: f64) -> Result<()> {
        for (index, one) in uses.iter().enumerate() {
            (one.record)(gpu, &mut self.recordings[index], 0)?;
            // The first time, drivers compile.
            run(gpu, &self.recordings[index], one)?;
            let mut seconds = run(gpu, &self.recordings[index], one)?;
            if seconds > hopeless * one.tokens {
                // Once may be chance.
                seconds = seconds.min(run(gpu, &self.recordings[index], one)?);
            }
            self.seconds[index] = seconds / one.tokens;
            if steps[index] == 0 {
                steps[index] = (RUN_SECONDS / seconds).clamp(1.0, STEPS) as usize;
            }
            if self.total() > hopeless {
                return Ok(());
            }
        }
        for (index, one) in uses.iter().enumerate() {
            for step in 1..steps[index] {
                (one.record)(gpu, &mut self.recordings[index], step)?;
            }
        }
        Ok(())
    }

    fn run(&mut self, gpu: &Gpu, uses: &[Use], steps: &[usize]) -> Result<()> {
        for (index, one) in uses.iter().enumerate() {
            let seconds = run(gpu, &self.recordings[index], one)? / steps[index] as f64 / one.tokens;
            self.seconds[index] = self.seconds[index].min(seconds);
        }
        Ok(())
    }
}

/// Seconds of the fastest.
fn best(contenders: &[Contender]) -> f64 {
    contenders.iter().map(Contender::total).fold(f64::MAX, f64::min)
}

/// Seconds until the device has run `recording`.
fn run(gpu: &Gpu, recording: &Recording, one: &Use) -> Result<f64> {
    timed(gpu, || gpu.replay(recording, &one.counts, None))
}

/// Seconds until the device has done what `submit` hands to it.
pub(crate) fn timed(gpu: &Gpu, submit: impl FnOnce() -> Result<()>) -> Result<f64> {
    gpu.wait()?;
    let start = Instant::now();
    submit()?;
    gpu.wait()?;
    Ok(start.elapsed().as_secs_f64())
}

/// The first that no other beats by more than chance.
fn fastest(seconds: &[(String, f64)]) -> Option<String> {
    let best = seconds.iter().map(|(_, seconds)| *seconds).fold(f64::MAX, f64::min);
    let near = seconds.iter().find(|(_, seconds)| *seconds < f64::MAX && MARGIN * seconds <= best);
    near.map(|(name, _)| name.clone())
}
