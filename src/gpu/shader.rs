//! Composes WGSL from `shaders/`: imports, `@if` conditionals and constants generated from Rust.

use std::{borrow::Cow, collections::HashMap, fmt::Write};

use naga::valid;
use wesl::{CompileOptions, EscapeMangler, Mangler, ModulePath, VirtualResolver};

use super::{Capabilities, Capability, unroll::unroll};
use crate::{Error, ErrorKind, Result};

macro_rules! shaders {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../shaders/", $name, ".wgsl")))),*]
    };
}

/// Every shader file by its module name (`folder/file`), embedded in the program.
pub const SHADERS: &[(&str, &str)] = &shaders![
    "adjust_logits",
    "attention_combine",
    "attention_matrices",
    "attention_partial",
    "attention_query",
    "attention_rows",
    "attention_tiled",
    "bias",
    "embedding",
    "epilogue/plain",
    "epilogue/rms_norm",
    "epilogue/rope_kv",
    "epilogue/swiglu",
    "exchange",
    "expert_sum",
    "fill",
    "float_pair",
    "gather",
    "half",
    "kv/blocks",
    "kv/cache",
    "kv/f16",
    "kv/f32",
    "kv/page",
    "kv/q4_0",
    "kv/q8_0",
    "kv/store",
    "lora",
    "lora_down",
    "lora_up",
    "mat_mat",
    "mat_mat_bring",
    "mat_mat_integer",
    "mat_mat_matrices",
    "mat_mat_registers",
    "mat_mat_registers_integer",
    "mat_mat_tile",
    "mat_vec",
    "mat_vec_rows",
    "mat_vec_task",
    "pairs",
    "quant/activations",
    "quant/bf16",
    "quant/codes4",
    "quant/codes5",
    "quant/f16",
    "quant/f32",
    "quant/int4",
    "quant/iq4_nl",
    "quant/iq4_xs",
    "quant/layout",
    "quant/numbers_iq4",
    "quant/packed",
    "quant/q4_0",
    "quant/q4_1",
    "quant/q4_k",
    "quant/q5_0",
    "quant/q5_1",
    "quant/q5_k",
    "quant/q6_k",
    "quant/q8_0",
    "quant/scales",
    "quant/scales_k",
    "quant/store",
    "quantize",
    "reduce",
    "residual_add",
    "rms_norm",
    "roofline/chain",
    "roofline/matrix",
    "roofline/multiply",
    "roofline/stream",
    "rope",
    "rope_kv",
    "route",
    "sample",
    "silu",
    "swiglu",
    "top_k",
];

/// A plain struct of `u32` and `f32` whose WGSL text is generated from the Rust definition.
/// Implemented by the [`uniform!`](crate::uniform) macro alone, which makes both sides agree.
pub trait Uniform: bytemuck::Pod {
    /// The struct's declaration in WGSL.
    const WGSL: &'static str;
}

