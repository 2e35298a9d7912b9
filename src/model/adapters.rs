//! The adapters of a model on the device.

use super::{Adapter, AdapterSet, ModelConfig, ModelOptions, Rows};
use crate::{
    Error, ErrorKind, Result,
    checkpoint::Rotary,
    gpu::{Buffer, Gpu},
    ops::{LoraFactors, LoraParts, MAX_ADAPTERS, TuneLora},
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

    /// What they change of block `index`.
    pub fn layer(&self, index: usize) -> &LayerAdapters {
        static NONE: LayerAdapters = LayerAdapters { qkv: None, o: None, gate_up: None, down: None };
        self.layers.get(index).unwrap_or(&NONE)
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
        let layer = |index: usize| -> Result<LayerAdapters> {
            let [qkv, o, gate_up, down] =
                Product::of_block(config, index).map(|product| loader.load(&product));
            Ok(LayerAdapters { qkv: qkv?, o: o?, gate_up: gate_up?, down: down? })
        };
        let layers = (0..config.num_hidden_layers).map(layer).collect::<Result<Vec<_>>>()?;
        let lm_head = loader.load(&Product::lm_head(config))?;
        let h = h_bytes(config, options, adapters);
        let h = (h > 0).then(|| gpu.allocate("adapters", h)).transpose()?;
        gpu.flush()?;
        Ok(Self { count: adapters.len(), layers, lm_head, h })
    }
}

/// A product that adapters change.
struct Product {
    /// Names of the matrices that it stacks.
    modules: Vec<String>,
    /// Their rows in it.
    order: Rows,
    parts: LoraParts,
    inputs: usize,
}

impl Product {
    /// Those of block `index`, in the order of [`LayerAdapters`].
    fn of_block(config: &ModelConfig, index: usize) -> [Self; 4] {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let [q, kv] = [config.num_attention_heads, config.num_key_value_heads].map(|n| n * config.head_dim);
        let qkv = LoraParts::Stacked([q, kv, kv].map(|outputs| outputs as u32));
        let gate_up = LoraParts::Alternating(intermediate as u32);
        let product = |modules: &[&str], order, parts, inputs| {
            let modules =
                modules.iter().map(|module| format!("model.layers.{index}.{module}_proj")).collect();
            Self { modules, order, parts, inputs }
        };
        [
            product(
                &["self_attn.q", "self_attn.k", "self_attn.v"],
                Rows::qkv(config, Rotary::Halves),
                qkv,
                hidden,
            ),
            product(&["self_attn.o"], Rows::Same, alone(hidden), q),
            product(&["mlp.gate", "mlp.up"], Rows::GateUp, gate_up, hidden),
            product(&["mlp.down"], Rows::Same, alone(hidden), intermediate),
        ]
    }

    fn lm_head(config: &ModelConfig) -> Self {
        let (inputs, parts) = (config.hidden_size, alone(config.vocab_size));
        Self { modules: vec!["lm_head".to_owned()], order: Rows::Same, parts, inputs }
    }

    /// Those of all blocks, and the last.
    fn all(config: &ModelConfig) -> impl Iterator<Item = Self> {
        let blocks = (0..config.num_hidden_layers).flat_map(|index| Self::of_block(config, index));
        blocks.chain([Self::lm_head(config)])
    }

    /// Inputs in whole blocks.
    fn stride(&self) -> usize {
        self.inputs.next_multiple_of(BLOCK)
    }

    /// Ranks that each of `adapters` gets in it; `None` when all leave it alone.
    fn ranks(&self, adapters: &[Adapter]) -> Option<usize> {
        let ranks = |adapter: &Adapter| self.modules.iter().filter_map(|module| adapter.rank(module)).max();
        adapters.iter().filter_map(ranks).max().map(|rank| rank.next_multiple_of(4))
    }

    /// Values of A, and of B.
    fn sizes(&self, ranks: usize, adapters: usize) -> [usize; 2] {
        [self.modules.len() * self.stride(), self.parts.outputs() as usize]
            .map(|size| adapters * ranks * size)
    }
}

fn alone(outputs: usize) -> LoraParts {
    LoraParts::Stacked([outputs as u32, 0, 0])
}

/// Bytes of the room for what A makes of the input of any product.
fn h_bytes(config: &ModelConfig, options: &ModelOptions, adapters: &[Adapter]) -> u64 {
    let ranks = |product: Product| Some(product.modules.len() * product.ranks(adapters)? * adapters.len());
    let rows = u64::from(options.max_rows.max(options.max_logit_rows));
    4 * rows * Product::all(config).filter_map(ranks).max().unwrap_or(0) as u64
}

/// Bytes that `adapters` of a model take on the device at most: half as many for A and B where 16 bits hold them.
pub fn adapter_bytes(config: &ModelConfig, options: &ModelOptions, adapters: &[Adapter]) -> u64 {
    let values = |product: Product| {
        let ranks = product.ranks(adapters)?;
        Some(product.sizes(ranks, adapters.len()).into_iter().sum::<usize>() as u64)
    };
    4 * Product::all(config).filter_map(values).sum::<u64>() + h_bytes(config, options, adapters)
}

/// What kernels for `adapters` of a model are measured on: its different products.
pub fn tune_adapters(config: &ModelConfig, adapters: &[Adapter]) -> Vec<TuneLora> {
    let mut all: Vec<TuneLora> = Vec::new();
    for product in (0..config.num_hidden_layers).flat_map(|index| Product::of_block(config, index)) {
        let Some(ranks) = product.ranks(adapters) else { continue };
        let (inputs, ranks) = (product.inputs as u32, ranks as u32);
        let count = adapters.len().min(MAX_ADAPTERS) as u32;
        let lora = TuneLora { inputs, ranks, parts: product.parts, adapters: count };
        if !all.contains(&lora) {
            all.push(lora);
        }
    }
    all
}

struct Loader<'a> {
    gpu: &'a Gpu,
    adapters: &'a [Adapter],
}

impl Loader<'_> {
    /// What the adapters change of `product`; `None` when that is nothing.
    fn load(&self, product: &Product) -> Result<Option<LoraFactors>> {
        let Some(ranks) = product.ranks(self.adapters) else { return Ok(None) };
        let Product { modules, order, parts, inputs } = product;
        let (inputs, stride, outputs) = (*inputs, product.stride(), parts.outputs() as usize);
        let count = self.adapters.len();
        let [a_size, b_size] = product.sizes(ranks, count);
        let most = 4 * a_size.max(b_size) as u64;
        if most > self.gpu.limits().binding {
            let expected = format!("adapters of at most {} bytes in a product", self.gpu.limits().binding);
            return Err(Error::expected(ErrorKind::OutOfMemory, &modules[0], expected, most));
        }
        let (mut a, mut b) = (vec![0.0; a_size], vec![0.0; b_size]);
        let mut targets = [0; 3];
        let pieces = a.chunks_exact_mut(a_size / count).zip(b.chunks_exact_mut(outputs * ranks));
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
        LoraFactors::new(self.gpu, [&a, &b], count as u32, targets, *parts).map(Some)
    }
}
