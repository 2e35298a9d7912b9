//! Compiles every kernel that a device may use, and runs none: for drivers that compile without a device. A line for each: what
//! the compiler tells of its registers and instructions, then which it is. With arguments, only those that are named with all of
//! them: `compile mat_mat quant/q4_0`.

use std::{env, error::Error};

use ash::{khr, vk};
use mistral_wgpu::{
    gpu::{BindingKind, Composed, KernelKey, compose, list_adapters},
    ops::compositions,
};
use naga::back::spv;
use pollster::block_on;

/// As wgpu translates it for `Capability::Unchecked`.
fn translate(composed: &Composed) -> Result<Vec<u32>, spv::Error> {
    let options = spv::Options {
        lang_version: (1, 6),
        force_loop_bounding: false,
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        ..Default::default()
    };
    spv::write_vec(&composed.module, &composed.info, &options, None)
}

/// The first device, with the features that shaders may need, for as long as the process lives.
struct Compiler {
    device: ash::Device,
    executables: khr::pipeline_executable_properties::Device,
    _loader: ash::Entry,
}

impl Compiler {
    fn new() -> Result<Self, Box<dyn Error>> {
        // SAFETY: the loader outlives what it made; every structure holds what it points to until the call is over, and
        // the device is asked for nothing that it did not say it has.
        unsafe {
            let loader = ash::Entry::load()?;
            let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
            let info = vk::InstanceCreateInfo::default().application_info(&application);
            let instance = loader.create_instance(&info, None)?;
            let physical = *instance.enumerate_physical_devices()?.first().ok_or("no device")?;
            let mut versions = (
                vk::PhysicalDeviceVulkan11Features::default(),
                vk::PhysicalDeviceVulkan12Features::default(),
                vk::PhysicalDeviceVulkan13Features::default(),
            );
            let mut statistics = vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default();
            let mut matrices = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default();
            let mut features = vk::PhysicalDeviceFeatures2::default()
                .push_next(&mut versions.0)
                .push_next(&mut versions.1)
                .push_next(&mut versions.2)
                .push_next(&mut statistics)
                .push_next(&mut matrices);
            instance.get_physical_device_features2(physical, &mut features);
            let offered = instance.enumerate_device_extension_properties(physical)?;
            let wanted = [khr::pipeline_executable_properties::NAME, khr::cooperative_matrix::NAME];
            let is_offered = |name: &_| offered.iter().any(|one| one.extension_name_as_c_str() == Ok(*name));
            let extensions: Vec<_> =
                wanted.into_iter().filter(is_offered).map(|name| name.as_ptr()).collect();
            let queues = [vk::DeviceQueueCreateInfo::default().queue_priorities(&[1.0])];
            let info = vk::DeviceCreateInfo::default()
                .queue_create_infos(&queues)
                .enabled_extension_names(&extensions)
                .push_next(&mut features);
            let device = instance.create_device(physical, &info, None)?;
            let executables = khr::pipeline_executable_properties::Device::new(&instance, &device);
            Ok(Self { device, executables, _loader: loader })
        }
    }

    /// What the compiler tells of the shader, by name.
    fn statistics(&self, composed: &Composed) -> Result<Vec<(String, u64)>, Box<dyn Error>> {
        let words = translate(composed)?;
        let binding = |(_, number, kind): &(String, u32, BindingKind)| {
            let kind = match kind {
                BindingKind::Uniform => vk::DescriptorType::UNIFORM_BUFFER,
                BindingKind::Read | BindingKind::ReadWrite => vk::DescriptorType::STORAGE_BUFFER,
            };
            vk::DescriptorSetLayoutBinding::default()
                .binding(*number)
                .descriptor_type(kind)
                .descriptor_count(1)
                .stage_flags(vk::ShaderStageFlags::COMPUTE)
        };
        let bindings: Vec<_> = composed.bindings.iter().map(binding).collect();
        let device = &self.device;
        // SAFETY: naga made the words, from a module that it validated; the layout has all that they bind; what is destroyed is
        // not in use.
        unsafe {
            let info = vk::ShaderModuleCreateInfo::default().code(&words);
            let module = device.create_shader_module(&info, None)?;
            let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
            let set = device.create_descriptor_set_layout(&info, None)?;
            let info = vk::PipelineLayoutCreateInfo::default().set_layouts(std::slice::from_ref(&set));
            let layout = device.create_pipeline_layout(&info, None)?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .flags(vk::PipelineShaderStageCreateFlags::ALLOW_VARYING_SUBGROUP_SIZE)
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(module)
                .name(c"main");
            let info = vk::ComputePipelineCreateInfo::default()
                .flags(vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR)
                .stage(stage)
                .layout(layout);
            let pipelines = device.create_compute_pipelines(vk::PipelineCache::null(), &[info], None);
            let pipeline = pipelines.map_err(|(_, error)| error)?[0];
            let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline);
            let statistics = self.executables.get_pipeline_executable_statistics(&info)?;
            device.destroy_pipeline(pipeline, None);
            device.destroy_pipeline_layout(layout, None);
            device.destroy_descriptor_set_layout(set, None);
            device.destroy_shader_module(module, None);
            let counts = statistics
                .iter()
                .filter(|one| one.format == vk::PipelineExecutableStatisticFormatKHR::UINT64)
                .map(|one| Ok((one.name_as_c_str()?.to_str()?.to_owned(), one.value.u64)));
            counts.collect()
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let adapter = block_on(list_adapters()).into_iter().next().ok_or("no adapter")?;
    let compiler = Compiler::new()?;
    let words: Vec<_> = env::args().skip(1).collect();
    for key in compositions().into_iter().filter(|key| adapter.capabilities.has(key.needs)) {
        let key = key.on(adapter.capabilities);
        let KernelKey { shader, mounts, needs, flags, constants, .. } = &key;
        let name = format!("{shader} {mounts:?} {needs:?} {flags:?} {constants:?}");
        if !words.iter().all(|word| name.contains(word)) {
            continue;
        }
        let composed = compose(&key)?;
        let statistics = compiler.statistics(&composed).map_err(|error| format!("{name}: {error}"))?;
        for (count, value) in statistics {
            print!("{count}={value}\t");
        }
        println!("{name}");
    }
    Ok(())
}
