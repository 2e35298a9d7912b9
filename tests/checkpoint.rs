//! Weight files: what loads, what is refused and with which words, and that nothing in a file makes a panic.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::{bf16, f16};
use mistral_wgpu::checkpoint::Checkpoint;
use mistral_wgpu::model::{ModelConfig, check, expected_tensors};
use mistral_wgpu::{ErrorKind, Result};
use proptest::prelude::*;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use tempfile::TempDir;

/// A folder with one file.
fn folder(name: &str, bytes: &[u8]) -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join(name), bytes).unwrap();
    dir
}

/// The bytes of a safetensors file, header as given.
fn raw(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + data, 0);
    file
}

/// The bytes of a valid safetensors file with f32 zeros.
fn zeros<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a [usize])>) -> Vec<u8> {
    let data = vec![0; 1 << 20];
    let view = |shape: &[usize]| {
        TensorView::new(Dtype::F32, shape.to_vec(), &data[..4 * shape.iter().product::<usize>()]).unwrap()
    };
    safetensors::serialize(tensors.into_iter().map(|(name, shape)| (name, view(shape))), None).unwrap()
}

/// Asserts that the error is of this kind and names all these things.
fn assert_names<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind, parts: &[&str]) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "{error} does not name {part}");
    }
}

/// Asserts that a file is refused for these reasons.
fn assert_refused(file: &[u8], parts: &[&str]) {
    let dir = folder("model.safetensors", file);
    let parts = [parts, &["model.safetensors"]].concat();
    assert_names(Checkpoint::open(dir.path()), ErrorKind::Checkpoint, &parts);
}

#[test]
fn golden_checkpoints_open_as_the_safetensors_crate_reads_them() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
    let mut opened = 0;
    for model in fs::read_dir(models).unwrap() {
        let dir = model.unwrap().path();
        let checkpoint = Checkpoint::open(&dir).unwrap();
        check(&checkpoint, &ModelConfig::from_dir(&dir).unwrap()).unwrap();
        let files: BTreeMap<_, _> =
            checkpoint.files().map(|file| (file.to_owned(), fs::read(file).unwrap())).collect();
        let mut names = Vec::new();
        for tensor in checkpoint.tensors() {
            let theirs = SafeTensors::deserialize(&files[tensor.file]).unwrap();
            // The text model within one that reads images, too, has its names here without that prefix.
            let within = format!("language_model.{}", tensor.name);
            let theirs = theirs.tensor(tensor.name).or_else(|_| theirs.tensor(&within)).unwrap();
            assert_eq!(tensor.dtype.to_string(), theirs.dtype().to_string().to_lowercase());
            assert_eq!((tensor.shape, tensor.bytes), (theirs.shape(), theirs.data()));
            names.push(tensor.name);
        }
        let theirs: usize = files.values().map(|file| SafeTensors::deserialize(file).unwrap().len()).sum();
        assert_eq!(names.len(), theirs);
        assert!(names.is_sorted());
        opened += 1;
    }
    assert!(opened >= 14, "{opened}");
}

#[test]
fn values_convert_exactly() {
    let cases: [(Dtype, &[u8], &[f32]); 3] = [
        (Dtype::F32, &[0, 0, 0x80, 0x3f, 1, 0, 0, 0x80], &[1.0, -f32::from_bits(1)]),
        // one, the smallest subnormal, the lowest finite value, infinity (IEEE 754, table 3.5)
        (Dtype::F16, &[0, 0x3c, 1, 0, 0xff, 0xfb, 0, 0x7c], &[1.0, 2f32.powi(-24), -65504.0, f32::INFINITY]),
        (Dtype::BF16, &[0x80, 0x3f, 0x49, 0xc0, 1, 0], &[1.0, -3.140625, f32::from_bits(0x10000)]),
    ];
    for (dtype, bytes, expected) in cases {
        // An odd number of bytes in front of the data leaves them unaligned.
        let header = format!(
            r#"{{"x":{{"dtype":"{dtype}","shape":[{}],"data_offsets":[0,{}]}}}}"#,
            expected.len(),
            bytes.len()
        );
        for padding in 0..4 {
            let mut file = raw(&(header.clone() + &" ".repeat(padding)), 0);
            file.extend(bytes);
            let dir = folder("model.safetensors", &file);
            let mut values = vec![f32::NAN; expected.len()];
            Checkpoint::open(dir.path()).unwrap().tensor("x").unwrap().to_f32(0, &mut values);
            assert_eq!(values, expected);
        }
    }
}

