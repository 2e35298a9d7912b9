//! Mistral 7B, run and customised on any GPU.

mod error;

pub use error::{Error, ErrorKind, Result};
