//! From a loaded model to text: sessions, sampling, batches.

mod batch;
mod continuation;
mod engine;
mod lanes;
mod philox;
mod proposer;
mod reading;
mod sampler;
mod sampling;
mod score;
mod session;
mod source;
mod state;

pub use batch::{Batch, Generation, generate_all};
pub use engine::{Engine, EngineOptions, default_formats, own_formats};
pub use lanes::{Lane, step};
pub use philox::{philox_4x32, uniform};
pub use proposer::{PromptLookup, Proposer, Speculate, StepCounts};
pub use reading::{Logits, Reader, Reading, ReadingBatch};
pub use sampler::{Decision, Sampled, Sampler, SamplingParams};
pub use session::{Finish, GenerateOptions, Piece, Session};
pub use source::ModelSource;
