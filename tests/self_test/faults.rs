//! Faults that drivers have, or might have, and by which kernels the self-test finds each.

use mistral_wgpu::{gpu::*, ops::*};
use pollster::block_on;
use rayon::prelude::*;

use super::{GPU, broken, shapes, tested};

/// Whether the variant is one of these operations'.
pub fn of(variant: &str, operations: &[&str]) -> bool {
    operations.contains(&variant.split('/').next().unwrap())
}

/// Variants that read 16-bit floats: scales of weights, keys and values.
pub fn halves(variant: &str) -> bool {
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
    let faults: [Fault; 46] = [
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
        // The last of eight invocations.
        ("exchange", "subgroupBroadcast(value, 7u)", "subgroupBroadcast(value, 6u)", |variant| {
            GPU.capabilities().has(&[Capability::Subgroup8])
                && (variant.starts_with("mat_mat/registers")
                    || variant.starts_with("mat_vec") && variant.contains("/rows")
                    || variant.ends_with("exchange"))
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
    // Faults that make different variants wrong share a device: each must be caught all the same. A fused product counts
    // as the plain one of its kernel, since it is not tested where that is wrong.
    let apart = |variant: &String| match variant.split_once('/') {
        Some((operation, name)) if operation.starts_with("mat_vec") => format!("mat_vec/{name}"),
        _ => variant.clone(),
    };
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
