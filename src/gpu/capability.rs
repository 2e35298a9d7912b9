//! What a device can do beyond the baseline, as runtime values.

use crate::{Error, ErrorKind, Result};

/// An optional path that kernels may need. Each can be switched off by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Capability {
    /// 16-bit floats in shaders.
    F16,
    /// Subgroup operations, of whatever subgroup size the driver picks.
    Subgroup,
    /// Timestamps at pass boundaries, for profiling.
    Timestamp,
    /// Shaders compiled without the bounds checks and loop guards that wgpu would add.
    Unchecked,
}

struct Row {
    capability: Capability,
    name: &'static str,
    features: wgpu::Features,
}

const CAPABILITIES: [Row; 4] = [
    Row { capability: Capability::F16, name: "f16", features: wgpu::Features::SHADER_F16 },
    Row { capability: Capability::Subgroup, name: "subgroup", features: wgpu::Features::SUBGROUP },
    Row { capability: Capability::Timestamp, name: "timestamp", features: wgpu::Features::TIMESTAMP_QUERY },
    Row { capability: Capability::Unchecked, name: "unchecked", features: wgpu::Features::empty() },
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
}

impl std::str::FromStr for Capability {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let row = CAPABILITIES.iter().find(|row| row.name == name);
        row.map(|row| row.capability).ok_or_else(|| {
            let names = CAPABILITIES.map(|row| row.name).join(", ");
            Error::expected(ErrorKind::Argument, "capability", format!("one of {names}"), format!("`{name}`"))
        })
    }
}

/// A set of [`Capability`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities(u32);

impl Capabilities {
    /// What an adapter with `features` offers.
    pub(super) fn of(features: wgpu::Features) -> Self {
        CAPABILITIES.iter().filter(|row| features.contains(row.features)).map(|row| row.capability).collect()
    }

    pub(super) fn features(self) -> wgpu::Features {
        self.iter().fold(wgpu::Features::empty(), |features, capability| features | capability.features())
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
