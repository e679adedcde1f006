# shellcheck shell=bash
# Which Rust compiles bare-metal code. Sourced; `use_toolchain` decides, `build_bare` and `build_uefi` build.
#
# Either rustup's stable with the targets' prebuilt `core`, or (where rustup cannot provide them) Debian's rustc-web,
# which builds `core` from its sources. Each route has a target directory of its own.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck disable=SC2034 # used by the scripts that source this
OUT=$ROOT/out
# shellcheck source=scripts/lib/packages.sh
source "$ROOT/scripts/lib/packages.sh"

BARE_TARGET=x86_64-unknown-none
UEFI_TARGET=x86_64-unknown-uefi

# Whether rustup has a target, or gets it within seconds.
rustup_has() {
    command -v rustup >/dev/null || return 1
    (cd "$ROOT" && rustup target list --installed 2>/dev/null | grep -qx "$1") ||
        (cd "$ROOT" && timeout 60 rustup target add "$1") >/dev/null 2>&1
}

# Sets CARGO (a command) and BUILD_FLAGS. The decision is kept in target/, so that only the first build asks rustup;
# OXEN_TOOLCHAIN=rustup or =debian decides otherwise.
use_toolchain() {
    local memory=$ROOT/target/toolchain-route route
    mkdir -p "$ROOT/target"
    if [[ ! -s $memory ]]; then
        if rustup_has "$BARE_TARGET" && rustup_has "$UEFI_TARGET"; then
            echo rustup >"$memory"
        else
            echo debian >"$memory"
        fi
    fi
    route=${OXEN_TOOLCHAIN:-$(<"$memory")}
    if [[ $route == rustup ]]; then
        CARGO=(cargo)
        BUILD_FLAGS=(--target-dir "$ROOT/target")
        return
    fi
    need_packages rustc-web cargo-web rust-web-src lld ca-certificates
    CARGO=(env "PATH=/usr/bin:$PATH" RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1
        CARGO_TARGET_X86_64_UNKNOWN_NONE_LINKER=ld.lld CARGO_TARGET_X86_64_UNKNOWN_UEFI_LINKER=lld-link
        /usr/bin/cargo)
    BUILD_FLAGS=(--target-dir "$ROOT/target/debian" "-Zbuild-std=core,alloc,compiler_builtins"
        -Zbuild-std-features=compiler-builtins-mem)
}

# The directory below the target directory that cargo uses for PROFILE (release or dev).
profile_directory() {
    if [[ $1 == dev ]]; then echo debug; else echo "$1"; fi
}

# build_target TARGET PACKAGE BIN: prints the path of the built file. PROFILE (release) may be set by the caller.
build_target() {
    local target=$1 package=$2 bin=$3 profile=${PROFILE:-release}
    (cd "$ROOT" && "${CARGO[@]}" build --quiet --profile "$profile" --target "$target" "${BUILD_FLAGS[@]}" \
        --package "$package" --bin "$bin") || return
    echo "${BUILD_FLAGS[1]}/$target/$(profile_directory "$profile")/$bin"
}

# build_bare PACKAGE BIN: builds a bare-metal program (x86_64-unknown-none); prints its path. The linker script comes
# from the package's build.rs.
build_bare() {
    build_target "$BARE_TARGET" "$1" "$2"
}

# build_bins PACKAGE: builds all bare-metal programs of a package; prints the directory they are in.
build_bins() {
    local profile=${PROFILE:-release}
    (cd "$ROOT" && "${CARGO[@]}" build --quiet --profile "$profile" --target "$BARE_TARGET" "${BUILD_FLAGS[@]}" \
        --package "$1" --bins) || return
    echo "${BUILD_FLAGS[1]}/$BARE_TARGET/$(profile_directory "$profile")"
}

# build_uefi PACKAGE BIN: builds a UEFI application; prints its path.
build_uefi() {
    local path
    path=$(build_target "$UEFI_TARGET" "$1" "$2") || return
    echo "$path.efi"
}

# lint_bare: clippy for what is not for the host, which `cargo clippy` passes over; warnings are errors.
lint_bare() {
    use_toolchain
    [[ ${CARGO[0]} == cargo ]] || need_packages rust-web-clippy || return
    (
        cd "$ROOT" || exit
        "${CARGO[@]}" clippy --quiet --target "$BARE_TARGET" "${BUILD_FLAGS[@]}" --package boot --package pvh \
            --package hypervisor --package dom0-shim --package guest-rt --package guests -- -D warnings || exit
        # Any file does for the image that it contains.
        export OXEN_IMAGE=$ROOT/Cargo.toml
        "${CARGO[@]}" clippy --quiet --target "$UEFI_TARGET" "${BUILD_FLAGS[@]}" --package oxen-efi -- -D warnings
    )
}

# host_tool PACKAGE ARGUMENTS...: runs a tool of this workspace on the build machine.
host_tool() {
    local package=$1
    shift
    (cd "$ROOT" && cargo_on_host run --quiet --package "$package" -- "$@")
}

# Cargo for the build machine: rustup's, else Debian's.
cargo_on_host() {
    need_cargo && cargo "$@"
}

# Cargo, what it links with, and what it fetches crates with.
need_cargo() {
    local wanted version
    command -v cc >/dev/null || need_packages gcc libc6-dev || return
    if ! command -v cargo >/dev/null; then
        need_packages rustc-web cargo-web ca-certificates
        return
    fi
    # rustup fetches the version that it finds in rust-toolchain.toml.
    command -v rustup >/dev/null && return
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml")
    version=$(cargo --version | cut -d ' ' -f 2)
    if ! printf '%s\n' "$wanted" "$version" | sort -C -V; then
        echo "$(command -v cargo) has version $version, and Oxen wants $wanted or newer: install rustup" \
            "(https://rustup.rs), or remove this one (apt-get remove cargo), for which Debian's cargo-web is installed" >&2
        return 1
    fi
}

# cargo fmt and cargo clippy: rustup's, else Debian's.
need_host_tools() {
    need_cargo && { command -v rustup >/dev/null || need_packages rust-web-clippy rustfmt-web; }
}
