//! The command line program `mistral`.

fn main() {}
