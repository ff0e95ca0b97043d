#!/usr/bin/env bash
# Tries the packages in target/dist for this machine's processor: checksums, the static binary in a root directory with
# nothing else in it, and the .deb in a fresh Debian. Needs root, /dev/fuse and a network.
# usage: scripts/test-dist.sh
set -euo pipefail
cd "$(dirname "$0")/.."

release=bookworm
work=$(mktemp -d "${TMPDIR:-/tmp}/imgmount-dist.XXXXXX")
trap 'umount -lq "$work/empty/proc" "$work/empty/dev" || true; rm -rf --one-file-system "$work"' EXIT

step() { printf 'test-dist: %s\n' "$*" >&2; }
fail() { step "$*"; exit 1; }

step "checksums"
(cd target/dist && sha256sum --quiet -c SHA256SUMS)

step "the static binary in an empty root directory"
mkdir -p "$work/empty"/{proc,dev,tmp,mnt}
tar -xzf target/dist/imgmount-*-"$(uname -m)"-linux-musl.tar.gz -C "$work"
cp "$work"/imgmount-*/imgmount "$work/empty"
if grep -aqF -e "$PWD" -e "${CARGO_HOME:-$HOME/.cargo}" "$work/empty/imgmount"; then
    fail "the binary names directories of this machine"
fi
cargo run --quiet --locked --example sample_image -- "$work"
cp "$work/sample.tar" "$work/empty"
mount -t proc proc "$work/empty/proc"
mount --bind /dev "$work/empty/dev"
inside() { chroot "$work/empty" /imgmount "$@"; }
export IMGMOUNT_CACHE_DIR=/tmp/cache
grep -q ' passwd' < <(inside ls -l sample.tar:/etc) || fail "ls"
[ "$(inside cat sample.tar:/etc/passwd | head -n 1)" = root:x:0:0 ] || fail "cat"
inside cp sample.tar:/etc/passwd /tmp/passwd
inside verify -q sample.tar >/dev/null
for command in inspect history deleted "ls -R" "diff sample.tar"; do
    # shellcheck disable=SC2086 # words
    inside $command sample.tar >/dev/null || fail "$command"
done
inside extract sample.tar /tmp/rootfs
inside export sample.tar | tar -t >/dev/null
inside cache ls >/dev/null
inside sample.tar /mnt
cmp "$work/large.expected" "$work/empty/mnt/srv/large" || fail "a mounted file differs"
inside umount /mnt
cmp "$work/empty/tmp/rootfs/etc/passwd" "$work/empty/tmp/passwd"
[ -n "$(inside completions bash)" ] || fail "completions"

arch=$(dpkg --print-architecture)
step "lintian"
lintian --fail-on error target/dist/imgmount_*_"$arch".deb

step "the .deb in a fresh Debian $release"
cat >"$work/try" <<'END'
set -eu
files() { find / -xdev ! -path '/proc/*' ! -path '/sys/*' ! -path '/tmp/*' ! -path '/var/*' ! -path '/etc/*' ! -path '/root/*' | sort; }
[ -e /dev/fuse ] || mknod -m 666 /dev/fuse c 10 229
files >/tmp/before
apt-get -o Dpkg::Use-Pty=0 install -y -qq --no-install-recommends /tmp/imgmount.deb
dpkg --verify imgmount
command -v fusermount3
imgmount --version
test -f /usr/share/bash-completion/completions/imgmount
# Every system that was booted has it, and fusermount3 needs it.
ln -sf /proc/self/mounts /etc/mtab
trap 'umount -lq /tmp/*.mnt || true' EXIT
useradd --home-dir /tmp/user --create-home user
for user in root user; do
    mkdir -m 777 /tmp/$user.mnt
    su $user -c "imgmount /tmp/sample.tar /tmp/$user.mnt && grep ^root: /tmp/$user.mnt/etc/passwd && imgmount umount /tmp/$user.mnt"
done
apt-get -o Dpkg::Use-Pty=0 purge -y -qq --autoremove imgmount
files >/tmp/after
diff /tmp/before /tmp/after
END
unset IMGMOUNT_CACHE_DIR
mmdebstrap --quiet --variant=minbase --format=null \
    --customize-hook="upload $(echo target/dist/imgmount_*_"$arch".deb) /tmp/imgmount.deb" \
    --customize-hook="upload $work/sample.tar /tmp/sample.tar" \
    --customize-hook="upload $work/try /tmp/try" \
    --customize-hook='chroot "$1" sh /tmp/try' \
    "$release" - >&2
step "passed"
