//! Hostile files: whatever a file holds, its parser returns a value or an error. It does not panic, and does not
//! ask for memory that the file does not explain.
//!
//! Inputs are the fixtures with a few changes each. The same few thousand are tried in every run of the suite;
//! with `FUZZ_SECONDS` set, each parser gets new ones for so long (`sh tests/run.sh --fuzz 600`). An input that
//! brings the test down stays in `target/tmp/hostile/<parser>`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use mistral_wgpu::checkpoint::Checkpoint;
use mistral_wgpu::generate::ModelSource;
use mistral_wgpu::model::{Adapter, AdapterSource, GenerationConfig, ModelConfig, check};
use mistral_wgpu::text::{ChatTemplate, Encode, GgufVocabulary, Message, Tokenizer};

/// Counts what is allocated and the most that ever was since the count began.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system's allocator as it is; only sizes are counted beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(ALLOCATED.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Memory is counted for the whole process: one parser at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// Numbers at which arithmetic goes wrong.
#[rustfmt::skip]
const EDGES: [u64; 14] = [
    0, 1, 2, 31, 255, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 32, 1 << 40, 1 << 62, i64::MAX as u64, 1 << 63,
    u64::MAX,
];

/// Text that parsers of JSON and of templates stumble over.
#[rustfmt::skip]
const WORDS: [&str; 18] = [
    "[", "]", "{", "}", "\"", ",", ":", "null", "-1", "1e400", "NaN", "\\ud800", "\u{feff}", "../", "/dev/zero",
    "{{", "{% for x in range(99999999) %}", "%}",
];

/// Changes `bytes` once. Most changes are near the beginning, where headers are.
fn change(bytes: &mut Vec<u8>, donor: &[u8], random: &mut Random) {
    let end = if random.below(2) == 0 { bytes.len().min(256) } else { bytes.len() };
    let at = random.below(end);
    let longest = random.one(&[9, 9, 9, 9, 9, 9, 9, 4096]);
    let length = random.below(longest).min(bytes.len() - at);
    let insert = |bytes: &mut Vec<u8>, new: &[u8]| drop(bytes.splice(at..at, new.iter().copied()));
    match random.below(10) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
        1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
        2 => {
            let size = random.one(&[1, 2, 4, 8]).min(bytes.len() - at);
            let number = random.one(&EDGES).wrapping_add(random.one(&[0, 0, 1, u64::MAX]));
            bytes[at..at + size].copy_from_slice(&number.to_le_bytes()[..size]);
        }
        3 => number(bytes, at, random),
        4 => drop(bytes.drain(at..at + length)),
        5 => {
            let copy = bytes[at..at + length].repeat(random.one(&[1, 1, 2, 1000]));
            insert(bytes, &copy);
        }
        6 => bytes.truncate(at),
        7 => insert(bytes, random.one(&WORDS).as_bytes()),
        8 => insert(bytes, random.one(&WORDS).repeat(random.one(&[3, 200, 20_000])).as_bytes()),
        _ => {
            let from = random.below(donor.len());
            let part = &donor[from..(from + length).min(donor.len())];
            bytes.splice(at..at + length.min(part.len()), part.iter().copied());
        }
    }
}

