//! Replays handed to something other than the device: another implementation of WebGPU, to compare.

use super::{
    BindingKind, Buffer, Gpu,
    recording::{Action, Recording},
};
use crate::Result;

/// What a replay does, in full.
#[derive(Debug, Default)]
pub struct Replay {
    /// Every buffer that it touches, whole, each once.
    pub buffers: Vec<Buffer>,
    /// What is done with them, in order.
    pub actions: Vec<ReplayAction>,
}

/// One action of a [`Replay`].
#[derive(Debug)]
pub enum ReplayAction {
    /// A dispatch.
    Dispatch {
        /// What it computes.
        label: &'static str,
        /// The shader, whose entry point is `main`.
        wgsl: String,
        /// Number in group 0, use and memory of each binding.
        bindings: Vec<(u32, BindingKind, ReplayPart)>,
        /// Workgroups in x, y and z.
        workgroups: [u32; 3],
    },
    /// A copy between parts of the same size.
    Copy {
        /// Source.
        from: ReplayPart,
        /// Destination.
        to: ReplayPart,
    },
}

/// A byte range of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayPart {
    /// Index in [`Replay::buffers`].
    pub buffer: usize,
    /// Where it begins.
    pub offset: u64,
    /// Its length.
    pub size: u64,
}

/// Does what a replay says, with the contents that the buffers have when it is called, and leaves the
/// results in them.
pub type Executor = dyn Fn(&Gpu, &Replay) -> Result<()> + Send + Sync;

impl Replay {
    pub(super) fn new(recording: &Recording, counts: &[u64]) -> Self {
        let mut replay = Self::default();
        for action in &recording.actions {
            let action = match action {
                Action::Copy { from, to } => {
                    ReplayAction::Copy { from: replay.part(from), to: replay.part(to) }
                }
                Action::Dispatch(step) => {
                    let bindings = step.kernel.bindings.iter().zip(&step.buffers);
                    ReplayAction::Dispatch {
                        label: step.label,
                        wgsl: step.kernel.wgsl.clone(),
                        bindings: bindings
                            .map(|(binding, buffer)| (binding.number, binding.kind, replay.part(buffer)))
                            .collect(),
                        workgroups: step.grid.map(|extent| extent.workgroups(counts)),
                    }
                }
            };
            replay.actions.push(action);
        }
        replay
    }

    fn part(&mut self, buffer: &Buffer) -> ReplayPart {
        let known = self.buffers.iter().position(|known| known.raw == buffer.raw);
        let index = known.unwrap_or_else(|| {
            self.buffers.push(buffer.whole());
            self.buffers.len() - 1
        });
        ReplayPart { buffer: index, offset: buffer.offset, size: buffer.size() }
    }
}
