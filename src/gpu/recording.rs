//! Dispatches as data, and the executor that replays them.

use std::sync::{Arc, PoisonError};

use super::{BindingKind, Buffer, Gpu, Kernel, Profile, Replay, Uniform, host::thread_time};
use crate::{Error, ErrorKind, Result};

/// Workgroups along one dimension of a dispatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Always this many.
    Fixed(u32),
    /// One for every `per` of the replay's count number `slot`, rounded up.
    Count {
        /// Index into the counts given to [`Gpu::replay`].
        slot: usize,
        /// How many of them one workgroup handles.
        per: u32,
    },
}

impl Extent {
    pub(super) fn workgroups(self, counts: &[u64]) -> u32 {
        match self {
            Extent::Fixed(workgroups) => workgroups,
            Extent::Count { slot, per } => counts[slot].div_ceil(u64::from(per)) as u32,
        }
    }
}

/// Workgroups in x, y and z.
pub type Grid = [Extent; 3];

/// Estimated work of a step: `fixed + counts[slot] * each`, in bytes moved or operations done,
/// whichever is more.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cost {
    /// Work whatever the counts.
    pub fixed: f64,
    /// The count that scales the rest.
    pub slot: usize,
    /// Work for each of that count.
    pub each: f64,
}

impl Cost {
    fn at(&self, counts: &[u64]) -> f64 {
        self.fixed + counts[self.slot] as f64 * self.each
    }
}

/// Buffers by the name that the shader gives them.
pub type Bindings<'a> = [(&'a str, &'a Buffer)];

/// One dispatch: kernel, bound buffers, grid.
#[derive(Debug, Clone)]
pub struct Step {
    pub(super) label: &'static str,
    pub(super) kernel: Arc<Kernel>,
    bind_group: wgpu::BindGroup,
    /// What the bind group keeps alive, in the order of the kernel's bindings.
    pub(super) buffers: Vec<Buffer>,
    pub(super) grid: Grid,
    cost: Cost,
    items: Option<Items>,
}

/// A buffer of which each workgroup in x reads the element of its number.
#[derive(Debug, Clone, Copy)]
struct Items {
    /// Number among the kernel's bindings.
    binding: usize,
    /// Size of an element.
    bytes: u64,
}

impl Step {
    /// Binds `bindings` to `kernel`.
    ///
    /// # Errors
    /// [`ErrorKind::Shader`] when a name is missing or unknown, or a buffer exceeds the binding limit.
    pub fn new(
        gpu: &Gpu,
        label: &'static str,
        kernel: Arc<Kernel>,
        bindings: &Bindings,
        grid: Grid,
        cost: Cost,
    ) -> Result<Self> {
        let fail =
            |message: String| Error::new(ErrorKind::Shader, format!("{label} ({})", kernel.shader), message);
        for (name, buffer) in bindings {
            let Some(binding) = kernel.bindings.iter().find(|binding| binding.name == *name) else {
                return Err(fail(format!("the shader has no buffer `{name}`")));
            };
            if binding.kind != BindingKind::Uniform && buffer.size() > gpu.limits().binding {
                let limit = gpu.limits().binding;
                return Err(fail(format!("`{name}` binds {} bytes, the limit is {limit}", buffer.size())));
            }
        }
        let mut buffers = Vec::with_capacity(kernel.bindings.len());
        for binding in &kernel.bindings {
            let Some((_, buffer)) = bindings.iter().find(|(name, _)| *name == binding.name) else {
                return Err(fail(format!("buffer `{}` is not bound", binding.name)));
            };
            buffers.push((*buffer).clone());
        }
        Self::bind(gpu, label, kernel, buffers, grid, cost)
    }

