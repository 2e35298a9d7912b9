//! The demo model on texts it was not trained on, through the engine, at each weight format.
//!
//! 50 texts of each kind; `MISTRAL_HELDOUT=200` takes all there are.

mod held_out;

use held_out::{engine, scores};
use mistral_wgpu::{ops::Tune, quant::by_name};

/// Asserts the least shares of right labels, summaries and code.
fn check(format: &str, least: [f64; 3]) {
    let found = scores(&engine(by_name(format).unwrap(), Tune::Never));
    println!(
        "{format}: labels {:.1} %, summaries {:.1} %, code {:.1} %",
        found[0] * 1e2,
        found[1] * 1e2,
        found[2] * 1e2
    );
    assert!(found.iter().zip(least).all(|(found, least)| *found >= least), "{format}: {found:?} < {least:?}");
}

#[test]
fn held_out_at_f16() {
    check("f16", [0.95, 0.8, 0.8]);
}

#[test]
fn held_out_at_q8_0() {
    check("q8_0", [0.95, 0.8, 0.8]);
}

#[test]
fn held_out_at_q4_0() {
    check("q4_0", [0.95, 0.9, 0.9]);
}
