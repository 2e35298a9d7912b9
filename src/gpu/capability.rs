//! What a device can do beyond the baseline, as runtime values.

use crate::{Error, ErrorKind, Result};

/// An optional path that kernels may need. Each can be switched off by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Capability {
    /// 16-bit floats in shaders.
    F16,
    /// The device's own conversion of 16-bit floats (`unpack2x16float`), by which every kernel reads them: see
    /// [`KernelKey::on`](super::KernelKey::on).
    F16Conversion,
    /// Subgroup operations, of whatever subgroup size the driver picks.
    Subgroup,
    /// Subgroups of no fewer than eight invocations, in every kernel that has them exchange what they load: see
    /// [`KernelKey::on`](super::KernelKey::on).
    Subgroup8,
    /// Products of 8×8 matrices by a whole subgroup: factors in `f16`, sums in `f32`.
    CooperativeMatrix8,
    /// The same with matrices of 16×16.
    CooperativeMatrix16,
    /// Timestamps at pass boundaries, for profiling.
    Timestamp,
    /// Shaders compiled without the bounds checks and loop guards that wgpu would add.
    Unchecked,
    /// Products of integers: activations in blocks of 8-bit codes, multiplied four at a time
    /// (`dot4I8Packed`, which every device has, if not in hardware).
    Integer,
    /// 64-bit integers in shaders: two words of codes in one load.
    Int64,
    /// Kernels made for CPUs: each invocation does by itself what a workgroup of a GPU shares out, which would starve a GPU.
    Cpu,
    /// Products of few rows that do with their outputs what would otherwise take a dispatch of its own.
    Fused,
    /// The driver's compiled pipelines, kept on disk.
    PipelineCache,
    /// Kernels that bind a storage buffer more than the eight that WebGPU promises.
    NineBuffers,
    /// Kernels whose tiles take up to 32 KiB of workgroup memory, twice what WebGPU promises.
    LargeTiles,
}

struct Row {
    capability: Capability,
    name: &'static str,
    features: wgpu::Features,
}

const COOPERATIVE_MATRIX: wgpu::Features =
    wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(wgpu::Features::SHADER_F16);

const CAPABILITIES: [Row; 15] = [
    Row { capability: Capability::F16, name: "f16", features: wgpu::Features::SHADER_F16 },
    Row { capability: Capability::F16Conversion, name: "f16_conversion", features: wgpu::Features::empty() },
    Row { capability: Capability::Subgroup, name: "subgroup", features: wgpu::Features::SUBGROUP },
    Row { capability: Capability::Subgroup8, name: "subgroup_8", features: wgpu::Features::SUBGROUP },
    Row {
        capability: Capability::CooperativeMatrix8,
        name: "cooperative_matrix_8",
        features: COOPERATIVE_MATRIX,
    },
    Row {
        capability: Capability::CooperativeMatrix16,
        name: "cooperative_matrix_16",
        features: COOPERATIVE_MATRIX,
    },
    Row { capability: Capability::Timestamp, name: "timestamp", features: wgpu::Features::TIMESTAMP_QUERY },
    Row { capability: Capability::Unchecked, name: "unchecked", features: wgpu::Features::empty() },
    Row { capability: Capability::Integer, name: "integer", features: wgpu::Features::empty() },
    Row { capability: Capability::Int64, name: "int64", features: wgpu::Features::SHADER_INT64 },
    Row { capability: Capability::Cpu, name: "cpu", features: wgpu::Features::empty() },
    Row { capability: Capability::Fused, name: "fused", features: wgpu::Features::empty() },
    Row {
        capability: Capability::PipelineCache,
        name: "pipeline_cache",
        features: wgpu::Features::PIPELINE_CACHE,
    },
    Row { capability: Capability::NineBuffers, name: "nine_buffers", features: wgpu::Features::empty() },
    Row { capability: Capability::LargeTiles, name: "large_tiles", features: wgpu::Features::empty() },
];

