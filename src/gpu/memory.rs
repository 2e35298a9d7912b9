//! How much memory an adapter has, where its driver tells.

/// The memory of an adapter, in bytes; `None` where nothing tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceMemory {
    /// Size of the memory that weights would live in.
    pub total: Option<u64>,
    /// What the driver would still give now.
    pub free: Option<u64>,
    /// Whether it is the host's own memory (integrated and software adapters).
    pub shared_with_host: bool,
}

/// Asks the driver; memory that is the host's own is capped by the RAM that is free. The heap that a
/// software driver claims says nothing: it is the RAM.
pub(super) fn of(adapter: &wgpu::Adapter) -> DeviceMemory {
    let kind = adapter.get_info().device_type;
    let shared_with_host = !matches!(kind, wgpu::DeviceType::DiscreteGpu | wgpu::DeviceType::VirtualGpu);
    let ram = available_ram();
    if kind == wgpu::DeviceType::Cpu {
        return DeviceMemory { total: ram, free: ram, shared_with_host };
    }
    let (total, free) = backend_memory(adapter).unzip();
    let free = [free, ram.filter(|_| shared_with_host)].into_iter().flatten().min();
    DeviceMemory { total: total.or(free), free, shared_with_host }
}

/// Host memory that programs can still get without swapping, in bytes: known on Linux, Android and
/// Windows. (macOS tells pages of many kinds and not which of them it would give.)
pub fn available_ram() -> Option<u64> {
    cfg_select! {
        windows => {
            use windows::Win32::System::SystemInformation::{GlobalMemoryStatusEx, MEMORYSTATUSEX};
            let mut status = MEMORYSTATUSEX { dwLength: size_of::<MEMORYSTATUSEX>() as u32, ..Default::default() };
            // SAFETY: the structure states its own size and outlives the call.
            unsafe { GlobalMemoryStatusEx(&mut status) }.ok()?;
            Some(status.ullAvailPhys)
        }
        _ => {
            let text = std::fs::read_to_string("/proc/meminfo").ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
            line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
        }
    }
}

/// What the driver tells: memory that weights would live in, and what is left of it.
fn backend_memory(adapter: &wgpu::Adapter) -> Option<(u64, u64)> {
    cfg_select! {
        windows => { dx12::memory(adapter).or_else(|| vulkan::memory(adapter)) }
        any(target_os = "linux", target_os = "android") => { vulkan::memory(adapter) }
        target_vendor = "apple" => { metal::memory(adapter) }
        _ => { let _ = adapter; None }
    }
}

#[cfg(any(target_os = "linux", target_os = "android", windows))]
mod vulkan {
    use ash::vk;

    /// Largest device-local heap: its size and remaining budget.
    pub fn memory(adapter: &wgpu::Adapter) -> Option<(u64, u64)> {
        // SAFETY: the handle is used only while the guard keeps the adapter alive, and not destroyed.
        let adapter = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
        let instance = adapter.shared_instance().raw_instance();
        let device = adapter.raw_physical_device();
        // SAFETY: `device` belongs to `instance`; the properties structure outlives the call.
        let extensions = unsafe { instance.enumerate_device_extension_properties(device) }.ok()?;
        let has_budget =
            extensions.iter().any(|e| e.extension_name_as_c_str() == Ok(ash::ext::memory_budget::NAME));
        let mut budget = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
        let mut properties = vk::PhysicalDeviceMemoryProperties2::default();
        if has_budget {
            properties = properties.push_next(&mut budget);
        }
        // SAFETY: as above; the chained structure is one that the device supports.
        unsafe { instance.get_physical_device_memory_properties2(device, &mut properties) };
        let memory = properties.memory_properties;
        let heaps = &memory.memory_heaps[..memory.memory_heap_count as usize];
        let local = |heap: &vk::MemoryHeap| heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL);
        let (index, heap) = heaps.iter().enumerate().filter(|(_, h)| local(h)).max_by_key(|(_, h)| h.size)?;
        let left = budget.heap_budget[index].saturating_sub(budget.heap_usage[index]);
        Some((heap.size, if has_budget { left.min(heap.size) } else { heap.size }))
    }
}

#[cfg(windows)]
mod dx12 {
    use windows::Win32::Graphics::Dxgi::{DXGI_MEMORY_SEGMENT_GROUP_LOCAL, DXGI_QUERY_VIDEO_MEMORY_INFO};

    /// The memory nearest to the GPU: what the system lets this process use, and what is left of it.
    pub fn memory(adapter: &wgpu::Adapter) -> Option<(u64, u64)> {
        // SAFETY: the interface is used only while the guard keeps the adapter alive.
        let adapter = unsafe { adapter.as_hal::<wgpu::hal::api::Dx12>() }?;
        let mut info = DXGI_QUERY_VIDEO_MEMORY_INFO::default();
        // SAFETY: node 0 exists on every adapter; the structure outlives the call.
        unsafe { adapter.raw_adapter().QueryVideoMemoryInfo(0, DXGI_MEMORY_SEGMENT_GROUP_LOCAL, &mut info) }
            .ok()?;
        Some((info.Budget, info.Budget.saturating_sub(info.CurrentUsage)))
    }
}

#[cfg(target_vendor = "apple")]
mod metal {
    use objc2_metal::MTLDevice;

    /// What the device can use without slowing down, and what this process has left of it.
    pub fn memory(adapter: &wgpu::Adapter) -> Option<(u64, u64)> {
        // SAFETY: the device is used only while the guard keeps the adapter alive.
        let adapter = unsafe { adapter.as_hal::<wgpu::hal::api::Metal>() }?;
        let device = adapter.raw_device();
        let total = device.recommendedMaxWorkingSetSize();
        Some((total, total.saturating_sub(device.currentAllocatedSize() as u64)))
    }
}
