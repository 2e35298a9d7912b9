#!/bin/sh
# Runs a program on one of the software Vulkan drivers that fetch.sh put into DIR.
#
#   sh tests/drivers/with.sh DIR DRIVER PROGRAM ARGUMENTS…
#
#   DRIVER   swiftshader; mesa, or radeon for the chip that RADV_FORCE_FAMILY names, which compiles and does not run (the program
#            then runs in the C library of their Debian)
#
# With VALIDATION set, under the Vulkan validation layers, which print.
set -eu

dir=$1 driver=$2
shift 2
libraries=$dir/debian/usr/lib/x86_64-linux-gnu
case $driver in
swiftshader) icd=$dir/swiftshader/swiftshader.json ;;
mesa) icd=$dir/debian/lavapipe.json ;;
radeon) icd=$dir/radeon/radeon.json ;;
*) echo "no driver $driver" >&2 && exit 2 ;;
esac
if [ -n "${VALIDATION:-}" ]; then
    export VK_INSTANCE_LAYERS=VK_LAYER_KHRONOS_validation VK_LAYER_PATH="$dir/debian/usr/share/vulkan/explicit_layer.d"
fi
export VK_DRIVER_FILES="$icd" VK_ICD_FILENAMES="$icd" XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/tmp}"
if [ "$driver" != swiftshader ] || [ -n "${VALIDATION:-}" ]; then
    exec "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries" "$@"
fi
exec "$@"
