//! Without a GPU: every shader composition validates and translates for every backend, checked and
//! unchecked, and what it binds fits the limits that every device has.

use mistral_wgpu::{
    gpu::{BindingKind, Composed, KernelKey, SHADERS, compose},
    ops::compositions,
};
use naga::back::{hlsl, msl, spv};

fn each(mut check: impl FnMut(&KernelKey, &Composed)) {
    let mut count = 0;
    for key in compositions() {
        let composed = compose(&key).unwrap_or_else(|error| panic!("{key:?}: {error}"));
        check(&key, &composed);
        count += 1;
    }
    assert!(count >= 10, "only {count} compositions");
}

fn policies() -> [naga::proc::BoundsCheckPolicies; 2] {
    use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy::*};
    [Restrict, Unchecked].map(|policy| BoundsCheckPolicies {
        index: policy,
        buffer: policy,
        image_load: policy,
        binding_array: policy,
    })
}

#[test]
fn spirv() {
    each(|key, composed| {
        for lang_version in [(1, 3), (1, 6)] {
            for bounds_check_policies in policies() {
                let options = spv::Options { lang_version, bounds_check_policies, ..Default::default() };
                let words = spv::write_vec(&composed.module, &composed.info, &options, None);
                assert!(words.unwrap_or_else(|error| panic!("{key:?}: {error}")).len() > 100);
            }
        }
    });
}

#[test]
fn msl() {
    each(|key, composed| {
        for lang_version in [(2, 3), (3, 0)] {
            for bounds_check_policies in policies() {
                let options = msl::Options { lang_version, bounds_check_policies, ..Default::default() };
                let options = msl::Options { fake_missing_bindings: true, ..options };
                let pipeline = msl::PipelineOptions::default();
                let written = msl::write_string(&composed.module, &composed.info, &options, &pipeline);
                assert!(written.unwrap_or_else(|error| panic!("{key:?}: {error}")).0.contains("kernel"));
            }
        }
    });
}

#[test]
fn hlsl() {
    each(|key, composed| {
        if key.multiplies_matrices() {
            return; // HLSL has none: wgpu offers the capability on Vulkan and Metal alone.
        }
        for shader_model in [hlsl::ShaderModel::V6_0, hlsl::ShaderModel::V6_2, hlsl::ShaderModel::V6_6] {
            for restrict_indexing in [true, false] {
                let options = hlsl::Options {
                    shader_model,
                    restrict_indexing,
                    force_loop_bounding: restrict_indexing,
                    fake_missing_bindings: true,
                    ..Default::default()
                };
                let mut text = String::new();
                let pipeline = hlsl::PipelineOptions::default();
                hlsl::Writer::new(&mut text, &options, &pipeline)
                    .write(&composed.module, &composed.info, None)
                    .unwrap_or_else(|error| panic!("{key:?}: {error}"));
                assert!(text.contains("numthreads"));
            }
        }
    });
}

#[test]
fn every_composition_fits_the_floor_limits() {
    each(|key, composed| {
        let count =
            |kind: fn(BindingKind) -> bool| composed.bindings.iter().filter(|(_, _, k)| kind(*k)).count();
        assert!(count(|kind| kind != BindingKind::Uniform) <= 8, "{key:?} binds too many storage buffers");
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
        assert!(workgroup_bytes <= 16 << 10, "{key:?} uses {workgroup_bytes} bytes of workgroup memory");
    });
}

#[test]
fn binding_numbers_are_distinct() {
    each(|key, composed| {
        let numbers: Vec<_> = composed.bindings.iter().map(|(_, number, _)| number).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{key:?}: {:?}", composed.bindings);
    });
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
