//! LoRA adapters on disk (Hu et al. 2021, arXiv:2106.09685), as PEFT saves them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    str::FromStr,
};

use super::{ModelConfig, expected_tensors, lora_config::LoraConfig};
use crate::{
    Error, ErrorKind, Result,
    checkpoint::{Checkpoint, TensorView, read_text},
};

/// Modules of a block that an adapter can change; the output projection, `lm_head`, is one more.
pub(super) const MODULES: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// An adapter's folder, and how strong it is to be: `DIR` or `DIR:SCALE`.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterSource {
    /// With `adapter_config.json` and `adapter_model.safetensors`.
    pub dir: PathBuf,
    /// What all that it adds is multiplied by, beside its own `lora_alpha / r`.
    pub scale: f32,
}

impl FromStr for AdapterSource {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let whole = || Ok(Self { dir: text.into(), scale: 1.0 });
        let Some((dir, scale)) = text.rsplit_once(':') else { return whole() };
        match scale.parse::<f32>() {
            Ok(scale) if scale.is_finite() => Ok(Self { dir: dir.into(), scale }),
            Ok(_) => Err(Error::expected(ErrorKind::Argument, "adapter", "a finite scale", scale)),
            // `C:\adapter` has no scale.
            Err(_) => whole(),
        }
    }
}

/// Some of a model's adapters, by their indices. A text gets what all of them add.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct AdapterSet(pub(super) u32);

impl AdapterSet {
    /// No adapter: the model as it is.
    pub const NONE: Self = Self(0);

    /// The first `count`.
    pub fn first(count: usize) -> Self {
        (0..count).collect()
    }

    /// Whether all are among the first `count`.
    pub(crate) fn is_within(self, count: usize) -> bool {
        self.0 & !Self::first(count).0 == 0
    }
}

impl FromIterator<usize> for AdapterSet {
    /// # Panics
    /// For an index that no adapter can have.
    fn from_iter<I: IntoIterator<Item = usize>>(indices: I) -> Self {
        let bit = |index: usize| {
            assert!(index < crate::ops::MAX_ADAPTERS, "adapter {index}");
            1 << index
        };
        Self(indices.into_iter().map(bit).fold(0, |set, bit| set | bit))
    }
}

/// An adapter's files, found to fit a model.
#[derive(Debug)]
pub struct Adapter {
    tensors: Checkpoint,
    prefix: &'static str,
    config: LoraConfig,
    scale: f32,
    /// Names of what it changes, such as `model.layers.0.mlp.down_proj`.
    modules: Vec<String>,
}

/// What an adapter adds to a matrix: `scale · b · a`.
#[derive(Debug)]
pub struct LowRank {
    /// `[rank, inputs]`.
    pub a: Vec<f32>,
    /// `[outputs, rank]`.
    pub b: Vec<f32>,
    /// Of both.
    pub rank: usize,
    /// Finite.
    pub scale: f32,
}

const PREFIX: &str = "base_model.model.";

impl Adapter {
    /// Opens an adapter for models of `config`. Its files must not be changed while this value lives, since they
    /// are mapped.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] and [`ErrorKind::Config`] for files that are missing or ask for more than plain LoRA,
    /// [`ErrorKind::Checkpoint`] naming a tensor that belongs to no linear module of such a model, lacks its
    /// counterpart, or has another shape than model and config say.
    pub fn open(source: &AdapterSource, config: &ModelConfig) -> Result<Self> {
        let path = source.dir.join("adapter_config.json");
        let lora = LoraConfig::from_json(&read_text(&path)?, &path.to_string_lossy())?;
        let tensors = Checkpoint::open_file(&weights(&source.dir)?)?;
        let prefix =
            if tensors.tensors().any(|tensor| tensor.name.starts_with(PREFIX)) { PREFIX } else { "" };
        let shapes = shapes(config);
        let mut modules = Vec::new();
        for tensor in tensors.tensors() {
            if tensor.name.strip_prefix(prefix) == Some(FROZEN_HEAD) {
                check_shape(&tensor, [config.vocab_size, config.hidden_size])?;
                continue;
            }
            let Some(module) = tensor.name.strip_suffix(A) else {
                // Every B is looked for where its A is found.
                let module = tensor
                    .name
                    .strip_suffix(B)
                    .filter(|module| tensors.get(&format!("{module}{A}")).is_some());
                match module {
                    Some(_) => continue,
                    None => return Err(unknown(&tensor)),
                }
            };
            let name = module.strip_prefix(prefix).unwrap_or(module);
            let Some((outputs, inputs)) = shapes.get(name) else { return Err(unknown(&tensor)) };
            let rank = lora.rank(name);
            check_shape(&tensor, [rank, *inputs])?;
            check_shape(&tensors.tensor(&format!("{module}{B}"))?, [*outputs, rank])?;
            modules.push(name.to_owned());
        }
        if modules.is_empty() {
            let error =
                Error::expected(ErrorKind::Checkpoint, "adapter", "tensors lora_A and lora_B", "none");
            return Err(error.within(source.dir.display()));
        }
        Ok(Self { tensors, prefix, config: lora, scale: source.scale, modules })
    }

