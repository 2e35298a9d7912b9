//! Compiled compute shaders, cached by their key.

use std::sync::{Arc, Mutex, PoisonError};

use super::{BindingKind, Capability, Gpu, KernelKey, pipelines::Pipelines, shader::compose_with};
use crate::{Error, ErrorKind, Result};

/// A buffer that a kernel expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// Its name in the shader.
    pub name: String,
    /// Its number in group 0.
    pub number: u32,
    /// How it is used.
    pub kind: BindingKind,
}

/// A compute pipeline with the layout of its one bind group.
#[derive(Debug)]
pub struct Kernel {
    pub(super) shader: &'static str,
    pub(super) pipeline: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
    pub(super) bindings: Vec<Binding>,
    pub(super) wgsl: String,
}

/// Where the kernel of a key is, or will be: whoever compiles it holds the lock, so that others can
/// compile other keys, and none compiles the same.
pub(super) type Slot = Arc<Mutex<Option<Arc<Kernel>>>>;

impl Gpu {
    /// The kernel of `key`, compiled at its first use.
    ///
    /// # Errors
    /// [`ErrorKind::Shader`] when it does not compose or the device lacks what it needs,
    /// [`ErrorKind::Device`] when the driver refuses it.
    pub fn kernel(&self, key: &KernelKey) -> Result<Arc<Kernel>> {
        let key = &key.clone().on(self.capabilities());
        let slot = {
            let mut slots = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
            match slots.get(key) {
                Some(slot) => slot.clone(),
                None => slots.entry(key.clone()).or_default().clone(),
            }
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            Some(kernel) => Ok(kernel.clone()),
            None => Ok(slot.insert(Arc::new(self.compile(key)?)).clone()),
        }
    }

    fn compile(&self, key: &KernelKey) -> Result<Kernel> {
        if !self.capabilities().has(key.needs) {
            return Err(Error::expected(
                ErrorKind::Shader,
                key.shader,
                format!("{:?}", key.needs),
                self.capabilities(),
            ));
        }
        let composed = compose_with(key, self.shaders())?;
        let entries: Vec<_> = composed
            .bindings
            .iter()
            .map(|(_, number, kind)| wgpu::BindGroupLayoutEntry {
                binding: *number,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: match kind {
                        BindingKind::Uniform => wgpu::BufferBindingType::Uniform,
                        BindingKind::Read => wgpu::BufferBindingType::Storage { read_only: true },
                        BindingKind::ReadWrite => wgpu::BufferBindingType::Storage { read_only: false },
                    },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let (layout, pipeline) = self.guarded(key.shader, |device| {
            let descriptor = wgpu::ShaderModuleDescriptor {
                label: Some(key.shader),
                source: wgpu::ShaderSource::Wgsl(composed.wgsl.as_str().into()),
            };
            let module = if self.capabilities().has(&[Capability::Unchecked]) {
                // SAFETY: only this crate's own shaders reach this point: a device whose options replace
                // any is opened without the capability. Their loops are bounded by
                // constants and uniforms, and every index comes from sizes, token ids, positions and
                // page tables that the host checked against the bound buffers.
                unsafe {
                    device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
                }
            } else {
                device.create_shader_module(descriptor)
            };
            let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: Some(key.shader),
                entries: &entries,
            });
            let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(key.shader),
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            });
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(key.shader),
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    zero_initialize_workgroup_memory: false,
                    ..Default::default()
                },
                cache: self.pipelines.get().map(Pipelines::cache),
            });
            (layout, pipeline)
        })?;
        let bindings = composed.bindings.into_iter();
        let bindings = bindings.map(|(name, number, kind)| Binding { name, number, kind }).collect();
        Ok(Kernel { shader: key.shader, pipeline, layout, bindings, wgsl: composed.wgsl })
    }
}
