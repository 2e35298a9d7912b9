//! Checkpoints of GPTQ and AWQ: what they say of themselves, and the tensors that make a matrix.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use half::f16;
use serde_json::Value;

use super::files::read_text;
use super::packed::{Packed, Packing};
use super::{Checkpoint, DType, Location, TensorView};
use crate::quant::BLOCK;
use crate::{Error, ErrorKind, Result};

/// How the matrices of a checkpoint are packed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scheme {
    packing: Packing,
    /// Columns of a group; `None` for all of them.
    group: Option<usize>,
}

/// The parts of a packed matrix in their files.
#[derive(Debug)]
pub(super) struct Parts {
    packing: Packing,
    group: usize,
    zeros: Location,
    scales: Location,
    groups: Option<Location>,
    order: Option<Arc<[u32]>>,
}

/// Where a folder may say how its matrices are packed, and by which method if it does not say that.
const PLACES: [(&str, &str); 3] =
    [("config.json", ""), ("quantize_config.json", "gptq"), ("quant_config.json", "awq")];

impl Scheme {
    /// Reads `quantization_config` of `config.json`, or else the files that AutoGPTQ and AutoAWQ leave beside it.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] naming the key, for another method than GPTQ's and AWQ's of 4 bits.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        for (name, method) in PLACES {
            let path = dir.join(name);
            if !path.exists() {
                continue;
            }
            let json: Value = serde_json::from_str(&read_text(&path)?)
                .map_err(|e| Error::expected(ErrorKind::Config, path.display(), "JSON", &e).because(e))?;
            let config = if method.is_empty() { &json["quantization_config"] } else { &json };
            if config.is_object() {
                return Self::parse(config, method).map(Some).map_err(|e| e.within(path.display()));
            }
        }
        Ok(None)
    }

    fn parse(config: &Value, usual: &str) -> Result<Self> {
        let either =
            |a: &str, b: &str| if config[a].is_null() { config[b].clone() } else { config[a].clone() };
        let name = |key: &str, usual: &str| match &config[key] {
            Value::Null => usual.to_owned(),
            Value::String(name) => name.to_lowercase(),
            other => other.to_string(),
        };
        let refuse = |key: &str, expected: &str, found: &dyn std::fmt::Display| {
            Err(Error::expected(ErrorKind::Checkpoint, key, expected, found))
        };
        let bits = either("bits", "w_bit");
        let group = either("group_size", "q_group_size");
        let format = name("checkpoint_format", "gptq");
        let packing = match name("quant_method", usual).as_str() {
            "gptq" if config["is_marlin_format"] == true => {
                return refuse("is_marlin_format", "false: the layout that all programs read", &true);
            }
            "gptq" => match format.as_str() {
                "gptq" => Packing::Gptq { raise: 1 },
                "gptq_v2" => Packing::Gptq { raise: 0 },
                _ => return refuse("checkpoint_format", "gptq or gptq_v2", &format),
            },
            "awq" => match name("version", "gemm").as_str() {
                "gemm" => Packing::Awq,
                other => return refuse("version", "gemm", &other),
            },
            other => return refuse("quant_method", "gptq or awq", &other),
        };
        if bits != 4 {
            return refuse("bits", "4", &bits);
        }
        let group = match group.as_i64() {
            Some(-1) => None,
            Some(size) if size > 0 && size % BLOCK as i64 == 0 => Some(size as usize),
            _ => return refuse("group_size", "-1 or a multiple of 32", &group),
        };
        Ok(Self { packing, group })
    }
}

impl Checkpoint {
    /// Makes matrices of packed tensors, as `scheme` says that they are.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] naming the first tensor of integers that is not, or not fit to be, part of one.
    pub(super) fn assemble(&mut self, scheme: Option<Scheme>) -> Result<()> {
        let (mut words, tensors): (BTreeMap<_, _>, _) =
            std::mem::take(&mut self.tensors).into_iter().partition(|(_, location)| location.integers);
        self.tensors = tensors;
        let names: Vec<_> =
            words.keys().filter_map(|name| name.strip_suffix(".qweight")).map(str::to_owned).collect();
        for (name, scheme) in names.iter().zip(scheme.iter().cycle()) {
            let matrix =
                self.matrix(*scheme, name, &mut words).map_err(|error| error.within(self.dir.display()))?;
            self.tensors.insert(format!("{name}.weight"), matrix);
            self.drop_idle_bias(&format!("{name}.bias"));
        }
        let Some((name, location)) = words.first_key_value() else { return Ok(()) };
        let expected = "the dtype F32, F16 or BF16, or integers that are part of a matrix of GPTQ or AWQ";
        let error = Error::expected(ErrorKind::Checkpoint, name, expected, "\"I32\"");
        Err(error.within(self.files[location.file].0.display()))
    }

