//! Runs the self-test's cases and whole models on Dawn, Chromium's WebGPU: recordings go to another
//! process in place of the device, and its results are held to the same bounds.
//!
//! cargo run --example dawn -- COMMAND…        COMMAND starts `dawn.mjs FOLDER serve`

#[path = "../device/mod.rs"]
mod device;
#[path = "../golden/mod.rs"]
mod golden;

use std::{
    env,
    error::Error as StdError,
    io::{self, Read, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use device::{difference, largest, stands_for_others};
use golden::Golden;
use mistral_wgpu::{
    Error, ErrorKind, Result,
    checkpoint::Checkpoint,
    gpu::{Capabilities, Executor, Gpu, GpuOptions, Replay, ReplayAction, ReplayPart},
    model::{Chunk, LogitRows, Model, ModelConfig, ModelOptions, Weights},
    ops::{AttentionShape, KvFormat, SelfTestShapes, self_test},
    quant::{FORMATS, by_name},
    reference,
};
use pollster::block_on;
use serde_json::{Value, json};

/// The other process, which answers on descriptor 3. A message, both ways, is the length of its JSON and that of the contents of
/// buffers as 32-bit numbers, the JSON, the contents.
struct Dawn {
    child: Child,
    requests: ChildStdin,
    answers: ChildStdout,
}

impl Dawn {
    /// Starts it, and returns what it says of itself.
    fn start(command: &[String]) -> io::Result<(Self, Value)> {
        let mut child = Command::new("sh")
            .args(["-c", r#"exec "$@" 3>&1 >&2"#, "sh"])
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (requests, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut dawn = Self { child, requests, answers };
        let (hello, _) = dawn.receive()?;
        Ok((dawn, hello))
    }

    fn receive(&mut self) -> io::Result<(Value, Vec<u8>)> {
        let mut lengths = [[0; 4]; 2];
        self.answers.read_exact(lengths.as_flattened_mut())?;
        let [mut json, mut contents] = lengths.map(|bytes| vec![0; u32::from_le_bytes(bytes) as usize]);
        self.answers.read_exact(&mut json)?;
        self.answers.read_exact(&mut contents)?;
        Ok((serde_json::from_slice(&json)?, contents))
    }

    fn ask(&mut self, request: &Value, contents: &[u8]) -> io::Result<(Value, Vec<u8>)> {
        let json = request.to_string();
        self.requests.write_all(&(json.len() as u32).to_le_bytes())?;
        self.requests.write_all(&(contents.len() as u32).to_le_bytes())?;
        self.requests.write_all(json.as_bytes())?;
        self.requests.write_all(contents)?;
        self.requests.flush()?;
        self.receive()
    }

    /// Does a replay there with the contents of the buffers here, and brings all of them back.
    fn execute(&mut self, gpu: &Gpu, replay: &Replay) -> Result<()> {
        let contents = block_on(gpu.download::<u8>(&replay.buffers))?.concat();
        let sizes: Vec<u64> = replay.buffers.iter().map(|buffer| buffer.size()).collect();
        let actions: Vec<Value> = replay.actions.iter().map(action).collect();
        let request = json!({ "buffers": sizes, "actions": actions });
        let fail = |message: String| Error::new(ErrorKind::Device, "Dawn", message);
        let (answer, contents) = self.ask(&request, &contents).map_err(|error| fail(error.to_string()))?;
        if let Some(message) = answer["error"].as_str() {
            eprintln!("Dawn: {message}");
            return Err(fail(message.to_owned()));
        }
        let mut rest = contents.as_slice();
        for buffer in &replay.buffers {
            let (own, after) = rest.split_at(buffer.size() as usize);
            gpu.write(buffer, 0, own);
            rest = after;
        }
        Ok(())
    }
}

impl Drop for Dawn {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn action(action: &ReplayAction) -> Value {
    let part = |part: &ReplayPart| json!({ "buffer": part.buffer, "offset": part.offset, "size": part.size });
    match action {
        ReplayAction::Copy { from, to } => json!({ "copy": { "from": part(from), "to": part(to) } }),
        ReplayAction::Dispatch { label, wgsl, bindings, workgroups } => {
            let bindings: Vec<Value> = bindings
                .iter()
                .map(|(number, kind, memory)| {
                    json!({ "number": number, "kind": format!("{kind:?}"), "part": part(memory) })
                })
                .collect();
            let dispatch =
                json!({ "label": label, "wgsl": wgsl, "bindings": bindings, "workgroups": workgroups });
            json!({ "dispatch": dispatch })
        }
    }
}

/// Starts Dawn: what runs recordings there, and the capabilities that it lacks.
fn start(command: &[String]) -> std::result::Result<(Arc<Executor>, Capabilities), Box<dyn StdError>> {
    let (dawn, hello) = Dawn::start(command)?;
    let has =
        |feature: &str| hello["features"].as_array().is_some_and(|all| all.iter().any(|f| f == feature));
    let mut lacking: Capabilities = "cooperative_matrix,int64".parse()?;
    for (feature, capability) in [("shader-f16", "f16"), ("subgroups", "subgroup")] {
        if !has(feature) {
            lacking = lacking.iter().chain(capability.parse::<Capabilities>()?.iter()).collect();
        }
    }
    println!("{} without {lacking}", hello["name"]);
    let dawn = Mutex::new(dawn);
    let executor = move |gpu: &Gpu, replay: &Replay| {
        dawn.lock().unwrap_or_else(PoisonError::into_inner).execute(gpu, replay)
    };
    Ok((Arc::new(executor), lacking))
}

/// The device, with WebGPU's default limits.
fn open(disable: Capabilities) -> Result<Gpu> {
    block_on(Gpu::open(&GpuOptions { floor_limits: true, disable, ..Default::default() }))
}

/// Counts checks, and tells of those that fail.
#[derive(Default)]
struct Checks {
    passed: usize,
    failed: usize,
}

impl Checks {
    fn check(&mut self, name: &str, error: f32, bound: f32) {
        if error <= bound {
            self.passed += 1;
        } else {
            self.failed += 1;
            println!("{name}: error {error:e}, bound {bound:e}");
        }
    }
}

/// Every variant of every operation on the self-test's cases: with the heads of `config`, a format of weights
/// of each kind, and all of the KV cache.
fn operations(gpu: &Gpu, config: &ModelConfig, checks: &mut Checks) -> Result<()> {
    let shape = |kv| AttentionShape {
        heads: config.num_attention_heads as u32,
        kv_heads: config.num_key_value_heads as u32,
        head_dim: config.head_dim as u32,
        kv,
    };
    let formats = FORMATS.into_iter().filter(|format| stands_for_others(format));
    // A handle of its own, for what is rejected.
    let (gpu, shapes) = (gpu.with_own_rejections(), SelfTestShapes::all(formats, shape));
    for row in block_on(self_test(&gpu, &shapes, &mut |_, _| {}))? {
        let name = format!("{} ({})", row.variant, row.case);
        checks.check(&name, row.error, if row.ok { row.bound } else { -1.0 });
    }
    Ok(())
}

fn model(gpu: &Gpu, folder: &Path, weights: &str) -> Result<Model> {
    let config = ModelConfig::from_dir(folder)?;
    let checkpoint = Checkpoint::open(folder)?;
    let weights = Weights::load(gpu, &checkpoint, &config, by_name(weights).unwrap(), &mut |_, _| {})?;
    let options = ModelOptions {
        context: 128,
        kv_format: KvFormat::F32,
        max_rows: 64,
        max_logit_rows: 64,
        ..Default::default()
    };
    Model::new(gpu, config, weights, options)
}

/// Logits of every token, in a chunk for all but the last, which is decoded by itself.
fn logits(gpu: &Gpu, model: &mut Model, tokens: &[u32]) -> Result<Vec<f32>> {
    let mut sequence = model.sequence();
    let mut all = Vec::new();
    let (last, others) = tokens.split_last().unwrap();
    for tokens in [others, &[*last]] {
        let mut chunks = [Chunk { sequence: &mut sequence, tokens, logits: LogitRows::All }];
        model.forward(gpu, &mut chunks, None)?;
        all.extend(block_on(model.logits.download(gpu, tokens.len() as u32))?);
    }
    Ok(all)
}

/// A small checkpoint against transformers' logits.
fn golden_model(gpu: &Gpu, checks: &mut Checks) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/full");
    let golden = Golden::open("models/full/golden.safetensors");
    let expected = golden.f32("logits");
    let found = logits(gpu, &mut model(gpu, &folder, "f32")?, &golden.ids("tokens"))?;
    checks.check("logits of transformers", difference(&found, &expected) / largest(&expected), 1e-5);
    Ok(())
}

/// The demo model against the device itself with the same kernels: its logits, and the likeliest token of
/// each row.
fn demo_model(
    executor: &Arc<Executor>,
    lacking: Capabilities,
    folder: &Path,
    checks: &mut Checks,
) -> Result<()> {
    let tokens: Vec<u32> = (0..40).map(|i| 5 + i * 97 % 1500).collect();
    // Sums in another order move an activation by its last bits. Where activations are rounded first, to 8 bits
    // with integers and to 16 in tiles of `f16`, some then go to the other side, a whole step away.
    let floats = ("f16,integer", 1e-6, ["f16", "q8_0", "q4_0"].as_slice());
    let rounded = [("integer", 1e-4, ["f16"].as_slice()), ("", 2e-3, &["q8_0", "q4_0"])];
    for (disable, bound, formats) in [floats].into_iter().chain(rounded) {
        let less = lacking.iter().chain(disable.parse::<Capabilities>()?.iter()).collect();
        let device = open(less)?;
        let dawn = open(less)?.with_executor(executor.clone());
        for weights in formats {
            let expected = logits(&device, &mut model(&device, folder, weights)?, &tokens)?;
            let found = logits(&dawn, &mut model(&dawn, folder, weights)?, &tokens)?;
            let error = difference(&found, &expected) / largest(&expected);
            let what = format!("demo model in {weights}, without {disable:?}");
            println!("{what}: error {error:e}");
            checks.check(&what, error, bound);
            let likeliest = |logits: &[f32]| -> Vec<u32> {
                logits.chunks_exact(logits.len() / tokens.len()).map(reference::argmax).collect()
            };
            let unlike =
                likeliest(&found).iter().zip(likeliest(&expected)).filter(|(a, b)| **a != *b).count();
            checks.check(&format!("likeliest tokens: {what}"), unlike as f32, 0.0);
        }
    }
    Ok(())
}

fn main() -> std::result::Result<ExitCode, Box<dyn StdError>> {
    let (executor, lacking) = start(&env::args().skip(1).collect::<Vec<_>>())?;
    let gpu = open(lacking)?.with_executor(executor.clone());
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo-model");
    let mut checks = Checks::default();
    golden_model(&gpu, &mut checks)?;
    demo_model(&executor, lacking, &demo, &mut checks)?;
    operations(&gpu, &ModelConfig::from_dir(&demo)?, &mut checks)?;
    println!("{} passed, {} failed", checks.passed, checks.failed);
    Ok(if checks.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
