#!/usr/bin/env bash
# Makes packages in target/dist: for each target a tarball with a static binary, and a .deb of the same binary.
# usage: scripts/dist.sh [TARGET...]
#
# Without TARGET: musl for this machine's processor, and for the other of x86_64 and aarch64 where cargo-zigbuild is
# installed, whose C compiler builds for both.
# The same sources, compiler and directory give the same bytes: times are that of the commit, or SOURCE_DATE_EPOCH.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}"
native=$(uname -m)
cargo_home=$(realpath "${CARGO_HOME:-$HOME/.cargo}")
out=$PWD/target/dist
stage=target/dist-stage

say() { printf 'dist: %s\n' "$*" >&2; }
has_target() { [ -d "$(rustc --print sysroot)/lib/rustlib/$1" ] || rustup target add "$1" >/dev/null 2>&1; }

default_targets() {
    local other=aarch64
    if [ "$native" = aarch64 ]; then other=x86_64; fi
    echo "$native-unknown-linux-musl"
    if cargo zigbuild --help >/dev/null 2>&1 && has_target "$other-unknown-linux-musl"; then
        echo "$other-unknown-linux-musl"
    else
        say "no package for $other: that needs its musl target and cargo-zigbuild (pip install cargo-zigbuild)"
    fi
}

# Builds one target. Names of this machine's directories would stand in messages of panics.
build() {
    local command=build
    if [ "${1%%-*}" != "$native" ]; then command=zigbuild; fi
    RUSTFLAGS="--remap-path-prefix=$cargo_home=/cargo --remap-path-prefix=$PWD=/imgmount" \
        cargo "$command" --locked --profile packaged --bin imgmount --target "$1"
}

# Writes pages and completions once, with a program that runs here.
write_extras() {
    mkdir -p "$stage/man" "$stage/completions"
    "$1" man "$stage/man"
    "$1" completions bash >"$stage/completions/imgmount.bash"
    "$1" completions zsh >"$stage/completions/_imgmount"
    "$1" completions fish >"$stage/completions/imgmount.fish"
}

make_tarball() {
    local name=$1 binary=$2 root=$stage/$1
    mkdir -p "$root"
    install -m 755 "$binary" "$root/imgmount"
    cp -r "$stage/man" "$stage/completions" "$root"
    cp README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE "$stage/THIRD-PARTY-LICENSES" "$root"
    chmod -R u=rwX,go=rX "$root"
    tar --sort=name --format=ustar --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" \
        -C "$stage" -c "$name" | gzip -9n >"$out/$name.tar.gz"
}

rm -rf "$out" "$stage"
mkdir -p "$out" "$stage"
if [ $# = 0 ]; then mapfile -t targets < <(default_targets); else targets=("$@"); fi
for target in "${targets[@]}"; do
    has_target "$target" || { say "no standard library for $target: rustup target add $target"; exit 1; }
    say "building $target"
    build "$target"
    binary=target/$target/packaged/imgmount
    scripts/licences.py "$target" >"$stage/THIRD-PARTY-LICENSES"
    [ -d "$stage/man" ] || write_extras "$binary"
    make_tarball "imgmount-$version-${target/-unknown/}" "$binary"
    scripts/deb.sh "$stage/imgmount-$version-${target/-unknown/}" "$version" "${target%%-*}" "$out"
done
(cd "$out" && sha256sum -- *.tar.gz *.deb >SHA256SUMS)
ls -l "$out" >&2
