# shellcheck shell=bash
# Debian's 32-bit kernel as a domU, for a test. Sourced after boot-archive.sh.

# of_i386 COMMAND...: a command of apt's for packages of i386, of which this machine's own lists need know nothing.
of_i386() {
    local state=$ROOT/target/debian-packages/apt-i386
    mkdir -p "$state"/{lists,cache/archives}/partial
    touch "$state/status"
    "$1" -o APT::Sandbox::User=root -o APT::Architecture=i386 -o APT::Architectures=i386 -o Dir::State="$state" \
        -o Dir::State::status="$state/status" -o Dir::Cache="$state/cache" "${@:2}"
}

# Makes out/boot-archive-i386.cpio: the boot archive with the kernel and the busybox of i386.
make_i386_archive() {
    need_packages cpio
    local directory=$ROOT/target/debian-packages/i386
    if [[ ! -e $directory.done ]]; then
        rm -rf "$directory"
        mkdir -p "$directory"
        (
            cd "$directory"
            # A list that is not needed may be missing.
            of_i386 apt-get update -qq >&2 || true
            kernel=$(of_i386 apt-cache depends linux-image-686-pae |
                sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\)/\1/p' | head -n 1)
            of_i386 apt-get download -qq "${kernel:?the package sources have no linux-image-686-pae}" busybox-static >&2
            for package in ./*.deb; do
                dpkg -x "$package" .
            done
            rm ./*.deb
        ) || return
        touch "$directory.done"
    fi
    make_archive boot-archive-i386 "$directory" "$directory"
}