impl Capability {
    fn row(self) -> &'static Row {
        CAPABILITIES.iter().find(|row| row.capability == self).expect("every capability has its row")
    }

    /// The name used by `--disable`, by shaders' `@if(…)` and in listings.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    pub(super) fn features(self) -> wgpu::Features {
        self.row().features
    }

    /// Whether an adapter with the features can do it.
    fn is_offered(self, adapter: &wgpu::Adapter) -> bool {
        match self {
            Capability::Subgroup8 => adapter.get_info().subgroup_min_size >= 8,
            Capability::CooperativeMatrix8 => multiplies(adapter, 8),
            Capability::CooperativeMatrix16 => multiplies(adapter, 16),
            Capability::F16Conversion => {
                let flags = adapter.get_downlevel_capabilities().flags;
                flags.contains(wgpu::DownlevelFlags::SHADER_F16_IN_F32)
            }
            Capability::Cpu => adapter.get_info().device_type == wgpu::DeviceType::Cpu,
            _ => true,
        }
    }

    /// Whether a device with such limits can do it.
    fn is_within(self, limits: &wgpu::Limits) -> bool {
        match self {
            Capability::NineBuffers => limits.max_storage_buffers_per_shader_stage >= 9,
            Capability::LargeTiles => limits.max_compute_workgroup_storage_size >= 32 << 10,
            _ => true,
        }
    }
}

/// Whether subgroups multiply matrices of `size` × `size`: the feature says only that there are some.
fn multiplies(adapter: &wgpu::Adapter, size: u32) -> bool {
    use wgpu::CooperativeScalarType::{F16, F32};
    adapter.cooperative_matrix_properties().iter().any(|matrix| {
        [matrix.m_size, matrix.n_size, matrix.k_size] == [size; 3]
            && (matrix.ab_type, matrix.cr_type) == (F16, F32)
    })
}

/// A set of [`Capability`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities(u32);

impl Capabilities {
    /// All that there are.
    pub fn all() -> Self {
        CAPABILITIES.iter().map(|row| row.capability).collect()
    }

    /// What `adapter` offers.
    pub(super) fn of(adapter: &wgpu::Adapter) -> Self {
        let features = adapter.features();
        let rows = CAPABILITIES.iter().filter(|row| features.contains(row.features));
        let offered = rows.map(|row| row.capability).filter(|capability| capability.is_offered(adapter));
        offered.collect::<Self>().within(&adapter.limits())
    }

    /// The set without those that need more than `limits`.
    pub(super) fn within(self, limits: &wgpu::Limits) -> Self {
        self.iter().filter(|capability| capability.is_within(limits)).collect()
    }

    pub(super) fn features(self) -> wgpu::Features {
        self.iter().fold(wgpu::Features::empty(), |features, capability| features | capability.features())
    }

    /// Whether wgpu calls a feature of the set experimental.
    pub(super) fn is_experimental(self) -> bool {
        self.features().intersects(wgpu::Features::all_experimental_mask())
    }

    /// Whether all of `needs` are in the set.
    pub fn has(self, needs: &[Capability]) -> bool {
        needs.iter().all(|need| self.0 & 1 << *need as u32 != 0)
    }

    /// The set without those in `others`.
    pub fn without(self, others: Capabilities) -> Self {
        Self(self.0 & !others.0)
    }

    /// The members, in the order of the table.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        CAPABILITIES.iter().map(|row| row.capability).filter(move |capability| self.has(&[*capability]))
    }
}

/// Names separated by commas. A name's beginning, to an underscore, stands for all that begin so:
/// `cooperative_matrix` is both sizes, `f16` its conversion, too, and `subgroup` any.
impl std::str::FromStr for Capabilities {
    type Err = Error;

    fn from_str(list: &str) -> Result<Self> {
        let mut members = Self::default();
        for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let matches = |row: &&Row| row.name == name || row.name.starts_with(&format!("{name}_"));
            let named: Self = CAPABILITIES.iter().filter(matches).map(|row| row.capability).collect();
            if named == Self::default() {
                let names = format!("one of {}", Self::all());
                return Err(Error::expected(ErrorKind::Argument, "capability", names, format!("`{name}`")));
            }
            members.0 |= named.0;
        }
        Ok(members)
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<I: IntoIterator<Item = Capability>>(members: I) -> Self {
        Self(members.into_iter().fold(0, |bits, member| bits | 1 << member as u32))
    }
}

impl std::fmt::Display for Capabilities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.iter().map(Capability::name).collect::<Vec<_>>().join(", "))
    }
}
