# shellcheck shell=bash
# A file system image with Debian's fio, iperf3 and e2fsprogs, for tests in domUs. Sourced after boot-archive.sh.

# Packages that have the programs and what they are linked with.
TOOL_PACKAGES=(fio iperf3 libiperf0 e2fsprogs libc6 libaio1 libnuma1 zlib1g libext2fs2 libcom-err2 libblkid1 libuuid1)

# needed FILE...: the names of the libraries that they are linked with.
needed() {
    readelf --dynamic "$@" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort -u
}

# Makes out/test-tools with bin/ and lib/, and out/test-tools.img of it; a program is started by lib/ld-linux-x86-64.so.2.
#
# fio is linked with clients of storage systems that no test uses, which would bring a hundred packages along, and iperf3
# with cryptography: there is one library in place of all of them, with functions that do nothing.
make_test_tools() {
    need_packages binutils gcc e2fsprogs
    local work=$ROOT/target/test-tools root=$OUT/test-tools name directory directories=() found
    rm -rf "$work" "$root"
    mkdir -p "$work" "$root"/{bin,lib}
    for name in "${TOOL_PACKAGES[@]}"; do
        directory=$(unpack_package "$name") || return
        directories+=("$directory")
    done
    for name in fio iperf3 e2fsck mke2fs; do
        cp -L "$(find "${directories[@]}" -name "$name" -path '*bin/*' -print -quit)" "$root/bin/" || return
    done
    for name in $(needed "$root"/bin/*) ld-linux-x86-64.so.2; do
        found=$(find "${directories[@]}" -name "$name" -print -quit)
        [[ -z $found ]] || cp -L "$found" "$root/lib/$name"
    done
    # What they want and none of the libraries that are there has, with the versions that they want.
    nm --dynamic --defined-only --format=posix "$root"/lib/* | sed 's/[@ ].*//' | sort -u >"$work/defined"
    nm --dynamic --undefined-only --format=posix "$root"/{bin,lib}/* | sed '/ [wv]/d; /:$/d; s/ .*//' | sort -u |
        awk -F@ 'NR == FNR { defined[$1]; next } !($1 in defined)' "$work/defined" - >"$work/absent"
    sed 's/@.*//; s/.*/void &(void) {}/' "$work/absent" >"$work/absent.c"
    awk -F@ 'NF > 1 { names[$2] = names[$2] " " $1 ";" } END { for (v in names) print v " {" names[v] " };" }' \
        "$work/absent" >"$work/absent.map"
    gcc -w -shared -fPIC -nostdlib -fno-builtin -Wl,--version-script="$work/absent.map" -o "$work/absent.so" "$work/absent.c" ||
        return
    for name in $(needed "$root"/{bin,lib}/*); do
        [[ -e $root/lib/$name ]] || cp "$work/absent.so" "$root/lib/$name"
    done
    find "$root" -exec touch -h -d @0 {} +
    rm -f "$OUT/test-tools.img"
    PATH=$PATH:/usr/sbin mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$root" "$OUT/test-tools.img" 12M
}
