//! Self-test: runs every kernel variant that a model may use on small random cases and compares it
//! with [`reference`](crate::reference). Drivers do miscompile; a variant that disagrees is rejected
//! for the next best.

mod attention;
mod epilogue;
mod experts;
mod linear;
mod logits;
mod lora;
mod output;
mod pointwise;

use std::{fmt::Display, mem, path::Path};

use super::{AttentionShape, Axis, KvFormat, Operation, RouteShape, Variant};
use crate::{
    ErrorKind, Result,
    gpu::{Capability, Gpu, Kept},
    quant::{Format, by_name},
};

/// What a model's kernels are specialised by.
#[derive(Debug, Clone, Copy)]
pub struct SelfTestShapes {
    /// Format of the weights.
    pub weights: &'static Format,
    /// Heads, and storage of the KV cache.
    pub attention: AttentionShape,
    /// Whether products add a bias, too.
    pub bias: bool,
    /// Whether matrices have their columns in another order than their input.
    pub reordered: bool,
    /// Whether there are adapters.
    pub adapters: bool,
    /// Of a mixture of experts.
    pub experts: Option<RouteShape>,
}

/// Kernels that are specialised by the same: tested together, and kept for all models that have them.
#[derive(Debug, PartialEq)]
enum Part {
    /// By nothing.
    Plain,
    /// By nothing; of matrices whose columns have another order than their input.
    Reordered,
    /// By nothing; of adapters.
    Adapters,
    Experts(RouteShape),
    Attention(AttentionShape),
    Products {
        weights: &'static str,
        bias: bool,
        experts: bool,
    },
    RotatedProducts {
        weights: &'static str,
        attention: AttentionShape,
    },
}

impl SelfTestShapes {
    /// Of all that a model may have, with each of `formats` of weights; those of keys and values take turns.
    pub fn all(
        formats: impl IntoIterator<Item = &'static Format>,
        attention: impl Fn(KvFormat) -> AttentionShape,
    ) -> Vec<Self> {
        let kv_formats = KvFormat::all().collect::<Vec<_>>().into_iter().cycle();
        let shapes = formats.into_iter().zip(kv_formats).map(|(weights, kv)| {
            let (attention, experts) = (attention(kv), Some(RouteShape { experts: 8, chosen: 2 }));
            Self { weights, attention, bias: true, reordered: true, adapters: true, experts }
        });
        shapes.collect()
    }

    fn parts(&self) -> impl Iterator<Item = Part> {
        let &Self { weights: Format { name: weights, .. }, attention, bias, experts, .. } = self;
        let optional = [
            self.reordered.then_some(Part::Reordered),
            self.adapters.then_some(Part::Adapters),
            experts.map(Part::Experts),
        ];
        let products = Part::Products { weights, bias, experts: experts.is_some() };
        let always = [Part::Attention(attention), products, Part::RotatedProducts { weights, attention }];
        [Part::Plain].into_iter().chain(optional.into_iter().flatten()).chain(always)
    }
}

impl Part {
    async fn test(&self, gpu: &Gpu) -> Result<Vec<SelfTestRow>> {
        let named = |name| by_name(name).expect("a format of the table");
        let fused = gpu.capabilities().has(&[Capability::Fused]);
        let test = &mut SelfTest { gpu, rows: Vec::new() };
        match *self {
            Self::Plain => {
                linear::half(test).await?; // what all others read may depend on it
                linear::quantize(test).await?;
                pointwise::rms_norm(test).await?;
                pointwise::residual_add(test).await?;
                pointwise::swiglu(test).await?;
                logits::adjust_logits(test).await?;
                logits::top_k(test).await?;
                logits::sample(test).await?;
            }
            Self::Reordered => pointwise::gather(test, Axis::Cols).await?,
            Self::Adapters => lora::lora(test).await?,
            Self::Experts(shape) => {
                pointwise::gather(test, Axis::Rows).await?;
                experts::experts(test, shape).await?;
            }
            Self::Attention(shape) => {
                attention::rope_kv(test, shape).await?;
                attention::attention(test, shape).await?;
            }
            Self::Products { weights, bias, experts } => {
                let weights = named(weights);
                linear::embedding(test, weights).await?;
                linear::mat_vec(test, weights, bias).await?;
                linear::mat_mat(test, weights, bias).await?;
                if experts {
                    linear::of_experts(test, weights).await?;
                }
                if fused {
                    epilogue::normed(test, weights).await?;
                    epilogue::swiglu(test, weights).await?;
                    epilogue::rms_norm(test, weights).await?;
                }
            }
            Self::RotatedProducts { weights, attention } => {
                if fused {
                    epilogue::rope_kv(test, named(weights), attention).await?;
                }
            }
        }
        Ok(mem::take(&mut test.rows))
    }
}

