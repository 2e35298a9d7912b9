//! Names of tensors in other layouts, as Hugging Face's.

/// How a layout names tensors. A block's are `<blocks><index>.<part>.weight`, or `.bias`.
pub(super) struct Names {
    /// What is in no block, and its name at Hugging Face.
    pub whole: [(&'static str, &'static str); 3],
    /// What comes before the index of a block.
    pub blocks: &'static str,
    /// Parts of a block, and theirs at Hugging Face.
    pub parts: &'static [(&'static str, &'static str)],
    /// The name in `block_sparse_moe` of a part of a mixture of experts.
    pub expert: fn(&str) -> Option<String>,
}

impl Names {
    /// The name that Hugging Face gives to the tensor `name`. One that is not known stays as it is.
    pub fn rename(&self, name: &str) -> String {
        let whole = find(&self.whole, name).map(str::to_owned);
        whole.or_else(|| self.block(name)).unwrap_or_else(|| name.to_owned())
    }

    fn block(&self, name: &str) -> Option<String> {
        let (index, rest) = name.strip_prefix(self.blocks)?.split_once('.')?;
        let (part, kind) = rest.rsplit_once('.')?;
        let dense = find(self.parts, part).map(str::to_owned);
        let part = dense.or_else(|| Some(format!("block_sparse_moe.{}", (self.expert)(part)?)))?;
        Some(format!("model.layers.{index}.{part}.{kind}"))
    }
}

fn find(table: &[(&str, &'static str)], name: &str) -> Option<&'static str> {
    table.iter().find(|(theirs, _)| *theirs == name).map(|(_, ours)| *ours)
}
