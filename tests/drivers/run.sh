#!/bin/sh
# Proof of portability: runs the kernels on other drivers and another WebGPU, and every shader through the
# compilers of other backends. Not part of the quick suite; called by `sh tests/run.sh --drivers [STEP…]`.
#
#   swiftshader  the device tests on SwiftShader: subgroups of 4, 256 invocations, no f16
#   mesa         the device tests on a current Mesa's lavapipe: cooperative matrices
#   gpu          the device tests there once more, where it says that it is a GPU: without the kernels for CPUs
#   formats      every kernel variant there with every format of weights, by `mistral devices --self-test`
#   matrices     every kernel variant that a GPU may use there with matrices of 16×16, with a format of each kind
#   lanes        every kernel variant that a GPU may use, with every format of weights, with subgroups of 16, 32 and 64 of
#                Debian 12's lavapipe
#   dx12         the device tests and every kernel variant with every format of weights, built for Windows (`rustup target add
#                x86_64-pc-windows-gnu`), in Wine on its DX12
#   validation   those of the device and of models, and every kernel variant on the self-test's cases, under
#                the Vulkan validation layers, on SwiftShader and the current lavapipe
#   spirv        every shader as SPIR-V, through spirv-val
#   amd, nvidia, apple, qualcomm, intel
#                the kernels that these GPUs may use through Mesa's compilers for some generations of them, without a GPU
#   msl          every shader as Metal's language, which nothing here can compile
#   hlsl         every shader as HLSL, through Microsoft's DXC
#   tint         every shader without wgpu's extensions through Tint and Dawn, to the driver's pipeline
#   dawn         every kernel variant without them, with a format of each kind, and two models, run on Dawn
#
# What is needed is fetched once into MISTRAL_DRIVERS_DIR, or the user's cache directory.
set -eu
cd "$(dirname "$0")/../.."
all='swiftshader mesa gpu formats matrices lanes dx12 validation spirv amd nvidia apple qualcomm intel msl hlsl tint dawn'

dir=${MISTRAL_DRIVERS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/mistral-wgpu/drivers}
sh tests/drivers/fetch.sh "$dir"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export MISTRAL_CACHE="$work/cache" MISTRAL_SHADERS="$work/shaders"
mkdir "$MISTRAL_SHADERS"

# on DRIVER PROGRAM ARGUMENTS…
on() {
    sh tests/drivers/with.sh "$dir" "$@"
}

# Tests of what a driver may do otherwise than another: those of files and whole applications tell nothing of it.
device_tests='gpu kernels_activations kernels_attention kernels_experts kernels_fused kernels_lora kernels_matmul
    kernels_sampling kernels_weights self_test tuning recovery run_ahead model session'
# Every shader, and all that a device is asked for, once: the layers look at calls, not at numbers.
validated_tests='gpu self_test model'

# executables KIND: the programs of that kind that cargo says, in JSON, to have built
executables() {
    sed -n 's/.*"kind":\["'"$1"'"\].*"executable":"\([^"]*\)".*/\1/p'
}

# build TEST…: builds tests and prints their programs
build() {
    for name in "$@"; do
        set -- "$@" --test "$name"
        shift
    done
    cargo test --locked --no-run --message-format=json "$@" |
        executables test
}

# Sums up what the test programs, or one of the scripts here, said of themselves.
passed() {
    sed -n 's/^\(test result: [a-zA-Z]*\. \)\{0,1\}\([0-9]*\) passed.*/\2/p' "$1" | awk '{ n += $1 } END { print n + 0 }'
}

# tests DRIVER TEST…
tests() {
    driver=$1 status=0
    shift
    for program in $(build "$@"); do
        echo "== $(basename "$program") on $driver"
        # The layers cost more time than tests of time can bear, and no opinion on wrong results.
        on "$driver" "$program" ${VALIDATION:+--skip pace:: --skip faults_are_found} 2>&1 || status=1
    done
    return $status
}

# shellcheck disable=SC2086
swiftshader() {
    tests swiftshader $device_tests
}

# shellcheck disable=SC2086
mesa() {
    tests mesa $device_tests
}

# shellcheck disable=SC2086
gpu() {
    tests gpu $device_tests
}

# self_tested DRIVER OPTION…
self_tested() {
    program=$(cargo build --locked --bin mistral --message-format=json | executables bin)
    driver=$1
    shift
    on "$driver" "$program" devices --self-test "$@" >"$work/self-test"
    bad=$(grep -c WRONG "$work/self-test") || true
    sed -n '/WRONG/p' "$work/self-test"
    echo "$(sed '1,2d; /WRONG/d' "$work/self-test" | wc -l) passed, $bad failed"
    [ "$bad" = 0 ]
}

formats() {
    self_tested mesa
}

# Only some: a kernel takes LLVM half a minute.
matrices() {
    for program in $(build self_test kernels_attention kernels_experts); do
        on matrices "$program" --exact every_variant_passes attention_of_16_bits many_rows
    done
}

lanes() {
    for count in 16 32 64; do
        self_tested lanes:$count --disable cpu,int64
    done
}

# shellcheck disable=SC2086
dx12() {
    sh tests/drivers/fetch.sh "$dir" windows
    export CARGO_BUILD_TARGET=x86_64-pc-windows-gnu
    status=0
    tests dx12 $device_tests || status=1
    self_tested dx12 || status=1
    return $status
}

