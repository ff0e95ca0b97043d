#!/usr/bin/env bash
# Installs the programs that `make demo`, `make test`, `make bench` and `make dist` need on Debian and Ubuntu.
# usage: scripts/deps.sh demo|test|bench|dist
# Lists what is missing, and why it is needed, before it installs anything. Changes the system only through
# apt-get, as root or with sudo. Elsewhere it lists what is missing and fails.
set -euo pipefail

# The oldest compiler that builds this, as in Cargo.toml.
rust_needed=1.88

# COMMAND|PACKAGE|WHY: the package is installed where the command is missing.
demo='
cc|gcc|compiles the C libraries
make|make|runs the Makefile
fusermount3|fuse3|mounts for ordinary users
getfattr|attr|shows extended attributes'
test='
python3|python3|checks docs/recording.svg
podman|podman|writes and reads images to compare with
skopeo|skopeo|copies images between formats
umoci|umoci|unpacks images to compare with
dockerd|docker.io|writes and reads images to compare with
docker|docker-cli|the client of dockerd
newuidmap|uidmap|runs podman as an ordinary user
jq|jq|checks JSON output
script|bsdutils|runs the program on a terminal
unshare|util-linux|mounts in namespaces of their own
patch|patch|checks the output of diff
man|man-db|checks the manual pages
chromium|chromium|checks the HTML of diff'
dist='
python3|python3|collects the licences of crates
musl-gcc|musl-tools|links the static binary
dpkg-deb|dpkg|makes the .deb
mmdebstrap|mmdebstrap|makes a system to try the .deb in
lintian|lintian|checks the .deb'
# Makes inputs, and peers.
bench='
mmdebstrap|mmdebstrap|makes an image
podman|podman|makes an image, and is a peer
skopeo|skopeo|makes an image, and is a peer
umoci|umoci|makes an image, and is a peer
newuidmap|uidmap|runs podman as an ordinary user
dockerd|docker.io|is a peer
docker|docker-cli|the client of dockerd
igzip|isal|is a peer
gzip|gzip|is a peer
pigz|pigz|is a peer
zstd|zstd|is a peer
openssl|openssl|is a peer
tar|tar|is a peer
diff|diffutils|is a peer
find|findutils|is a peer
findmnt|util-linux|looks at mounts
mksquashfs|squashfs-tools|makes input of a peer
squashfuse_ll|squashfuse|is a peer
mkfs.erofs|erofs-utils|makes input of a peer
archivemount|archivemount|is a peer
fuse-archive|fuse-archive|is a peer
ratarmount|ratarmount|is a peer'

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

# Prints PACKAGE|WHY for each missing command of a table.
missing_from() {
    local command package why
    while IFS='|' read -r command package why; do
        [ -z "$command" ] || has "$command" || printf '%s|%s\n' "$package" "$why"
    done <<<"$1"
}

missing_packages() {
    local table
    for table in "$@"; do missing_from "$table"; done
    [ -e /usr/include/stdio.h ] || echo 'libc6-dev|compiles the C libraries'
    [ "$purpose" != test ] || static_busybox || echo 'busybox-static|runs in containers of the tests'
}

listed=no
list() {
    local line
    listed=yes
    for line in "$@"; do printf 'deps:   %-16s %s\n' "${line%%|*}" "${line#*|}" >&2; done
}

# Installs packages that were listed.
install_packages() {
    local wanted=() package
    as_root apt-get update -qq </dev/null
    for package in "$@"; do
        # docker-cli is part of docker.io where distributions do not package it apart.
        if [ -n "$(apt-cache show "$package" 2>/dev/null)" ]; then wanted+=("$package"); fi
    done
    [ ${#wanted[@]} -gt 0 ] || return 0
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${wanted[@]}" </dev/null >&2
}

# Lists PACKAGE|WHY lines, then installs the packages.
require() {
    if [ $# = 0 ]; then
        return 0
    elif has apt-get && can_be_root; then
        say "make $purpose needs these packages, installed now with apt-get:"
        list "$@"
        install_packages "${@%%|*}"
    else
        say "make $purpose needs these packages (names as in Debian); install them and try again:"
        list "$@"
        exit 1
    fi
}

# The bench measures the peers that there are. A peer that cannot be installed is listed, and no failure.
install_peers() {
    local missing
    mapfile -t missing < <(missing_from "$bench")
    if [ ${#missing[@]} -gt 0 ] && has apt-get && can_be_root; then
        say "make bench compares with these packages, installed now with apt-get where it has them:"
        list "${missing[@]}"
        (install_packages "${missing[@]%%|*}") || true
    fi
    mapfile -t missing < <(missing_from "$bench")
    if [ ${#missing[@]} -gt 0 ]; then say "measured without: ${missing[*]%%|*} (ratarmount comes by pip)"; fi
}

# True when version $1 is at least $2.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

check_rust() {
    local found offered
    found=$(cargo --version 2>/dev/null | cut -d ' ' -f 2 || true)
    if [ -n "$found" ] && at_least "$found" "$rust_needed"; then return 0; fi
    offered=$(apt-cache policy cargo 2>/dev/null | sed -n 's/^ *Candidate: //p' || true)
    if [ -n "$offered" ] && at_least "$offered" "$rust_needed"; then
        require 'cargo|builds the program' 'rustfmt|checks the format of sources' 'rust-clippy|lints'
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
    demo | bench) tables=("$demo") ;;
    test) tables=("$demo" "$test") ;;
    dist) tables=("$demo" "$dist") ;;
    *) die "usage: scripts/deps.sh demo|test|bench|dist" ;;
esac
mapfile -t missing < <(missing_packages "${tables[@]}")
require "${missing[@]}"
if [ "$purpose" = bench ]; then install_peers; fi
check_rust
if [ $listed = no ]; then say "make $purpose: nothing to install"; fi
check_fuse_device
