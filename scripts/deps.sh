#!/usr/bin/env bash
# Looks for what `make demo`, `make test` and `make bench` need, and installs what is missing on Debian and
# Ubuntu.
# usage: scripts/deps.sh demo|test|bench
# Changes the system only through apt-get (as root, or by sudo), and says so first. Elsewhere it
# names what is missing and fails.
set -euo pipefail

# The oldest compiler that builds this, as in Cargo.toml.
rust_needed=1.88

# COMMAND:PACKAGE that has it
demo=(cc:gcc make:make fusermount3:fuse3 getfattr:attr)
tests=(podman:podman skopeo:skopeo umoci:umoci dockerd:docker.io docker:docker-cli newuidmap:uidmap
    jq:jq script:bsdutils unshare:util-linux patch:patch man:man-db chromium:chromium)
# What inputs are made with, and peers.
bench=(mmdebstrap:mmdebstrap podman:podman skopeo:skopeo umoci:umoci newuidmap:uidmap dockerd:docker.io
    docker:docker-cli igzip:isal gzip:gzip pigz:pigz zstd:zstd openssl:openssl tar:tar diff:diffutils
    find:findutils findmnt:util-linux mksquashfs:squashfs-tools squashfuse_ll:squashfuse mkfs.erofs:erofs-utils
    archivemount:archivemount fuse-archive:fuse-archive ratarmount:ratarmount)

say() { printf 'deps: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
has() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ]; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif [ -t 0 ]; then sudo "$@"
    else sudo -n "$@"
    fi
}

can_be_root() { [ "$(id -u)" = 0 ] || { has sudo && { [ -t 0 ] || sudo -n true 2>/dev/null; }; }; }

# Containers made from nothing have no libraries: the tests run a busybox in them that needs none.
static_busybox() { has busybox && ! ldd "$(command -v busybox)" >/dev/null 2>&1; }

not_there() {
    local pair
    for pair in "$@"; do has "${pair%%:*}" || printf '%s\n' "${pair#*:}"; done
}

missing_packages() {
    not_there "$@"
    [ -e /usr/include/stdio.h ] || echo libc6-dev
    [ "$purpose" != test ] || static_busybox || echo busybox-static
}

install_packages() {
    local wanted=() package
    if ! has apt-get || ! can_be_root; then
        die "please install (names as in Debian): $*"
    fi
    say "installing by apt-get: $*"
    as_root apt-get update -qq </dev/null
    for package in "$@"; do
        # docker-cli is part of docker.io where distributions do not package it apart.
        if [ -n "$(apt-cache show "$package" 2>/dev/null)" ]; then wanted+=("$package"); fi
    done
    [ ${#wanted[@]} -gt 0 ] || return 0
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${wanted[@]}" </dev/null >&2
}

# The bench measures the peers that there are. What cannot be had is named, and no failure.
install_peers() {
    local missing known=() package
    mapfile -t missing < <(not_there "${bench[@]}")
    if [ ${#missing[@]} -gt 0 ] && has apt-get && can_be_root; then
        if ! compgen -G '/var/lib/apt/lists/*Packages*' >/dev/null; then as_root apt-get update -qq </dev/null || true; fi
        for package in "${missing[@]}"; do
            if [ -n "$(apt-cache show "$package" 2>/dev/null)" ]; then known+=("$package"); fi
        done
        if [ ${#known[@]} -gt 0 ]; then (install_packages "${known[@]}") || true; fi
    fi
    mapfile -t missing < <(not_there "${bench[@]}")
    if [ ${#missing[@]} -gt 0 ]; then say "measured without: ${missing[*]} (ratarmount comes by pip)"; fi
}

# True when version $1 is at least $2.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

check_rust() {
    local found offered
    found=$(cargo --version 2>/dev/null | cut -d ' ' -f 2 || true)
    if [ -n "$found" ] && at_least "$found" "$rust_needed"; then return 0; fi
    offered=$(apt-cache policy cargo 2>/dev/null | sed -n 's/^ *Candidate: //p' || true)
    if [ -n "$offered" ] && at_least "$offered" "$rust_needed"; then
        install_packages cargo rustfmt rust-clippy
        return 0
    fi
    say "cargo $rust_needed or newer is needed, found: ${found:-none}"
    die "install it with: curl --proto '=https' -sSf https://sh.rustup.rs | sh    (https://rustup.rs)"
}

# Distributions give every user /dev/fuse, which fusermount3 is made for. Some containers do not.
check_fuse_device() {
    if [ ! -e /dev/fuse ] && [ "$(id -u)" = 0 ]; then modprobe fuse 2>/dev/null || true; fi
    if [ ! -e /dev/fuse ]; then
        say "there is no /dev/fuse: nothing can be mounted here (in a container: --device /dev/fuse --cap-add SYS_ADMIN)"
    elif [ "$(stat -c %a /dev/fuse)" != 666 ]; then
        if [ "$(id -u)" = 0 ]; then
            say "/dev/fuse is for root alone: giving it mode 0666, as distributions do"
            chmod 666 /dev/fuse
        elif [ ! -w /dev/fuse ]; then
            say "/dev/fuse is not for you: mounting needs 'chmod 666 /dev/fuse' by root"
        fi
    fi
}

purpose=${1:-}
case $purpose in
    demo) pairs=("${demo[@]}") ;;
    test) pairs=("${demo[@]}" "${tests[@]}") ;;
    bench) pairs=("${demo[@]}") ;;
    *) die "usage: scripts/deps.sh demo|test|bench" ;;
esac
mapfile -t missing < <(missing_packages "${pairs[@]}")
if [ ${#missing[@]} -gt 0 ]; then install_packages "${missing[@]}"; fi
if [ "$purpose" = bench ]; then install_peers; fi
check_rust
check_fuse_device
