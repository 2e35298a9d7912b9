//! Adapters: what they are, what they can do, and which one to open.

use super::{Capabilities, memory, memory::DeviceMemory};
use crate::{Error, ErrorKind, Result};

/// The limits that decide how tensors are split and kernels shaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest buffer, bytes.
    pub buffer: u64,
    /// Largest binding of a storage buffer, bytes.
    pub binding: u64,
    /// Invocations in a workgroup.
    pub invocations: u32,
    /// Workgroup memory, bytes.
    pub workgroup_memory: u32,
    /// Workgroups in each dimension of a dispatch.
    pub workgroups: u32,
}

impl From<&wgpu::Limits> for Limits {
    fn from(limits: &wgpu::Limits) -> Self {
        Self {
            buffer: limits.max_buffer_size,
            binding: limits.max_storage_buffer_binding_size,
            invocations: limits.max_compute_invocations_per_workgroup,
            workgroup_memory: limits.max_compute_workgroup_storage_size,
            workgroups: limits.max_compute_workgroups_per_dimension,
        }
    }
}

/// An adapter as `mistral devices` lists it.
#[derive(Debug, Clone)]
pub struct AdapterDescription {
    /// Marketing name.
    pub name: String,
    /// `vulkan`, `metal` or `dx12`.
    pub backend: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: &'static str,
    /// Driver name and version.
    pub driver: String,
    /// Optional paths it supports.
    pub capabilities: Capabilities,
    /// Its limits.
    pub limits: Limits,
    /// Its memory.
    pub memory: DeviceMemory,
    /// Smallest and largest subgroup.
    pub subgroup_sizes: (u32, u32),
}

impl AdapterDescription {
    pub(super) fn of(adapter: &wgpu::Adapter) -> Self {
        let info = adapter.get_info();
        let kind = match info.device_type {
            wgpu::DeviceType::DiscreteGpu => "discrete",
            wgpu::DeviceType::IntegratedGpu => "integrated",
            wgpu::DeviceType::VirtualGpu => "virtual",
            wgpu::DeviceType::Cpu => "software",
            wgpu::DeviceType::Other => "other",
        };
        Self {
            backend: info.backend.to_string(),
            kind,
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            capabilities: Capabilities::of(adapter),
            limits: Limits::from(&adapter.limits()),
            memory: memory::of(adapter),
            subgroup_sizes: (info.subgroup_min_size, info.subgroup_max_size),
            name: info.name,
        }
    }

    /// Preference among adapters when the user names none: higher is better.
    fn rank(&self) -> u32 {
        ["other", "software", "virtual", "integrated", "discrete"]
            .iter()
            .position(|k| *k == self.kind)
            .unwrap_or(0) as u32
    }
}

fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    descriptor.flags = wgpu::InstanceFlags::empty().with_env();
    // FXC, to which wgpu falls back, gives up on some kernels: without DXC there is no DX12.
    let dxc = if cfg!(feature = "static-dxc") {
        wgpu::Dx12Compiler::StaticDxc
    } else {
        wgpu::Dx12Compiler::default_dynamic_dxc()
    };
    descriptor.backend_options.dx12.shader_compiler = dxc;
    wgpu::Instance::new(descriptor)
}

pub(super) async fn adapters() -> Vec<wgpu::Adapter> {
    let instance = instance();
    let adapters = instance.enumerate_adapters(wgpu::Backends::all()).await;
    adapters.into_iter().filter(|a| a.get_downlevel_capabilities().is_webgpu_compliant()).collect()
}

/// Every adapter that can run compute shaders, in the order that [`GpuOptions::gpu`](super::GpuOptions::gpu) counts.
pub async fn list_adapters() -> Vec<AdapterDescription> {
    adapters().await.iter().map(AdapterDescription::of).collect()
}

const NO_ADAPTER: &str = "no GPU driver found. On Debian or Ubuntu install `mesa-vulkan-drivers` (AMD, Intel, and a \
    software fallback) or NVIDIA's driver; on Fedora `mesa-vulkan-drivers`; on Windows the GPU vendor's current driver, and \
    for DX12 Microsoft's `dxcompiler.dll` and `dxil.dll` beside the program; on macOS 10.15 or later Metal is built in";

/// Index of the adapter whose index or part of whose name is `wanted`; of the best, if `None`.
///
/// # Errors
/// [`ErrorKind::Argument`] when there is no such adapter, [`ErrorKind::Device`] when there is none at all.
pub(super) fn choose(adapters: &[AdapterDescription], wanted: Option<&str>) -> Result<usize> {
    let Some(wanted) = wanted else {
        // The first of equal rank: `max_by_key` alone would take the last.
        let best = adapters.iter().enumerate().rev().max_by_key(|(_, adapter)| adapter.rank());
        return best
            .map(|(index, _)| index)
            .ok_or_else(|| Error::new(ErrorKind::Device, "adapter", NO_ADAPTER));
    };
    let by_name = || adapters.iter().position(|a| a.name.to_lowercase().contains(&wanted.to_lowercase()));
    let found = match wanted.parse::<usize>() {
        Ok(index) if index < adapters.len() => Some(index),
        _ => by_name(),
    };
    found.ok_or_else(|| {
        let names: Vec<_> = adapters.iter().enumerate().map(|(i, a)| format!("{i}: {}", a.name)).collect();
        Error::expected(
            ErrorKind::Argument,
            "gpu",
            format!("one of [{}]", names.join(", ")),
            format!("`{wanted}`"),
        )
    })
}
