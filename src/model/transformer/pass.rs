//! The forward pass as the paper draws it: embedding, blocks of attention and feed-forward layer, logits.

use std::slice;

use super::{Model, RecordingKey};
use crate::{
    Result,
    gpu::{Gpu, Recording},
    model::{
        activations::{ExpertActivations, ProductInput},
        form::Form,
        linear::Linear,
        weights::Layer,
    },
    ops::{
        Attention, Axis, Embedding, Epilogue, ExpertSum, Gather, LoraFactors, Matmul, Quantize, RmsNorm,
        RopeKv, Route, RowCount, Swiglu, Weight,
    },
    tensor::{Activation, Tensor},
};

impl Model {
    /// The pass of a batch with such a key.
    pub(super) fn record(&self, gpu: &Gpu, key: RecordingKey) -> Result<Recording> {
        let a = &self.activations;
        let mut recording = Recording::default();
        let rec = &mut recording;
        let (weight, sampled) = (&self.weights.embed_tokens, &self.sampled);
        Embedding { weight, rows: &a.rows[0], sampled, y: &a.x }.record(gpu, rec)?;
        let (qkv, weight) = self.qkv(0, key);
        self.norm(None, weight, qkv.input(gpu)?).record(gpu, rec)?;
        let mut eps = None;
        for index in 0..self.weights.layers.len() {
            eps = self.attention(gpu, rec, index, key, eps)?;
            eps = self.feed_forward(gpu, rec, index, key, eps)?;
        }
        if let Some(rows) = key.logit_rows {
            let (weight, row_ids) = (&self.weights.norm, Some(&a.logit_rows));
            let adapters = self.adapters.lm_head.as_ref();
            let lm_head = slice::from_ref(self.weights.lm_head());
            let key = RecordingKey { rows, ..key };
            let lm_head = self.linear("lm_head", lm_head, adapters, &a.final_norm, &self.logits, key);
            let lm_head = Linear { row_ids, ..lm_head };
            let wanted = lm_head.input(gpu)?;
            // The last of the hidden states.
            let y = if key.hidden_states { Activation::F32(&a.final_norm.f32) } else { wanted };
            RmsNorm { row_ids, ..self.norm(Some(&a.delta), weight, y) }.record(gpu, rec)?;
            convert(gpu, rec, y, wanted, rows)?;
            lm_head.record(gpu, rec)?;
        }
        Ok(recording)
    }

    /// `x += delta; y = rms_norm(x)`.
    fn norm<'a>(&'a self, delta: Option<&'a Tensor>, weight: &'a Tensor, y: Activation<'a>) -> RmsNorm<'a> {
        RmsNorm { x: &self.activations.x, delta, weight, y, row_ids: None, eps: self.config.rms_norm_eps }
    }

    /// The first product of attention, and the weight of the norm before it.
    fn qkv(&self, index: usize, key: RecordingKey) -> (Linear<'_>, &Tensor) {
        let (a, layer) = (&self.activations, &self.weights.layers[index]);
        let adapters = self.adapters.layer(index).qkv.as_ref();
        (self.linear("qkv", &layer.qkv, adapters, &a.normed, &a.qkv, key), &layer.input_norm)
    }

    /// The first product of the feed-forward layer, and the weight of the norm before it.
    fn gate_up(&self, index: usize, key: RecordingKey) -> (Linear<'_>, &Tensor) {
        let (a, layer) = (&self.activations, &self.weights.layers[index]);
        let adapters = self.adapters.layer(index).gate_up.as_ref();
        let first = match &layer.router {
            Some(router) => self.router(router, key),
            None => self.linear("gate_up", &layer.gate_up, adapters, &a.normed, &a.gate_up, key),
        };
        (first, &layer.post_attention_norm)
    }

    /// `delta = product; x += delta; normed = rms_norm(x)` for `next`. If both products can, each does a part of the norm:
    /// then its `eps` is returned, which `next` has to be given.
    fn record_normed(
        &self,
        gpu: &Gpu,
        recording: &mut Recording,
        product: &Linear,
        (next, weight): (Linear, &Tensor),
    ) -> Result<Option<f32>> {
        let norm = self.norm(Some(&self.activations.delta), weight, next.input(gpu)?);
        let epilogue = Epilogue::RmsNorm(norm);
        if product.fuses(gpu, &epilogue)? && next.finishes_norm(gpu)? {
            product.record_with(gpu, recording, None, epilogue)?;
            return Ok(Some(norm.eps));
        }
        product.record(gpu, recording)?;
        norm.record(gpu, recording)?;
        Ok(None)
    }

    /// `x += o(attention(rope(q), rope(k), v))` of the normed `x`, with k and v going through the cache; then the norm of
    /// the feed-forward layer.
    fn attention(
        &self,
        gpu: &Gpu,
        recording: &mut Recording,
        index: usize,
        key: RecordingKey,
        eps: Option<f32>,
    ) -> Result<Option<f32>> {
        let a = &self.activations;
        let segments = &self.cache.layers[index];
        let adapters = self.adapters.layer(index);
        let (class, first_segment) = self.cache.class_of(index);
        let (rows, shape) = (&a.rows[class], self.cache.shape);
        let items = first_segment..first_segment + segments.len();
        if key.hidden_states {
            recording.copy(&a.x.buffer, &a.hidden_states[index].buffer);
        }
        let (qkv, _) = self.qkv(index, key);
        let rope_kv = RopeKv { qkv: &a.qkv, q: &a.q, rows, rope: &self.rope.table, segments, shape };
        qkv.record_with(gpu, recording, eps, Epilogue::RopeKv(rope_kv))?;
        let o = &self.weights.layers[index].o;
        let o = self.linear("o", o, adapters.o.as_ref(), &a.attended, &a.delta, key);
        let wanted = o.input(gpu)?;
        let y = if shape.whole_blocks() { wanted } else { Activation::F32(&a.attended.f32) };
        Attention {
            q: &a.q,
            y,
            rows,
            first_segment,
            single_items: &a.single_items[items.clone()],
            tiled_items: &a.tiled_items[items],
            page_table: &a.page_table,
            segments,
            partials: &a.partials,
            shape,
            window: self.config.window(index),
        }
        .record(gpu, recording)?;
        convert(gpu, recording, y, wanted, key.rows)?;
        self.record_normed(gpu, recording, &o, self.gate_up(index, key))
    }

