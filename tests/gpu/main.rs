//! The device: choice, limits, memory, what goes wrong on it.

#[path = "../device/mod.rs"]
mod device;
mod measure;
mod pace;

use device::{FLOOR, GPU};
use mistral_wgpu::{
    Error, ErrorKind,
    gpu::*,
    model::{Chunk, LogitRows, Model, ModelConfig, ModelOptions, Weights},
    ops::*,
    quant::by_name,
    tensor::Tensor,
};
use pollster::block_on;

fn open(options: GpuOptions) -> Result<Gpu, Error> {
    block_on(Gpu::open(&options))
}

fn named(gpu: &str) -> GpuOptions {
    GpuOptions { gpu: Some(gpu.to_owned()), ..Default::default() }
}

#[test]
fn adapters_are_chosen_by_index_or_part_of_the_name() {
    let adapters = block_on(list_adapters());
    for (index, adapter) in adapters.iter().enumerate() {
        let opened = open(named(&index.to_string())).unwrap();
        assert_eq!(opened.description().name, adapter.name);
        assert_eq!(opened.description().backend, adapter.backend);
        let part = adapter.name[..adapter.name.len() / 2].to_uppercase();
        let first = adapters.iter().find(|other| other.name.to_uppercase().contains(&part)).unwrap();
        assert_eq!(open(named(&part)).unwrap().description().name, first.name);
    }
    for unknown in ["no such adapter", "4711"] {
        let error = open(named(unknown)).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Argument);
        assert!(error.to_string().contains(unknown), "{error}");
        assert!(adapters.iter().all(|adapter| error.to_string().contains(&adapter.name)), "{error}");
    }
}

/// Those of the WebGPU specification, section "Limits".
#[test]
fn floor_limits_are_in_force() {
    let floor = Limits {
        buffer: 256 << 20,
        binding: 128 << 20,
        invocations: 256,
        workgroup_memory: 16 << 10,
        workgroups: 65535,
    };
    assert_eq!(FLOOR.limits(), floor);
    let error = FLOOR.allocate("too large", (256 << 20) + 4).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert_eq!(error.subject(), "too large");
    assert!(error.to_string().contains(&(256u64 << 20).to_string()), "{error}");
    FLOOR.allocate("largest", 256 << 20).unwrap();
}

#[test]
fn disabled_capabilities_are_gone() {
    let all = GPU.capabilities();
    for capability in all.iter() {
        let disable = [capability].into_iter().collect();
        let gpu = open(GpuOptions { disable, ..Default::default() }).unwrap();
        assert_eq!(gpu.capabilities(), all.without(disable), "{}", capability.name());
        assert_eq!(gpu.description().capabilities, all, "what the adapter could do");
    }
    assert_eq!(FLOOR.capabilities(), Capabilities::default());
    let key = KernelKey { needs: &[Capability::Subgroup], ..KernelKey::new("swiglu") };
    let error = FLOOR.kernel(&key).unwrap_err();
    assert_eq!((error.kind(), error.subject()), (ErrorKind::Shader, "swiglu"));
    assert!(
        "subgroups"
            .parse::<Capabilities>()
            .unwrap_err()
            .to_string()
            .contains("f16, f16_conversion, subgroup")
    );
    let both = [Capability::CooperativeMatrix8, Capability::CooperativeMatrix16].into_iter().collect();
    assert_eq!("cooperative_matrix".parse::<Capabilities>().unwrap(), both);
    let four = [Capability::F16, Capability::F16Conversion, Capability::Subgroup, Capability::Subgroup8];
    assert_eq!("f16, subgroup".parse::<Capabilities>().unwrap(), four.into_iter().collect());
}

#[test]
fn planned_memory_replaces_the_driver_s() {
    let gpu = open(GpuOptions { memory: Some(123 << 20), ..Default::default() }).unwrap();
    let memory = gpu.description().memory;
    assert_eq!((memory.total, memory.free), (Some(123 << 20), Some(123 << 20)));
    assert_eq!(memory.shared_with_host, GPU.description().memory.shared_with_host);
}

