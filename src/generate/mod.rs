//! From logits to text: sampling.

mod philox;
mod sampler;

pub use philox::{philox_4x32, uniform};
pub use sampler::{Decision, Sampled, Sampler, SamplingParams};
