//! The model: configuration, weights, KV cache, and the transformer's forward pass.

mod activations;
mod adapter;
mod adapters;
mod batch;
mod config;
mod families;
mod fit;
mod generation_config;
mod gguf;
mod keys;
mod kv_cache;
mod linear;
mod lora_config;
mod params;
mod rope;
mod synthetic;
mod tensors;
mod transformer;
mod tune;
mod weight_formats;
mod weights;

pub use adapter::{Adapter, AdapterSet, AdapterSource, LowRank};
pub use batch::{Chunk, FEW_ROWS, LogitRows};
pub use config::ModelConfig;
pub use families::{FAMILIES, Family};
pub use fit::Fit;
pub use generation_config::GenerationConfig;
pub use kv_cache::{KvCache, Sequence, attention_shape};
pub use rope::RopeScaling;
pub use synthetic::{SYNTHETIC, Synthetic};
pub use tensors::{check, expected_tensors};
pub use transformer::{Model, ModelOptions};
pub use tune::tune_shapes;
pub use weight_formats::WeightFormats;
pub(crate) use weights::EMBEDDING;
pub use weights::{Layer, Progress, Rows, Stage, Weights, matrix_bytes};
