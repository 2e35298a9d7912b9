//! The opened device, and what goes wrong on it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use futures::FutureExt;

use super::{
    AdapterDescription, Buffer, Capabilities, Capability, Counters, DeviceMemory, Executor, KernelKey,
    Limits,
    adapter::{adapters, choose},
    budget::Budget,
    kernel::Slot,
    pace::{Pace, Submission},
    pipelines::Pipelines,
    recording::Commands,
};
use crate::{Error, ErrorKind, Result};

/// What to open, and how.
#[derive(Debug, Clone, Default)]
pub struct GpuOptions {
    /// Index in [`list_adapters`](super::list_adapters) or part of an adapter's name; the best discrete GPU if `None`.
    pub gpu: Option<String>,
    /// Ask only for WebGPU's default limits, which every device has.
    pub floor_limits: bool,
    /// Optional paths not to use.
    pub disable: Capabilities,
    /// Memory to plan with and to keep to, in bytes, in place of what the driver tells.
    pub memory: Option<u64>,
    /// Seconds that a submission should take at most; 0.1, far below any watchdog, if `None`.
    pub submission_seconds: Option<f64>,
    /// Work per second, in the unit of [`Cost`](super::Cost), that the device seems to do at most, by
    /// answering late: a slow one, for tests.
    pub throttle: Option<f64>,
    /// Texts that stand in for files of [`SHADERS`](super::SHADERS), by module name: to try a kernel
    /// without building the crate, and to break one in tests. Compiled with every check.
    pub shaders: HashMap<String, String>,
}

/// By what name [`Gpu::reject`] excludes the device's own conversion of 16-bit floats.
const F16_CONVERSION: &str = "half/f16_conversion";

/// An opened device with its queue, compiled kernels and pace; cloning makes another handle to it.
#[derive(Clone)]
pub struct Gpu {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) adapter: wgpu::Adapter,
    pub(super) budget: Arc<Budget>,
    pub(super) kernels: Arc<Mutex<HashMap<KernelKey, Slot>>>,
    pub(super) pipelines: Arc<OnceLock<Pipelines>>,
    pub(super) uniforms: Arc<Mutex<HashMap<Vec<u8>, Buffer>>>,
    pub(super) counters: Arc<Mutex<Counters>>,
    /// Host memory that downloads go through, to be used again.
    pub(super) staging: Arc<Mutex<Vec<Buffer>>>,
    /// What runs recordings in place of the device.
    pub(super) executor: Option<Arc<Executor>>,
    /// What goes to the device with whatever follows.
    unsubmitted: Arc<Mutex<Option<Commands>>>,
    pace: Arc<Mutex<Pace>>,
    rejected: Arc<Mutex<HashSet<String>>>,
    preferred: Arc<Mutex<HashMap<String, String>>>,
    faults: Arc<Mutex<Faults>>,
    options: Arc<GpuOptions>,
    description: AdapterDescription,
    capabilities: Capabilities,
    limits: Limits,
}

#[derive(Default)]
struct Faults {
    /// What the host is doing now, for the message.
    doing: String,
    first: Option<Error>,
    lost: Option<String>,
}