    /// Some files of GPTQ have a bias for every matrix, which is zero where the model has none.
    fn drop_idle_bias(&mut self, name: &str) {
        let zero = |bias: TensorView| {
            let mut values = vec![0.0; bias.elements()];
            bias.to_f32(0, &mut values);
            values.iter().all(|value| *value == 0.0)
        };
        if self.get(name).is_some_and(zero) {
            self.tensors.remove(name);
        }
    }

    fn matrix(
        &mut self,
        scheme: Scheme,
        name: &str,
        words: &mut BTreeMap<String, Location>,
    ) -> Result<Location> {
        let missing = |part: &str| {
            Error::expected(
                ErrorKind::Checkpoint,
                format_args!("{name}.{part}"),
                "a part of a packed matrix",
                "none",
            )
        };
        let mut word = |part: &str| words.remove(&format!("{name}.{part}")).ok_or_else(|| missing(part));
        let (codes, zeros, groups) = (word("qweight")?, word("qzeros")?, word("g_idx").ok());
        let scales = self.tensors.remove(&format!("{name}.scales")).ok_or_else(|| missing("scales"))?;
        let refuse = |part: &str, expected: String, found: String| {
            Err(Error::expected(ErrorKind::Checkpoint, format_args!("{name}.{part}"), expected, found))
        };
        let (&[height, width], &[count, rows]) = (&codes.shape[..], &scales.shape[..]) else {
            let found = format!("{:?} and scales {:?}", codes.shape, scales.shape);
            return refuse("qweight", "two dimensions, as of its scales".to_owned(), found);
        };
        let (cols, packed_rows) = match scheme.packing {
            Packing::Gptq { .. } => (height.saturating_mul(8), width),
            Packing::Awq => (height, width.saturating_mul(8)),
        };
        let group = scheme.group.unwrap_or(cols).max(1);
        if rows == 0
            || !rows.is_multiple_of(8)
            || cols == 0
            || !cols.is_multiple_of(BLOCK)
            || packed_rows != rows
        {
            let expected = format!("{rows} rows, a multiple of 8, of a multiple of {BLOCK} columns");
            return refuse("qweight", expected, format!("shape {:?}", codes.shape));
        }
        if count != cols.div_ceil(group) {
            return refuse(
                "scales",
                format!("{} groups of {group} columns", cols.div_ceil(group)),
                count.to_string(),
            );
        }
        if zeros.shape != [count, rows / 8] {
            return refuse("qzeros", format!("shape {:?}", [count, rows / 8]), format!("{:?}", zeros.shape));
        }
        let mut values = vec![0.0; count * rows];
        self.view(name, &scales).to_f32(0, &mut values);
        if let Some(scale) = values.iter().find(|scale| f16::from_f32(**scale).to_f32() != **scale) {
            return refuse("scales", "numbers that f16 holds exactly".to_owned(), scale.to_string());
        }
        let (groups, order) = match groups {
            Some(groups) if groups.shape != [cols] => {
                return refuse("g_idx", format!("shape {:?}", [cols]), format!("{:?}", groups.shape));
            }
            Some(groups) => {
                let bytes = &self.files[groups.file].1[groups.bytes.clone()];
                let ids = bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes) as usize);
                if let Some(id) = ids.clone().find(|id| *id >= count) {
                    return refuse("g_idx", format!("groups below {count}"), id.to_string());
                }
                let ids: Vec<_> = ids.collect();
                let usual = ids.iter().enumerate().all(|(col, id)| *id == col / group);
                if usual { (None, None) } else { (Some(groups), order_by_group(&ids)) }
            }
            None => (None, None),
        };
        let parts = Parts { packing: scheme.packing, group, zeros, scales, groups, order };
        let parts = Some(Box::new(parts));
        let mut matrix = Location { shape: vec![rows, cols], integers: false, parts, ..codes };
        matrix.dtype = DType::of(self.packed(&matrix).expect("has parts").format());
        Ok(matrix)
    }

    /// What a packed matrix is read from.
    pub(super) fn packed<'a>(&'a self, location: &'a Location) -> Option<Packed<'a>> {
        let parts = location.parts.as_ref()?;
        let bytes = |location: &Location| &self.files[location.file].1[location.bytes.clone()];
        Some(Packed {
            packing: parts.packing,
            rows: location.shape[0],
            cols: location.shape[1],
            group: parts.group,
            codes: bytes(location),
            zeros: bytes(&parts.zeros),
            scales: bytes(&parts.scales),
            scale_type: parts.scales.dtype,
            groups: parts.groups.as_ref().map(bytes),
            order: parts.order.as_ref(),
        })
    }
}

/// The columns ordered by their `groups`; `None` where a block would have columns of different ones even so.
fn order_by_group(groups: &[usize]) -> Option<Arc<[u32]>> {
    let mut order: Vec<u32> = (0..groups.len() as u32).collect();
    order.sort_by_key(|col| groups[*col as usize]);
    let group = |col: &u32| groups[*col as usize];
    let alike = |block: &[u32]| block.iter().all(|col| group(col) == group(&block[0]));
    order.chunks(BLOCK).all(alike).then(|| order.into())
}
