//! Files on disk to named tensors: the weights of a model folder, memory-mapped and checked, by the names that
//! Hugging Face gives them whatever the layout.
//!
//! Nothing in a folder is trusted. Whatever [`Checkpoint::open`] accepts can be read without further checks
//! of offsets, sizes or overflow; whether the tensors are those of a model is
//! [`model::check`](crate::model::check)'s question.

mod consolidated;
mod files;
mod gguf;
mod layout;
mod names;
mod packed;
mod quantized;
mod safetensors;
mod shards;
mod view;
mod write;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

pub(crate) use files::read_text;
pub use gguf::Metadata;
pub use layout::{Layout, Rotary};
pub use view::{DType, TensorView};
pub(crate) use write::write;

use crate::{Error, ErrorKind, Result};
use gguf::Gguf;

/// The longest tensor name accepted; names end up in messages.
const MAX_NAME: usize = 256;

/// The weights of a model: named tensors in mapped files.
#[derive(Debug, Default)]
pub struct Checkpoint {
    dir: PathBuf,
    layout: Layout,
    metadata: Metadata,
    files: Vec<(PathBuf, Mmap)>,
    tensors: BTreeMap<String, Location>,
}

/// Where a tensor is and what it holds.
#[derive(Debug)]
struct Location {
    file: usize,
    dtype: DType,
    shape: Vec<usize>,
    bytes: Range<usize>,
    /// Whether these are 32-bit integers, of whatever `dtype`.
    integers: bool,
    /// The rest of a packed matrix.
    parts: Option<Box<quantized::Parts>>,
}

impl Checkpoint {
    /// Opens the safetensors files of a folder in the layout that [`Layout::of`] finds there: the shards that
    /// the index names, or else every `model*.safetensors` (`consolidated*.safetensors`). The files must not be
    /// changed while this value lives, since they are mapped.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] where a file cannot be read, [`ErrorKind::Checkpoint`] where one is damaged, holds a
    /// type other than [`DType`]'s, repeats a tensor, or is not what the index promises.
    pub fn open(dir: &Path) -> Result<Self> {
        if dir.is_file() {
            return Self::open_gguf(dir);
        }
        Self::open_layout(dir, Layout::of(dir)?)
    }

    /// As [`open`](Self::open), with the layout given.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_layout(dir: &Path, layout: Layout) -> Result<Self> {
        let mut checkpoint = Self { dir: dir.into(), layout, ..Self::default() };
        let index = shards::Index::read(dir, layout)?;
        for path in index.as_ref().map_or_else(|| shards::list(dir, layout), shards::Index::shards)? {
            checkpoint.add(path)?;
        }
        if let Some(index) = index {
            index.check(&checkpoint)?;
        }
        checkpoint.assemble(quantized::Scheme::read(dir)?)?;
        Ok(checkpoint)
    }

    /// Opens one safetensors file, which must not be changed while this value lives.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_file(path: &Path) -> Result<Self> {
        let mut checkpoint = Self { dir: path.into(), ..Self::default() };
        checkpoint.add(path.into())?;
        checkpoint.assemble(None)?;
        Ok(checkpoint)
    }

    fn add(&mut self, path: PathBuf) -> Result<()> {
        let map = files::map(&path)?;
        let entries = safetensors::parse(&path, &map)?;
        self.insert(path, map, entries)
    }

    /// Opens a GGUF file and, when it is one part of several, the others.
    fn open_gguf(path: &Path) -> Result<Self> {
        let mut checkpoint = Self { dir: path.into(), layout: Layout::Gguf, ..Self::default() };
        let shards = gguf::shards(path)?;
        let count = shards.len() as u64;
        for (index, shard) in (0..).zip(shards) {
            let map = files::map(&shard)?;
            let Gguf { metadata, tensors } = gguf::parse(&shard, &map)?;
            for (key, expected) in [("split.count", count), ("split.no", index)] {
                // A file that was never split may say so by a count of 0.
                if let Some(found) =
                    metadata.integer(key)?.filter(|n| *n != expected && (count, *n) != (1, 0))
                {
                    let error = Error::expected(
                        ErrorKind::Checkpoint,
                        key,
                        format_args!("{expected}, as in the name"),
                        found,
                    );
                    return Err(error.within(shard.display()));
                }
            }
            if index == 0 {
                checkpoint.metadata = metadata;
            }
            checkpoint.insert(shard, map, tensors)?;
        }
        Ok(checkpoint)
    }

    fn insert(&mut self, path: PathBuf, map: Mmap, entries: Vec<safetensors::Entry>) -> Result<()> {
        let file = self.files.len();
        self.files.push((path, map));
        for safetensors::Entry { name, dtype, shape, bytes } in entries {
            match self.tensors.entry(self.layout.rename(&name)) {
                Entry::Vacant(place) => {
                    let (integers, dtype) = (dtype.is_none(), dtype.unwrap_or(DType::F32));
                    place.insert(Location { file, dtype, shape, bytes, integers, parts: None })
                }
                Entry::Occupied(other) => {
                    let found = format_args!("another in {}", self.files[other.get().file].0.display());
                    let error =
                        Error::expected(ErrorKind::Checkpoint, other.key(), "one tensor of this name", found);
                    return Err(error.within(self.files[file].0.display()));
                }
            };
        }
        Ok(())
    }

    /// How files and tensors are named.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// What a GGUF file says about the model; nothing in other layouts.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Which rows of q and k turn together.
    pub fn rotary(&self) -> Rotary {
        self.layout.rotary()
    }

    /// The files, in the order in which they were opened.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// All tensors, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        self.tensors.iter().map(|(name, location)| self.view(name, location))
    }

    /// The tensor of this name, if there is one.
    pub fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.tensors.get_key_value(name).map(|(name, location)| self.view(name, location))
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] if there is none.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        self.get(name).ok_or_else(|| {
            Error::expected(ErrorKind::Checkpoint, name, "a tensor of this name", "none")
                .within(self.dir.display())
        })
    }

    fn view<'a>(&'a self, name: &'a str, location: &'a Location) -> TensorView<'a> {
        let (file, map) = &self.files[location.file];
        let Location { dtype, shape, bytes, .. } = location;
        let packed = self.packed(location);
        TensorView { name, file, dtype: *dtype, shape, bytes: &map[bytes.clone()], packed }
    }

    /// Gives the memory behind a tensor back to the system, for a tensor that will not be read again soon:
    /// reading it later fetches it from the file again. Only advice, and only on Unix.
    #[cfg_attr(not(unix), expect(unused_variables))]
    pub fn release(&self, name: &str) {
        #[cfg(unix)]
        if let Some(Location { file, bytes, .. }) = self.tensors.get(name) {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: dropping pages loses what was written to them, and this map is read-only: the same
            // bytes are read back from the file. The range was checked to be within the map.
            let _ = unsafe { self.files[*file].1.unchecked_advise_range(advice, bytes.start, bytes.len()) };
        }
    }
}
