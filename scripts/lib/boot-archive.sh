# shellcheck shell=bash
# The boot archive: what dom0-shim has instead of a disk. Sourced after toolchain.sh.
#
# It holds configs in xl.cfg syntax (dom0-shim/boot-archive), the kernel of Debian's linux-image-amd64 package exactly
# as shipped, and an initial ramdisk of Debian's busybox with the files of dom0-shim/initramfs and some of the kernel's
# modules.

# Modules for the initial ramdisk, with what they depend on.
MODULES=(
    xen-blkfront xen-netfront
    ext4 jbd2 mbcache crc16 crc32c_generic crc32c-intel
    vfat fat nls_cp437 nls_ascii
)

# download NAME...: gets Debian packages into this directory. root's downloads are by apt's own user, who may not write here, which apt would say of each.
download() {
    apt-get -o APT::Sandbox::User=root download -qq "$@" >&2
}

# unpack_package NAME: downloads a Debian package once, unpacks it below target/debian-packages; prints the directory.
unpack_package() {
    local name=$1 cache=$ROOT/target/debian-packages directory
    directory=$cache/$name
    if [[ ! -e $directory.done ]]; then
        rm -rf "$directory"
        mkdir -p "$directory"
        (
            cd "$directory"
            download "$name" || {
                as_root apt-get update -qq >&2
                download "$name"
            }
            dpkg -x ./*.deb .
            rm ./*.deb
        ) || return
        touch "$directory.done"
    fi
    echo "$directory"
}

# The package that linux-image-amd64 stands for today.
kernel_package() {
    local memory=$ROOT/target/debian-packages/kernel name
    if [[ ! -s $memory ]]; then
        mkdir -p "${memory%/*}"
        name=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\)/\1/p' | head -n 1)
        if [[ -z $name ]]; then
            as_root apt-get update -qq >&2
            name=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\)/\1/p' | head -n 1)
        fi
        echo "${name:?the package sources have no linux-image-amd64}" >"$memory"
    fi
    cat "$memory"
}

# pack DIRECTORY: a cpio archive of it, the same bytes for the same files, to the standard output.
pack() {
    (cd "$1" && find . -mindepth 1 | LC_ALL=C sort | cpio --quiet --create --format=newc --reproducible --owner=0:0)
}

# copy_modules KERNEL INITRAMFS BUSYBOX NAME...: modules of a kernel package, with the lists that modprobe reads.
copy_modules() {
    local kernel=$1 initramfs=$2 busybox=$3 version name file
    version=$(basename "$kernel"/lib/modules/*)
    for name in "${@:4}"; do
        file=$(cd "$kernel" && find "lib/modules/$version/kernel" -name "$name.ko")
        mkdir -p "$initramfs/${file%/*}"
        cp "$kernel/${file:?the kernel package has no module $name}" "$initramfs/$file"
    done
    "$busybox" depmod -b "$initramfs" "$version"
}

# make_boot_archive: out/boot-archive.cpio.
make_boot_archive() {
    need_packages cpio
    local kernel busybox
    kernel=$(unpack_package "$(kernel_package)") || return
    busybox=$(unpack_package busybox-static) || return
    make_archive boot-archive "$kernel" "$busybox"
}

# make_archive NAME KERNEL BUSYBOX: out/NAME.cpio with the kernel and the busybox of these unpacked packages.
make_archive() {
    local name=$1 kernel=$2 busybox=$3 own work
    # It runs here.
    own=$(unpack_package busybox-static) || return
    work=$ROOT/target/$name
    rm -rf "$work"
    mkdir -p "$work"/initramfs/{bin,dev,mnt,proc,root,run,sys,tmp} "$work/archive/boot"
    cp "$busybox/bin/busybox" "$work/initramfs/bin/"
    cp -R "$ROOT/dom0-shim/initramfs/." "$work/initramfs/"
    copy_modules "$kernel" "$work/initramfs" "$own/bin/busybox" "${MODULES[@]}" || return
    cp -R "$ROOT/dom0-shim/boot-archive/." "$work/archive/"
    cp "$kernel"/boot/vmlinuz-* "$work/archive/boot/vmlinuz"
    # File times are the only thing that differs from build to build.
    find "$work" -exec touch -h -d @0 {} +
    pack "$work/initramfs" | gzip -9 -n >"$work/archive/boot/initrd.gz"
    touch -d @0 "$work/archive/boot/initrd.gz" "$work/archive/boot"
    pack "$work/archive" >"$OUT/$name.cpio"
}
