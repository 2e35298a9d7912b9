#!/bin/sh
# The whole test suite: format, lints, documentation, tests. Installs the software Vulkan driver
# where the machine has no driver at all.
#
# With --drivers [STEP…] what takes longer and fetches more instead: other drivers, other compilers.
# With --tokenizers [FOLDER…] instead: ids of the real tokenizers, against the libraries they are made for.
# With --fuzz SECONDS instead: new hostile files, for so long for each parser.
set -eu
cd "$(dirname "$0")/.."
. examples/setup.sh

if [ "${1:-}" = --drivers ]; then
    shift
    exec sh tests/drivers/run.sh "$@"
fi

if [ "${1:-}" = --tokenizers ]; then
    shift
    exec sh tests/tokenizers/run.sh "$@"
fi

if [ "${1:-}" = --fuzz ]; then
    FUZZ_SECONDS=${2:?--fuzz SECONDS} exec cargo test --release --locked --test hostile -- --nocapture
fi

cargo fmt --check
cargo clippy --all-targets --locked -- -D warnings
RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --locked
# Not the examples, which clippy has read.
cargo test --locked --lib --bins --tests
cargo test --locked --doc
