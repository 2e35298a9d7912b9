//! The self-test passes here, finds what is broken on purpose, and is kept on disk.

mod device;
mod golden;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    slice,
};

use device::{FLOOR, GPU, difference, largest, stands_for_others};
use golden::Golden;
use mistral_wgpu::{
    checkpoint::Checkpoint,
    gpu::*,
    model::{Chunk, LogitRows, Model, ModelConfig, ModelOptions, Weights},
    ops::*,
    quant::{FORMATS, by_name},
    tensor::ActivationFormat,
};
use pollster::block_on;
use rayon::prelude::*;

fn heads(kv: KvFormat) -> AttentionShape {
    let head_dim = if kv.numbers().scale_halves > 0 { 32 } else { 20 };
    AttentionShape { heads: 6, kv_heads: 2, head_dim, kv }
}

fn shapes(weights: &str, kv: KvFormat) -> SelfTestShapes {
    SelfTestShapes::all(by_name(weights), |_| heads(kv))[0]
}

/// What a bound may be at most: factors rounded to 8-bit codes or 16-bit floats are far from exact.
fn bound(row: &SelfTestRow) -> f32 {
    // Their errors cancel less.
    let of_few_columns = |rounded: &str| {
        ["experts", "141 rows"]
            .iter()
            .any(|case| row.case.ends_with(&format!("{case}, rounded to {rounded}")))
    };
    match &row.case {
        case if case.ends_with("Q8") => 1e-2,
        case if case.ends_with("F16") => 5e-4,
        _ if of_few_columns("codes") => 3e-3,
        _ if of_few_columns("f16") => 6e-4,
        case if case.ends_with("rounded to codes") => 1e-3,
        // Of attention the scores, too, in the exponent.
        case if row.variant.starts_with("attention") && case.ends_with("rounded to f16") => 1e-3,
        case if case.ends_with("rounded to f16") => 2e-4,
        _ => 1e-5,
    }
}

/// Runs the self-test for weights of each size of blocks, with every format of keys and values.
fn passes(gpu: &Gpu) {
    let formats = FORMATS.into_iter().filter(|format| stands_for_others(format));
    let all = SelfTestShapes::all(formats, heads);
    let mut variants: Vec<String> = Vec::new();
    for row in block_on(self_test(gpu, &all, &mut |_, _| {})).unwrap() {
        assert!(row.ok && row.error <= row.bound && row.bound <= bound(&row), "{row:?}");
        variants.push(row.variant);
    }
    let shape = shapes("f32", KvFormat::F32);
    let mat_vec = MatVecShape::new(shape.weights, 1);
    let runnable = [
        MAT_VEC.runnable(gpu, &mat_vec).map(|variant| MAT_VEC.full_name(variant)).collect::<Vec<_>>(),
        TOP_K.runnable(gpu, &()).map(|variant| TOP_K.full_name(variant)).collect(),
        ATTENTION_SINGLE
            .runnable(gpu, &shape.attention)
            .map(|variant| ATTENTION_SINGLE.full_name(variant))
            .collect(),
        ["embedding", "mat_mat", "rms_norm", "residual_add", "swiglu", "rope_kv", "attention_tiled"]
            .map(|operation| format!("{operation}/baseline"))
            .into(),
        ["route/baseline", "gather/baseline", "expert_sum/baseline"].map(str::to_owned).into(),
        ["attention_combine/baseline", "adjust_logits/baseline", "lora_down/baseline", "lora_up/baseline"]
            .map(str::to_owned)
            .into(),
    ];
    for variant in runnable.concat() {
        assert!(variants.contains(&variant), "{variant} was not tested");
    }
}

#[test]
fn every_variant_passes() {
    passes(&GPU);
}

#[test]
fn every_variant_passes_on_floor_limits() {
    passes(&FLOOR);
}

