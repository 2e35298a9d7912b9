//! Models split over several GGUF files: `NAME-00001-of-00003.gguf` and its sisters.

use std::path::{Path, PathBuf};

use crate::{Error, ErrorKind, Result};

/// The most files that a model may be split into: what five digits hold.
const MAX_FILES: u32 = 99_999;

/// The files of the model that `path` is one of, in their order: itself, unless its name is that of a part.
///
/// # Errors
/// [`ErrorKind::Checkpoint`] naming the first part that is not there.
pub(in crate::checkpoint) fn shards(path: &Path) -> Result<Vec<PathBuf>> {
    let Some((stem, count)) = path.file_name().and_then(|name| parts(name.to_str()?)) else {
        return Ok(vec![path.into()]);
    };
    let part = |number| {
        let shard = path.with_file_name(format!("{stem}-{number:05}-of-{count:05}.gguf"));
        if shard.exists() {
            return Ok(shard);
        }
        let expected = format_args!("all {count} parts of the model in one folder");
        Err(Error::expected(ErrorKind::Checkpoint, shard.display(), expected, "none of this name"))
    };
    (1..=count).map(part).collect()
}

/// Stem and number of parts of a name like `stem-00002-of-00003.gguf`.
fn parts(name: &str) -> Option<(&str, u32)> {
    let number = |digits: &str| digits.parse::<u32>().ok().filter(|_| digits.len() == 5);
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, index) = rest.rsplit_once('-')?;
    let (index, count) = (number(index)?, number(count)?);
    ((1..=count).contains(&index) && count <= MAX_FILES).then_some((stem, count))
}

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn names_of_parts_are_told_from_others() {
        assert_eq!(parts("a-b-00002-of-00003.gguf"), Some(("a-b", 3)));
        for other in
            ["a.gguf", "a-00004-of-00003.gguf", "a-00000-of-00003.gguf", "a-2-of-3.gguf", "-of-.gguf"]
        {
            assert_eq!(parts(other), None, "{other}");
        }
    }
}
