//! The adapters of a model on the device.

use super::{Adapter, AdapterSet, ModelConfig, ModelOptions, Rows};
use crate::{
    Error, ErrorKind, Result,
    checkpoint::Rotary,
    gpu::{Buffer, Gpu},
    ops::{LoraFactors, LoraParts, MAX_ADAPTERS},
    quant::BLOCK,
};

/// What adapters change of a block, by the names of [`Layer`](super::Layer).
#[derive(Debug)]
pub(super) struct LayerAdapters {
    pub qkv: Option<LoraFactors>,
    pub o: Option<LoraFactors>,
    pub gate_up: Option<LoraFactors>,
    pub down: Option<LoraFactors>,
}

/// All adapters of a model.
#[derive(Debug, Default)]
pub(super) struct Adapters {
    /// How many there are.
    pub count: usize,
    pub layers: Vec<LayerAdapters>,
    pub lm_head: Option<LoraFactors>,
    /// Room for what A makes of the input of any product.
    pub h: Option<Buffer>,
}

impl Adapters {
    /// All of them.
    pub fn all(&self) -> AdapterSet {
        AdapterSet::first(self.count)
    }

    /// What they change of block `index`, if `wanted`.
    pub fn layer(&self, index: usize, wanted: bool) -> &LayerAdapters {
        static NONE: LayerAdapters = LayerAdapters { qkv: None, o: None, gate_up: None, down: None };
        self.layers.get(index).filter(|_| wanted).unwrap_or(&NONE)
    }

    /// Uploads `adapters`, the first of which is number 0.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] for more than [`MAX_ADAPTERS`], [`ErrorKind::OutOfMemory`] for ranks beyond what the
    /// device can bind; as [`Adapter::low_rank`] and [`Gpu::allocate`].
    pub fn new(
        gpu: &Gpu,
        config: &ModelConfig,
        options: &ModelOptions,
        adapters: &[Adapter],
    ) -> Result<Self> {
        if adapters.len() > MAX_ADAPTERS {
            let expected = format!("at most {MAX_ADAPTERS}");
            return Err(Error::expected(ErrorKind::Argument, "adapters", expected, adapters.len()));
        }
        let loader = Loader { gpu, adapters };
        let [hidden, intermediate, vocab] =
            [config.hidden_size, config.intermediate_size, config.vocab_size].map(|size| size as u32);
        let [q, kv] =
            [config.num_attention_heads, config.num_key_value_heads].map(|n| (n * config.head_dim) as u32);
        let alone = |outputs| LoraParts::Stacked([outputs, 0, 0]);
        let layer = |index: usize| -> Result<LayerAdapters> {
            let load = |modules: &[&str], order, parts, inputs| {
                let named = |module: &&str| format!("model.layers.{index}.{module}");
                loader.load(&modules.iter().map(named).collect::<Vec<_>>(), order, parts, inputs)
            };
            let qkv = LoraParts::Stacked([q, kv, kv]);
            let gate_up = LoraParts::Alternating(intermediate);
            Ok(LayerAdapters {
                qkv: load(
                    &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
                    Rows::qkv(config, Rotary::Halves),
                    qkv,
                    hidden,
                )?,
                o: load(&["self_attn.o_proj"], Rows::Same, alone(hidden), q)?,
                gate_up: load(&["mlp.gate_proj", "mlp.up_proj"], Rows::GateUp, gate_up, hidden)?,
                down: load(&["mlp.down_proj"], Rows::Same, alone(hidden), intermediate)?,
            })
        };
        let layers = (0..config.num_hidden_layers).map(layer).collect::<Result<Vec<_>>>()?;
        let lm_head = loader.load(&["lm_head".to_owned()], Rows::Same, alone(vocab), hidden)?;
        let of_layer = |layer: &LayerAdapters| {
            let LayerAdapters { qkv, o, gate_up, down } = layer;
            [qkv, o, gate_up, down].into_iter().flatten().map(LoraFactors::all_ranks).max()
        };
        let ranks =
            layers.iter().filter_map(of_layer).chain(lm_head.as_ref().map(LoraFactors::all_ranks)).max();
        let rows = u64::from(options.max_rows.max(options.max_logit_rows));
        let h = ranks.map(|ranks| gpu.allocate("adapters", 4 * rows * u64::from(ranks))).transpose()?;
        gpu.flush()?;
        Ok(Self { count: adapters.len(), layers, lm_head, h })
    }
}

struct Loader<'a> {
    gpu: &'a Gpu,
    adapters: &'a [Adapter],
}

impl Loader<'_> {
    /// What the adapters change of a product that stacks `modules`; `None` when that is nothing.
    fn load(
        &self,
        modules: &[String],
        order: Rows,
        parts: LoraParts,
        inputs: u32,
    ) -> Result<Option<LoraFactors>> {
        let of_all =
            self.adapters.iter().flat_map(|adapter| modules.iter().map(|module| adapter.rank(module)));
        let Some(rank) = of_all.flatten().max() else { return Ok(None) };
        let (ranks, inputs) = (rank.next_multiple_of(4), inputs as usize);
        let stride = inputs.next_multiple_of(BLOCK);
        let outputs = parts.outputs() as usize;
        let count = self.adapters.len();
        let most = 4 * (ranks * count) as u64 * outputs.max(modules.len() * stride) as u64;
        if most > self.gpu.limits().binding {
            let expected = format!("adapters of at most {} bytes in a product", self.gpu.limits().binding);
            return Err(Error::expected(ErrorKind::OutOfMemory, &modules[0], expected, most));
        }
        let mut a = vec![0.0; count * modules.len() * ranks * stride];
        let mut b = vec![0.0; count * outputs * ranks];
        let mut targets = [0; 3];
        let pieces =
            a.chunks_exact_mut(modules.len() * ranks * stride).zip(b.chunks_exact_mut(outputs * ranks));
        for (index, (adapter, (a, b))) in self.adapters.iter().zip(pieces).enumerate() {
            for (part, module) in modules.iter().enumerate() {
                let Some(low_rank) = adapter.low_rank(module)? else { continue };
                targets[part] |= 1 << index;
                let a = &mut a[part * ranks * stride..];
                for (to, from) in a.chunks_exact_mut(stride).zip(low_rank.a.chunks_exact(inputs)) {
                    to[..inputs].copy_from_slice(from);
                }
                for (row, to) in b.chunks_exact_mut(ranks).enumerate() {
                    let (source, source_row) = order.source(row);
                    if source == part {
                        let from = &low_rank.b[source_row * low_rank.rank..][..low_rank.rank];
                        to.iter_mut().zip(from).for_each(|(to, from)| *to = low_rank.scale * from);
                    }
                }
            }
        }
        if let Some(value) = b.iter().find(|value| !value.is_finite()) {
            return Err(Error::expected(
                ErrorKind::Argument,
                &modules[0],
                "an adapter's scale that keeps B finite",
                value,
            ));
        }
        let upload = |values: &[f32]| self.gpu.upload("adapters", values);
        let (a, b) = (upload(&a)?, upload(&b)?);
        Ok(Some(LoraFactors { a, b, adapters: count as u32, ranks: ranks as u32, targets, parts }))
    }
}