/// Of formats with a minimum, whose two products cancel where a weight is near zero.
#[test]
fn what_integers_round_is_no_fault() {
    if !GPU.capabilities().has(&[Capability::NineBuffers]) {
        eprintln!("skipped: {} has no such product with RoPE", GPU.description().name);
        return;
    }
    let operations = [&MAT_VEC, &MAT_VEC_NORMED, &MAT_VEC_SWIGLU, &MAT_VEC_ROPE_KV, &MAT_VEC_RMS_NORM];
    let mut gpu = GPU.clone();
    for operation in operations {
        let integer = operation.variants.iter().find(|variant| variant.name == "integer").unwrap();
        gpu = operation.only(&gpu, integer);
    }
    gpu = MAT_MAT.only(&gpu, MAT_MAT.variants.last().unwrap());
    for format in ["q4_1", "q5_1", "q4_k", "q5_k"] {
        let mut shapes = shapes(format, KvFormat::F32);
        shapes.attention.head_dim = 128;
        let [tested, wrong] = tested(&gpu, &shapes);
        assert!(tested.contains(&"mat_vec_rope_kv/integer".to_owned()));
        assert!(wrong.is_empty(), "{format}: {wrong:?}");
    }
}

/// A device on which shaders are edited: `(file, from, to)`.
fn broken(edits: &[(&str, &str, &str)]) -> Gpu {
    broken_without(edits, Capabilities::default())
}

fn broken_without(edits: &[(&str, &str, &str)], disable: Capabilities) -> Gpu {
    let mut options = GpuOptions { disable, ..Default::default() };
    for (name, from, to) in edits {
        let (_, source) = SHADERS.iter().find(|(file, _)| file == name).unwrap();
        let text = options.shaders.entry((*name).to_owned()).or_insert_with(|| (*source).to_owned());
        assert!(text.contains(from), "{name} has no `{from}`");
        *text = text.replace(from, to);
    }
    block_on(Gpu::open(&options)).unwrap()
}

/// Variants that were tested, and those of them that the self-test finds wrong, each once.
fn tested(gpu: &Gpu, shapes: &SelfTestShapes) -> [Vec<String>; 2] {
    let rows = block_on(self_test(gpu, slice::from_ref(shapes), &mut |_, _| {})).unwrap();
    let names = |keep: fn(&SelfTestRow) -> bool| {
        let mut names: Vec<_> = rows.iter().filter(|row| keep(row)).map(|row| row.variant.clone()).collect();
        names.sort();
        names.dedup();
        names
    };
    let wrong = names(|row| !row.ok);
    assert!(wrong.iter().all(|variant| gpu.rejects(variant)));
    [names(|_| true), wrong]
}

/// Whether the variant is one of these operations'.
fn of(variant: &str, operations: &[&str]) -> bool {
    operations.contains(&variant.split('/').next().unwrap())
}

/// Variants that read 16-bit floats: scales of weights, keys and values.
fn halves(variant: &str) -> bool {
    of(variant, &["half", "embedding", "mat_mat", "mat_vec"]) || attention(variant)
}

/// Variants that write activations rounded, too, and products that have none to read then.
fn rounds(variant: &str) -> bool {
    of(variant, &["attention_combine", "gather", "quantize", "rms_norm", "swiglu"])
        || of(variant, &["mat_vec", "mat_mat"]) && of_rounded(variant)
}

/// Variants that read activations rounded, which are normalised before.
fn of_rounded(variant: &str) -> bool {
    integers(variant) || variant.ends_with("/f16_activations")
}

/// Variants that multiply floats in subgroups.
fn by_subgroups(variant: &str) -> bool {
    variant.contains("/subgroup") || variant.ends_with("/f16_activations")
}

/// Variants that multiply integers.
fn integers(variant: &str) -> bool {
    variant.contains("integer") || pairs(variant)
}

/// Variants that do two products of integers at once.
fn pairs(variant: &str) -> bool {
    variant.ends_with("pairs")
}