/// Replaces the first decimal number from `at` on.
fn number(bytes: &mut Vec<u8>, at: usize, random: &mut Random) {
    let Some(first) = bytes[at..].iter().position(u8::is_ascii_digit).map(|first| at + first) else { return };
    let digits = bytes[first..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let new = random.one(&EDGES).to_string();
    bytes.splice(first..first + digits, new.into_bytes());
}

fn fixtures(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

/// Lets `parse` read folders in which `file` was changed, and returns how many it accepted.
///
/// A parser may take `memory[0]` bytes, and `memory[1]` more for each byte of the file.
fn attack(parser: &str, folders: &[&str], file: &str, memory: [usize; 2], parse: fn(&Path) -> bool) {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let work = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile").join(parser);
    let originals: Vec<_> =
        folders.iter().map(|folder| fs::read(fixtures(folder).join(file)).unwrap()).collect();
    let seconds = std::env::var("FUZZ_SECONDS").ok().map(|text| Duration::from_secs(text.parse().unwrap()));
    let now = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let mut random = Random(if seconds.is_some() { now() } else { 0 });
    let (start, mut tried, mut accepted, mut from) = (Instant::now(), 0, 0, 0);
    while seconds.map_or(tried < 400, |seconds| start.elapsed() < seconds) {
        if tried % 50 == 0 {
            from = random.below(folders.len());
            copy_small_files(&fixtures(folders[from]), &work);
        }
        let mut bytes = originals[from].clone();
        // The first input is the fixture itself.
        for _ in 0..if tried == 0 { 0 } else { 1 + random.below(4) } {
            change(&mut bytes, &originals[random.below(originals.len())], &mut random);
        }
        fs::write(work.join(file), &bytes).unwrap();
        let before = ALLOCATED.load(Relaxed);
        PEAK.store(before, Relaxed);
        let sound = parse(&work);
        let taken = PEAK.load(Relaxed).saturating_sub(before);
        assert!(
            taken <= memory[0] + memory[1] * bytes.len(),
            "{taken} bytes of memory for a file of {}",
            bytes.len()
        );
        assert!(sound || tried > 0, "the fixture was refused");
        accepted += u32::from(sound);
        tried += 1;
    }
    println!("{parser}: {tried} inputs, {accepted} of them accepted");
    assert!(accepted < tried, "no input was refused");
}

/// Memory of a parser of tables.
const SMALL: [usize; 2] = [1 << 20, 64];

/// Memory of a tokenizer, which is an automaton of some hundred bytes for each letter of its vocabulary.
const AUTOMATON: [usize; 2] = [16 << 20, 512];

/// Memory of a tokenizer with a regular expression of its own.
const EXPRESSION: [usize; 2] = [64 << 20, 512];

/// Memory of a template and its text.
const RENDERING: [usize; 2] = [256 << 20, 64];

/// Makes `to` a folder with the files of `from`, but for large ones and golden values.
fn copy_small_files(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let size = path.metadata().unwrap().len();
        if path.is_file() && size < 1 << 20 && !path.ends_with("golden.safetensors") {
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

fn reads_checkpoint(dir: &Path) -> bool {
    let Ok(checkpoint) = Checkpoint::open(dir) else { return false };
    for tensor in checkpoint.tensors() {
        let mut values = vec![0.0; tensor.elements().min(1000)];
        tensor.to_f32(0, &mut values);
        tensor.to_f32(tensor.elements() - values.len(), &mut values);
        checkpoint.release(tensor.name);
    }
    true
}

#[test]
fn safetensors() {
    attack("safetensors", &["models/windowed", "models/tied"], "model.safetensors", SMALL, reads_checkpoint);
}

#[test]
fn safetensors_index() {
    attack("safetensors_index", &["models/sharded"], "model.safetensors.index.json", SMALL, reads_checkpoint);
}

fn reads_gguf(dir: &Path) -> bool {
    let Ok(checkpoint) = Checkpoint::open(&dir.join("mixed.gguf")) else { return false };
    for tensor in checkpoint.tensors() {
        tensor.to_f32(0, &mut vec![0.0; tensor.cols()]);
    }
    let _ = GgufVocabulary::read(checkpoint.metadata());
    if let Ok(config) = ModelConfig::from_gguf(&checkpoint) {
        let _ = check(&checkpoint, &config);
    }
    true
}

#[test]
fn gguf() {
    attack("gguf", &["gguf"], "mixed.gguf", SMALL, reads_gguf);
}

#[test]
fn config() {
    let folders = ["models/windowed", "models/full", "models/head-dim"];
    attack("config", &folders, "config.json", SMALL, |dir| ModelConfig::from_dir(dir).is_ok());
}

/// Configuration and weights of a model that are to fit together.
fn reads_model(dir: &Path) -> bool {
    match (ModelConfig::from_dir(dir), Checkpoint::open(dir)) {
        (Ok(config), Ok(checkpoint)) => check(&checkpoint, &config).is_ok(),
        _ => false,
    }
}

#[test]
fn params() {
    attack("params", &["consolidated"], "params.json", SMALL, reads_model);
}

#[test]
fn quantization_config() {
    let folders = ["quantized/gptq", "quantized/gptq-v2-act-order", "quantized/awq"];
    attack("quantization_config", &folders, "config.json", SMALL, reads_model);
}

#[test]
fn generation_config() {
    let demo = ["../../examples/demo-model"];
    let parse = |dir: &Path| GenerationConfig::from_dir(dir, 96).is_ok();
    attack("generation_config", &demo, "generation_config.json", SMALL, parse);
}

fn reads_text(dir: &Path) -> bool {
    matches!(Tokenizer::from_dir(dir), Ok(Some(tokenizer)) if writes_and_reads(&tokenizer))
}

fn writes_and_reads(tokenizer: &Tokenizer) -> bool {
    let text = "Où est le <s>[INST] 日本 🦊\n\n\tx  = 1\u{0}";
    for special in [false, true] {
        if let Ok(ids) = tokenizer.encode(text, Encode { special, bos: true }) {
            tokenizer.decode(&ids, special).expect("its own ids");
        }
    }
    let ids: Vec<u32> = (0..tokenizer.vocab_size().min(1 << 16) as u32).collect();
    let _ = tokenizer.decode(&ids, true);
    true
}

#[test]
fn tokenizer() {
    attack("tokenizer", &["text/legacy", "text/current"], "tokenizer.json", AUTOMATON, reads_text);
}

#[test]
fn sentencepiece() {
    attack("sentencepiece", &["text/spm"], "tokenizer.model", AUTOMATON, reads_text);
}

#[test]
fn gguf_vocabulary() {
    let parse = |dir: &Path| {
        let source = ModelSource::Gguf(dir.join("spm.gguf"));
        matches!(source.tokenizer(), Ok(Some(tokenizer)) if writes_and_reads(&tokenizer))
    };
    attack("gguf_vocabulary", &["text/gguf"], "spm.gguf", AUTOMATON, parse);
}

#[test]
fn tekken() {
    attack("tekken", &["text/tekken"], "tekken.json", EXPRESSION, reads_text);
}

#[test]
fn tokenizer_config() {
    let parse = |dir: &Path| reads_text(dir) && ChatTemplate::from_dir(dir).is_ok();
    attack("tokenizer_config", &["text/current"], "tokenizer_config.json", AUTOMATON, parse);
}

#[test]
fn template() {
    let parse = |dir: &Path| {
        let messages = [("user", "Hello </s> {{ x }}"), ("assistant", "Hi"), ("user", "Bye")];
        let messages = messages.map(|(role, content)| Message::new(role, content));
        match ChatTemplate::from_dir(dir) {
            Ok(Some(template)) => template.render(&messages, &[], true).is_ok(),
            _ => false,
        }
    };
    attack("template", &["../../examples/demo-model"], "chat_template.jinja", RENDERING, parse);
}

/// Adapters of a model that is sound.
fn reads_adapter(dir: &Path) -> bool {
    let config = ModelConfig::from_dir(&fixtures("models/windowed")).unwrap();
    let Ok(adapter) = Adapter::open(&AdapterSource { dir: dir.into(), scale: 1.0 }, &config) else {
        return false;
    };
    adapter.modules().iter().all(|module| adapter.low_rank(module).is_ok_and(|found| found.is_some()))
}

#[test]
fn adapter_config() {
    let folders = ["adapters/linear", "adapters/qv", "adapters/head"];
    attack("adapter_config", &folders, "adapter_config.json", SMALL, reads_adapter);
}

#[test]
fn adapter_weights() {
    let folders = ["adapters/linear", "adapters/qv", "adapters/head"];
    attack("adapter_weights", &folders, "adapter_model.safetensors", SMALL, reads_adapter);
}
