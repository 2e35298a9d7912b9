//! In which formats the matrices of a model are stored.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    checkpoint::Checkpoint,
    quant::{FORMATS, Format},
};

/// The format of every matrix of a model on the device.
#[derive(Debug, Clone, PartialEq)]
pub enum WeightFormats {
    /// The same for all.
    Uniform(&'static Format),
    /// By name of the tensor, as in the model's own file.
    Own(Arc<BTreeMap<String, &'static Format>>),
}

impl From<&'static Format> for WeightFormats {
    fn from(format: &'static Format) -> Self {
        Self::Uniform(format)
    }
}

impl From<&WeightFormats> for WeightFormats {
    fn from(formats: &WeightFormats) -> Self {
        formats.clone()
    }
}

impl WeightFormats {
    /// Those of the tensors of a checkpoint, which are matrices.
    pub fn own(checkpoint: &Checkpoint) -> Self {
        let matrices = checkpoint.tensors().filter(|tensor| tensor.shape.len() > 1);
        let formats: BTreeMap<_, _> =
            matrices.map(|tensor| (tensor.name.to_owned(), tensor.dtype.format())).collect();
        match Self::Own(Arc::new(formats)) {
            own if own.all().len() == 1 => Self::Uniform(own.all()[0]),
            own => own,
        }
    }

    /// The format of a tensor.
    pub fn of(&self, tensor: &str) -> &'static Format {
        match self {
            Self::Uniform(format) => format,
            Self::Own(formats) => formats.get(tensor).copied().unwrap_or(FORMATS[0]),
        }
    }

    /// All that are in use, the most exact first.
    pub fn all(&self) -> Vec<&'static Format> {
        match self {
            Self::Uniform(format) => vec![format],
            Self::Own(formats) => {
                let used = |format: &&'static Format| formats.values().any(|own| own == format);
                FORMATS.into_iter().filter(used).collect()
            }
        }
    }

    /// Their names, with a plus between.
    pub fn name(&self) -> String {
        self.all().iter().map(|format| format.name).collect::<Vec<_>>().join("+")
    }
}
