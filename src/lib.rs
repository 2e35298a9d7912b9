//! Mistral 7B, run and customised on any GPU.

pub mod checkpoint;
mod error;
pub mod model;

pub use error::{Error, ErrorKind, Result};