impl Gpu {
    /// Opens the adapter that `options` names.
    ///
    /// # Errors
    /// [`ErrorKind::Device`] when there is none, or it refuses.
    pub async fn open(options: &GpuOptions) -> Result<Self> {
        let adapters = adapters().await;
        let descriptions: Vec<_> = adapters.iter().map(AdapterDescription::of).collect();
        let index = choose(&descriptions, options.gpu.as_deref())?;
        let adapter = &adapters[index];
        let mut description = descriptions[index].clone();
        if let Some(bytes) = options.memory {
            description.memory = DeviceMemory { total: Some(bytes), free: Some(bytes), ..description.memory };
        }
        let mut capabilities = description.capabilities.without(options.disable);
        if !options.shaders.is_empty() {
            capabilities = capabilities.without([Capability::Unchecked].into_iter().collect());
        }
        let required_limits = if options.floor_limits { wgpu::Limits::default() } else { adapter.limits() };
        let capabilities = capabilities.within(&required_limits);
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor {
                label: Some("mistral-wgpu"),
                required_features: capabilities.features(),
                required_limits: required_limits.clone(),
                experimental_features: if capabilities.is_experimental() {
                    // SAFETY: such features may have bugs that let a shader do harm. Only shaders that
                    // name them in `KernelKey::needs` use them, and those are this crate's own and tested.
                    unsafe { wgpu::ExperimentalFeatures::enabled() }
                } else {
                    wgpu::ExperimentalFeatures::disabled()
                },
                ..Default::default()
            })
            .await
            .map_err(|error| Error::new(ErrorKind::Device, &description.name, &error).because(error))?;
        let faults = Arc::new(Mutex::new(Faults::default()));
        device.on_uncaptured_error(Arc::new({
            let faults = faults.clone();
            move |error| {
                let mut faults = faults.lock().unwrap_or_else(PoisonError::into_inner);
                let error = describe(&faults.doing, error);
                faults.first.get_or_insert(error);
            }
        }));
        device.set_device_lost_callback({
            let faults = faults.clone();
            move |reason, message| {
                let mut faults = faults.lock().unwrap_or_else(PoisonError::into_inner);
                faults.lost =
                    Some(format!("the device was lost ({reason:?}) {message}").trim_end().to_owned());
            }
        });
        Ok(Self {
            device,
            queue,
            adapter: adapter.clone(),
            budget: Budget::new(options.memory),
            kernels: Arc::default(),
            pipelines: Arc::default(),
            uniforms: Arc::default(),
            staging: Arc::default(),
            executor: None,
            unsubmitted: Arc::default(),
            pace: Arc::new(Mutex::new(Pace::new(
                options.submission_seconds.unwrap_or(0.1),
                options.throttle,
            ))),
            counters: Arc::default(),
            rejected: Arc::default(),
            preferred: Arc::default(),
            faults,
            options: Arc::new(options.clone()),
            description,
            capabilities,
            limits: Limits::from(&required_limits),
        })
    }

    /// Opens the device once more, after its loss. What was found out about its kernels holds; buffers and
    /// compiled kernels are of the lost one.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    pub async fn reopen(&self) -> Result<Self> {
        let (rejected, preferred) = (self.rejected.clone(), self.preferred.clone());
        Ok(Self { rejected, preferred, ..Self::open(&self.options).await? })
    }

    /// The adapter this device was opened on.
    pub fn description(&self) -> &AdapterDescription {
        &self.description
    }

    /// Optional paths in use: without the device's conversion of 16-bit floats, where it was found wrong.
    pub fn capabilities(&self) -> Capabilities {
        if self.rejects(F16_CONVERSION) {
            self.capabilities.without([Capability::F16Conversion].into_iter().collect())
        } else {
            self.capabilities
        }
    }

    /// Limits in force.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// What stands in for files of [`SHADERS`](super::SHADERS), by module name.
    pub fn shaders(&self) -> &HashMap<String, String> {
        &self.options.shaders
    }

    /// Excludes the kernel variant `name` (`operation/variant`) from being chosen.
    pub fn reject(&self, name: String) {
        self.rejected().insert(name);
    }

    /// Whether [`Gpu::reject`] was called with `name`.
    pub fn rejects(&self, name: &str) -> bool {
        self.rejected().contains(name)
    }

    /// Makes `variant` the choice for `case` (`operation, subject`), wherever it can run.
    pub fn prefer(&self, case: String, variant: String) {
        self.preferences().insert(case, variant);
    }

    /// What [`Gpu::prefer`] was last told of `case`.
    pub fn preferred(&self, case: &str) -> Option<String> {
        self.preferences().get(case).cloned()
    }

    /// Another handle to the device, whose further rejections do not concern this one.
    pub fn with_own_rejections(&self) -> Self {
        let rejected = Arc::new(Mutex::new(self.rejected().clone()));
        Self { rejected, ..self.clone() }
    }

    /// Another handle to the device, whose replays go to `executor` in place of it.
    pub fn with_executor(&self, executor: Arc<Executor>) -> Self {
        Self { executor: Some(executor), ..self.clone() }
    }

    fn rejected(&self) -> MutexGuard<'_, HashSet<String>> {
        self.rejected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn preferences(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.preferred.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names what the host does next, for the message of an error that the device raises.
    pub(super) fn doing(&self, label: &str) {
        self.faults().doing.replace_range(.., label);
    }

    /// Runs `make` and turns the error it raises on the device into a `Result`.
    pub(super) fn guarded<T>(&self, label: &str, make: impl FnOnce(&wgpu::Device) -> T) -> Result<T> {
        self.doing(label);
        let scopes =
            [wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::OutOfMemory]
                .map(|filter| self.device.push_error_scope(filter));
        let made = make(&self.device);
        // Innermost first; on native backends the future of a popped scope is ready at once.
        let errors: Vec<_> =
            scopes.into_iter().rev().filter_map(|scope| scope.pop().now_or_never().flatten()).collect();
        self.check_lost()?; // which no scope tells
        match errors.into_iter().next() {
            Some(error) => Err(describe(label, error)),
            None => Ok(made),
        }
    }

    /// Waits until the device has finished everything replayed, and reports what went wrong.
    ///
    /// # Errors
    /// The first error since the last call, or the loss of the device.
    pub fn wait(&self) -> Result<()> {
        self.submit_encoded();
        let last = self.pace().last();
        let waited = self.wait_for(last.as_ref(), |queue_empty| queue_empty);
        if let Some(last) = last {
            self.pace().finished(&last, true);
        }
        self.check()?;
        waited.map(drop)
    }

    /// Waits until the device has finished `submission`, or everything if `None`, and tells whether it had
    /// not before. `finished` is asked after each look at the device, being told whether all is done.
    pub(super) fn wait_for(
        &self,
        submission: Option<&Submission>,
        finished: impl FnMut(bool) -> bool,
    ) -> Result<bool> {
        let waited = self.poll_for(submission, finished)?;
        let early = submission.map(|submission| submission.due.saturating_duration_since(Instant::now()));
        match early {
            Some(early) if !early.is_zero() => {
                std::thread::sleep(early);
                Ok(true)
            }
            _ => Ok(waited),
        }
    }

    fn poll_for(
        &self,
        submission: Option<&Submission>,
        mut finished: impl FnMut(bool) -> bool,
    ) -> Result<bool> {
        // Some backends sleep in whole milliseconds while they wait: look a few times first.
        let start = Instant::now();
        let mut waited = false;
        while start.elapsed() < Duration::from_micros(200) {
            match self.device.poll(wgpu::PollType::Poll) {
                Ok(status) if finished(status.is_queue_empty()) => return Ok(waited),
                Ok(_) => std::hint::spin_loop(),
                Err(_) => break,
            }
            waited = true;
        }
        let submission_index = submission.map(|submission| submission.index.clone());
        match self.device.poll(wgpu::PollType::Wait { submission_index, timeout: None }) {
            Ok(_) => Ok(true),
            Err(error) => Err(Error::new(ErrorKind::Device, "wait", &error).because(error)),
        }
    }

    pub(super) fn unsubmitted(&self) -> MutexGuard<'_, Option<Commands>> {
        self.unsubmitted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands everything written so far to the device and waits for it, so that the driver can free
    /// its staging memory.
    ///
    /// # Errors
    /// As [`Gpu::wait`].
    pub fn flush(&self) -> Result<()> {
        self.submit(None);
        self.wait()
    }

    /// Reports the loss of the device or the first error since the last check.
    ///
    /// # Errors
    /// See [`Gpu::wait`].
    pub fn check(&self) -> Result<()> {
        self.check_lost()?;
        self.faults().first.take().map_or(Ok(()), Err)
    }

    fn check_lost(&self) -> Result<()> {
        let faults = self.faults();
        match &faults.lost {
            Some(lost) => Err(Error::new(ErrorKind::DeviceLost, &faults.doing, lost)),
            None => Ok(()),
        }
    }

    /// Whether the device was lost: it must be opened again.
    pub fn is_lost(&self) -> bool {
        self.check_lost().is_err()
    }

    /// Destroys the device, as a driver reset would; everything after it is [`ErrorKind::DeviceLost`].
    pub fn destroy(&self) {
        self.doing("destroy");
        self.faults().lost.get_or_insert("the device was destroyed".to_owned());
        self.device.destroy();
        // The loss is told once the device is idle.
        let _ = self.device.poll(wgpu::PollType::wait_indefinitely());
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn describe(label: &str, error: wgpu::Error) -> Error {
    let kind = match &error {
        wgpu::Error::OutOfMemory { .. } => ErrorKind::OutOfMemory,
        wgpu::Error::Validation { .. } | wgpu::Error::Internal { .. } => ErrorKind::Device,
    };
    Error::new(kind, label, &error).because(error)
}