/// Variants of the kernel that multiplies integers without workgroup memory.
fn registers(variant: &str) -> bool {
    variant.starts_with("mat_mat/registers_")
}

/// Variants that read two activations at once.
fn reads_two(variant: &str) -> bool {
    let narrow = ["attention_combine/narrow", "rms_norm/narrow", "swiglu/narrow"].contains(&variant);
    narrow || variant == "rope_kv/int64"
}

fn attention(variant: &str) -> bool {
    of(variant, &["attention_combine", "attention_single", "attention_tiled"])
}

/// File, what stands there, what a fault makes of it, and which variants are wrong then.
type Fault = (&'static str, &'static str, &'static str, fn(&str) -> bool);

/// What drivers and devices do wrong, or might, and who must be caught at it.
#[test]
fn faults_are_found() {
    let faults: [Fault; 45] = [
        // Subnormal halves become zero as they are written.
        (
            "half",
            "select(subnormal, normal, magnitude >= 0x38800000u)",
            "select(0u, normal, magnitude >= 0x38800000u)",
            |variant| of(variant, &["rope_kv"]) || rounds(variant) && !of(variant, &["gather", "swiglu"]),
        ),
        // Halves rounded toward zero.
        ("half", "(value + (1u << (shift - 1u)) - 1u + odd)", "value", |variant| {
            of(variant, &["rope_kv", "mat_vec_rope_kv"]) || rounds(variant)
        }),
        ("quant/store", "vec2f(value, results[index + 1u])", "vec2f(value, value)", |variant| {
            rounds(variant) && !variant.ends_with("narrow")
        }),
        ("rope", "-x.y * turn.y", "x.y * turn.y", |variant| of(variant, &["rope_kv", "mat_vec_rope_kv"])),
        ("epilogue/rms_norm", "fma(value, value, squares)", "value * value", |variant| {
            of(variant, &["mat_vec_rms_norm"])
        }),
        ("mat_vec", "quad += WORKGROUP", "quad += 2u * WORKGROUP", |variant| {
            of(variant, &["mat_vec_normed", "mat_vec_swiglu"])
                && !of_rounded(variant)
                && !variant.ends_with("rows")
        }),
        // The scale of one row for all.
        ("mat_vec", "first + row + word % 4u", "first + row", |variant| {
            variant.starts_with("mat_vec") && by_subgroups(variant)
        }),
        ("mat_vec_task", "/ f32(params.cols)", "", |variant| {
            of(variant, &["mat_vec_normed", "mat_vec_rope_kv", "mat_vec_swiglu"]) && !of_rounded(variant)
        }),
        ("rms_norm", "+ params.eps", "", |variant| of(variant, &["rms_norm"])),
        // The sum of one subgroup only.
        ("reduce", "total += partial_sums[i];", "total = partial_sums[i];", |variant| {
            of(variant, &["rms_norm", "top_k"]) && variant.ends_with("subgroup")
                || of(variant, &["mat_vec_normed", "mat_vec_rope_kv", "mat_vec_swiglu"])
                    && variant.ends_with("rows")
                    && GPU.description().subgroup_sizes.1 < 8 // invocations of a workgroup
        }),
        ("mat_vec", "let sum = subgroupAdd", "let sum = nothing", |variant| {
            of(variant, &["mat_vec"]) && (by_subgroups(variant) || variant.ends_with("integer_subgroup"))
        }),
        // Products of the fourth words, of the fourth bytes of words, and a part of the correction for codes that are
        // stored plus 8, which pairs do without.
        ("quant/activations", "+ dot4I8Packed(a.w, b.w)", "", |variant| {
            integers(variant) && !registers(variant) && !pairs(variant)
        }),
        ("mat_mat_registers_integer", "signed_integers(words.w)", "signed_integers(words.z)", registers),
        ("mat_mat_registers_integer", "bytes_less_8(words.w)", "bytes_less_8(words.z)", |variant| {
            registers(variant) && pairs(variant)
        }),
        ("attention_rows", "vec4f(four[i])", "vec4f(four[0])", |variant| {
            attention(variant) && variant.ends_with("exchange")
        }),
        ("pairs", "codes.zw + (codes.xy", "codes.zw + (codes.xx", |variant| {
            of(variant, &["mat_vec", "mat_vec_swiglu", "mat_vec_rms_norm"]) && pairs(variant)
        }),
        // The same word twice.
        ("quant/packed", "u32(both >> 32u)", "u32(both)", |variant| {
            registers(variant)
                || pairs(variant)
                || variant.ends_with("rows_integer")
                || variant.ends_with("exchange")
                || reads_two(variant)
        }),
        ("float_pair", "u64(bitcast<u32>(values.y))", "u64(bitcast<u32>(values.x))", |variant| {
            ["rms_norm/narrow", "rope_kv/int64"].contains(&variant)
        }),
        ("quant/activations", "+ sums.w", "", |variant| integers(variant) && !pairs(variant)),
        ("quant/activations", "select(127.0 / largest", "select(100.0 / largest", |variant| rounds(variant)),
        // Columns of a tile, the second half of a block, scales, and the border of y.
        ("mat_mat", "across, TILE_COLS) + ACROSS * col", "across, TILE_COLS)", |variant| {
            ["mat_mat/baseline", "mat_mat/f16_tiles"].contains(&variant)
        }),
        // The same quad of a weight's row, over and over.
        ("mat_mat_bring", "first % QUADS + turn, scale", "first % QUADS, scale", |variant| {
            of(variant, &["mat_mat"]) && !integers(variant) && !variant.ends_with("registers")
        }),
        ("mat_mat_integer", "dot_block(codes[col], x)", "vec2i(dot_block(codes[col], x).x, 0)", |variant| {
            variant == "mat_mat/integer"
        }),
        ("mat_mat_registers", "j, scales[col]);", "j, WeightScale(1.0));", |variant| {
            variant == "mat_mat/registers"
        }),
        ("mat_mat_matrices", "col, border[i]", "col, border[0]", |variant| {
            variant.starts_with("mat_mat/matrices")
        }),
        (
            "mat_mat_matrices",
            "let at = y_index(tile, slot_row + j * SIZE,",
            "let at = y_index(tile, slot_row,",
            |variant| variant.starts_with("mat_mat/matrices"),
        ),
        // Too little to be seen in codes of 8 bits.
        ("silu", "/ (1.0 + small)", "/ (1.00001 + small)", |variant| variant == "swiglu/baseline"),
        // Values of a block in another order.
        ("swiglu", "32u * block + 4u * j + k", "32u * block + 4u * k + j", |variant| {
            variant == "swiglu/narrow"
        }),
        (
            "rms_norm",
            "normed(source, i, scale), normed(source, i + 1u",
            "normed(source, i + 1u, scale), normed(source, i",
            |variant| variant == "rms_norm/narrow",
        ),
        ("attention_combine", "[first + 2u * j + 1u]", "[first + 2u * j]", |variant| {
            variant == "attention_combine/narrow"
        }),
        ("epilogue/swiglu", "silu(gate)", "gate", |variant| of(variant, &["mat_vec_swiglu"])),
        // The same row for all that a workgroup serves.
        ("lora_down", "min(row + col, last_row)", "min(row, last_row)", |variant| {
            of(variant, &["lora_down", "lora_up"])
        }),
        ("lora", "params.targets_1, part == 1u", "params.targets_0, part == 1u", |variant| {
            of(variant, &["lora_down", "lora_up"])
        }),
        // An expert's place among the rows, its rows, its matrix, its last row, and what it counts for.
        ("route", "chosen[index][expert] = place + 1u;", "", |variant| of(variant, &["route"])),
        (
            "route",
            "logits[first + expert] > logits[first + best]",
            "logits[first + expert] >= logits[first + best]",
            |variant| of(variant, &["route"]),
        ),
        ("gather", "indices[row]", "row", |variant| of(variant, &["gather"])),
        ("gather", "indices[col]", "col", |variant| of(variant, &["gather"])),
        ("expert_sum", "fma(choices[i].weight,", "fma(1.0,", |variant| of(variant, &["expert_sum"])),
        (
            "mat_vec_task",
            "Task(offsets[expert], offsets[expert + 1u], matrix)",
            "Task(offsets[expert], offsets[expert + 1u], 0u)",
            |variant| of(variant, &["mat_vec"]),
        ),
        (
            "mat_mat_tile",
            "return Tile(row, offsets[expert + 1u],",
            "return Tile(row, offsets[expert + 1u] - 1u,",
            |variant| of(variant, &["mat_mat"]),
        ),
        ("residual_add", "+= delta", "-= delta", |variant| of(variant, &["residual_add"])),
        ("top_k", "chosen_keys[i] > key", "chosen_keys[i] < key", |variant| of(variant, &["top_k"])),
        ("sample", "mass <= row.draw * total", "mass <= row.draw", |variant| of(variant, &["sample"])),
        ("adjust_logits", "f32(token.count)", "1.0", |variant| of(variant, &["adjust_logits"])),
        // Nothing of attention can be right without the merge.
        ("attention_combine", "sum = fma(factor,", "sum = fma(1.0,", attention),
    ];
    let mut shapes = shapes("q4_0", KvFormat::F16);
    shapes.attention.head_dim = 64; // whole blocks, and no more invocations than octets
    let [all, _] = tested(&block_on(Gpu::open(&GpuOptions::default())).unwrap(), &shapes);
    // Faults that make different variants wrong share a device: each must be caught all the same. Fused products count
    // as plain ones, since they are not tested where those are wrong.
    let apart =
        |variant: &String| if variant.starts_with("mat_vec") { "mat_vec" } else { variant }.to_owned();
    let mut devices: Vec<(Vec<&Fault>, Vec<String>)> = Vec::new();
    for fault in &faults {
        let wrong: Vec<_> = all.iter().filter(|variant| fault.3(variant)).map(apart).collect();
        match devices.iter_mut().find(|(_, others)| !wrong.iter().any(|variant| others.contains(variant))) {
            Some((shared, others)) => {
                shared.push(fault);
                others.extend(wrong);
            }
            None => devices.push((vec![fault], wrong)),
        }
    }
    let optional = GPU.capabilities().has(&[Capability::Subgroup, Capability::Int64, Capability::Cpu]);
    devices.par_iter().for_each(|(faults, _)| {
        let edits: Vec<_> = faults.iter().map(|(file, from, to, _)| (*file, *from, *to)).collect();
        let [mut tested, wrong] = tested(&broken(&edits), &shapes);
        for (file, from, _, expected) in faults {
            let may_lack = !optional || *file == "mat_mat_matrices";
            assert!(tested.iter().any(|variant| expected(variant)) || may_lack, "{file}, `{from}`: untested");
        }
        tested.retain(|variant| faults.iter().any(|fault| fault.3(variant)));
        assert_eq!(wrong, tested, "{edits:?}");
    });
}

/// Where a workgroup has fewer subgroups than there is work for at a time, each does several parts of it.
#[test]
fn few_subgroups_take_turns() {
    let multiplies = |matrices| GPU.capabilities().has(&[matrices]);
    if ![Capability::CooperativeMatrix8, Capability::CooperativeMatrix16].into_iter().any(multiplies) {
        eprintln!("skipped: {} multiplies no matrices", GPU.description().name);
        return;
    }
    let mut shapes = shapes("q4_0", KvFormat::F16);
    shapes.attention.head_dim = 64;
    for subgroups in ["1u", "2u"] {
        let nobody_else = format!("min(invocation.subgroup, {subgroups} - 1u),");
        let edits = ["mat_mat_matrices", "attention_matrices"].map(|file| {
            [(file, "invocation.subgroups", subgroups), (file, "invocation.subgroup,", nobody_else.as_str())]
        });
        let [tested, wrong] = tested(&broken(edits.as_flattened()), &shapes);
        assert!(tested.iter().any(|variant| variant.contains("matrices")), "{tested:?}");
        assert!(wrong.is_empty(), "{subgroups}: {wrong:?}");
    }
}

fn logits(gpu: &Gpu, tokens: &[u32]) -> Vec<f32> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/full");
    let config = ModelConfig::from_dir(&folder).unwrap();
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let f32 = by_name("f32").unwrap();
    let weights = Weights::load(gpu, &checkpoint, &config, f32, &mut |_, _| {}).unwrap();
    let options = ModelOptions { context: 128, kv_format: KvFormat::F32, max_rows: 8, ..Default::default() };
    let mut model = Model::new(gpu, config, weights, options).unwrap();
    let mut sequence = model.sequence();
    let mut all = Vec::new();
    for tokens in tokens.chunks(8) {
        let mut chunks = [Chunk { sequence: &mut sequence, tokens, logits: LogitRows::All }];
        model.forward(gpu, &mut chunks, None).unwrap();
        all.extend(block_on(model.logits.download(gpu, tokens.len() as u32)).unwrap());
    }
    all
}

