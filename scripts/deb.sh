#!/usr/bin/env bash
# Makes a .deb in OUT of what scripts/dist.sh has put into DIR.
# usage: scripts/deb.sh DIR VERSION PROCESSOR OUT
# The binary is static, so the package depends on no library and installs on every Debian and Ubuntu.
set -euo pipefail
from=$1 version=$2 out=$4
case $3 in
    x86_64) arch=amd64 ;;
    aarch64) arch=arm64 ;;
    *) echo "deb: no Debian name for processor $3" >&2; exit 1 ;;
esac
name=imgmount_${version}-1_$arch
root=$(dirname "$from")/$name
doc=$root/usr/share/doc/imgmount
maintainer=$(git log -1 --format='%an <%ae>') date=$(date -u -R -d "@$SOURCE_DATE_EPOCH")

put() { install -D -m "${3:-644}" "$1" "$root/$2"; }
packed() { mkdir -p "$(dirname "$root/$2")" && gzip -9n <"$1" >"$root/$2"; }

put "$from/imgmount" usr/bin/imgmount 755
put "$from/completions/imgmount.bash" usr/share/bash-completion/completions/imgmount
put "$from/completions/_imgmount" usr/share/zsh/vendor-completions/_imgmount
put "$from/completions/imgmount.fish" usr/share/fish/vendor_completions.d/imgmount.fish
for page in "$from"/man/*.1; do packed "$page" "usr/share/man/man1/$(basename "$page").gz"; done
packed CHANGELOG.md usr/share/doc/imgmount/changelog.gz
packed "$from/THIRD-PARTY-LICENSES" usr/share/doc/imgmount/THIRD-PARTY-LICENSES.gz
packed <(printf 'imgmount (%s-1) unstable; urgency=medium\n\n  * Version %s, see changelog.gz.\n\n -- %s  %s\n' \
    "$version" "$version" "$maintainer" "$date") usr/share/doc/imgmount/changelog.Debian.gz
{ printf 'Copyright (C) %s the imgmount developers\n\n' "$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y)" && cat LICENSE-MIT -; } \
    >"$doc/copyright" <<'END'

Alternatively, imgmount may be used under the Apache License, Version 2.0; the text is in
/usr/share/common-licenses/Apache-2.0. The licences of the software that it contains are in
THIRD-PARTY-LICENSES.gz beside this file.
END
mkdir -p "$root/usr/share/lintian/overrides" "$root/DEBIAN"
cat >"$root/usr/share/lintian/overrides/imgmount" <<'END'
# Static on purpose, though lintian takes it for a library; and not made for Debian's archive.
imgmount: statically-linked-binary [usr/bin/imgmount]
imgmount: shared-library-lacks-prerequisites [usr/bin/imgmount]
imgmount: initial-upload-closes-no-bugs *
END

cat >"$root/DEBIAN/control" <<END
Package: imgmount
Version: $version-1
Architecture: $arch
Maintainer: $maintainer
Installed-Size: $(du -sk --apparent-size "$root" | cut -f 1)
Depends: fuse3
Section: utils
Priority: optional
Description: mount container images as read-only directories
 Reads docker-archives and OCI images in place, merges their layers as a
 container runtime does, and shows the result through FUSE. Every byte is
 checked against the digests of the image. No daemon and no root is needed.
END
(cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
chmod -R u=rwX,go=rX "$root"
dpkg-deb --root-owner-group -Zxz --build "$root" "$out/$name.deb" >/dev/null
