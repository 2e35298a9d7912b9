//! Without a GPU: every shader composition validates and translates for every backend, the oldest version of its
//! language with the checks that wgpu adds and the newest without, and what it binds fits the limits that every device has.
//!
//! With `MISTRAL_SHADERS` set to a folder, the translations are written there for real compilers to try
//! (`sh tests/run.sh --drivers`): `NUMBER-SHADER.SUFFIX`.

use std::sync::LazyLock;

use mistral_wgpu::{
    gpu::{BindingKind, Capabilities, Capability, Composed, KernelKey, SHADERS, compose},
    ops::compositions,
};
use naga::back::{hlsl, msl, spv};
use rayon::prelude::*;

/// Every composition, with the name of its files: as a device runs it that has no capability of those that all kernels
/// share, and one that has all.
static COMPOSITIONS: LazyLock<Vec<(String, KernelKey, Composed)>> = LazyLock::new(|| {
    let composed = compositions().into_par_iter().enumerate().flat_map_iter(|(number, key)| {
        let name = format!("{number:04}-{}", key.shader.replace('/', "_"));
        let compose = |key: KernelKey| {
            let composed = compose(&key).unwrap_or_else(|error| panic!("{key:?}: {error}"));
            (key, composed)
        };
        let (without, with) = (compose(key.clone()), compose(key.on(Capabilities::all())));
        let with = (with.1.wgsl != without.1.wgsl).then(|| (format!("{name}-all"), with.0, with.1));
        [(name, without.0, without.1)].into_iter().chain(with)
    });
    composed.collect()
});

/// Writes a translation, if a folder was named.
fn keep(file: String, contents: impl AsRef<[u8]>) {
    if let Some(folder) = std::env::var_os("MISTRAL_SHADERS") {
        std::fs::write(std::path::Path::new(&folder).join(file), contents).unwrap();
    }
}

/// Of the oldest and of the newest version of a language: the checks that wgpu adds, or none, as
/// `Capability::Unchecked` asks for.
fn checks<V>(oldest: V, newest: V) -> [(V, bool, &'static str); 2] {
    [(oldest, true, "checked"), (newest, false, "unchecked")]
}

fn policies(checked: bool) -> naga::proc::BoundsCheckPolicies {
    use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy::*};
    let policy = if checked { Restrict } else { Unchecked };
    BoundsCheckPolicies { index: policy, buffer: policy, image_load: policy, binding_array: policy }
}

#[test]
fn spirv() {
    for (name, key, composed) in &*COMPOSITIONS {
        for (lang_version, checked, tag) in checks((1, 3), (1, 6)) {
            let options = spv::Options {
                lang_version,
                bounds_check_policies: policies(checked),
                force_loop_bounding: checked,
                zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
                ..Default::default()
            };
            let words = spv::write_vec(&composed.module, &composed.info, &options, None);
            let words = words.unwrap_or_else(|error| panic!("{key:?}: {error}"));
            assert!(words.len() > 100);
            let (major, minor) = lang_version;
            keep(format!("{name}.{tag}.{major}_{minor}.spv"), bytemuck::cast_slice::<u32, u8>(&words));
        }
    }
}

#[test]
fn msl() {
    for (name, key, composed) in &*COMPOSITIONS {
        for (lang_version, checked, tag) in checks((2, 3), (3, 0)) {
            let options = msl::Options {
                lang_version,
                bounds_check_policies: policies(checked),
                force_loop_bounding: checked,
                zero_initialize_workgroup_memory: false,
                fake_missing_bindings: true,
                ..Default::default()
            };
            let pipeline = msl::PipelineOptions::default();
            let written = msl::write_string(&composed.module, &composed.info, &options, &pipeline);
            let (text, _) = written.unwrap_or_else(|error| panic!("{key:?}: {error}"));
            assert!(text.contains("kernel"));
            let (major, minor) = lang_version;
            keep(format!("{name}.{tag}.{major}_{minor}.metal"), text);
        }
    }
}

/// Registers numbered as wgpu does: by kind, in the order of the bindings.
fn registers(composed: &Composed) -> hlsl::BindingMap {
    let mut next = [0; 3];
    let target = |(_, binding, kind): &(String, u32, BindingKind)| {
        let register = next[*kind as usize];
        next[*kind as usize] += 1;
        let binding = naga::ResourceBinding { group: 0, binding: *binding };
        (binding, hlsl::BindTarget { register, ..Default::default() })
    };
    composed.bindings.iter().map(target).collect()
}