/// All but one of the ways to multiply a vector are broken, and a norm, among them those that suit the kind of device: the model
/// is wrong before the self-test and right after it.
#[test]
fn a_broken_variant_is_dropped_and_the_output_stays_right() {
    if !GPU.capabilities().has(&[Capability::Subgroup]) {
        eprintln!("skipped: {} has one way to multiply", GPU.description().name);
        return;
    }
    let golden = Golden::open("models/full/golden.safetensors");
    let (tokens, expected) = (golden.ids("tokens"), golden.f32("logits"));
    let error = |gpu: &Gpu| difference(&logits(gpu, &tokens), &expected) / largest(&expected);
    let (gpu, right) = if GPU.capabilities().has(&[Capability::Cpu]) {
        let tree = ("mat_vec", "[row][col] += partial_sums", "[row][col] = partial_sums");
        let rows = ("mat_vec_rows", "fma(w.w, v.w,", "fma(w.w, v.x,");
        (broken(&[tree, rows, ("reduce", "let total = partial_sums[0]", "let total = 0.0")]), "subgroup_tall")
    } else {
        let sums = ("mat_vec", "let sum = subgroupAdd((*sums)[row][col]);", "let sum = (*sums)[row][col];");
        (broken(&[sums, ("reduce", "total += partial_sums[i];", "total = partial_sums[i];")]), "baseline")
    };
    let before = error(&gpu);
    assert!(before > 1e-2 || before.is_nan(), "error {before:e} of a broken device");

    let dir = tempfile::tempdir().unwrap();
    block_on(ensure_self_test(&gpu, &shapes("f32", KvFormat::F32), Some(dir.path()))).unwrap();
    let shape = MatVecShape { rounded: false, ..MatVecShape::new(by_name("f32").unwrap(), 1) };
    assert_eq!(MAT_VEC.choose(&gpu, &shape).unwrap().0.name, right);
    let after = error(&gpu);
    assert!(after <= 1e-5, "error {after:e} after the self-test");
}