#[test]
fn tensors_are_read_in_pieces_and_again_after_release() {
    let bits: Vec<u16> = (0..2000).map(|i| i * 15).collect();
    for (dtype, widen) in [
        (Dtype::F16, (|bits| f16::from_bits(bits).to_f32()) as fn(u16) -> f32),
        (Dtype::BF16, |bits| bf16::from_bits(bits).to_f32()),
    ] {
        let expected: Vec<f32> = bits.iter().map(|&bits| widen(bits)).collect();
        let view = TensorView::new(dtype, vec![40, 50], bytemuck::cast_slice(&bits)).unwrap();
        let dir = folder("model.safetensors", &safetensors::serialize([("x", view)], None).unwrap());
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        for piece in [1, 7, 512, 513, 2000] {
            let mut values = vec![f32::NAN; 2000];
            for (index, out) in values.chunks_mut(piece).enumerate() {
                checkpoint.tensor("x").unwrap().to_f32(index * piece, out);
            }
            assert_eq!(values, expected);
            checkpoint.release("x");
        }
    }
}

#[test]
fn shards_load_with_and_without_an_index() {
    let dir = TempDir::new().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    write("model-00001-of-00002.safetensors", &zeros([("a", [2, 3].as_slice())]));
    write("model-00002-of-00002.safetensors", &zeros([("b", [4].as_slice()), ("empty", &[0])]));
    write("consolidated.safetensors", b"Mistral's own layout, with names of its own");
    write("consolidated.00.safetensors", b"the same");
    write("adapter_model.safetensors", b"not the model");
    let shapes = || -> Vec<(String, Vec<usize>)> {
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        checkpoint.tensors().map(|tensor| (tensor.name.into(), tensor.shape.into())).collect()
    };
    let expected = [("a".into(), vec![2, 3]), ("b".into(), vec![4]), ("empty".into(), vec![0])];
    assert_eq!(shapes(), expected);
    write(
        "model.safetensors.index.json",
        br#"{"metadata": {"total_size": 40}, "weight_map": {
            "a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#,
    );
    write("model-of-something-else.safetensors", b"not in the index");
    assert_eq!(shapes(), expected);
}

#[cfg(unix)]
#[test]
fn links_are_followed() {
    use mistral_wgpu::checkpoint::DType;

    let blobs = folder("0123abcd", &zeros([("a", [1].as_slice())]));
    let dir = TempDir::new().unwrap();
    std::os::unix::fs::symlink(blobs.path().join("0123abcd"), dir.path().join("model.safetensors")).unwrap();
    assert_eq!(Checkpoint::open(dir.path()).unwrap().tensor("a").unwrap().dtype, DType::F32);
}

#[test]
fn a_folder_without_weights_says_so() {
    let dir = folder("adapter_model.safetensors", b"");
    let name = dir.path().to_str().unwrap();
    assert_names(
        Checkpoint::open(dir.path()),
        ErrorKind::Checkpoint,
        &[name, "model.safetensors", "found none"],
    );
    assert_names(Checkpoint::open(&dir.path().join("absent")), ErrorKind::Io, &["absent"]);
}

#[test]
fn a_directory_in_place_of_a_file_is_refused() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("model.safetensors")).unwrap();
    assert_names(Checkpoint::open(dir.path()), ErrorKind::Io, &["model.safetensors", "a regular file"]);
}

