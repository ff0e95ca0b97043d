#!/usr/bin/env bash
# A tour of imgmount on an image made on the spot. Needs no network and leaves nothing behind.
# usage: scripts/demo.sh DIR      where DIR has the program, and sample_image in DIR/examples
set -euo pipefail

built=$(cd "${1:?usage: scripts/demo.sh DIR}" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/imgmount-demo.XXXXXX")
export PATH="$built:$PATH" IMGMOUNT_CACHE_DIR="$work/cache"

finish() {
    if mountpoint -q "$work/mnt" 2>/dev/null; then
        umount -l "$work/mnt" 2>/dev/null || fusermount3 -uz "$work/mnt" || true
    fi
    rm -rf "$work"
}
trap finish EXIT

bold='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' plain=$'\e[0m'; fi

title() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
fail() { printf 'demo: %s\n' "$*" >&2; exit 1; }
# Shows a command as one would type it, and runs it.
show() { printf '  $ %s\n' "$*"; eval "$*" 2>&1 | sed 's/^/    /'; }

cd "$work"
title "1. An image to look at"
"$built/examples/sample_image" .
echo "  sample.tar is an OCI archive with four layers: gzip, zstd, plain and gzip again."
show "ls -lh sample.tar"

title "2. What is inside, without mounting anything"
show "imgmount ls -l sample.tar"
show "imgmount cat sample.tar:/etc/passwd"

title "3. Mount it"
if [ ! -w /dev/fuse ]; then
    echo "  /dev/fuse cannot be opened here, so the tour ends: every command but mount works without it."
    # Where everything is meant to be there, its absence is a failure.
    if [ -n "${CI:-}" ]; then exit 1; fi
    exit 0
fi
mkdir mnt
show "imgmount sample.tar mnt"
echo "  Nothing was unpacked. The program returned once mnt was usable, and serves it in the background."
show "ls -l mnt"
show "cat mnt/etc/passwd"
show "du -sh --apparent-size mnt"

title "4. Layers are merged as a container runtime merges them"
echo "  The second layer deleted etc/motd and hid what was in var/cache:"
show "ls mnt/etc mnt/var/cache"
[ ! -e mnt/etc/motd ] || fail "etc/motd should be gone"
[ "$(ls mnt/var/cache)" = new ] || fail "var/cache should hold 'new' alone"
echo "  Modes, owners, links, devices and times are the image's own:"
show "stat -c '%A %u:%g %h %y %n' mnt/bin/tool mnt/dev/null mnt/opt/time mnt/opt/owner mnt/tmp"
show "readlink mnt/lib"

title "5. Read anywhere in a large compressed file"
echo "  srv/large has 64 MiB inside a gzip layer. Only the parts that are read are decompressed:"
for _ in 1 2 3 4 5; do
    offset=$(( (RANDOM << 15 | RANDOM) % (63 << 20) ))
    cmp -i "$offset" -n 100000 mnt/srv/large large.expected || fail "other bytes at $offset"
    printf '    100000 bytes at offset %8d: the same as in the original\n' "$offset"
done
show "cmp mnt/srv/large large.expected && echo all 64 MiB are the same"

title "6. Ask a file where it comes from"
show "getfattr --only-values -n user.imgmount.created_by mnt/etc/passwd; echo"
echo "  Deleted is not gone: the first layer still has it."
show "imgmount cat --upto 0 sample.tar:/etc/motd; echo"

title "7. Unmount"
show "imgmount umount mnt"
if mountpoint -q mnt; then fail "mnt is still mounted"; fi
echo
echo "That is all. Try it on an image of yours: docker save IMAGE -o image.tar && imgmount image.tar DIR"
