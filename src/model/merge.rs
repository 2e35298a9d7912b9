//! Adapters added to the weights of a checkpoint, as PEFT's `merge_and_unload` does.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use rayon::prelude::*;

use super::{Adapter, AdapterSource, LowRank, ModelConfig, Progress, Stage, check};
use crate::{
    Error, ErrorKind, Result,
    checkpoint::{Checkpoint, DType, Layout, TensorView, write},
};

/// Largest file, as transformers writes them.
const SHARD_BYTES: u64 = 5_000_000_000;

/// Values merged at once: 16 MiB of `f32`.
const STAGING_VALUES: usize = 4 << 20;

/// Writes the folder `output`: the model in the Hugging Face folder `base` with all of `adapters` added to its matrices, in the
/// types that they have there, and copies of its other files. The folder appears when it is whole.
///
/// # Errors
/// [`ErrorKind::Argument`] when `output` is there already, or for an adapter of an output projection that is the
/// embedding; [`ErrorKind::Io`]; [`ErrorKind::NonFinite`] for sums beyond the type of a matrix; as [`Checkpoint::open`],
/// [`check`] and [`Adapter::open`].
pub fn merge(base: &Path, adapters: &[AdapterSource], output: &Path, progress: Progress) -> Result<()> {
    if output.symlink_metadata().is_ok() {
        return Err(Error::expected(
            ErrorKind::Argument,
            output.display(),
            "a new folder",
            "one that is there",
        ));
    }
    let config = ModelConfig::from_dir(base)?;
    let checkpoint = Checkpoint::open_layout(base, Layout::HuggingFace)?;
    check(&checkpoint, &config)?;
    if let Some(tensor) = checkpoint.tensors().find(TensorView::is_packed) {
        let expected = "a matrix of numbers: apply adapters of packed models at run time";
        return Err(Error::expected(ErrorKind::Argument, tensor.name, expected, "one of GPTQ or AWQ"));
    }
    let open = |source| Adapter::open(source, &config);
    let adapters = adapters.iter().map(open).collect::<Result<Vec<_>>>()?;
    if config.tie_word_embeddings && adapters.iter().any(|adapter| adapter.rank("lm_head").is_some()) {
        let expected = "no adapter of lm_head, which in this model is the embedding: apply it at run time";
        return Err(Error::expected(ErrorKind::Argument, "lm_head", expected, "one"));
    }
    let mut partial = output.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    fs::create_dir(&partial).map_err(|error| Error::io(&partial, error))?;
    let written = write_folder(base, &checkpoint, &adapters, &partial, progress)
        .and_then(|()| fs::rename(&partial, output).map_err(|error| Error::io(output, error)));
    if written.is_err() {
        // What is left of it is of no use.
        let _ = fs::remove_dir_all(&partial);
    }
    written
}

fn write_folder(
    base: &Path,
    checkpoint: &Checkpoint,
    adapters: &[Adapter],
    dir: &Path,
    progress: Progress,
) -> Result<()> {
    for entry in base.read_dir().map_err(|error| Error::io(base, error))? {
        let entry = entry.map_err(|error| Error::io(base, error))?;
        let (from, to) = (entry.path(), dir.join(entry.file_name()));
        if from.is_file() && describes(&entry.file_name().to_string_lossy()) {
            fs::copy(&from, &to).map_err(|error| Error::io(&from, error))?;
        }
    }
    let tensors: Vec<_> = checkpoint.tensors().collect();
    let total = tensors.iter().map(|tensor| tensor.bytes.len() as u64).sum();
    let mut done = 0;
    write(dir, &tensors, SHARD_BYTES, &mut |tensor, file| {
        let module = tensor.name.strip_suffix(".weight").unwrap_or(tensor.name);
        let changes = adapters.iter().filter_map(|adapter| adapter.low_rank(module).transpose());
        write_merged(tensor, &changes.collect::<Result<Vec<_>>>()?, file)?;
        checkpoint.release(tensor.name);
        done += tensor.bytes.len() as u64;
        progress(Stage::Weights(total), done);
        Ok(())
    })
}

/// Whether a file of this name tells of the model or its tokenizer, and is no weights.
fn describes(name: &str) -> bool {
    let text = [".json", ".jinja", ".model", ".txt", ".md"].iter().any(|end| name.ends_with(end));
    let weights = [".index.json", "params.json"].iter().any(|end| name.ends_with(end));
    (text && !weights) || name.starts_with("tokenizer.model") || name.starts_with("LICENSE")
}

/// Writes `tensor + Σ scale · b · a`, some rows at a time.
fn write_merged(tensor: &TensorView, changes: &[LowRank], file: &mut dyn Write) -> Result<()> {
    let io = |error| Error::io(tensor.file, error);
    if changes.is_empty() {
        return file.write_all(tensor.bytes).map_err(io);
    }
    let &[rows, cols] = tensor.shape else { unreachable!("adapters change matrices") };
    let step = (STAGING_VALUES / cols).max(1);
    for first in (0..rows).step_by(step) {
        let mut values = vec![0.0; step.min(rows - first) * cols];
        tensor.to_f32(first * cols, &mut values);
        values.par_chunks_exact_mut(cols).enumerate().for_each(|(index, values)| {
            for LowRank { a, b, rank, scale } in changes {
                let mut sum = vec![0.0; cols];
                for (b, a) in b[(first + index) * rank..][..*rank].iter().zip(a.chunks_exact(cols)) {
                    sum.iter_mut().zip(a).for_each(|(sum, a)| *sum += b * a);
                }
                values.iter_mut().zip(&sum).for_each(|(value, sum)| *value += scale * sum);
            }
        });
        let bytes = encode(tensor.dtype, &values).ok_or_else(|| {
            Error::expected(ErrorKind::NonFinite, tensor.name, "finite sums", "one that is not")
        })?;
        file.write_all(&bytes).map_err(io)?;
    }
    Ok(())
}

/// Little-endian bytes; `None` when one is not finite.
fn encode(dtype: DType, values: &[f32]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(4 * values.len());
    for &value in values {
        let (half, brain) = (f16::from_f32(value), bf16::from_f32(value));
        let finite = match dtype {
            DType::F32 => {
                bytes.extend(value.to_le_bytes());
                value.is_finite()
            }
            DType::F16 => {
                bytes.extend(half.to_le_bytes());
                half.is_finite()
            }
            DType::BF16 => {
                bytes.extend(brain.to_le_bytes());
                brain.is_finite()
            }
            DType::Blocks(_) => unreachable!("safetensors hold no blocks"),
        };
        if !finite {
            return None;
        }
    }
    Some(bytes)
}