#[test]
fn hlsl() {
    for (name, key, composed) in &*COMPOSITIONS {
        if key.multiplies_matrices() {
            continue; // HLSL has none: wgpu offers the capability on Vulkan and Metal alone.
        }
        let f16 = key.needs.contains(&Capability::F16);
        let oldest = if f16 { (hlsl::ShaderModel::V6_2, "6_2") } else { (hlsl::ShaderModel::V6_0, "6_0") };
        for ((shader_model, version), checked, tag) in checks(oldest, (hlsl::ShaderModel::V6_6, "6_6")) {
            let options = hlsl::Options {
                shader_model,
                binding_map: registers(composed),
                fake_missing_bindings: false,
                special_constants_binding: Some(hlsl::BindTarget { space: 1, ..Default::default() }),
                restrict_indexing: checked,
                force_loop_bounding: checked,
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            };
            let mut text = String::new();
            let pipeline = hlsl::PipelineOptions::default();
            hlsl::Writer::new(&mut text, &options, &pipeline)
                .write(&composed.module, &composed.info, None)
                .unwrap_or_else(|error| panic!("{key:?}: {error}"));
            assert!(text.contains("numthreads"));
            // Else naga overlooked them: see shaders/reduce.wgsl.
            let built_in = ["@builtin(subgroup", "@builtin(num_subgroups"];
            let built_in = built_in.iter().any(|name| composed.wgsl.contains(name));
            assert!(!built_in || text.contains("(ComputeInput_main "), "{key:?}");
            keep(format!("{name}.{tag}.{version}.hlsl"), text);
        }
    }
}

/// What of the language WebGPU does not have is named by its capability.
#[test]
fn wgsl() {
    for (name, key, composed) in &*COMPOSITIONS {
        let int64 = key.needs.contains(&Capability::Int64);
        assert_eq!(composed.wgsl.contains("enable wgpu_"), key.multiplies_matrices(), "{key:?}");
        assert_eq!(composed.wgsl.contains("u64"), int64, "{key:?}");
        if !key.multiplies_matrices() && !int64 {
            keep(format!("{name}.wgsl"), &composed.wgsl);
        }
    }
}

#[test]
fn every_composition_fits_the_floor_limits() {
    for (_, key, composed) in &*COMPOSITIONS {
        let count =
            |kind: fn(BindingKind) -> bool| composed.bindings.iter().filter(|(_, _, k)| kind(*k)).count();
        let most = if key.needs.contains(&Capability::NineBuffers) { 9 } else { 8 };
        let storage = count(|kind| kind != BindingKind::Uniform);
        assert!(storage <= most, "{key:?} binds too many storage buffers");
        assert!(count(|kind| kind == BindingKind::Uniform) <= 1, "{key:?} binds more than one uniform");
        let entry = &composed.module.entry_points[0];
        assert!(entry.workgroup_size.iter().product::<u32>() <= 256, "{key:?} has too many invocations");
        let mut layouter = naga::proc::Layouter::default();
        layouter.update(composed.module.to_ctx()).unwrap();
        let workgroup_bytes: u32 = composed
            .module
            .global_variables
            .iter()
            .filter(|(_, variable)| variable.space == naga::AddressSpace::WorkGroup)
            .map(|(_, variable)| layouter[variable.ty].size)
            .sum();
        let most = if key.needs.contains(&Capability::LargeTiles) { 32 << 10 } else { 16 << 10 };
        assert!(workgroup_bytes <= most, "{key:?} uses {workgroup_bytes} bytes of workgroup memory");
    }
}

#[test]
fn binding_numbers_are_distinct() {
    for (_, key, composed) in &*COMPOSITIONS {
        let numbers: Vec<_> = composed.bindings.iter().map(|(_, number, _)| number).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{key:?}: {:?}", composed.bindings);
    }
}

#[test]
fn every_shader_file_is_registered_and_used() {
    fn files(dir: &std::path::Path, root: &std::path::Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files(&path, root, found);
            } else {
                let name = path.with_extension("");
                found.push(name.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/"));
            }
        }
    }
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let mut found = Vec::new();
    files(&root, &root, &mut found);
    found.sort();
    let mut registered: Vec<_> = SHADERS.iter().map(|(name, _)| (*name).to_owned()).collect();
    registered.sort();
    assert_eq!(found, registered);

    let roots: std::collections::HashSet<_> = compositions().iter().map(|key| key.shader).collect();
    for (name, text) in SHADERS {
        assert_eq!(text.contains("@compute"), roots.contains(name), "{name} is never composed");
    }
}
