//! The choice among forms of a whole step, which differ in how it is cut into dispatches.

use std::{path::Path, time::Instant};

use super::{
    OPERATION, RUNS, SURE_RUNS, Tune, TuneRow, as_far_as_memory_goes, fastest, keep, kept_tuning, timed,
};
use crate::{Result, gpu::Gpu};

/// Makes `gpu` prefer for `case` the fastest of `forms`, the first unless another is faster by more than chance. What
/// [`ensure_tuned`](super::ensure_tuned), to be called before, has found in `cache_dir` holds; otherwise it is measured, and
/// kept there: `prepare` gives what hands a step of the form of a number to the device.
///
/// # Errors
/// As `prepare` and the steps; what there is no memory for is not measured.
pub fn ensure_form<S: FnMut(usize) -> Result<()>>(
    gpu: &Gpu,
    case: &str,
    forms: &[&str],
    tune: Tune,
    cache_dir: Option<&Path>,
    prepare: impl FnOnce() -> Result<S>,
) -> Result<()> {
    if tune == Tune::Never || (tune == Tune::Once && gpu.preferred(case).is_some()) {
        return Ok(());
    }
    as_far_as_memory_goes(prepare().and_then(|mut step| {
        let mut seconds: Vec<_> = forms.iter().map(|form| ((*form).to_owned(), f64::MAX)).collect();
        // The first time, drivers compile.
        for form in 0..forms.len() {
            timed(gpu, || step(form))?;
        }
        let end = Instant::now() + OPERATION;
        for round in 0..RUNS {
            if round >= SURE_RUNS && Instant::now() > end {
                break;
            }
            for (form, (_, seconds)) in seconds.iter_mut().enumerate() {
                *seconds = seconds.min(timed(gpu, || step(form))?);
            }
        }
        let variant = fastest(&seconds).expect("all have run");
        tracing::debug!("{case}: {variant} of {seconds:?}");
        gpu.prefer(case.to_owned(), variant.clone());
        let row = TuneRow { case: case.to_owned(), variant, seconds };
        keep(gpu, cache_dir, kept_tuning(gpu, cache_dir), vec![row]);
        Ok(())
    }))
}
