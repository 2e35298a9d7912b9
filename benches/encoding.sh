#!/bin/sh
# What a token costs the host with Mesa's drivers of GPUs that are not there:
#
#   sh benches/encoding.sh 175m:32 q4_0     the shape of a synthetic model, with so many layers, and the format of its weights
#
# Needs what `sh tests/run.sh --drivers amd intel` needs. What drivers say of the missing GPU goes to stderr.
set -eu
cd "$(dirname "$0")/.."
dir=${MISTRAL_DRIVERS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/mistral-wgpu/drivers}
sh tests/drivers/fetch.sh "$dir" intel
for driver in amdgpu:navi31 intel:dg2 apple:m1 qualcomm:740 nvidia:174 mesa; do
    runner="['sh', 'tests/drivers/with.sh', '$dir', '$driver']"
    cargo bench --quiet --locked --config "target.'cfg(all())'.runner = $runner" --bench encoding -- "$@"
done
