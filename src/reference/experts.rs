//! A mixture of experts (Jiang et al. 2024, arXiv:2401.04088, section 2.1).

/// The `chosen` experts of every row of `logits`, `[rows, experts]`, with the largest logits, the first of
/// equal ones, and their weights, the softmax of these logits: `[rows, chosen]`, the likeliest first.
pub fn choose_experts(logits: &[f32], experts: usize, chosen: usize) -> Vec<(usize, f32)> {
    let choose = |logits: &[f32]| -> Vec<(usize, f32)> {
        let mut order: Vec<usize> = (0..experts).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        order.truncate(chosen);
        let weight = |expert: &usize| f64::from(logits[*expert] - logits[order[0]]).exp();
        let sum: f64 = order.iter().map(weight).sum();
        order.iter().map(|expert| (*expert, (weight(expert) / sum) as f32)).collect()
    };
    logits.chunks_exact(experts).flat_map(choose).collect()
}

/// The number of each choice, `row * chosen + rank`, ordered by expert, then by row.
pub fn order_by_expert(choices: &[(usize, f32)]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..choices.len()).collect();
    order.sort_by_key(|choice| choices[*choice].0);
    order
}

/// `Σ weight · output` over the choices of each row: `outputs` are those of the experts in the order of
/// `choices`, `[rows, chosen, cols]`, the result is `[rows, cols]`.
pub fn expert_sum(choices: &[(usize, f32)], outputs: &[f32], chosen: usize) -> Vec<f32> {
    let cols = outputs.len() / choices.len();
    let sum = |(choices, outputs): (&[(usize, f32)], &[f32])| -> Vec<f32> {
        let weighted = |col: usize| choices.iter().zip(outputs[col..].iter().step_by(cols));
        let sum = |col: usize| weighted(col).map(|((_, weight), y)| f64::from(*weight) * f64::from(*y)).sum();
        (0..cols)
            .map(|col| {
                let sum: f64 = sum(col);
                sum as f32
            })
            .collect()
    };
    choices.chunks_exact(chosen).zip(outputs.chunks_exact(chosen * cols)).flat_map(sum).collect()
}
