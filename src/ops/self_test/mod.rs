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

use std::{fmt::Display, path::Path};

use super::{AttentionShape, Operation, RouteShape, Variant};
use crate::{
    ErrorKind, Result,
    gpu::{Capability, Gpu, Kept},
    quant::Format,
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
    /// Of a mixture of experts.
    pub experts: Option<RouteShape>,
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
/// how each did.
///
/// # Errors
/// [`ErrorKind::OutOfMemory`] and [`ErrorKind::DeviceLost`]; a kernel that does not compile or run is
/// a wrong one.
pub async fn self_test(gpu: &Gpu, shapes: &SelfTestShapes) -> Result<Vec<SelfTestRow>> {
    let mut test = SelfTest { gpu, rows: Vec::new() };
    linear::embedding(&mut test, shapes.weights).await?;
    linear::quantize(&mut test).await?;
    if shapes.reordered {
        linear::permute(&mut test).await?;
    }
    linear::mat_vec(&mut test, shapes.weights, shapes.bias).await?;
    linear::mat_mat(&mut test, shapes.weights, shapes.bias).await?;
    if let Some(shape) = shapes.experts {
        experts::experts(&mut test, shape).await?;
        linear::of_experts(&mut test, shapes.weights).await?;
    }
    lora::lora(&mut test).await?;
    pointwise::rms_norm(&mut test).await?;
    pointwise::residual_add(&mut test).await?;
    pointwise::swiglu(&mut test).await?;
    attention::rope_kv(&mut test, shapes.attention).await?;
    attention::attention(&mut test, shapes.attention).await?;
    if gpu.capabilities().has(&[Capability::Fused]) {
        epilogue::normed(&mut test, shapes.weights).await?;
        epilogue::swiglu(&mut test, shapes.weights).await?;
        epilogue::rope_kv(&mut test, shapes.weights, shapes.attention).await?;
        epilogue::rms_norm(&mut test, shapes.weights).await?;
    }
    logits::adjust_logits(&mut test).await?;
    logits::top_k(&mut test).await?;
    logits::sample(&mut test).await?;
    Ok(test.rows)
}

/// Rejects the variants that are wrong on `gpu`: from results kept in `cache_dir` if this adapter,
/// driver and version of the crate were tested before, otherwise by [`self_test`], and keeps its results.
///
/// Without a `cache_dir` they are kept where the environment variable `MISTRAL_CACHE` says, or in
/// the user's cache directory. A damaged file is ignored and replaced; results that cannot be kept are
/// found anew the next time.
///
/// # Errors
/// As [`self_test`].
pub async fn ensure_self_test(gpu: &Gpu, shapes: &SelfTestShapes, cache_dir: Option<&Path>) -> Result<()> {
    let bias = if shapes.bias { ", bias" } else { "" };
    let reordered = if shapes.reordered { ", reordered" } else { "" };
    let experts = shapes.experts.map_or_else(String::new, |shape| format!(", {shape:?}"));
    let subject = format!("{}, {:?}{bias}{reordered}{experts}", shapes.weights.name, shapes.attention);
    let kept = Kept::new(gpu, "self-test", &subject, cache_dir);
    let known: Option<Vec<SelfTestRow>> = kept.read().and_then(|rows| serde_json::from_slice(&rows).ok());
    match known.filter(|rows| !rows.is_empty()) {
        Some(rows) => rows.into_iter().filter(|row| !row.ok).for_each(|row| reject(gpu, row)),
        None => kept.write(&serde_json::to_vec_pretty(&self_test(gpu, shapes).await?).expect("plain rows")),
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
                error => error?,
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
