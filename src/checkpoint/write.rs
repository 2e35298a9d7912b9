//! Writing a checkpoint in Hugging Face's layout: one file, or shards with their index.

use std::{
    fs::{self, File},
    io::{BufWriter, Seek, Write},
    path::{Path, PathBuf},
};

use serde_json::{Map, json};

use super::TensorView;
use crate::{Error, ErrorKind, Result};

/// Writes a tensor's elements, as many bytes as it had.
pub(crate) type Fill<'a> = &'a mut dyn FnMut(&TensorView, &mut dyn Write) -> Result<()>;

/// Writes tensors of the names, types and shapes of `tensors`, whose elements `fill` writes one after the other, into
/// files of at most `shard_bytes` bytes, or one tensor, in the folder `dir`.
///
/// # Errors
/// [`ErrorKind::Io`] when a file cannot be written; as `fill`.
pub(crate) fn write(dir: &Path, tensors: &[TensorView], shard_bytes: u64, fill: Fill) -> Result<()> {
    let mut shards: Vec<(u64, &[TensorView])> = Vec::new();
    let (mut begin, mut bytes) = (0, 0);
    for (index, tensor) in tensors.iter().enumerate() {
        let size = tensor.bytes.len() as u64;
        if index > begin && bytes + size > shard_bytes {
            shards.push((bytes, &tensors[begin..index]));
            (begin, bytes) = (index, 0);
        }
        bytes += size;
    }
    shards.push((bytes, &tensors[begin..]));
    let count = shards.len();
    let name = |index: usize| match count {
        1 => "model.safetensors".to_owned(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
    };
    for (index, (_, shard)) in shards.iter().enumerate() {
        write_file(&dir.join(name(index)), shard, fill)?;
    }
    if count > 1 {
        let total: u64 = shards.iter().map(|(bytes, _)| bytes).sum();
        let names = shards.iter().enumerate().flat_map(|(index, (_, shard))| {
            shard.iter().map(move |tensor| (tensor.name.to_owned(), json!(name(index))))
        });
        let index = json!({"metadata": {"total_size": total}, "weight_map": names.collect::<Map<_, _>>()});
        let path = dir.join("model.safetensors.index.json");
        fs::write(&path, format!("{index:#}\n")).map_err(|error| Error::io(&path, error))?;
    }
    Ok(())
}

fn write_file(path: &PathBuf, tensors: &[TensorView], fill: Fill) -> Result<()> {
    let io = |error| Error::io(path, error);
    let mut file = BufWriter::with_capacity(1 << 20, File::create_new(path).map_err(io)?);
    let mut end = 0;
    let mut header = Map::from_iter([("__metadata__".to_owned(), json!({"format": "pt"}))]);
    for tensor in tensors {
        let (begin, dtype) = (end, tensor.dtype.to_string().to_uppercase());
        end += tensor.bytes.len();
        let entry = json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [begin, end]});
        header.insert(tensor.name.to_owned(), entry);
    }
    // As the format's own library does, the tensors begin at a multiple of 8 bytes.
    let mut header = serde_json::to_vec(&header).expect("plain values");
    header.resize(header.len().next_multiple_of(8), b' ');
    file.write_all(&(header.len() as u64).to_le_bytes())
        .and_then(|()| file.write_all(&header))
        .map_err(io)?;
    for tensor in tensors {
        let begin = file.stream_position().map_err(io)?;
        fill(tensor, &mut file)?;
        let written = file.stream_position().map_err(io)? - begin;
        if written != tensor.bytes.len() as u64 {
            return Err(Error::expected(ErrorKind::Io, tensor.name, tensor.bytes.len(), written));
        }
    }
    file.into_inner().map_err(|error| io(error.into_error()))?.sync_all().map_err(io)
}
