#!/bin/sh
# The whole test suite: format, lints, documentation, tests. Installs the software Vulkan driver
# where the machine has no driver at all.
set -eu
cd "$(dirname "$0")/.."
. examples/setup.sh

cargo fmt --check
cargo clippy --all-targets --locked -- -D warnings
RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --locked
cargo test --locked
