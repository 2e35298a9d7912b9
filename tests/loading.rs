//! Loading: kernels compile beside the upload, on several threads, and are kept for the next start.

mod device;

use std::{fs, path::Path, sync::Arc, thread};

use device::GPU;
use mistral_wgpu::{ErrorKind, gpu::*, model::*, ops::*, quant::by_name, tensor::ActivationFormat};
use pollster::block_on;

fn open() -> Gpu {
    block_on(Gpu::open(&GpuOptions::default())).unwrap()
}

fn key() -> KernelKey {
    (SWIGLU.variants.last().unwrap().key)(&ActivationFormat::F32)
}

#[test]
fn kernels_compile_on_several_threads_each_once() {
    let gpu = &open();
    let keys: Vec<_> =
        compositions().into_iter().filter(|key| gpu.capabilities().has(key.needs)).take(6).collect();
    let kernels: Vec<Vec<Arc<Kernel>>> = thread::scope(|scope| {
        let threads =
            [0, 1, 2].map(|_| scope.spawn(|| keys.iter().map(|key| gpu.kernel(key).unwrap()).collect()));
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for other in &kernels[1..] {
        assert!(kernels[0].iter().zip(other).all(|(a, b)| Arc::ptr_eq(a, b)));
    }
    // An error on one thread is not another's.
    let wrong = KernelKey::new("no_such_shader");
    thread::scope(|scope| {
        let failing = scope.spawn(|| gpu.kernel(&wrong).err().unwrap().kind());
        assert!(gpu.kernel(&key()).is_ok());
        assert_eq!(failing.join().unwrap(), ErrorKind::Shader);
    });
}

#[test]
fn pipelines_are_kept_and_damaged_files_replaced() {
    if !GPU.capabilities().has(&[Capability::PipelineCache]) {
        return eprintln!("skipped: the driver has no pipeline cache");
    }
    let dir = tempfile::tempdir().unwrap();
    let start = |dir: &Path| {
        let gpu = open();
        gpu.load_pipelines(Some(dir)).unwrap();
        gpu.kernel(&key()).unwrap();
        gpu.keep_pipelines();
        let files: Vec<_> = dir.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
        let [path] = &files[..] else { panic!("{files:?}") };
        assert!(path.file_name().unwrap().to_str().unwrap().starts_with("pipelines-"));
        (path.clone(), fs::read(path).unwrap())
    };
    let (path, whole) = start(dir.path());
    assert_eq!(start(dir.path()).1, whole, "nothing new");
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let foreign = [b"another ", &whole[..]].concat();
    for damaged in [&whole[..whole.len() - 5], &[], &flipped, &foreign] {
        fs::write(&path, damaged).unwrap();
        assert_eq!(start(dir.path()).1, whole, "replaced");
    }
    let off = GpuOptions { disable: [Capability::PipelineCache].into_iter().collect(), ..Default::default() };
    let gpu = block_on(Gpu::open(&off)).unwrap();
    fs::remove_file(&path).unwrap();
    gpu.load_pipelines(Some(dir.path())).unwrap();
    gpu.keep_pipelines();
    assert!(!path.exists(), "switched off");
}

#[test]
fn a_model_is_filled_while_its_kernels_compile() {
    let config = ModelConfig::synthetic("tiny").unwrap();
    let options = ModelOptions { context: 64, max_rows: 16, ..Default::default() };
    let model = |gpu: &Gpu| {
        let weights = Weights::allocate(gpu, &config, by_name("q8_0").unwrap()).unwrap();
        Model::new(gpu, config.clone(), weights, options).unwrap()
    };
    let logits = |gpu: &Gpu, mut model: Model| {
        let mut sequence = model.sequence();
        let mut chunks = [Chunk { sequence: &mut sequence, tokens: &[1, 5, 7], logits: LogitRows::All }];
        model.forward(gpu, &mut chunks, None).unwrap();
        block_on(model.logits.download(gpu, 3)).unwrap()
    };
    let gpu = open();
    let mut filled = model(&gpu);
    filled.fill(&gpu, |weights| weights.fill_random(&gpu, 3)).unwrap();
    let weights = Weights::random(&gpu, &config, by_name("q8_0").unwrap(), 3).unwrap();
    let given = Model::new(&gpu, config.clone(), weights, options).unwrap();
    let expected = logits(&gpu, given);
    assert!(expected.iter().any(|logit| *logit != 0.0));
    assert_eq!(logits(&gpu, filled), expected);
    // What goes wrong on either side is told.
    let fails = |_: &Weights| Err(mistral_wgpu::Error::new(ErrorKind::Checkpoint, "weights", "torn"));
    assert_eq!(model(&gpu).fill(&gpu, fails).unwrap_err().kind(), ErrorKind::Checkpoint);
    for variant in ROPE_KV.variants {
        gpu.reject(ROPE_KV.full_name(variant));
    }
    let error = model(&gpu).fill(&gpu, |_| Ok(())).unwrap_err();
    assert_eq!((error.kind(), error.subject()), (ErrorKind::Device, "rope_kv"));
}
