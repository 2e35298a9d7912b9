//! From a loaded model to text: sessions, sampling, batches.

mod batch;
mod engine;
mod lanes;
mod philox;
mod sampler;
mod session;

pub use batch::{Generation, generate_all};
pub use engine::{Engine, EngineOptions, ModelSource, default_format};
pub use lanes::{Lane, step};
pub use philox::{philox_4x32, uniform};
pub use sampler::{Decision, Sampled, Sampler, SamplingParams};
pub use session::{Finish, GenerateOptions, Piece, Session};