    fn bind(
        gpu: &Gpu,
        label: &'static str,
        kernel: Arc<Kernel>,
        buffers: Vec<Buffer>,
        grid: Grid,
        cost: Cost,
    ) -> Result<Self> {
        let bound = kernel.bindings.iter().zip(&buffers);
        let entries: Vec<_> = bound
            .map(|(binding, buffer)| wgpu::BindGroupEntry {
                binding: binding.number,
                resource: buffer.binding(),
            })
            .collect();
        let bind_group = gpu.guarded(label, |device| {
            device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(label),
                layout: &kernel.layout,
                entries: &entries,
            })
        })?;
        Ok(Self { label, kernel, bind_group, buffers, grid, cost, items: None })
    }

    /// Lets the step be done in parts when it would take too long: each workgroup in x reads of buffer
    /// `name` the element of its number, of `bytes` bytes, and no other.
    ///
    /// # Panics
    /// When the kernel has no such buffer.
    pub fn divisible(mut self, name: &str, bytes: u64) -> Self {
        let binding = self.kernel.bindings.iter().position(|binding| binding.name == name);
        self.items = Some(Items { binding: binding.expect("a buffer of the kernel"), bytes });
        self
    }

    /// Parts of the step, of about `most` work each, that differ in where their items begin.
    fn parts(&self, gpu: &Gpu, items: Items, counts: &[u64], most: f64) -> Result<Vec<Self>> {
        let (all, cost) = (self.grid[0].workgroups(counts), self.cost.at(counts));
        // A binding begins at a multiple of 256 bytes: 24-byte items are parted at multiples of 32.
        let unit = 256 / (1 << items.bytes.trailing_zeros().min(8));
        let each = ((most / cost * f64::from(all)) as u32 / unit * unit).max(unit);
        let part = |first: u32| {
            let (count, offset) = (each.min(all - first), u64::from(first) * items.bytes);
            let mut buffers = self.buffers.clone();
            let buffer = &mut buffers[items.binding];
            *buffer = buffer.slice(offset, buffer.size() - offset);
            let grid = [Extent::Fixed(count), self.grid[1], self.grid[2]];
            let cost = Cost { fixed: cost * f64::from(count) / f64::from(all), slot: 0, each: 0.0 };
            Self::bind(gpu, self.label, self.kernel.clone(), buffers, grid, cost)
        };
        (0..all).step_by(each as usize).map(part).collect()
    }
}

/// What was encoded for the device and not yet handed to it.
#[derive(Debug)]
pub(super) struct Commands {
    pub encoder: wgpu::CommandEncoder,
    pub work: f64,
}

impl Commands {
    pub fn new(device: &wgpu::Device) -> Self {
        Self { encoder: device.create_command_encoder(&Default::default()), work: 0.0 }
    }

    pub fn copy(&mut self, from: &Buffer, to: &Buffer) {
        self.encoder.copy_buffer_to_buffer(&from.raw, from.offset, &to.raw, to.offset, from.size());
    }
}

#[derive(Debug, Clone)]
pub(super) enum Action {
    Dispatch(Step),
    Copy { from: Buffer, to: Buffer },
}

/// Steps to be replayed in order.
#[derive(Debug, Clone, Default)]
pub struct Recording {
    pub(super) actions: Vec<Action>,
}

impl Recording {
    /// Appends a dispatch.
    pub fn push(&mut self, step: Step) {
        self.actions.push(Action::Dispatch(step));
    }

    /// Appends a copy of all of `from` to the beginning of `to`.
    pub fn copy(&mut self, from: &Buffer, to: &Buffer) {
        self.actions.push(Action::Copy { from: from.clone(), to: to.clone() });
    }

    /// Number of dispatches.
    pub fn dispatches(&self) -> usize {
        self.steps().count()
    }

    /// Estimated work of the costliest step.
    pub fn heaviest(&self, counts: &[u64]) -> f64 {
        self.steps().map(|step| step.cost.at(counts)).fold(0.0, f64::max)
    }

    /// The actions with every step of more than `longest` work in parts of about `most`, as far as it is
    /// divisible; `None` when there is none such.
    fn divided(&self, gpu: &Gpu, counts: &[u64], longest: f64, most: f64) -> Result<Option<Vec<Action>>> {
        let items = |step: &Step| step.items.filter(|_| step.cost.at(counts) > longest);
        if self.steps().all(|step| items(step).is_none()) {
            return Ok(None);
        }
        let mut actions = Vec::new();
        for action in &self.actions {
            match action {
                Action::Dispatch(step) if let Some(items) = items(step) => {
                    let parts = step.parts(gpu, items, counts, most)?;
                    actions.extend(parts.into_iter().map(Action::Dispatch));
                }
                other => actions.push(other.clone()),
            }
        }
        Ok(Some(actions))
    }

