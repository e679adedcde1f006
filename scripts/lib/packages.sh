# shellcheck shell=bash
# Debian packages on demand. Sourced.

# Runs a command as root.
as_root() {
    if [[ $EUID -eq 0 ]]; then "$@"; else sudo "$@"; fi
}

# Makes packages of bookworm-backports available, where Debian 12 has too old a QEMU.
add_backports() {
    local list=/etc/apt/sources.list.d/bookworm-backports.list
    [[ "$(. /etc/os-release && echo "${VERSION_CODENAME:-}")" == bookworm ]] || return 0
    apt-cache policy | grep -q 'n=bookworm-backports' && return 0
    echo "Adding bookworm-backports to the package sources ($list)"
    echo 'deb http://deb.debian.org/debian bookworm-backports main' | as_root tee "$list" >/dev/null
    as_root apt-get update -qq
}

# installed NAME: whether a package is there; on a system without packages of Debian's, its program.
installed() {
    local program=$1
    if command -v dpkg-query >/dev/null; then
        dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q '^install ok installed'
        return
    fi
    case $1 in
        qemu-system-x86) program=qemu-system-x86_64 ;;
        qemu-utils) program=qemu-img ;;
        e2fsprogs) program=mke2fs ;;
        mtools) program=mcopy ;;
        binutils) program=readelf ;;
        bochs) program=bochs-bin ;;
        grub-common) program=grub-mkrescue ;;
    esac
    PATH=$PATH:/usr/sbin command -v "$program" >/dev/null
}

# need_packages NAME...: installs what is missing. QEMU comes from backports on Debian 12.
need_packages() {
    local missing=() name
    for name in "$@"; do
        installed "$name" || missing+=("$name")
    done
    [[ ${#missing[@]} -gt 0 ]] || return 0
    if ! command -v apt-get >/dev/null; then
        echo "Not a Debian system; please install what provides: ${missing[*]}" >&2
        return 1
    fi
    local from=()
    if [[ " ${missing[*]} " == *" qemu-system-x86 "* ]]; then
        add_backports
        apt-cache policy | grep -q 'n=bookworm-backports' && from=(-t bookworm-backports)
    fi
    echo "Installing packages: ${missing[*]}"
    local log
    log=$(mktemp)
    if ! install_quietly "${from[@]}" "${missing[@]}" >"$log" 2>&1 &&
        ! { as_root apt-get update -qq && install_quietly "${from[@]}" "${missing[@]}"; } >>"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
}

install_quietly() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

# What makes disk images and file systems.
need_image_tools() {
    need_packages qemu-utils e2fsprogs mtools
}

# What boots Oxen: both emulators, their firmware, what makes boot media, and what the domU is made of.
need_emulators() {
    need_packages qemu-system-x86
    need_image_tools
    need_packages ovmf bochs bochsbios vgabios grub-pc-bin grub-efi-amd64-bin grub-common isolinux syslinux-common xorriso \
        mtools cpio
}
