#!/bin/sh
# Builds d3d12.dll for Wine, see d3d12.c.
#
#   sh tests/drivers/d3d12.sh SOURCE LIBRARY
#
#   SOURCE   of Wine 10.0, whose libs/vkd3d and include are needed; it is changed
set -eu

here=$(cd "$(dirname "$0")" && pwd)
vkd3d=$1/libs/vkd3d
shaders=$vkd3d/libs/vkd3d-shader
build=$1/build
mkdir -p "$build/wine" "$build/vulkan"

# DXC puts some uses of a pointer before what computes it, which vkd3d refuses. So it reads functions twice: the second time
# everything is known. Where vkd3d has not these lines, there is nothing to build.
grep -q 'if (!value->is_back_ref)' "$shaders/dxil.c"
sed -i 's/if (!value->is_back_ref)/if (0)/
    s/^ *if ((ret = sm6_parser_function_init(sm6, block, function)) < 0)$/size_t values = sm6->value_count, functions = sm6->function_count;\
        unsigned int temps = sm6->indexable_temp_count;\
        if ((ret = sm6_parser_function_init(sm6, block, function)) < 0) return ret;\
        sm6->value_count = values; sm6->function_count = functions; sm6->indexable_temp_count = temps;\
        function->block_count = 0;\
        &/' "$shaders/dxil.c"
grep -q 'size_t values = sm6->value_count' "$shaders/dxil.c"

# Headers: of Direct3D, whose unions C has to name, of Vulkan, and for two of Wine's.
for name in d3dcommon dxgiformat dxgicommon dxgitype dxgi dxgi1_2 dxgi1_3 dxgi1_4 d3d12 d3d12shader; do
    x86_64-w64-mingw32-widl -h -I"$1/include" -o "$build/$name.h" "$1/include/$name.idl"
done
sed -i 's/__C89_NAMELESS union/union/; s/__C89_NAMELESSUNIONNAME\([0-9]*\);/u\1;/' "$build/d3d12.h"
cp -r /usr/include/vk_video "$build"
cp /usr/include/vulkan/vulkan_core.h /usr/include/vulkan/vk_platform.h "$build/vulkan"
echo '#include <vulkan/vulkan_core.h>' >"$build/wine/vulkan.h"
cp "$1/include/wine/list.h" "$1/include/wine/rbtree.h" "$build/wine"
cp "$1/include/d3dx9shader.h" "$build"

for name in hlsl preproc; do
    bison -d -o "$build/$name.tab.c" "$shaders/$name.y"
    flex -o "$build/$name.yy.c" "$shaders/$name.l"
done
for file in "$vkd3d"/libs/vkd3d-common/*.c "$shaders"/*.c "$vkd3d"/libs/vkd3d/*.c "$build"/*.c "$here/d3d12.c"; do
    # The two macros about names have mingw call its unions `u`, too.
    x86_64-w64-mingw32-gcc -O2 -w -c -DVKD3D_SHADER_UNSUPPORTED_DXIL -DLIBVKD3D_SOURCE \
        -DLIBVKD3D_SHADER_SOURCE -D_WIN32_WINNT=0x0a00 -DCOBJMACROS -DNONAMELESSUNION -DNONAMELESSSTRUCT -I"$build" \
        -I"$vkd3d" -I"$vkd3d/include" -I"$vkd3d/include/private" -I"$vkd3d/libs/vkd3d" -I"$shaders" \
        -o "$build/$(basename "$file" .c).o" "$file"
done
printf '%s\n' EXPORTS D3D12CreateDevice D3D12SerializeRootSignature >"$build/d3d12.def"
x86_64-w64-mingw32-gcc -shared -static-libgcc -o "$2" "$build"/*.o "$build/d3d12.def" -luuid -lole32