    /// `x += down(silu(gate) * up)` of the normed `x`, then the norm of the next block; after the last, `down` alone.
    fn feed_forward(
        &self,
        gpu: &Gpu,
        recording: &mut Recording,
        index: usize,
        key: RecordingKey,
        eps: Option<f32>,
    ) -> Result<Option<f32>> {
        let (a, layer) = (&self.activations, &self.weights.layers[index]);
        let next = (index + 1 < self.weights.layers.len()).then(|| self.qkv(index + 1, key));
        if let (Some(router), Some(experts)) = (&layer.router, &a.experts) {
            self.experts(gpu, recording, layer, router, experts, key)?;
            if let Some((qkv, weight)) = next {
                self.norm(Some(&a.delta), weight, qkv.input(gpu)?).record(gpu, recording)?;
            }
            return Ok(None);
        }
        let adapters = self.adapters.layer(index);
        let down = self.linear("down", &layer.down, adapters.down.as_ref(), &a.intermediate, &a.delta, key);
        let swiglu = Swiglu { gate_up: &a.gate_up, y: down.input(gpu)?, per_row: 1 };
        self.gate_up(index, key).0.record_with(gpu, recording, eps, Epilogue::Swiglu(swiglu))?;
        match next {
            Some(next) => self.record_normed(gpu, recording, &down, next),
            None => down.record(gpu, recording).map(|()| None),
        }
    }

    /// What decides between experts, which is not rounded.
    fn router<'a>(&'a self, router: &'a Weight, key: RecordingKey) -> Linear<'a> {
        let a = &self.activations;
        let logits = &a.experts.as_ref().expect("a mixture of experts").logits;
        let mut router = self.linear("router", slice::from_ref(router), None, &a.normed, logits, key);
        router.products.iter_mut().for_each(|product| product.rounded = None);
        Linear { norms: false, ..router }
    }

    /// `delta = Σ weight · down(silu(gate) * up)` of the normed `x`, over the experts that the router chooses for each
    /// row.
    fn experts(
        &self,
        gpu: &Gpu,
        recording: &mut Recording,
        layer: &Layer,
        router: &Weight,
        experts: &ExpertActivations,
        key: RecordingKey,
    ) -> Result<()> {
        let a = &self.activations;
        let ExpertActivations { logits, routes, x, y } = experts;
        let of_experts = |label, weights, x, y| {
            let mut linear = self.linear(label, weights, None, x, y, key);
            linear.products.iter_mut().for_each(|product| product.experts = Some(routes));
            linear
        };
        let gate_up = of_experts("gate_up", &layer.gate_up, x, &a.gate_up);
        let down = of_experts("down", &layer.down, &a.intermediate, y);
        self.router(router, key).record(gpu, recording)?;
        Route { logits, counts: &a.counts, routes }.record(gpu, recording)?;
        let (per_row, indices, read) = (routes.shape.chosen, &routes.sources, gate_up.input(gpu)?);
        let axis = Axis::Rows;
        Gather { x: &a.normed.f32, axis, indices, y: read, rows: key.rows, per_row }
            .record(gpu, recording)?;
        gate_up.record(gpu, recording)?;
        Swiglu { gate_up: &a.gate_up, y: down.input(gpu)?, per_row }.record(gpu, recording)?;
        down.record(gpu, recording)?;
        ExpertSum { x: y, routes, y: &a.delta }.record(gpu, recording)
    }

    /// `y = x · weightᵀ` of a stack of weights, and what `adapters` add to it in batches that have any.
    fn linear<'a>(
        &'a self,
        label: &'static str,
        weights: &'a [Weight],
        adapters: Option<&'a LoraFactors>,
        x: &'a ProductInput,
        y: &'a Tensor,
        key: RecordingKey,
    ) -> Linear<'a> {
        let (a, rows) = (&self.activations, key.rows);
        // What adapters change is not fused, so that floats gain nothing.
        let floats = self.form == Form::Floats && matches!(rows, RowCount::Few(_)) && adapters.is_none();
        let (x, rounded, counts) = (&x.f32, (!floats).then_some(&x.rounded), &a.counts);
        let product = |weight| Matmul { weight, x, rounded, y, rows, counts, experts: None, label };
        let products = weights.iter().map(product).collect();
        let (fuse, norms, ordered) = (self.form != Form::Separate, adapters.is_none(), a.ordered.as_ref());
        let adapters = adapters.filter(|_| key.adapters).zip(self.adapters.h.as_ref());
        Linear { products, adapters, ordered, rows: &a.rows[0], row_ids: None, fuse, norms }
    }
}

/// Rounds what was `written` in `f32` if it is `wanted` otherwise.
fn convert(
    gpu: &Gpu,
    recording: &mut Recording,
    written: Activation,
    wanted: Activation,
    rows: RowCount,
) -> Result<()> {
    match written {
        Activation::F32(x) => Quantize { x, y: wanted, rows }.record(gpu, recording),
        _ => Ok(()),
    }
}
