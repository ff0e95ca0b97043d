#!/usr/bin/env bash
# Shows the features of imgmount on a small image that it creates. Needs no network; removes what it creates.
# usage: scripts/demo.sh DIR      DIR contains the program, and sample_image in DIR/examples
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
# Prints a command as a user types it, and runs it.
show() { printf '  $ %s\n' "$*"; eval "$*" 2>&1 | sed 's/^/    /'; }

cd "$work"
title "1. Create a sample image"
"$built/examples/sample_image" .
echo "  sample.tar is an OCI archive with four layers: gzip, zstd, uncompressed and gzip."
show "ls -lh sample.tar"

title "2. Read files without mounting"
show "imgmount ls -l sample.tar"
show "imgmount cat sample.tar:/etc/passwd"

title "3. Mount the image"
if [ ! -w /dev/fuse ]; then
    echo "  /dev/fuse cannot be opened, so the demo ends here. All commands except mount and umount work without FUSE."
    # CI provides /dev/fuse, so its absence is a failure there.
    if [ -n "${CI:-}" ]; then exit 1; fi
    exit 0
fi
mkdir mnt
show "imgmount sample.tar mnt"
echo "  Nothing was unpacked. A background process serves the mount."
show "ls -l mnt"
show "cat mnt/etc/passwd"
show "du -sh --apparent-size mnt"

title "4. Layers are merged as a container runtime merges them"
echo "  The second layer deleted etc/motd and replaced the content of var/cache:"
show "ls mnt/etc mnt/var/cache"
[ ! -e mnt/etc/motd ] || fail "etc/motd still exists"
[ "$(ls mnt/var/cache)" = new ] || fail "var/cache does not contain only 'new'"
echo "  Modes, owners, links, devices and times are those of the image:"
show "stat -c '%A %u:%g %h %y %n' mnt/bin/tool mnt/dev/null mnt/opt/time mnt/opt/owner mnt/tmp"
show "readlink mnt/lib"

title "5. Read any part of a large compressed file"
echo "  srv/large has 64 MiB and is in a gzip layer. A read decompresses only the part around its offset:"
for _ in 1 2 3 4 5; do
    offset=$(( (RANDOM << 15 | RANDOM) % (63 << 20) ))
    cmp -i "$offset" -n 100000 mnt/srv/large large.expected || fail "wrong bytes at offset $offset"
    printf '    100000 bytes at offset %8d: identical to the original\n' "$offset"
done
show "cmp mnt/srv/large large.expected && echo all 64 MiB are identical"

title "6. Find the command that created a file, and read a deleted file"
show "getfattr --only-values -n user.imgmount.created_by mnt/etc/passwd; echo"
echo "  The first layer still contains the deleted etc/motd:"
show "imgmount cat --upto 0 sample.tar:/etc/motd; echo"

title "7. Unmount"
show "imgmount umount mnt"
if mountpoint -q mnt; then fail "mnt is still mounted"; fi
echo
echo "The demo is complete. To mount an image of yours: docker save IMAGE -o image.tar && imgmount image.tar DIR"