# Every message must have its line in validation-allowed.txt, and every line there be met: the first
# proves that the layers were there.
# shellcheck disable=SC2086
validation() {
    failed=0
    export VALIDATION=on VK_KHRONOS_VALIDATION_REPORT_FLAGS=error,warn,info
    # Else they look for a file of shaders known to be right, and warn when there is none.
    export VK_KHRONOS_VALIDATION_CHECK_SHADERS_CACHING=false
    for driver in swiftshader mesa; do
        tests $driver $validated_tests >"$work/validated" || failed=1
        cat "$work/validated"
        sed -n 's/.*Validation [A-Za-z ]*: \[ \([^] ]*\) \].*/\1/p' "$work/validated" | sort | uniq -c >"$work/messages"
        while read -r count message; do
            grep -q "^$message " tests/drivers/validation-allowed.txt || {
                echo "not allowed, $count times on $driver: $message"
                failed=1
            }
        done <"$work/messages"
        for message in $(sed -n 's/^\([^# ][^ ]*\) .*/\1/p' tests/drivers/validation-allowed.txt); do
            grep -q " $message\$" "$work/messages" || {
                echo "allowed, but never met on $driver: $message"
                failed=1
            }
        done
    done
    return $failed
}

# compositions TEST: what the test of that name in tests/shaders.rs writes
compositions() {
    "$(build shaders)" --exact "$1" >"$work/shaders.log" 2>&1 || {
        cat "$work/shaders.log"
        return 1
    }
}

# valid ENVIRONMENT FILE: through spirv-val, which says nothing of what is right
valid() {
    libraries=$dir/debian/usr/lib/x86_64-linux-gnu
    "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries" "$dir/debian/usr/bin/spirv-val" --target-env "$@"
}

spirv() {
    compositions spirv
    good=0 bad=0
    for file in "$MISTRAL_SHADERS"/*.spv; do
        case $file in
        *.1_3.spv) environment=vulkan1.1 ;;
        *) environment=vulkan1.3 ;;
        esac
        if valid $environment "$file" >"$work/message" 2>&1; then
            good=$((good + 1))
        else
            bad=$((bad + 1))
            echo "$(basename "$file"): $(cat "$work/message")"
        fi
    done
    echo "$good passed, $bad failed"
    [ $bad = 0 ]
}

# compiled DRIVER:CHIP…: kernels whose registers do not suffice are not good enough, unless spills-allowed.txt says why.
compiled() {
    program=$(cargo build --locked --example compile --message-format=json | executables example)
    grep -v '^#' tests/drivers/spills-allowed.txt >"$work/allowed"
    good=0 bad=0
    for driver in "$@"; do
        on "$driver" "$program" >"$work/compiled" 2>"$work/message" || {
            tail -n 3 "$work/message"
            bad=$((bad + 1))
        }
        good=$((good + $(wc -l <"$work/compiled")))
        grep -E '(Scratch size|Spill Count|Spills to memory|Spills|STP Count)=[1-9]' "$work/compiled" >"$work/spills" || true
        while read -r drivers kernels; do
            case $driver in
            $drivers)
                grep -vE "$kernels" "$work/spills" >"$work/rest" || true
                mv "$work/rest" "$work/spills"
                ;;
            esac
        done <"$work/allowed"
        [ ! -s "$work/spills" ] || { sed "s/.*\t/$driver keeps registers in memory: /" "$work/spills"; bad=$((bad + 1)); }
    done
    echo "$good passed, $bad failed"
    [ $bad = 0 ]
}

amd() {
    compiled amd:polaris10 amd:navi10 amd:navi31 amd:gfx1201
}

nvidia() {
    compiled nvidia:164 nvidia:174
}

apple() {
    compiled apple:m1
}

qualcomm() {
    compiled qualcomm:740
}

intel() {
    sh tests/drivers/fetch.sh "$dir" intel
    compiled intel:skl intel:tgl intel:dg2 intel:lnl
}

msl() {
    compositions msl
    echo "$(find "$MISTRAL_SHADERS" -name '*.metal' | wc -l) passed"
}

hlsl() {
    compositions hlsl
    python3 tests/drivers/dxc.py "$dir/dxc/libdxcompiler_x86_64.so.3.7" "$MISTRAL_SHADERS"/*.hlsl
}

tint() {
    compositions wgsl
    on mesa "$(command -v node)" tests/drivers/dawn.mjs "$dir/dawn" compile "$MISTRAL_SHADERS"/*.wgsl
}

dawn() {
    cargo run --quiet --locked --example dawn -- sh tests/drivers/with.sh "$dir" mesa \
        "$(command -v node)" tests/drivers/dawn.mjs "$dir/dawn" serve
}

steps=${*:-$all}
for step in $steps; do
    case " $all " in
    *" $step "*) ;;
    *) echo "no step $step; there are: $all" >&2 && exit 2 ;;
    esac
done

failed=0
for step in $steps; do
    echo "=== $step"
    # Not in a condition, where `set -e` would sleep.
    set +e
    { (set -e; $step) 2>&1; echo $? >"$work/status"; } | tee "$work/$step.log" |
        grep --line-buffered -vE '^test .* \.\.\. ok$|^ *$|^running [0-9]* tests?$'
    set -e
    count=$(passed "$work/$step.log")
    verdict=PASS
    if [ "$(cat "$work/status")" != 0 ] || [ "$count" = 0 ]; then
        verdict=FAIL
        failed=$((failed + 1))
    fi
    printf '%s  %-12s %6d passed\n' $verdict "$step" "$count" >>"$work/summary"
done
echo "=== summary"
cat "$work/summary"
[ $failed = 0 ]