#[test]
fn an_operation_without_a_right_variant_is_an_error() {
    let gpu = broken(&[("silu", "/ (1.0 + small)", "")]);
    let [_, wrong] = tested(&gpu, &shapes("f32", KvFormat::F32));
    assert!(wrong.iter().all(|variant| of(variant, &["swiglu", "mat_vec_swiglu"])), "{wrong:?}");
    let error = SWIGLU.choose(&gpu, &ActivationFormat::F32).err().unwrap();
    assert_eq!(error.kind(), mistral_wgpu::ErrorKind::Device);
    assert_eq!(error.subject(), "swiglu");
}

/// Subnormal halves become zero, as scales and in the KV cache.
#[test]
fn lost_subnormal_numbers_are_found() {
    let mut shapes = shapes("q4_0", KvFormat::F16);
    shapes.attention.head_dim = 64;
    let edit = ("half", "select(normal, subnormal, magnitude", "select(normal, 0.0, magnitude");
    let conversion = [Capability::F16Conversion].into_iter().collect();
    let [mut tested, wrong] = tested(&broken_without(&[edit], conversion), &shapes);
    tested.retain(|variant| halves(variant));
    assert!(!tested.is_empty());
    assert_eq!(wrong, tested);
}

/// The device goes on by integers, and nothing else is wrong.
#[test]
fn a_conversion_that_loses_subnormal_numbers_is_not_used() {
    if !GPU.capabilities().has(&[Capability::F16Conversion]) {
        eprintln!("skipped: {} has no conversion of its own", GPU.description().name);
        return;
    }
    let flushed = "unpack2x16float(select(word, 0u, (word & 0x7c007c00u) == 0u))";
    let gpu = broken(&[("half", "unpack2x16float(word)", flushed)]);
    let [_, wrong] = tested(&gpu, &shapes("f32", KvFormat::F16));
    assert_eq!(wrong, ["half/f16_conversion"]);
    assert!(!gpu.capabilities().has(&[Capability::F16Conversion]));
}