/// Declares a `#[repr(C)]` struct of `u32`/`f32` fields together with its WGSL declaration.
#[macro_export]
macro_rules! uniform {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($(#[$doc:meta])* $field:ident: $kind:ident),* $(,)? }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
        $vis struct $name { $($(#[$doc])* pub $field: $kind),* }

        impl $crate::gpu::Uniform for $name {
            const WGSL: &'static str =
                concat!("struct ", stringify!($name), " { ", $(stringify!($field: $kind), ", ",)* "}");
        }
    };
}

/// Everything that determines the text of a compute shader.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KernelKey {
    /// Module in [`SHADERS`] that holds the entry point `main`.
    pub shader: &'static str,
    /// Modules mounted under an alias: `("weight", "quant/q4_0")` makes
    /// `import package::weight::…` read from that file.
    pub mounts: Vec<(&'static str, &'static str)>,
    /// Capabilities that the shader uses; `@if(name)` sees them.
    pub needs: &'static [Capability],
    /// Further conditions that `@if(name)` sees.
    pub flags: Vec<&'static str>,
    /// `const NAME: u32` in `package::generated`.
    pub constants: Vec<(&'static str, u32)>,
    /// Struct declarations ([`Uniform::WGSL`]) in `package::generated`.
    pub structs: Vec<&'static str>,
}

impl KernelKey {
    /// A key without mounts, flags, constants or structs.
    pub fn new(shader: &'static str) -> Self {
        Self {
            shader,
            mounts: Vec::new(),
            needs: &[],
            flags: Vec::new(),
            constants: Vec::new(),
            structs: Vec::new(),
        }
    }

    /// Adds the declaration of `U`.
    pub fn with<U: Uniform>(mut self) -> Self {
        self.structs.push(U::WGSL);
        self
    }

    /// Adds a constant.
    pub fn constant(mut self, name: &'static str, value: u32) -> Self {
        self.constants.push((name, value));
        self
    }

    /// Value of a constant.
    ///
    /// # Panics
    /// When there is none of this name.
    pub fn value(&self, name: &str) -> u32 {
        self.constants.iter().find(|(other, _)| *other == name).expect("a constant of the key").1
    }

    /// Adds a condition when `on`.
    pub fn flag(mut self, name: &'static str, on: bool) -> Self {
        if on {
            self.flags.push(name);
        }
        self
    }

    /// For subgroups that multiply matrices of `SIZE`, 8 or 16.
    pub fn matrices(self, size: u32) -> Self {
        let needs: &[Capability] = match size {
            16 => &[Capability::F16, Capability::Subgroup, Capability::CooperativeMatrix16],
            _ => &[Capability::F16, Capability::Subgroup, Capability::CooperativeMatrix8],
        };
        Self { needs, ..self.constant("SIZE", size) }
    }

    /// As a device of such `capabilities` runs it: 16-bit floats, which may be scales, are read by the device's own conversion
    /// or by integer arithmetic, and as many invocations exchange what they load as its smallest subgroups allow. All kernels
    /// of a device do, or none, so that neither is part of what a variant needs.
    pub fn on(self, capabilities: Capabilities) -> Self {
        [Capability::F16Conversion, Capability::Subgroup8]
            .into_iter()
            .fold(self, |key, capability| key.flag(capability.name(), capabilities.has(&[capability])))
    }

    /// Whether the shader uses cooperative matrices, which neither HLSL nor WebGPU has.
    pub fn multiplies_matrices(&self) -> bool {
        let sizes = [Capability::CooperativeMatrix8, Capability::CooperativeMatrix16];
        sizes.iter().any(|size| self.needs.contains(size))
    }

    /// Mounts `module` as `alias`.
    pub fn mount(mut self, alias: &'static str, module: &'static str) -> Self {
        self.mounts.push((alias, module));
        self
    }
}

/// How a binding is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindingKind {
    /// `var<uniform>`.
    Uniform,
    /// `var<storage, read>`.
    Read,
    /// `var<storage, read_write>`.
    ReadWrite,
}

/// A composed, validated shader.
#[derive(Debug)]
pub struct Composed {
    /// The WGSL text handed to the driver.
    pub wgsl: String,
    /// naga's form of it.
    pub module: naga::Module,
    /// What naga's validator learned about the module.
    pub info: valid::ModuleInfo,
    /// Name, binding number in group 0 and kind of each buffer, ordered by number.
    pub bindings: Vec<(String, u32, BindingKind)>,
}

/// Composes and validates the shader of `key`.
///
/// # Errors
/// [`ErrorKind::Shader`], naming the file and line.
pub fn compose(key: &KernelKey) -> Result<Composed> {
    compose_with(key, &HashMap::new())
}

/// As [`compose`], with the texts of `replaced` in place of the files of those names.
pub(super) fn compose_with(key: &KernelKey, replaced: &HashMap<String, String>) -> Result<Composed> {
    let wgsl = link(key, replaced)?;
    let fail = |report: String| Error::new(ErrorKind::Shader, key.shader, report);
    let module = naga::front::wgsl::parse_str(&wgsl)
        .map_err(|error| fail(error.emit_to_string_with_path(&wgsl, key.shader)))?;
    let mut capabilities = valid::Capabilities::default();
    if key.needs.contains(&Capability::F16) {
        capabilities |= valid::Capabilities::SHADER_FLOAT16;
    }
    let conversion = Capability::F16Conversion;
    if key.needs.contains(&conversion) || key.flags.contains(&conversion.name()) {
        capabilities |= valid::Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    }
    if key.needs.contains(&Capability::Subgroup) {
        capabilities |= valid::Capabilities::SUBGROUP;
    }
    if key.needs.contains(&Capability::Int64) {
        capabilities |= valid::Capabilities::SHADER_INT64;
    }
    if key.multiplies_matrices() {
        capabilities |= valid::Capabilities::COOPERATIVE_MATRIX;
    }
    let info = valid::Validator::new(valid::ValidationFlags::all(), capabilities)
        .subgroup_stages(valid::ShaderStages::COMPUTE)
        .subgroup_operations(valid::SubgroupOperationSet::all())
        .validate(&module)
        .map_err(|error| fail(error.emit_to_string_with_path(&wgsl, key.shader)))?;
    let bindings = reflect(&module);
    Ok(Composed { wgsl, module, info, bindings })
}

fn link(key: &KernelKey, replaced: &HashMap<String, String>) -> Result<String> {
    let mut resolver = VirtualResolver::new();
    let path = |module: &str| -> ModulePath {
        format!("package::{}", module.replace('/', "::")).parse().expect("module names are identifiers")
    };
    let text = |name: &str, source: &'static str| match replaced.get(name) {
        Some(replacement) => Cow::Owned(replacement.clone()),
        None => Cow::Borrowed(source),
    };
    for (name, source) in SHADERS {
        resolver.add_module(path(name), text(name, source));
    }
    for (alias, name) in &key.mounts {
        let (_, source) = SHADERS.iter().find(|(shader, _)| shader == name).ok_or_else(|| {
            Error::new(ErrorKind::Shader, key.shader, format_args!("no shader module `{name}`"))
        })?;
        resolver.add_module(path(alias), text(name, source));
    }
    let mut generated = String::new();
    for (name, value) in &key.constants {
        let _ = writeln!(generated, "const {name}: u32 = {value}u;");
    }
    for declaration in &key.structs {
        let _ = writeln!(generated, "{declaration}");
    }
    resolver.add_module(path("generated"), Cow::Owned(generated));

    let mut options = CompileOptions { validate: false, ..Default::default() };
    for flag in key.needs.iter().map(|need| need.name()).chain(key.flags.iter().copied()) {
        options.features.flags.insert(flag.to_owned(), wesl::Feature::Enable);
    }
    let linked = wesl::compile_sourcemap(&path(key.shader), &resolver, &EscapeMangler, &options);
    let fail = |report: String| Error::new(ErrorKind::Shader, key.shader, report);
    let mut text = linked.map_err(|error| fail(plain(&error.to_string())))?.syntax;
    unroll(&mut text).map_err(|counted| fail(format!("cannot unroll {counted}")))?;
    let enable =
        |extension: &str, on: bool| if on { format!("enable {extension};\n") } else { String::new() };
    let f16 = enable("f16", key.needs.contains(&Capability::F16));
    let matrices = enable("wgpu_cooperative_matrix", key.multiplies_matrices());
    Ok(format!("{f16}{matrices}{text}"))
}

/// A report without the colours that wesl always gives it: `\x1b[91merror\x1b[0m` is `error`.
fn plain(report: &str) -> String {
    let mut parts = report.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    first + &parts.map(|part| part.split_once('m').map_or(part, |(_, rest)| rest)).collect::<String>()
}

fn reflect(module: &naga::Module) -> Vec<(String, u32, BindingKind)> {
    let mut bindings: Vec<_> = module
        .global_variables
        .iter()
        .filter_map(|(_, variable)| {
            let kind = match variable.space {
                naga::AddressSpace::Uniform => BindingKind::Uniform,
                naga::AddressSpace::Storage { access } if access.contains(naga::StorageAccess::STORE) => {
                    BindingKind::ReadWrite
                }
                naga::AddressSpace::Storage { .. } => BindingKind::Read,
                _ => return None,
            };
            // An imported variable carries its module's path; Rust binds by the name alone.
            let name = variable.name.clone()?;
            let imported = name.starts_with("package_").then(|| EscapeMangler.unmangle(&name)).flatten();
            let name = imported.map_or(name, |(_, item)| item);
            Some((name, variable.binding.as_ref()?.binding, kind))
        })
        .collect();
    bindings.sort_by_key(|(_, number, _)| *number);
    bindings
}