#[test]
fn memory_is_counted_and_kept_to() {
    assert_eq!(GPU.memory_left().is_some(), GPU.description().memory.free.is_some());
    let gpu = open(GpuOptions { memory: Some(32 << 20), ..Default::default() }).unwrap();
    // The host's side of small downloads is kept for the next.
    block_on(gpu.download::<u32>(&[gpu.allocate("small", 1024).unwrap()])).unwrap();
    let before = gpu.memory_in_use();
    let buffer = gpu.allocate("first", 10 << 20).unwrap();
    let part = buffer.slice(256, 1024);
    let copy = buffer.clone();
    assert_eq!(gpu.memory_in_use(), before + (10 << 20), "parts and copies share the memory");
    drop((buffer, copy));
    assert_eq!(gpu.memory_in_use(), before + (10 << 20), "a part keeps it alive");
    assert_eq!(gpu.memory_left(), Some((22 << 20) - before));

    let error = gpu.allocate("second", (22 << 20) + 4).unwrap_err();
    assert_eq!((error.kind(), error.subject()), (ErrorKind::OutOfMemory, "second"));
    assert!(error.to_string().contains(&((22 << 20) - before).to_string()), "{error}");
    let error = block_on(gpu.download::<u32>(&vec![part.clone(); 40 << 10])).unwrap_err();
    assert_eq!((error.kind(), error.subject()), (ErrorKind::OutOfMemory, "download"));
    drop(gpu.allocate("second", (22 << 20) - before).unwrap());
    block_on(gpu.download::<u32>(std::slice::from_ref(&part))).unwrap();
    drop(part);
    assert_eq!((gpu.memory_in_use(), gpu.peak_memory()), (before, 32 << 20));

    // Everything of a model returns, but for what kernels share.
    let model = |gpu: &Gpu| forward(gpu, &mut tiny(gpu).unwrap(), &[1, 5, 7], None).unwrap();
    model(&gpu);
    let kept = gpu.memory_in_use();
    assert!(kept < before + (16 << 10), "{kept} bytes kept");
    model(&gpu);
    assert_eq!(gpu.memory_in_use(), kept);
}

fn residual_add() -> KernelKey {
    (RESIDUAL_ADD.variants[0].key)(&())
}

/// A step of the kernel with buffers of these sizes, in bytes.
fn step(gpu: &Gpu, names: [&str; 2], bytes: u64) -> Result<Step, Error> {
    let params = gpu.upload("params", &[0u32; 4])?;
    let [a, b] = [gpu.allocate("a", bytes)?, gpu.allocate("b", 4)?];
    let bindings = [("params", &params), (names[0], &a), (names[1], &b)];
    let grid = [Extent::Fixed(1), Extent::Fixed(1), Extent::Fixed(1)];
    Step::new(gpu, "sum", gpu.kernel(&residual_add())?, &bindings, grid, Cost::default())
}

#[test]
fn wrong_bindings_are_named() {
    step(&FLOOR, ["x", "delta"], 128 << 20).unwrap();
    let cases = [
        (["x", "other"], 4, "no buffer `other`"),
        (["x", "x"], 4, "buffer `delta` is not bound"),
        (["x", "delta"], (128 << 20) + 256, "`x` binds 134217984 bytes, the limit is 134217728"),
    ];
    for (names, bytes, message) in cases {
        let error = step(&FLOOR, names, bytes).unwrap_err();
        assert_eq!((error.kind(), error.subject()), (ErrorKind::Shader, "sum (residual_add)"));
        assert!(error.to_string().contains(message), "{error}");
    }
}

/// One buffer bound for reading and writing is refused by the device, not by this crate.
#[test]
fn a_validation_error_names_the_operation() {
    let gpu = open(GpuOptions::default()).unwrap();
    let x = Tensor::zeros(&gpu, "x", 1, 32).unwrap();
    let mut recording = Recording::default();
    ResidualAdd { x: &x, delta: &x }.record(&gpu, &mut recording).unwrap();
    let error = gpu.replay(&recording, &[1], None).and_then(|()| gpu.wait()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Device, "{error}");
    assert_eq!(error.subject(), "residual_add", "{error}");
    gpu.wait().unwrap();
}

