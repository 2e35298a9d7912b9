//! The GPU: the only room that names wgpu.
//!
//! [`Gpu`] is an opened adapter. [`Buffer`] is memory on it, [`Kernel`] a compiled compute shader,
//! [`Recording`] a list of dispatches that can be replayed with other counts.

mod adapter;
mod budget;
mod buffer;
mod capability;
mod counters;
mod device;
mod executor;
mod host;
mod kept;
mod kernel;
mod memory;
mod pace;
mod pipelines;
mod profile;
mod recording;
mod shader;
mod unroll;

pub use adapter::{AdapterDescription, Limits, list_adapters};
pub use buffer::{Buffer, Download};
pub use capability::{Capabilities, Capability};
pub use counters::Counters;
pub use device::{Gpu, GpuOptions};
pub use executor::{Executor, Replay, ReplayAction, ReplayPart};
pub use host::{peak_host_memory, process_time};
pub use kept::Kept;
pub use kernel::{Binding, Kernel};
pub use memory::{DeviceMemory, available_ram};
pub use profile::Profile;
pub use recording::{Bindings, Cost, Extent, Grid, Recording, Step};
pub use shader::{BindingKind, Composed, KernelKey, SHADERS, Uniform, compose};
