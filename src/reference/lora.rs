//! Low-rank adapters.

/// `y += scale · (x · aᵀ) · bᵀ`: `a` is `[ranks, k]`, `b` is `[n, ranks]`, `x` is `[m, k]`, `y` is `[m, n]`.
pub fn lora(y: &mut [f32], x: &[f32], a: &[f32], b: &[f32], ranks: usize, scale: f32) {
    let (k, n) = (a.len() / ranks, b.len() / ranks);
    let dot = |w: &[f32], v: &[f64]| w.iter().zip(v).map(|(w, v)| f64::from(*w) * v).sum::<f64>();
    for (x, y) in x.chunks_exact(k).zip(y.chunks_exact_mut(n)) {
        let x: Vec<f64> = x.iter().map(|value| f64::from(*value)).collect();
        let h: Vec<f64> = a.chunks_exact(k).map(|a| dot(a, &x)).collect();
        for (y, b) in y.iter_mut().zip(b.chunks_exact(ranks)) {
            *y = (f64::from(*y) + f64::from(scale) * dot(b, &h)) as f32;
        }
    }
}
