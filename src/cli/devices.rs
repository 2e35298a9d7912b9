//! `mistral devices`: the adapters there are.

use std::io::{Write, stdout};

use indicatif::{ProgressBar, ProgressStyle};
use mistral_wgpu::{
    gpu::{AdapterDescription, Capability, Gpu, GpuOptions, list_adapters},
    ops::{AttentionShape, SelfTestRow, SelfTestShapes, TuneRow, kept_tuning, self_test},
    quant::FORMATS,
};
use pollster::block_on;
use serde_json::{Value, json};

use super::{
    Outcome,
    device::{DeviceArgs, human},
};

/// List the GPUs, and what of them is used.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mistral devices
  mistral devices --json
  mistral devices --self-test
  mistral devices --tuning
  mistral generate --gpu 1 'Once upon a time'
  mistral generate --gpu radeon --disable f16 'Once upon a time'

JSON is an array of objects: `index`, `name`, `backend`, `kind` (`discrete`, `integrated`, `virtual`, `software` or `other`), \
`driver`, `capabilities`, `limits` (`buffer`, `binding`, `workgroup_memory` in bytes; `invocations`, `workgroups`), \
`memory` (`total`, `free` in bytes or null, `shared_with_host`), `subgroup_sizes`. With --tuning, of objects: `case` \
(operation and subject), `variant` (the fastest), `seconds` (pairs of a variant and its seconds for a token).")]
pub struct Args {
    /// Run every kernel variant of the device on small random cases against the CPU, and print how far off it is
    #[arg(long)]
    self_test: bool,
    /// Print which kernels were measured fastest on this device, for the models loaded so far
    #[arg(long, conflicts_with = "self_test")]
    tuning: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

pub fn run(args: &Args, json: bool) -> Outcome {
    if args.self_test {
        return test(args, json);
    }
    if args.tuning {
        return tuning(args, json);
    }
    let adapters = block_on(list_adapters());
    if adapters.is_empty() {
        // Fails, and says what to install.
        block_on(Gpu::open(&GpuOptions::default()))?;
    }
    if json {
        return super::print(&adapters.iter().enumerate().map(object).collect::<Value>());
    }
    let mut out = stdout().lock();
    for (index, adapter) in adapters.iter().enumerate() {
        let AdapterDescription { name, backend, kind, driver, capabilities, limits, .. } = adapter;
        let kind = if *kind == "software" { "software: runs on the CPU" } else { kind };
        let (smallest, largest) = adapter.subgroup_sizes;
        writeln!(out, "{index}: {name}")?;
        writeln!(out, "   backend    {backend}, {kind}; driver {driver}")?;
        writeln!(out, "   uses       {capabilities}")?;
        writeln!(out, "   memory     {}", memory(adapter))?;
        writeln!(
            out,
            "   limits     buffer {}, binding {}, workgroup memory {}, {} invocations, {} workgroups",
            human(limits.buffer),
            human(limits.binding),
            human(limits.workgroup_memory.into()),
            limits.invocations,
            limits.workgroups
        )?;
        writeln!(out, "   subgroups  {smallest} to {largest}")?;
    }
    Ok(())
}

/// The self-test of one device: for every format of weights, the attention of Mistral 7B and the experts of Mixtral 8x7B.
fn test(args: &Args, json: bool) -> Outcome {
    let gpu = block_on(Gpu::open(&args.device.options()))?;
    let attention = |kv| AttentionShape { heads: 32, kv_heads: 8, head_dim: 128, kv };
    let shapes = SelfTestShapes::all(FORMATS, attention);
    let style = ProgressStyle::with_template("testing kernels {wide_bar} {pos}/{len}");
    let bar = ProgressBar::new(0).with_style(style.expect("a valid template"));
    let rows = block_on(self_test(&gpu, &shapes, &mut |done, parts| {
        bar.set_length(parts as u64);
        bar.set_position(done as u64);
    }));
    bar.finish_and_clear();
    let mut rows = rows?;
    rows.sort_by(|a, b| (&a.variant, &a.case).cmp(&(&b.variant, &b.case)));
    if json {
        return super::print(&json!(rows));
    }
    let mut out = stdout().lock();
    writeln!(out, "{} ({})", gpu.description().name, gpu.description().driver)?;
    writeln!(out, "{:28} {:20} {:>9} {:>9}", "operation/variant", "case", "error", "bound")?;
    for SelfTestRow { variant, case, error, bound, ok } in rows {
        let verdict = if ok { "" } else { "  WRONG: not used" };
        writeln!(out, "{variant:28} {case:20} {error:9.1e} {bound:9.1e}{verdict}")?;
    }
    Ok(())
}

/// What was measured on one device.
fn tuning(args: &Args, json: bool) -> Outcome {
    let gpu = block_on(Gpu::open(&args.device.options()))?;
    let rows = kept_tuning(&gpu, None);
    if json {
        return super::print(&json!(rows));
    }
    let mut out = stdout().lock();
    writeln!(out, "{} ({})", gpu.description().name, gpu.description().driver)?;
    if rows.is_empty() {
        writeln!(out, "nothing measured yet: kernels are tried when a model is loaded")?;
        return Ok(());
    }
    writeln!(out, "{:45} {:20} microseconds a token", "operation, subject", "fastest")?;
    for TuneRow { case, variant, seconds } in rows {
        let times = seconds.iter().map(|(name, seconds)| match *seconds {
            f64::MAX => format!("{name} failed"),
            seconds => format!("{name} {:.1}", seconds * 1e6),
        });
        writeln!(out, "{case:45} {variant:20} {}", times.collect::<Vec<_>>().join(", "))?;
    }
    Ok(())
}

/// What is known about an adapter's memory, in words.
pub fn memory(adapter: &AdapterDescription) -> String {
    let known = match (adapter.memory.free, adapter.memory.total) {
        (Some(free), Some(total)) => format!("{} free of {}", human(free), human(total)),
        (Some(size), None) | (None, Some(size)) => human(size),
        (None, None) => "unknown".into(),
    };
    known + if adapter.memory.shared_with_host { ", the computer's own" } else { "" }
}

fn object((index, adapter): (usize, &AdapterDescription)) -> Value {
    let AdapterDescription { name, backend, kind, driver, capabilities, limits, memory, subgroup_sizes } =
        adapter;
    json!({
        "index": index,
        "name": name,
        "backend": backend,
        "kind": kind,
        "driver": driver,
        "capabilities": capabilities.iter().map(Capability::name).collect::<Vec<_>>(),
        "limits": {
            "buffer": limits.buffer,
            "binding": limits.binding,
            "invocations": limits.invocations,
            "workgroup_memory": limits.workgroup_memory,
            "workgroups": limits.workgroups,
        },
        "memory": {
            "total": memory.total,
            "free": memory.free,
            "shared_with_host": memory.shared_with_host,
        },
        "subgroup_sizes": subgroup_sizes,
    })
}