/// A type error, an unknown name and a syntax error: told with the file, line and text.
#[test]
fn a_shader_that_does_not_compile_is_located() {
    let from = "let col = workgroup.y";
    let (_, source) = SHADERS.iter().find(|(name, _)| *name == "residual_add").unwrap();
    let line = 1 + source.lines().position(|line| line.contains(from)).unwrap();
    let edits = [
        ("let col: f32 = workgroup.y", "expected to be `f32`", "let col: f32".to_owned()),
        ("let col = nothing", "nothing", "let col = nothing".to_owned()),
        ("let let", "unexpected token `let`", format!("residual_add:{line}:")),
    ];
    for (edit, message, place) in edits {
        let shaders = [("residual_add".to_owned(), source.replace(from, edit))].into();
        let gpu = open(GpuOptions { shaders, ..Default::default() }).unwrap();
        let error = gpu.kernel(&residual_add()).unwrap_err();
        assert_eq!((error.kind(), error.subject()), (ErrorKind::Shader, "residual_add"));
        let text = error.to_string();
        assert!(text.contains(message) && text.contains(&place) && text.contains("residual_add:"), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
    }
    let error = GPU.kernel(&KernelKey::new("swiglu").mount("x", "no/such")).unwrap_err();
    assert_eq!((error.kind(), error.subject()), (ErrorKind::Shader, "swiglu"));
    assert!(error.to_string().contains("no/such"), "{error}");
}

fn tiny(gpu: &Gpu) -> Result<Model, Error> {
    let config = ModelConfig::synthetic("tiny").unwrap();
    let weights = Weights::random(gpu, &config, by_name("q4_0").unwrap(), 1)?;
    Model::new(gpu, config, weights, ModelOptions { context: 64, max_rows: 32, ..Default::default() })
}

/// Logits of all tokens of a new sequence.
fn forward(
    gpu: &Gpu,
    model: &mut Model,
    tokens: &[u32],
    profile: Option<&mut Profile>,
) -> Result<Vec<f32>, Error> {
    let mut sequence = model.sequence();
    let mut chunks = [Chunk { sequence: &mut sequence, tokens, logits: LogitRows::All }];
    model.forward(gpu, &mut chunks, profile)?;
    block_on(model.logits.download(gpu, tokens.len() as u32))
}

#[test]
fn a_lost_device_is_an_error_everywhere() {
    let gpu = open(GpuOptions::default()).unwrap();
    let mut model = tiny(&gpu).unwrap();
    let buffer = gpu.upload("buffer", &[1u32; 8]).unwrap();
    let mut recording = Recording::default();
    let x = Tensor::zeros(&gpu, "x", 1, 32).unwrap();
    let delta = Tensor::zeros(&gpu, "delta", 1, 32).unwrap();
    ResidualAdd { x: &x, delta: &delta }.record(&gpu, &mut recording).unwrap();
    gpu.destroy();
    let lost = |what: &str, error: Error| assert_eq!(error.kind(), ErrorKind::DeviceLost, "{what}: {error}");
    for _ in 0..2 {
        lost("check", gpu.check().unwrap_err());
        lost("wait", gpu.wait().unwrap_err());
        lost("flush", gpu.flush().unwrap_err());
        lost("allocate", gpu.allocate("a", 4).unwrap_err());
        lost("upload", gpu.upload("a", &[1u32]).unwrap_err());
        gpu.write(&buffer, 0, &[2u32]);
        lost("download", block_on(gpu.download::<u32>(std::slice::from_ref(&buffer))).unwrap_err());
        lost("kernel", gpu.kernel(&residual_add().flag("new", true)).unwrap_err());
        lost("replay", gpu.replay(&recording, &[1], None).unwrap_err());
        lost("step", step(&gpu, ["x", "delta"], 4).unwrap_err());
        lost("forward", forward(&gpu, &mut model, &[1, 5], None).unwrap_err());
        lost("model", tiny(&gpu).unwrap_err());
        lost("profile", Profile::new(&gpu).unwrap_err());
    }
    assert_eq!(model.used_pages(), 0, "the tokens that were not computed were taken back");
}

#[test]
fn threads_may_share_a_device() {
    // A thread's poll may run the callbacks of another's download.
    let gpu = open(GpuOptions::default()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let gpu = &gpu;
            scope.spawn(move || {
                let buffer = gpu.upload("numbers", &[thread; 64]).unwrap();
                for _ in 0..4000 {
                    let numbers = block_on(gpu.download::<u32>(std::slice::from_ref(&buffer))).unwrap();
                    assert_eq!(numbers, [[thread; 64]]);
                }
            });
        }
    });
}

#[test]
fn an_executor_runs_in_place_of_the_device() {
    let x = Tensor::from_values(&GPU, "x", &[1.0, 2.0, 3.0, 4.0], 2).unwrap();
    let delta = Tensor::from_values(&GPU, "delta", &[10.0, 20.0, 30.0, 40.0], 2).unwrap();
    let mut recording = Recording::default();
    ResidualAdd { x: &x, delta: &delta }.record(&GPU, &mut recording).unwrap();
    recording.copy(&x.buffer, &delta.buffer);
    let gpu = GPU.with_executor(std::sync::Arc::new(|gpu: &Gpu, replay: &Replay| {
        let [
            ReplayAction::Dispatch { label: "residual_add", wgsl, bindings, workgroups: [2, 1, 1] },
            ReplayAction::Copy { from, to },
        ] = &replay.actions[..]
        else {
            panic!("{:?}", replay.actions)
        };
        assert!(wgsl.contains("fn main("));
        let part = |wanted| bindings.iter().find(|(_, kind, _)| *kind == wanted).unwrap().2;
        assert_eq!(part(BindingKind::ReadWrite), *from);
        assert_eq!(part(BindingKind::Read), *to);
        assert_eq!(replay.buffers.len(), 3, "parameters, x, delta");
        gpu.write(&replay.buffers[from.buffer], from.offset, &[7.0f32]);
        Ok(())
    }));
    gpu.replay(&recording, &[2], None).unwrap();
    assert_eq!(block_on(x.download(&GPU, 2)).unwrap(), [7.0, 2.0, 3.0, 4.0]);
    assert_eq!(block_on(delta.download(&GPU, 2)).unwrap(), [10.0, 20.0, 30.0, 40.0]);
}
