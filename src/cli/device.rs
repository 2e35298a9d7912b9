//! Arguments that choose a GPU and what of it to use.

use clap::ValueEnum;
use mistral_wgpu::gpu::{Capabilities, GpuOptions};

/// The GPU.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Device")]
pub struct DeviceArgs {
    /// The GPU: its index in `mistral devices`, or part of its name [default: the best one].
    #[arg(long, value_name = "INDEX|NAME", env = "MISTRAL_GPU")]
    gpu: Option<String>,
    /// Limits to ask of the device: all it has, or only what every WebGPU device has.
    #[arg(long, value_enum, default_value_t)]
    limits: Limits,
    #[arg(long, value_name = "LIST", env = "MISTRAL_DISABLE", value_parser = str::parse::<Capabilities>)]
    #[arg(help = format!("Optional paths not to use, of {}", Capabilities::all()))]
    disable: Option<Capabilities>,
    /// Memory to plan with and to keep to, such as `8GiB` [default: what the driver tells].
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub memory: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, ValueEnum)]
enum Limits {
    #[default]
    Adapter,
    Floor,
}

/// The paths whose kernels round activations.
const ROUNDING: &str = "f16,integer,cooperative_matrix";

impl DeviceArgs {
    /// Without what rounds activations, unless paths were switched off by name.
    pub fn exact(self) -> Self {
        let rounding = || ROUNDING.parse().expect("names of the table");
        Self { disable: Some(self.disable.unwrap_or_else(rounding)), ..self }
    }

    /// What to open.
    pub fn options(&self) -> GpuOptions {
        GpuOptions {
            gpu: self.gpu.clone().filter(|name| !name.is_empty()),
            floor_limits: self.limits == Limits::Floor,
            disable: self.disable.unwrap_or_default(),
            memory: self.memory,
            ..GpuOptions::default()
        }
    }
}

/// A number of bytes, with or without a unit.
fn bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| c.is_alphabetic()).unwrap_or(text.len()));
    let scale = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024f64,
        "m" | "mib" => 1024f64.powi(2),
        "g" | "gib" => 1024f64.powi(3),
        "t" | "tib" => 1024f64.powi(4),
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        _ => return Err(format!("unknown unit `{unit}`: use KiB, MiB, GiB or KB, MB, GB")),
    };
    match number.trim().parse::<f64>() {
        Ok(number) if number >= 0.0 && number * scale < u64::MAX as f64 => Ok((number * scale) as u64),
        _ => Err("expected a size such as 8GiB".into()),
    }
}

/// Bytes as people read them.
pub fn human(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}
