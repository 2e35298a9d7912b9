//! Mistral 7B, run and customised on any GPU.
#![warn(missing_docs)]

pub mod checkpoint;
mod error;
pub mod generate;
pub mod gpu;
pub mod model;
pub mod ops;
pub mod quant;
pub mod reference;
pub mod tensor;
pub mod text;

pub use error::{Error, ErrorKind, Result};
