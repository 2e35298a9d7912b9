//! What a person asks for, on top of [`generate`](crate::generate).

pub mod bench;