    fn steps(&self) -> impl Iterator<Item = &Step> {
        self.actions.iter().filter_map(|action| match action {
            Action::Dispatch(step) => Some(step),
            Action::Copy { .. } => None,
        })
    }
}

impl Gpu {
    /// A uniform buffer holding `value`; equal values share one.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub fn uniform<U: Uniform>(&self, value: &U) -> Result<Buffer> {
        let bytes = bytemuck::bytes_of(value).to_vec();
        let mut uniforms = self.uniforms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(buffer) = uniforms.get(&bytes) {
            return Ok(buffer.clone());
        }
        let buffer = self.upload("uniform", &bytes)?;
        uniforms.insert(bytes, buffer.clone());
        Ok(buffer)
    }

    /// Encodes every step of `recording`, with grids computed from `counts`, and submits what the pace asks
    /// for. The rest goes with what follows: with a replay, a write, a download or a wait.
    ///
    /// With `profile`, each step runs in a pass of its own between two timestamps, and the caller
    /// collects the profile after every replay.
    ///
    /// # Errors
    /// What the device reported so far, see [`Gpu::check`].
    pub fn replay(
        &self,
        recording: &Recording,
        counts: &[u64],
        mut profile: Option<&mut Profile>,
    ) -> Result<()> {
        if let Some(executor) = &self.executor {
            return executor(self, &Replay::new(recording, counts));
        }
        let start = thread_time();
        let (bound, longest) = {
            let pace = self.pace();
            (pace.bound(), pace.longest_step())
        };
        let mut all_dispatches = 0;
        let divided = recording.divided(self, counts, longest, bound)?;
        let mut actions = divided.as_deref().unwrap_or(&recording.actions);
        let mut unsubmitted = self.unsubmitted();
        while !actions.is_empty() {
            let commands = unsubmitted.get_or_insert_with(|| Commands::new(&self.device));
            let (taken, dispatches) = match &actions[0] {
                Action::Copy { from, to } => {
                    self.doing("copy");
                    commands.copy(from, to);
                    (1, 0)
                }
                Action::Dispatch(_) => {
                    self.encode_pass(commands, actions, counts, bound, profile.as_deref_mut())?
                }
            };
            if taken == 0 {
                self.submit(unsubmitted.take());
            }
            actions = &actions[taken..];
            all_dispatches += dispatches;
        }
        drop(unsubmitted);
        self.count(all_dispatches, (thread_time() - start).as_nanos() as u64);
        self.check()
    }

    /// Encodes one pass of as many dispatches from the front of `actions` as keep the commands'
    /// work within `bound` (a single one when profiling), and returns how many actions
    /// that were, and how many dispatches that had something to do.
    fn encode_pass(
        &self,
        Commands { encoder, work }: &mut Commands,
        actions: &[Action],
        counts: &[u64],
        bound: f64,
        profile: Option<&mut Profile>,
    ) -> Result<(usize, u64)> {
        let mut steps = Vec::new();
        for action in actions {
            let Action::Dispatch(step) = action else { break };
            let cost = step.cost.at(counts);
            if (*work > 0.0 && *work + cost > bound) || (profile.is_some() && !steps.is_empty()) {
                break;
            }
            *work += cost;
            steps.push(step);
        }
        let Some(first) = steps.first() else { return Ok((0, 0)) };
        let timestamp_writes = match profile {
            None => None,
            Some(profile) => {
                let (begin, end) = profile.next(first.label)?;
                Some(wgpu::ComputePassTimestampWrites {
                    query_set: &profile.queries,
                    beginning_of_pass_write_index: Some(begin),
                    end_of_pass_write_index: Some(end),
                })
            }
        };
        let mut pass =
            encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
        let mut dispatches = 0;
        for step in &steps {
            self.doing(step.label);
            let [x, y, z] = step.grid.map(|extent| extent.workgroups(counts));
            if x > 0 && y > 0 && z > 0 {
                pass.set_pipeline(&step.kernel.pipeline);
                pass.set_bind_group(0, &step.bind_group, &[]);
                pass.dispatch_workgroups(x, y, z);
                dispatches += 1;
            }
        }
        Ok((steps.len(), dispatches))
    }
}
