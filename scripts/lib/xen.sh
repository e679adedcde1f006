# shellcheck shell=bash
# Debian's Xen, for comparison: the hypervisor as packaged, and a dom0 that lives in RAM. Sourced after boot-archive.sh.
#
# The dom0 is Debian's kernel, busybox, Debian's toolstack, and the files of tests-qemu/xen.

XEN=4.17
# The hypervisor, the toolstack, and the libraries that it is linked with.
XEN_PACKAGES=(
    "xen-hypervisor-$XEN-amd64" "xen-utils-$XEN" xenstore-utils "libxenmisc$XEN"
    libxencall1 libxendevicemodel1 libxenevtchn1 libxenforeignmemory1 libxengnttab1 libxenhypfs1 libxenstore4
    libxentoolcore1 libxentoollog1
    libc6 libgcc-s1 liblzma5 libuuid1 libyajl2 libzstd1 zlib1g
)
# The drivers of a dom0, the back ends, and what stands behind them: disks in RAM, a bridge.
XEN_MODULES=(
    xen-evtchn xen-gntdev xen-gntalloc xen-privcmd xenfs
    xen-blkback brd
    xen-netback bridge stp llc
)

# Makes out/xen: the hypervisor (xen), dom0's kernel (vmlinuz) and its initial ramdisk (dom0.cpio).
make_xen() {
    need_packages cpio
    local libraries=lib/x86_64-linux-gnu tools=usr/lib/xen-$XEN/bin work=$ROOT/target/xen kernel busybox name package
    kernel=$(unpack_package "$(kernel_package)") || return
    busybox=$(unpack_package busybox-static) || return
    rm -rf "$work"
    mkdir -p "$OUT/xen" "$work"/{bin,dev,lib64,proc,run,sys,tmp,usr/bin,"$libraries","$tools"} \
        "$work"/{etc/xen,var/lib/xen,var/lib/xenstored,var/log/xen}
    ln -s /run "$work/var/run"
    ln -s /run/lock "$work/var/lock"
    for name in "${XEN_PACKAGES[@]}"; do
        package=$(unpack_package "$name") || return
        find "$package" -regex ".*/$libraries/[^/]*\.so[^/]*" -exec cp -P {} "$work/$libraries/" \;
    done
    cp "$work/$libraries/ld-linux-x86-64.so.2" "$work/lib64/"
    package=$(unpack_package "xen-utils-$XEN")
    for name in xl xenstored xenconsoled xenconsole xen-init-dom0; do
        cp "$package/$tools/$name" "$work/$tools/" || return
    done
    package=$(unpack_package xenstore-utils)
    for name in ls read write; do
        cp "$package/usr/bin/xenstore-$name" "$work/usr/bin/" || return
    done
    cp "$busybox/bin/busybox" "$work/bin/"
    cp -R "$ROOT/tests-qemu/xen/." "$work/"
    copy_modules "$kernel" "$work" "$busybox/bin/busybox" "${XEN_MODULES[@]}" || return
    pack "$work" >"$OUT/xen/dom0.cpio" || return
    cp "$kernel"/boot/vmlinuz-* "$OUT/xen/vmlinuz" || return
    package=$(unpack_package "xen-hypervisor-$XEN-amd64")
    cp "$package/boot/xen-$XEN-amd64.gz" "$OUT/xen/xen.gz"
    gunzip -c "$OUT/xen/xen.gz" >"$OUT/xen/xen"
}
