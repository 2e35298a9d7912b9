#!/bin/sh
# Runs a program on one of the Vulkan drivers that fetch.sh put into DIR.
#
#   sh tests/drivers/with.sh DIR DRIVER PROGRAM ARGUMENTS…
#
#   DRIVER   swiftshader, mesa, gpu, matrices or lanes:32, which are software: gpu is lavapipe that says it is a GPU, matrices is
#            the same with matrices of 16×16, and lanes has subgroups of as many invocations. Or dx12: a program for Windows,
#            in Wine, whose Direct3D 12 is on lavapipe. Or that of a GPU which is not there, which compiles and does not run:
#            amd:navi31, nvidia:174, apple:m1, qualcomm:740 or intel:tgl, or other chips, as Mesa names them. amdgpu:navi31 opens
#            as a device, too, as amd's does not, but ends after some 500 kernels. On all but the first the program runs in the
#            C library of their Debian
#
# With VALIDATION set, under the Vulkan validation layers, which print.
set -eu

dir=$1 driver=$2
shift 2
libraries=$dir/debian/usr/lib/x86_64-linux-gnu chip=${driver#*:} shim= more=

# absent NAME: Mesa's driver and stand-in of that name
absent() {
    icd=$dir/absent/$1.json shim=$dir/absent/usr/lib/x86_64-linux-gnu/lib$1_noop_drm_shim.so
}

case $driver in
swiftshader) icd=$dir/swiftshader/swiftshader.json ;;
mesa) icd=$dir/debian/lavapipe.json ;;
gpu) icd=$dir/gpu/gpu.json ;;
matrices) export MATRICES_16=yes && icd=$dir/gpu/gpu.json ;;
lanes:*)
    # The driver's cache does not tell their numbers apart.
    export LP_NATIVE_VECTOR_WIDTH="$((32 * chip))" MESA_SHADER_CACHE_DIR="$dir/lanes/cache-$chip"
    icd=$dir/lanes/lavapipe.json more=:$dir/lanes/usr/lib/x86_64-linux-gnu
    ;;
amd:*) export RADV_FORCE_FAMILY="$chip" && icd=$dir/stable/radeon.json ;;
amdgpu:*) export AMDGPU_GPU_ID="$chip" && absent amdgpu ;;
nvidia:*) export NOUVEAU_CHIPSET="$chip" && absent nouveau ;;
apple:m1) absent asahi ;;
qualcomm:*) export FD_GPU_ID="$chip" && absent freedreno ;;
intel:*)
    export INTEL_STUB_GPU_PLATFORM="$chip"
    icd=$dir/stable/intel.json shim=$dir/intel/libintel_noop_drm_shim.so
    ;;
dx12)
    # It has no screen, and no 3D but ours.
    export WINEPREFIX="$dir/windows/prefix" WINEDEBUG=-all WINE_D3D_CONFIG=renderer=no3d DISPLAY= VKD3D_DEBUG=none VKD3D_SHADER_DEBUG=none
    export WINEDLLOVERRIDES='d3d12=n;mscoree,mshtml,winemenubuilder.exe=' VK_DRIVER_FILES="$dir/debian/lavapipe.json"
    exec "$dir/windows/usr/lib/wine/wine64" "$@"
    ;;
*) echo "no driver $driver" >&2 && exit 2 ;;
esac
if [ -n "${VALIDATION:-}" ]; then
    export VK_INSTANCE_LAYERS=VK_LAYER_KHRONOS_validation VK_LAYER_PATH="$dir/debian/usr/share/vulkan/explicit_layer.d"
fi
export VK_DRIVER_FILES="$icd" VK_ICD_FILENAMES="$icd" XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/tmp}"
if [ "$driver" != swiftshader ] || [ -n "${VALIDATION:-}" ]; then
    exec "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries$more" ${shim:+--preload "$shim"} "$@"
fi
exec "$@"
