# Sourced by demo.sh and tests/run.sh: makes sure that there is a Rust toolchain, a C linker, and a
# Vulkan driver (on Linux).

if ! command -v cargo >/dev/null 2>&1 && [ -x "$HOME/.cargo/bin/cargo" ]; then
    PATH="$HOME/.cargo/bin:$PATH"
fi
if ! command -v cargo >/dev/null 2>&1; then
    echo "mistral-wgpu is built with Rust: install it from https://rustup.rs, then run this again" >&2
    exit 1
fi

if [ "$(uname -s)" = Linux ]; then
    missing=
    command -v cc >/dev/null 2>&1 || missing="$missing gcc libc6-dev"
    PATH="$PATH:/sbin:/usr/sbin" ldconfig -p 2>/dev/null | grep -q 'libvulkan\.so\.1' || missing="$missing libvulkan1"
    if [ -z "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ]; then
        ls /usr/share/vulkan/icd.d/*.json /etc/vulkan/icd.d/*.json 2>/dev/null | grep -q . || missing="$missing mesa-vulkan-drivers"
    fi
    if [ -n "$missing" ]; then
        if ! command -v apt-get >/dev/null 2>&1; then
            echo "please install with your package manager:$missing" >&2
            exit 1
        fi
        as_root=
        [ "$(id -u)" = 0 ] || as_root=sudo
        echo "installing$missing" >&2
        $as_root apt-get update -q >&2
        # shellcheck disable=SC2086
        DEBIAN_FRONTEND=noninteractive $as_root apt-get install -yq --no-install-recommends $missing >&2
    fi
    # Software drivers complain when it is unset.
    : "${XDG_RUNTIME_DIR:=/tmp}"
    export XDG_RUNTIME_DIR
fi
