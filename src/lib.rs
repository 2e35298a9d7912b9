//! Mistral 7B, run and customised on any GPU: one crate on wgpu, WGSL compute shaders, and a Rust
//! host that records and dispatches them.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use futures::{StreamExt, pin_mut};
//! use mistral_wgpu::{generate::*, gpu::*, text::Encode};
//!
//! # async fn run() -> mistral_wgpu::Result<()> {
//! let gpu = Arc::new(Gpu::open(&GpuOptions::default()).await?);
//! let source = ModelSource::Folder("Mistral-7B-v0.1".into());
//! let engine = Engine::load(gpu, &source, &EngineOptions::default(), &mut |_done, _total| {}).await?;
//!
//! let mut session = engine.session();
//! session.feed(&engine.tokenizer()?.encode("Once upon a time", Encode { bos: true, special: false })?);
//! let pieces = session.generate(GenerateOptions { max_tokens: Some(200), ..Default::default() });
//! pin_mut!(pieces);
//! while let Some(piece) = pieces.next().await {
//!     print!("{}", piece?.text);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # The way of the data
//!
//! ```text
//! prompt ─ Tokenizer ─▶ token ids ─ Session ─▶ Chunk, Chunk, …      one chunk for each text
//!                                                │ Tables            rows, pages, attention work
//!                                                ▼
//!                        Recording ─ replay ─▶ the GPU               embedding, layers, logits
//!                                                │
//!                 penalties, masks, top-k on the GPU
//!                                                ▼
//!           text ◀─ StreamDecoder ◀─ token ◀─ Sampler               256 candidates come back, and the next
//!                                                                   step has begun with the GPU's own choice
//! ```
//!
//! One forward pass serves everything ([`model::Model::forward`]): a prefill chunk is a batch with
//! many tokens of one text, decoding is one token each of one or many texts. Nothing in the model
//! knows which of these it runs.
//!
//! # Rooms
//!
//! A room uses rooms above it in this list, never below; a test checks that.
//!
//! - `error`: the one [`Error`], with its [`ErrorKind`].
//! - [`gpu`]: the only code that names wgpu. A device, its buffers and kernels; WGSL composed from
//!   `shaders/`; [`gpu::Recording`], dispatches as data, replayed in submissions of bounded work.
//! - [`quant`]: block formats of weights. One file and one row in [`quant::FORMATS`] each.
//! - [`reference`](mod@reference): a scalar twin of every operation, the oracle of tests and of the
//!   device's self-test.
//! - [`tensor`]: matrices of activations.
//! - [`ops`]: one file for each operation with its table of kernel variants.
//! - [`hub`]: models of the Hugging Face hub, fetched into its cache.
//! - [`checkpoint`]: files on disk to named tensors. Nothing in them is trusted.
//! - [`text`]: tokenizer, chat template, streaming decoder.
//! - [`model`]: configuration, weights, the paged KV cache, the transformer.
//! - [`generate`]: sampling, sessions, batches.
//! - [`apps`]: summarize, classify, chat: what a person asks for; perplexity, evaluations.
//!
//! # Where the plan was changed by the building
//!
//! - Page tables are written anew with each batch, and hold only the pages that a query can still
//!   see: some hundred bytes for a text within a window, and no state to keep in step.
//! - Matrices that read the same input are stacked at load (q, k and v; gate and up): one dispatch in
//!   place of three or two. Their rows are ordered so that what RoPE and SwiGLU combine lies side by
//!   side ([`model::Rows`]): one workgroup can do both, and q and k turn neighbouring dimensions, as in
//!   Mistral's own checkpoints and in GGUF. Hugging Face's rows, and the B of adapters made for them,
//!   are permuted at load.
//! - Grids follow the counts of the batch exactly, so there are no padded rows. The kernels for 1 to 8
//!   rows are made for their number, which keeps each row's bits independent of the others.
//! - Attention always writes partial results and merges them in a second dispatch; how a row's keys
//!   are cut depends on its position alone.
//! - Which variant runs is measured for each shape at the first load. One variant serves all of 1 to 8
//!   rows of a matrix, or a row's bits would depend on how many others there are.
//! - The token that a step chooses on the device is what the next step begins with, and no more than a
//!   guess: the host chooses again from the same candidates, and what began with another token is computed
//!   anew. So texts do not depend on the device's exponentials, nor on whether steps ran ahead.
#![warn(missing_docs)]

pub mod apps;
pub mod checkpoint;
mod error;
pub mod generate;
pub mod gpu;
pub mod hub;
pub mod model;
pub mod ops;
pub mod quant;
pub mod reference;
pub mod tensor;
pub mod text;

pub use error::{Error, ErrorKind, Result};