    /// Names of what it changes, such as `model.layers.0.mlp.down_proj`.
    pub fn modules(&self) -> &[String] {
        &self.modules
    }

    /// Rank of what it adds to `module`; `None` when it leaves that alone.
    pub fn rank(&self, module: &str) -> Option<usize> {
        self.modules.iter().any(|name| name == module).then(|| self.config.rank(module))
    }

    /// What it adds to `module`; `None` when it leaves that alone.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] for values that are no finite numbers.
    pub fn low_rank(&self, module: &str) -> Result<Option<LowRank>> {
        let Some(rank) = self.rank(module) else { return Ok(None) };
        let values = |suffix: &str| -> Result<Vec<f32>> {
            let tensor = self.tensors.tensor(&format!("{}{module}{suffix}", self.prefix))?;
            let mut values = vec![0.0; tensor.elements()];
            tensor.to_f32(0, &mut values);
            self.tensors.release(tensor.name);
            match values.iter().find(|value| !value.is_finite()) {
                None => Ok(values),
                Some(value) => {
                    let error = Error::expected(ErrorKind::Checkpoint, tensor.name, "finite numbers", value);
                    Err(error.within(tensor.file.display()))
                }
            }
        };
        let scale = (self.config.scale(module) * f64::from(self.scale)) as f32;
        Ok(Some(LowRank { a: values(A)?, b: values(B)?, rank, scale }))
    }
}

const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";

/// PEFT's copy of the base's own output projection, beside an adapter of it.
const FROZEN_HEAD: &str = "lm_head.base_layer.weight";

/// Outputs and inputs of everything that an adapter can change.
fn shapes(config: &ModelConfig) -> BTreeMap<String, (usize, usize)> {
    let changeable = |name: &str| MODULES.iter().any(|module| name.ends_with(module));
    let matrix = |(name, shape): (String, Vec<usize>)| match (name.strip_suffix(".weight"), shape.as_slice())
    {
        (Some(module), &[outputs, inputs]) if changeable(module) => {
            Some((module.to_owned(), (outputs, inputs)))
        }
        _ => None,
    };
    let lm_head = ("lm_head".to_owned(), (config.vocab_size, config.hidden_size));
    expected_tensors(config).into_iter().filter_map(matrix).chain([lm_head]).collect()
}

/// The file with the adapter's tensors.
fn weights(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("adapter_model.safetensors");
    if path.exists() {
        return Ok(path);
    }
    let found = if dir.join("adapter_model.bin").exists() {
        "adapter_model.bin, a pickle, which could run anything; load it in Python and save it with \
         save_pretrained(DIR, safe_serialization=True)"
    } else {
        "no such file"
    };
    Err(Error::expected(ErrorKind::Io, dir.display(), "adapter_model.safetensors", found))
}

fn check_shape(tensor: &TensorView, expected: [usize; 2]) -> Result<()> {
    if tensor.shape == expected {
        return Ok(());
    }
    let expected = format_args!("shape {expected:?}, by the model's config.json and adapter_config.json");
    let found = format_args!("{:?}", tensor.shape);
    Err(Error::expected(ErrorKind::Checkpoint, tensor.name, expected, found).within(tensor.file.display()))
}

/// The error for a tensor that is not used.
fn unknown(tensor: &TensorView) -> Error {
    let name = tensor.name;
    let found = match () {
        () if name.contains("lora_magnitude_vector") => "a tensor of DoRA",
        () if name.contains("lora_embedding_") => "an adapter of an embedding",
        () if name.ends_with(A) => "an adapter of something else, or of another model",
        () if name.ends_with(B) => "none for this B",
        () => "a tensor of another kind",
    };
    let expected = format!("lora_A and lora_B of lm_head or a block's {}", MODULES.join(", "));
    let advice = "; what else there is can be merged in Python with merge_and_unload()";
    let error = Error::expected(ErrorKind::Checkpoint, name, expected, format_args!("{found}{advice}"));
    error.within(tensor.file.display())
}
