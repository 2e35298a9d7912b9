//! The model: its configuration and the tensors it consists of.

mod config;
mod families;
mod generation_config;
mod keys;
mod synthetic;
mod tensors;

pub use config::ModelConfig;
pub use families::{FAMILIES, Family};
pub use generation_config::GenerationConfig;
pub use synthetic::{SYNTHETIC, Synthetic};
pub use tensors::{check, expected_tensors};