#[test]
fn results_are_kept_and_used() {
    let dir = tempfile::tempdir().unwrap();
    let (shapes, other) = (shapes("q8_0", KvFormat::F16), shapes("q4_0", KvFormat::F16));
    let files = || -> BTreeMap<PathBuf, String> {
        let entries = dir.path().join("deeper").read_dir().unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
    };
    let ensure = |shapes: &SelfTestShapes| {
        let gpu = block_on(Gpu::open(&GpuOptions::default())).unwrap();
        block_on(ensure_self_test(&gpu, shapes, Some(&dir.path().join("deeper")))).unwrap();
        (gpu.submissions() > 0, gpu.rejects("swiglu/baseline"))
    };
    assert_eq!(ensure(&shapes), (true, false), "tested");
    let known = files();
    let (path, text) = known.iter().find(|(_, text)| text.contains("\"swiglu/baseline\"")).unwrap();
    assert_eq!(ensure(&shapes), (false, false), "known");

    // What is kept is believed.
    let row = text.find("\"swiglu/baseline\"").unwrap();
    let (before, after) = text.split_at(row);
    std::fs::write(path, before.to_owned() + &after.replacen("true", "false", 1)).unwrap();
    assert_eq!(ensure(&shapes), (false, true), "known to be wrong");

    // Damaged, empty, of another device: tested anew and replaced.
    let foreign = text.replacen(GPU.description().driver.as_str(), "another driver", 1);
    for damaged in [&text[..text.len() / 2], "", "{}", &foreign] {
        assert_ne!(damaged, text);
        std::fs::write(path, damaged).unwrap();
        assert_eq!(ensure(&shapes), (true, false), "tested anew");
        assert_eq!(files(), known, "replaced");
    }

    // Of another format only what depends on it is tested.
    assert_eq!(ensure(&other), (true, false), "another format");
    let mut all = files();
    all.retain(|path, _| !known.contains_key(path));
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(all.values().all(|text| text.lines().next().unwrap().contains("q4_0")), "{all:?}");
    assert_eq!(
        ensure(&SelfTestShapes { reordered: false, adapters: false, ..other }),
        (false, false),
        "less"
    );
}

#[test]
fn results_that_cannot_be_kept_are_no_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    block_on(ensure_self_test(&GPU, &shapes("f32", KvFormat::F32), Some(file.path()))).unwrap();
}
