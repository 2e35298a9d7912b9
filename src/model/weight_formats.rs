//! In which formats the matrices of a model are stored.

use std::{collections::BTreeMap, sync::Arc};

use super::{tensors::EXPERTS, weights::EMBEDDING};
use crate::{
    checkpoint::{Checkpoint, TensorView},
    quant::{FORMATS, Format},
};

/// How a matrix is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Format of its rows.
    pub format: &'static Format,
    /// Column of the tensor that each of its columns is, where that is another.
    pub order: Option<Arc<[u32]>>,
}

/// The format of every matrix of a model on the device.
#[derive(Debug, Clone, PartialEq)]
pub enum WeightFormats {
    /// The same for all.
    Uniform(&'static Format),
    /// By name of the tensor, as in the model's own file.
    Own(Arc<BTreeMap<String, Stored>>),
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
        let formats = matrices.map(|tensor| (tensor.name.to_owned(), stored(&tensor))).collect();
        match Self::Own(Arc::new(formats)) {
            own if own.all().len() == 1 && !own.reordered() => Self::Uniform(own.all()[0]),
            own => own,
        }
    }

    /// The format of a tensor.
    pub fn of(&self, tensor: &str) -> &'static Format {
        match self {
            Self::Uniform(format) => format,
            Self::Own(formats) => formats.get(tensor).map_or(FORMATS[0], |stored| stored.format),
        }
    }

    /// The order of a tensor's columns, where it is not its own.
    pub fn order(&self, tensor: &str) -> Option<&Arc<[u32]>> {
        match self {
            Self::Uniform(_) => None,
            Self::Own(formats) => formats.get(tensor).and_then(|stored| stored.order.as_ref()),
        }
    }

    /// Whether any matrix has its columns in another order.
    pub fn reordered(&self) -> bool {
        matches!(self, Self::Own(formats) if formats.values().any(|stored| stored.order.is_some()))
    }

    /// All that are in use, the most exact first.
    pub fn all(&self) -> Vec<&'static Format> {
        match self {
            Self::Uniform(format) => vec![format],
            Self::Own(formats) => {
                let used = |format: &&'static Format| formats.values().any(|own| own.format == *format);
                FORMATS.into_iter().filter(used).collect()
            }
        }
    }

    /// Their names, with a plus between.
    pub fn name(&self) -> String {
        self.all().iter().map(|format| format.name).collect::<Vec<_>>().join("+")
    }
}

/// As in its file. Rows of a matrix in another order of columns are for products alone, and for all rows of their input:
/// what is read by row, and experts, become numbers.
fn stored(tensor: &TensorView) -> Stored {
    match tensor.order() {
        Some(_) if tensor.name == EMBEDDING || tensor.name.contains(EXPERTS) => {
            Stored { format: FORMATS[0], order: None }
        }
        order => Stored { format: tensor.dtype.format(), order: order.cloned() },
    }
}
