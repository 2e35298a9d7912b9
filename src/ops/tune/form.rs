//! The choice among forms of a whole step, which differ in how it is cut into dispatches.

use std::{path::Path, time::Instant};

use super::{FEW, OPERATION, RUNS, SURE_RUNS, Tune, as_far_as_memory_goes, keep, kept_tuning, prefer, timed};
use crate::{Result, gpu::Gpu};

/// Makes `gpu` prefer for `case` the fastest of `forms`, the first unless another is faster by more than chance. What
/// [`ensure_tuned`](super::ensure_tuned), to be called before, has found in `cache_dir` holds; otherwise it is measured, and
/// kept there: `prepare` gives what hands a step of the form of a number, of so many rows, to the device.
///
/// # Errors
/// As `prepare` and the steps; what there is no memory for is not measured.
pub fn ensure_form<S: FnMut(usize, u32) -> Result<()>>(
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
        let mut best = vec![[f64::MAX; FEW.len()]; forms.len()];
        // The first time, drivers compile.
        for form in 0..forms.len() {
            FEW.into_iter().try_for_each(|rows| timed(gpu, || step(form, rows)).map(drop))?;
        }
        let end = Instant::now() + OPERATION;
        for round in 0..RUNS {
            if round >= SURE_RUNS && Instant::now() > end {
                break;
            }
            for (form, best) in best.iter_mut().enumerate() {
                for (rows, best) in FEW.into_iter().zip(best) {
                    *best = best.min(timed(gpu, || step(form, rows))? / f64::from(rows));
                }
            }
        }
        let of_form = |(form, best): (&&str, &[f64; FEW.len()])| ((*form).to_owned(), best.iter().sum());
        let seconds: Vec<_> = forms.iter().zip(&best).map(of_form).collect();
        let row = prefer(gpu, case.to_owned(), seconds);
        keep(gpu, cache_dir, kept_tuning(gpu, cache_dir), row.into_iter().collect());
        Ok(())
    }))
}