#[test]
fn every_truncation_is_refused() {
    let file = zeros([("first", [3].as_slice()), ("second", &[2, 2])]);
    for length in 0..file.len() {
        assert_refused(&file[..length], &["expected", "found"]);
    }
    assert_refused(b"", &["at least 8 bytes", "found 0"]);
    assert_refused(&file[..40], &["header of", "32 before the file ends"]);
    assert_refused(&file[..file.len() - 1], &["second", "up to byte 28", "ends at byte 27"]);
}

#[test]
fn a_header_that_is_none_is_refused() {
    assert_refused(&u64::MAX.to_le_bytes(), &["at most 100000000 bytes", "18446744073709551615"]);
    assert_refused(&raw("[]", 0), &["a header in JSON"]);
    assert_refused(&raw("{} {}", 0), &["a header in JSON"]);
    assert_refused(&raw("{\"x\": \"\u{0}", 0), &["a header in JSON"]);
    assert_refused(&raw(r#"{"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#, 4), &["\"x\"", "-1"]);
    assert_refused(&raw(r#"{"x":{"dtype":"F32","shape":[1]}}"#, 4), &["\"x\"", "data_offsets"]);
    let name = "a".repeat(300);
    assert_refused(
        &raw(&format!(r#"{{"{name}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#), 4),
        &["256 printable"],
    );
    assert_refused(
        &raw(r#"{"\u001b[31m":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 4),
        &["printable", r"\u{1b}"],
    );
}

/// A file with the tensor `a`, a sound one of 8 bytes, and `b` as given; 16 bytes of data.
fn beside_a(b: &str) -> Vec<u8> {
    raw(&format!(r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}},"b":{{{b}}}}}"#), 16)
}

#[test]
fn overlapping_and_scattered_tensors_are_refused() {
    assert_refused(
        &beside_a(r#""dtype":"F32","shape":[3],"data_offsets":[4,16]"#),
        &[": b:", "from byte 8 on", "4, which overlaps"],
    );
    assert_refused(
        &beside_a(r#""dtype":"F32","shape":[1],"data_offsets":[12,16]"#),
        &[": b:", "from byte 8 on", "12, which leaves a gap"],
    );
    assert_refused(
        &beside_a(r#""dtype":"F32","shape":[3],"data_offsets":[8,20]"#),
        &[": b:", "up to byte 20", "ends at byte 16"],
    );
    assert_refused(
        &beside_a(r#""dtype":"F32","shape":[1],"data_offsets":[8,12]"#),
        &["as the header describes"],
    );
}

#[test]
fn a_size_other_than_the_shape_s_is_refused() {
    for (shape, offsets) in [("[2,3]", "[8,16]"), ("[1]", "[8,16]"), ("[2]", "[8,4]"), ("[2]", "[8,0]")] {
        let b = format!(r#""dtype":"F32","shape":{shape},"data_offsets":{offsets}"#);
        let shape = shape.replace(',', ", ");
        assert_refused(&beside_a(&b), &[": b:", &format!("f32 {shape}"), "found offsets 8 to"]);
    }
}

#[test]
fn sizes_beyond_counting_are_refused() {
    for shape in ["[4611686018427387904]", "[4294967296,4294967296]", "[3037000500,3037000500,2]"] {
        let b = format!(r#""dtype":"F32","shape":{shape},"data_offsets":[8,16]"#);
        assert_refused(&beside_a(&b), &[": b:", "can be counted"]);
    }
    assert_refused(
        &beside_a(r#""dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[8,16]"#),
        &[": b:", "at most 8 dimensions", "found 9"],
    );
    let b = r#""dtype":"F32","shape":[4611686018427387903],"data_offsets":[8,18446744073709551612]"#;
    assert_refused(&beside_a(b), &[": b:", "found offsets 8 to 18446744073709551612"]);
}

#[test]
fn other_types_are_refused() {
    for dtype in ["F64", "I8", "F8_E4M3", "f32", ""] {
        let b = format!(r#""dtype":"{dtype}","shape":[1],"data_offsets":[8,16]"#);
        assert_refused(&beside_a(&b), &[": b:", "F32, F16 or BF16", &format!("found \"{dtype}\"")]);
    }
}

#[test]
fn repeated_tensors_are_refused() {
    let empty = r#"{"dtype":"F32","shape":[0],"data_offsets":[0,0]}"#;
    assert_refused(
        &raw(&format!(r#"{{"x":{empty},"x":{empty}}}"#), 0),
        &[": x:", "one tensor", "another in"],
    );

    let dir = folder("model-1.safetensors", &zeros([("x", [1].as_slice())]));
    fs::write(dir.path().join("model-2.safetensors"), zeros([("x", [1].as_slice())])).unwrap();
    let parts = ["model-2.safetensors: x:", "one tensor of this name", "another in", "model-1.safetensors"];
    assert_names(Checkpoint::open(dir.path()), ErrorKind::Checkpoint, &parts);
}

/// Opens a folder with the shard `model-1.safetensors`, which holds `x` and `y`, and this index.
fn open_indexed(index: &str) -> Result<Checkpoint> {
    let dir = folder("model-1.safetensors", &zeros([("x", [1].as_slice()), ("y", &[1])]));
    fs::write(dir.path().join("model-2.safetensors"), zeros([("z", [1].as_slice())])).unwrap();
    fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    Checkpoint::open(dir.path())
}

fn assert_index_refused(index: &str, parts: &[&str]) {
    let parts = [parts, &["model.safetensors.index.json"]].concat();
    assert_names(open_indexed(index), ErrorKind::Checkpoint, &parts);
}

#[test]
fn an_index_that_promises_what_is_not_there_is_refused() {
    open_indexed(r#"{"weight_map": {"x": "model-1.safetensors", "y": "model-1.safetensors"}}"#).unwrap();
    assert_index_refused(
        r#"{"weight_map": {"x": "model-1.safetensors", "w": "model-3.safetensors"}}"#,
        &["shards that exist", "no file \"model-3.safetensors\""],
    );
    assert_index_refused(
        r#"{"weight_map": {"x": "model-1.safetensors", "w": "model-1.safetensors"}}"#,
        &[": w:", "in \"model-1.safetensors\"", "no such tensor"],
    );
    assert_index_refused(
        r#"{"weight_map": {"x": "model-1.safetensors", "y": "model-2.safetensors"}}"#,
        &[": y:", "in \"model-2.safetensors\"", "it in \"model-1.safetensors\""],
    );
    for index in ["", "[]", "{}", r#"{"weight_map": ["x"]}"#, r#"{"weight_map": {"x": 1}}"#] {
        assert_index_refused(index, &["a weight_map of names to files"]);
    }
}

#[test]
fn an_index_that_leaves_its_folder_is_refused() {
    let absolute = std::env::temp_dir().join("x.safetensors");
    let absolute = absolute.to_str().unwrap();
    let inner =
        ["../model-1.safetensors", "..", ".", "", "./model-1.safetensors", "a/b", r"a\b", "C:x", "x/", "/"];
    for shard in inner.into_iter().chain([absolute]) {
        let index = serde_json::json!({"weight_map": {"x": shard}}).to_string();
        assert_index_refused(&index, &["shards in the folder itself", &format!("found {shard:?}")]);
    }
}

/// Checks a checkpoint of these tensors against the configuration `tiny`, changed.
fn check_tiny(tensors: &BTreeMap<String, Vec<usize>>, tied: bool) -> Result<()> {
    let file = zeros(tensors.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())));
    let dir = folder("model.safetensors", &file);
    let config = ModelConfig { tie_word_embeddings: tied, ..ModelConfig::synthetic("tiny").unwrap() };
    check(&Checkpoint::open(dir.path()).unwrap(), &config)
}

#[test]
fn tensors_other_than_the_model_s_are_refused() {
    let model: BTreeMap<_, _> =
        expected_tensors(&ModelConfig::synthetic("tiny").unwrap()).into_iter().collect();
    check_tiny(&model, false).unwrap();

    let name = "model.layers.1.self_attn.k_proj.weight";
    let mut missing = model.clone();
    missing.remove(name);
    let folder = std::env::temp_dir();
    let parts = [folder.to_str().unwrap(), name, "found none"];
    assert_names(check_tiny(&missing, false), ErrorKind::Checkpoint, &parts);

    let mut reshaped = model.clone();
    reshaped.insert(name.into(), vec![64, 32]);
    let parts = ["model.safetensors", name, "shape [32, 64]", "found [64, 32]"];
    assert_names(check_tiny(&reshaped, false), ErrorKind::Checkpoint, &parts);

    let mut unknown = model.clone();
    unknown.insert("model.layers.2.mlp.up_proj.weight".into(), vec![1]);
    let parts = ["model.safetensors", "model.layers.2.mlp.up_proj.weight", "unknown"];
    assert_names(check_tiny(&unknown, false), ErrorKind::Checkpoint, &parts);
}

#[test]
fn rotary_tables_and_tied_heads_may_be_there_or_not() {
    let mut model: BTreeMap<_, _> =
        expected_tensors(&ModelConfig::synthetic("tiny").unwrap()).into_iter().collect();
    model.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), vec![8]);
    check_tiny(&model, false).unwrap();
    check_tiny(&model, true).unwrap();
    model.remove("lm_head.weight");
    check_tiny(&model, true).unwrap();
    assert_names(check_tiny(&model, false), ErrorKind::Checkpoint, &["lm_head.weight", "found none"]);
}

/// Opens a file and, if it opens, reads all of it.
fn read_all(file: &[u8]) {
    let dir = folder("model.safetensors", file);
    if let Ok(checkpoint) = Checkpoint::open(dir.path()) {
        for tensor in checkpoint.tensors() {
            tensor.to_f32(0, &mut vec![0.0; tensor.elements()]);
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(header in any::<Vec<u8>>(), length in 0u64..80, honest: bool) {
        let length = if honest { header.len() as u64 } else { length };
        read_all(&[&length.to_le_bytes(), header.as_slice()].concat());
    }

    #[test]
    fn changed_bytes_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
    ) {
        let mut file = zeros([("first", [3].as_slice()), ("second", &[2, 2])]);
        for (index, byte) in changes {
            let length = file.len();
            file[index.index(length)] = byte;
        }
        read_all(&file);
    }

    #[test]
    fn any_numbers_in_a_header_never_panic(shape: Vec<u64>, offsets: [u64; 2], small in 0u64..20) {
        let tensor = |shape: &[u64], [begin, end]: [u64; 2]| serde_json::json!(
            {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]});
        for tensor in [tensor(&shape, offsets), tensor(&shape, [0, small]), tensor(&[small], offsets)] {
            read_all(&raw(&serde_json::json!({ "x": tensor }).to_string(), 16));
        }
    }

    #[test]
    fn what_is_written_is_read(
        tensors in prop::collection::btree_map("[a-z.0-9]{1,12}", prop::collection::vec(0usize..5, 0..4), 0..8)
    ) {
        let values: Vec<f32> = (0..125).map(|i| i as f32 - 0.5).collect();
        let views = tensors.iter().map(|(name, shape)| {
            let data = bytemuck::cast_slice(&values[..shape.iter().product()]);
            (name, TensorView::new(Dtype::F32, shape.clone(), data).unwrap())
        });
        let dir = folder("model.safetensors", &safetensors::serialize(views, None).unwrap());
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        prop_assert_eq!(checkpoint.tensors().count(), tensors.len());
        for (name, shape) in &tensors {
            let tensor = checkpoint.tensor(name).unwrap();
            let mut read = vec![0.0; tensor.elements()];
            tensor.to_f32(0, &mut read);
            prop_assert_eq!(tensor.shape, shape);
            prop_assert_eq!(&read, &values[..shape.iter().product()]);
        }
    }
}
