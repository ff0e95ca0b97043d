#!/usr/bin/env bash
# Makes the real image that `make bench` measures: Debian with a compiler, Python and Node, in six layers,
# some of which delete, replace or link what others brought. Needs root, a network, 6 GB and a few minutes.
# usage: scripts/bench-images.sh DIR      makes DIR, and in it
#   demo-oci/         OCI layout, gzip layers
#   demo-zstd/        OCI layout, zstd layers, one frame each
#   demo-oci.tar      OCI archive, gzip layers
#   demo-docker.tar   docker-archive, plain layers
#   demo2-oci/        the next version: the same layers and two more
#   demo-rootfs/      the tree, as umoci unpacks demo-oci
set -euo pipefail

release=bookworm
[ $# = 1 ] || { echo "usage: scripts/bench-images.sh DIR" >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "bench-images: needs root" >&2; exit 1; }
for program in mmdebstrap podman skopeo umoci; do
    command -v "$program" >/dev/null || { echo "bench-images: $program is not installed" >&2; exit 1; }
done
mkdir -p "$1"
cd "$1"

# podman wants a short path for some of its files, and mounts its store on itself.
work=$(mktemp -d "$PWD/work.XXXXXX")
short=$(mktemp -d /tmp/bench.XXXXXX)
finish() {
    local point
    while read -r point; do umount -l "$point" || true; done \
        < <(awk -v dir="$work/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | tac)
    rm -rf --one-file-system "$work" "$short"
}
trap finish EXIT
engine() { podman --root "$work/store" --runroot "$short/run" --storage-driver overlay "$@" >&2; }
build() { engine build -q --isolation chroot --network host --layers -t "$1" -f - "$work/context"; }

mkdir "$work/context"
mmdebstrap --quiet --variant=minbase --include=ca-certificates "$release" "$work/context/base.tar"
install='apt-get install -y --no-install-recommends'
build demo:latest <<END
FROM scratch
ADD base.tar /
RUN apt-get update && $install gcc libc6-dev make perl python3
RUN $install git nodejs npm
RUN rm -rf /usr/share/doc /var/lib/apt/lists/* && find / -xdev -depth -name __pycache__ -exec rm -rf {} +
RUN mkdir /app && cp -r /usr/share/nodejs /app/node_modules && ln /app/node_modules/npm/package.json /app/npm.json
RUN rm -rf /usr/share/man && mkdir /usr/share/man && useradd -m app && chown -R app /app/node_modules/npm
ENV PATH=/usr/local/bin:/usr/bin:/bin
WORKDIR /app
END
build demo2:latest <<END
FROM demo:latest
RUN echo 2 > /etc/motd && chmod 700 /usr/bin/git && rm -rf /app/node_modules/npm && touch -d @1 /etc/hosts.old
RUN apt-get update && $install jq && rm -rf /var/lib/apt/lists/*
END

engine save -q --format docker-archive -o demo-docker.tar localhost/demo:latest
engine save -q --format oci-archive -o demo-oci.tar localhost/demo:latest
engine save -q --format docker-archive -o "$work/demo2.tar" localhost/demo2:latest
copy() { skopeo --insecure-policy copy -q "$@"; }
copy oci-archive:demo-oci.tar oci:demo-oci:latest
copy --dest-compress-format zstd docker-archive:demo-docker.tar oci:demo-zstd:latest
copy "docker-archive:$work/demo2.tar" oci:demo2-oci:latest
umoci unpack --image demo-oci:latest "$work/bundle" >/dev/null
mv "$work/bundle/rootfs" demo-rootfs