/// How one variant did in one case.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SelfTestRow {
    /// `operation/variant`.
    pub variant: String,
    /// What it was given.
    pub case: String,
    /// Worst error, relative to the size that rounding errors of that result have: the largest input,
    /// or for a sum the sum of the magnitudes. `f32::MAX` for what is no number or did not run.
    pub error: f32,
    /// Largest error that arithmetic as inexact as WGSL permits can explain, and far less than what
    /// one wrong element makes.
    pub bound: f32,
    /// Whether the error is within the bound.
    pub ok: bool,
}

/// Tests every variant that `gpu` can run for these shapes, rejects those that are wrong, and returns
/// how each did. What several shapes have in common is tested once. `progress` gets the parts that are done, and how many
/// there are.
///
/// # Errors
/// [`ErrorKind::OutOfMemory`] and [`ErrorKind::DeviceLost`]; a kernel that does not compile or run is
/// a wrong one.
pub async fn self_test(
    gpu: &Gpu,
    shapes: &[SelfTestShapes],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<SelfTestRow>> {
    let mut parts = Vec::new();
    for part in shapes.iter().flat_map(SelfTestShapes::parts) {
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    let mut rows = Vec::new();
    for (done, part) in parts.iter().enumerate() {
        progress(done, parts.len());
        rows.extend(part.test(gpu).await?);
    }
    Ok(rows)
}

/// Rejects the variants that are wrong on `gpu`: from results kept in `cache_dir` as far as this adapter,
/// driver and version of the crate were tested before, otherwise as [`self_test`] does, and keeps its results.
///
/// Without a `cache_dir` they are kept where the environment variable `MISTRAL_CACHE` says, or in
/// the user's cache directory. A damaged file is ignored and replaced; results that cannot be kept are
/// found anew the next time.
///
/// # Errors
/// As [`self_test`].
pub async fn ensure_self_test(gpu: &Gpu, shapes: &SelfTestShapes, cache_dir: Option<&Path>) -> Result<()> {
    for part in shapes.parts() {
        let kept = Kept::new(gpu, "self-test", &format!("{part:?}"), cache_dir);
        match kept.read_json::<Vec<SelfTestRow>>() {
            Some(rows) => rows.into_iter().filter(|row| !row.ok).for_each(|row| reject(gpu, row)),
            None => kept.write_json(&part.test(gpu).await?),
        }
    }
    Ok(())
}

fn reject(gpu: &Gpu, row: SelfTestRow) {
    tracing::warn!("{} is wrong on this device ({}): error {:e}", row.variant, row.case, row.error);
    gpu.reject(row.variant);
}

struct SelfTest<'a> {
    gpu: &'a Gpu,
    rows: Vec<SelfTestRow>,
}

impl SelfTest<'_> {
    /// Calls `run`, which returns the error of a result, once for each variant of `operation`, on a
    /// handle that has no other.
    async fn check<S>(
        &mut self,
        operation: &Operation<S>,
        shape: &S,
        case: impl Display,
        bound: f32,
        run: impl AsyncFn(&Gpu) -> Result<f32>,
    ) -> Result<()> {
        let variants: Vec<_> = operation.runnable(self.gpu, shape).collect();
        self.check_variants(operation, &variants, case, bound, run).await
    }

    /// As [`SelfTest::check`], for some variants only.
    async fn check_variants<S>(
        &mut self,
        operation: &Operation<S>,
        variants: &[&Variant<S>],
        case: impl Display,
        bound: f32,
        run: impl AsyncFn(&Gpu) -> Result<f32>,
    ) -> Result<()> {
        for variant in variants {
            let name = operation.full_name(variant);
            let error = match run(&operation.only(self.gpu, variant)).await {
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::Shader | ErrorKind::Device | ErrorKind::NonFinite
                    ) =>
                {
                    tracing::warn!("{name}: {error}");
                    f32::MAX
                }
                result => result.map_err(|error| operation.tried(variant.name, error))?,
            };
            let row = SelfTestRow { variant: name, case: case.to_string(), error, bound, ok: error <= bound };
            if !row.ok {
                reject(self.gpu, row.clone());
            }
            self.rows.push(row);
        }
        Ok(())
    }
}

/// The largest difference, each relative to `size` of its index.
fn worst(found: &[f32], expected: &[f32], size: impl Fn(usize) -> f32) -> f32 {
    let errors = found.iter().zip(expected).enumerate().map(|(index, (found, expected))| {
        let error = if found == expected { 0.0 } else { (found - expected).abs() / size(index) };
        if error.is_finite() { error } else { f32::MAX }
    });
    errors.fold(0.0, f32::max)
}
