#!/bin/sh
# Compares `mistral bench` with llama.cpp's Vulkan backend on the same device, in the same run, and prints a table:
#
#   sh benches/compare/run.sh --quick        the 175m shape, short tests
#   sh benches/compare/run.sh                the 175m and the true 7B shape
#   sh benches/compare/run.sh --help
#
# Needs python3 (3.9 or later), npm and, unless MISTRAL names a program, cargo. llama.cpp's libraries come from npm,
# PyTorch (CUDA devices only) from PyPI; they and the random models (4 and 8 GB for 7B) go to a cache folder outside of
# the repository: COMPARE_CACHE, by default ~/.cache/mistral-wgpu/compare.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
for program in python3 npm; do
    command -v "$program" >/dev/null || { echo "error: $program is needed" >&2; exit 1; }
done
if [ -z "${MISTRAL:-}" ]; then
    (cd "$root" && cargo build --release --locked --bin mistral >&2)
    MISTRAL=${CARGO_TARGET_DIR:-$root/target}/release/mistral
fi
cache=${COMPARE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mistral-wgpu/compare}
mkdir -p "$cache"
exec python3 "$here/compare.py" --mistral "$MISTRAL" --cache "$cache" "$@"
