#!/usr/bin/env bash
# Installs the programs that `make demo`, `make test`, `make bench` and `make dist` need on Debian and Ubuntu.
# usage: scripts/deps.sh demo|test|bench|dist
# Lists missing packages and their purpose before it installs anything. Changes the system only through
# apt-get, as root or with sudo. Elsewhere it lists what is missing and fails.
set -euo pipefail

# The oldest compiler that builds this, as in Cargo.toml.
rust_needed=1.88

# COMMAND|PACKAGE|WHY: the package is installed where the command is missing.
demo='
cc|gcc|compiles the C libraries
make|make|runs the Makefile
fusermount3|fuse3|mounts as an ordinary user
getfattr|attr|shows extended attributes'
test='
python3|python3|checks docs/recording.svg
podman|podman|writes and reads images for comparison
skopeo|skopeo|copies images between formats
umoci|umoci|unpacks images for comparison
zsh|zsh|completes names of images
fish|fish|completes names of images
docker-registry|docker-registry|stores images that skopeo pushes
ctr|containerd|writes and reads images for comparison
runc|runc|runs containers of the tests
fuse-overlayfs|fuse-overlayfs|writes layers of rootless containers
openssl|openssl|makes certificates for a registry
dockerd|docker.io|writes and reads images for comparison
docker|docker-cli|client of dockerd
newuidmap|uidmap|runs podman as an ordinary user
jq|jq|checks JSON output
script|bsdutils|runs the program on a terminal
unshare|util-linux|creates namespaces for mounts
patch|patch|checks the output of diff
man|man-db|checks the manual pages
chromium|chromium|checks the HTML of diff'
dist='
python3|python3|collects the licences of crates
musl-gcc|musl-tools|links the static binary
dpkg-deb|dpkg|builds the .deb
mmdebstrap|mmdebstrap|creates a system to test the .deb in
lintian|lintian|checks the .deb'
# Programs that create inputs, and programs that imgmount is compared with.
bench='
mmdebstrap|mmdebstrap|creates an image
podman|podman|creates an image; compared with imgmount
skopeo|skopeo|creates an image; compared with imgmount
umoci|umoci|creates an image; compared with imgmount
newuidmap|uidmap|runs podman as an ordinary user
dockerd|docker.io|compared with imgmount
docker|docker-cli|client of dockerd
igzip|isal|compared with imgmount
gzip|gzip|compared with imgmount
pigz|pigz|compared with imgmount
zstd|zstd|compared with imgmount
openssl|openssl|compared with imgmount
tar|tar|compared with imgmount
diff|diffutils|compared with imgmount
find|findutils|compared with imgmount
docker-registry|docker-registry|stores an image, which is downloaded
curl|curl|compared with imgmount
ip|iproute2|makes a slow link
nsenter|util-linux|runs programs at the ends of a slow link
findmnt|util-linux|lists mounts
mksquashfs|squashfs-tools|creates input for a compared program
squashfuse_ll|squashfuse|compared with imgmount
mkfs.erofs|erofs-utils|creates input for a compared program
archivemount|archivemount|compared with imgmount
fuse-archive|fuse-archive|compared with imgmount
ratarmount|ratarmount|compared with imgmount'

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
        say "make $purpose needs these packages; installing them with apt-get:"
        list "$@"
        install_packages "${@%%|*}"
    else
        say "make $purpose needs these packages (Debian names); install them and try again:"
        list "$@"
        exit 1
    fi
}

# The bench measures the peers that are installed. A peer that cannot be installed is listed; this is not a failure.
install_peers() {
    local missing
    mapfile -t missing < <(missing_from "$bench")
    if [ ${#missing[@]} -gt 0 ] && has apt-get && can_be_root; then
        say "make bench compares imgmount with these packages; installing those that apt-get has:"
        list "${missing[@]}"
        (install_packages "${missing[@]%%|*}") || true
    fi
    mapfile -t missing < <(missing_from "$bench")
    if [ ${#missing[@]} -gt 0 ]; then say "not compared, because not installed: ${missing[*]%%|*} (install ratarmount with pip)"; fi
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
    say "cargo $rust_needed or newer is required, found: ${found:-none}"
    die "install it with: curl --proto '=https' -sSf https://sh.rustup.rs | sh    (https://rustup.rs)"
}

# Distributions let every user open /dev/fuse, as fusermount3 expects. Some containers do not.
check_fuse_device() {
    if [ ! -e /dev/fuse ] && [ "$(id -u)" = 0 ]; then modprobe fuse 2>/dev/null || true; fi
    if [ ! -e /dev/fuse ]; then
        say "/dev/fuse is missing: mounting is not possible (in a container, use --device /dev/fuse --cap-add SYS_ADMIN)"
    elif [ "$(stat -c %a /dev/fuse)" != 666 ]; then
        if [ "$(id -u)" = 0 ]; then
            say "only root can open /dev/fuse: setting mode 0666, as distributions do"
            chmod 666 /dev/fuse
        elif [ ! -w /dev/fuse ]; then
            say "you cannot open /dev/fuse: to mount, run 'chmod 666 /dev/fuse' as root"
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
if [ $listed = no ]; then say "make $purpose: all required packages are installed"; fi
check_fuse_device
