//! Norm, gate and residual.

/// `x += delta`, both `[rows, cols]`.
pub fn residual_add(x: &mut [f32], delta: &[f32]) {
    for (x, delta) in x.iter_mut().zip(delta) {
        *x += delta;
    }
}

/// `x += delta`, then `x / sqrt(mean(x²) + eps) * weight` of each row: `x` and the result are
/// `[rows, cols]`, `weight` is `[cols]`.
pub fn rms_norm(x: &mut [f32], delta: Option<&[f32]>, weight: &[f32], eps: f32) -> Vec<f32> {
    if let Some(delta) = delta {
        residual_add(x, delta);
    }
    let normalised = |row: &[f32]| -> Vec<f32> {
        let squares: f64 = row.iter().map(|value| f64::from(*value).powi(2)).sum();
        let scale = 1.0 / (squares / row.len() as f64 + f64::from(eps)).sqrt();
        row.iter()
            .zip(weight)
            .map(|(value, weight)| (f64::from(*value) * scale * f64::from(*weight)) as f32)
            .collect()
    };
    x.chunks_exact(weight.len()).flat_map(normalised).collect()
}

/// `silu(gate) * up`: `gate_up` holds gate and up of each of `[rows, n]`, the result is `[rows, n]`.
pub fn swiglu(gate_up: &[f32]) -> Vec<f32> {
    let silu = |gate: f64| gate / (1.0 + (-gate).exp());
    let pairs = gate_up.as_chunks::<2>().0.iter();
    pairs.map(|[gate, up]| (silu(f64::from(*gate)) * f64::from(*up)) as f32).collect()
}
