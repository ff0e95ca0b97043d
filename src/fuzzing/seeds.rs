//! The seeds of the targets, built in code.

use std::sync::Arc;

use serde_json::json;

use super::input::join;
use super::stored::take_apart;
use crate::compress::Compression;
use crate::layer::entry::{Extent, Meta, Segment, Timestamp, Xattrs};
use crate::layer::index::Verify;
use crate::layer::samples::{ALL, compressed, expected, index};
use crate::layer::stored::StoredIndex;
use crate::layer::table::{self, LayerIndex};
use crate::layer::tar::encode::{Kind, Member, SparseMap, encode};
use crate::rootfs::{MergeOptions, merge, stored};
use crate::source::fuzzing as source;

/// Returns the seeds of a target.
pub(super) fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "tar" => tars(),
        "pax" => chains(),
        "index" => indexes(),
        "tree" => trees(),
        "documents" => documents(),
        "names" => NAMES.iter().map(|text| text.to_vec()).collect(),
        "streams" => streams(),
        "merge" => (0..20).map(noise).collect(),
        "image" => images(),
        "bolt" => source::bolt_seeds(),
        "tar_split" => source::tar_split_seeds(),
        "stores" => joined(source::store_seeds()),
        #[cfg(feature = "registry")]
        "registry" => joined(source::registry::seeds()),
        "daemon" => daemon(),
        _ => Vec::new(),
    }
}

fn joined(seeds: Vec<Vec<Vec<u8>>>) -> Vec<Vec<u8>> {
    seeds.iter().map(|parts| join(parts)).collect()
}

fn daemon() -> Vec<Vec<u8>> {
    let answer = |body: &[u8]| {
        [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
    };
    let chunked = |body: &[u8]| {
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice();
        [head, format!("{:x};a=b\r\n", body.len()).as_bytes(), body, b"\r\n0\r\n\r\n"].concat()
    };
    let id = format!("sha256:{}", "0a".repeat(32));
    let image = json!({"Id": id, "RepoTags": ["x:1"], "Architecture": "amd64", "Os": "linux", "Size": 5});
    let image = image.to_string().into_bytes();
    let list = [b"[".as_slice(), &image, b"]"].concat();
    let tar = member(b"manifest.json", Kind::File(2), b"[]");
    let missing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 17\r\n\r\n{\"message\":\"no\"}".to_vec();
    vec![
        join(&[vec![0], answer(&image), chunked(&tar)]),
        join(&[vec![1], chunked(&list), answer(&image)]),
        join(&[vec![2], answer(&list), answer(&tar)]),
        join(&[vec![0], missing, answer(b"[]")]),
    ]
}

fn noise(seed: u64) -> Vec<u8> {
    let mut random = super::mutate::Random::new(seed);
    std::iter::repeat_with(|| random.next().to_le_bytes()[0]).take(300).collect()
}

fn member(path: &[u8], kind: Kind<'_>, content: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    assert!(Xattrs::pack(&mut packed, b"user.a", b"1\n2"));
    let with_xattr = path.ends_with(b"x");
    let meta =
        Meta { mode: 0o644, uid: 7, gid: 8, mtime: Timestamp { seconds: 1, nanos: u32::from(with_xattr) } };
    let xattrs = Xattrs::from_packed(if with_xattr { &packed } else { &[] });
    let mut bytes = encode(&Member { path, kind, meta, xattrs });
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn tars() -> Vec<Vec<u8>> {
    let file = |path: &[u8], content: &[u8]| member(path, Kind::File(content.len() as u64), content);
    let long = [b"long/".as_slice(), &[b'n'; 200]].concat();
    let segments = [(4096, 4), (9000, 6)]
        .map(|(file_offset, len_bytes)| Segment { file_offset, extent: Extent { offset: 0, len_bytes } });
    let sparse = SparseMap::new(10_000, segments).unwrap();
    let plain = [
        member(b"d", Kind::Directory, b""),
        file(b"d/a", b"hello"),
        file(b"d/x", &[7; 600]),
        member(b"d/l", Kind::Symlink(b"../a"), b""),
        member(b"d/h", Kind::Hardlink(b"d/a"), b""),
        file(&long, b"1"),
    ];
    let device = crate::DeviceNumber { major: 1, minor: 3 };
    let special = [
        member(b"c", Kind::Char(device), b""),
        member(b"b", Kind::Block(device), b""),
        member(b"p", Kind::Fifo, b""),
        member(b"s", Kind::Sparse(sparse), &[1; 10]),
        file(b".wh.a", b""),
        file(b"d/.wh..wh..opq", b""),
    ];
    let mut gnu = ::tar::Builder::new(Vec::new());
    let mut header = ::tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o644);
    gnu.append_data(&mut header, std::str::from_utf8(&long).unwrap(), &b"gnu"[..]).unwrap();
    vec![
        [plain.concat(), vec![0; 1024]].concat(),
        [special.concat(), vec![0; 1024]].concat(),
        gnu.into_inner().unwrap(),
        [plain.concat(), special.concat()].concat(),
        Vec::new(),
    ]
}

fn chains() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for seed in 0..12 {
        let mut parts = vec![noise(seed)];
        for text in ["a", "5", "1.5", "1", "0,5", "long/name", "4096", "10\n", "x=y\n"] {
            parts.push(text.as_bytes().to_vec());
        }
        seeds.push(join(&parts));
    }
    seeds
}

fn layer(tar: &[u8], compression: Compression) -> (StoredIndex, Vec<u8>) {
    let blob = compressed(compression, tar);
    let indexed = index(&blob, compression, expected(tar, &blob), Verify::Full, None).unwrap();
    (StoredIndex::from_pass(indexed).unwrap(), blob)
}

fn written(index: &LayerIndex) -> Vec<u8> {
    let mut bytes = Vec::new();
    index.write_to(&mut bytes).unwrap();
    bytes
}

fn indexes() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (tar, compression) in tars().iter().zip(ALL.into_iter().cycle()).take(4) {
        let (found, blob) = layer(tar, compression);
        let mut parts = take_apart(
            &written(&found.index),
            table::HEADER_BYTES,
            table::LENGTHS_AT,
            table::RECORD_BYTES.len(),
        );
        parts.extend([crate::read_at::read_to_vec(&*found.windows).unwrap(), blob, Vec::new()]);
        seeds.push(join(&parts));
    }
    seeds
}

fn trees() -> Vec<Vec<u8>> {
    let tars = tars();
    let layers: Vec<Arc<LayerIndex>> =
        tars.iter().map(|tar| layer(tar, Compression::Plain).0.index).collect();
    let stacks = [&layers[..1], &layers[1..2], &layers[..2], &layers[..]];
    let write = |stack: &[Arc<LayerIndex>]| {
        let mut bytes = Vec::new();
        merge(stack.to_vec(), &MergeOptions::default()).unwrap().write_to(&mut bytes).unwrap();
        join(&take_apart(&bytes, stored::HEADER_BYTES, stored::LENGTHS_AT, stored::RECORD_BYTES.len()))
    };
    stacks.into_iter().map(write).collect()
}

fn documents() -> Vec<Vec<u8>> {
    let digest = format!("sha256:{}", "0a".repeat(32));
    let descriptor = json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": 5,
        "annotations": {"org.opencontainers.image.ref.name": "a"}, "data": "aGVsbG8=", "urls": ["https://a/b"],
        "platform": {"os": "linux", "architecture": "arm", "variant": "v7", "os.version": "1"}});
    let config = json!({"os": "linux", "architecture": "amd64", "created": "2026-01-01T00:00:00Z", "author": "a",
        "config": {"Env": ["A=1"], "Cmd": ["a"], "Labels": {"a": "b", "A": "c"}},
        "rootfs": {"type": "layers", "diff_ids": [digest]},
        "history": [{"created_by": "RUN a", "empty_layer": true}, {"created_by": "RUN b", "comment": "c"}]});
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor, "layers": [descriptor], "artifactType": "a/b", "subject": descriptor});
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [descriptor, descriptor], "annotations": {"a": "b"}});
    let docker = json!([{"Config": "a.json", "RepoTags": ["a:1", "b:2"], "Layers": ["0.tar", "1.tar"],
        "LayerSources": {"a": descriptor}}]);
    [config, manifest, index, docker].map(|value| value.to_string().into_bytes()).to_vec()
}

/// The first byte selects what is tested.
const NAMES: [&[u8]; 16] = [
    b"\0docker-archive:a.tar:name:1",
    b"\0oci:dir@2",
    b"\0containers-storage:[overlay@/a]name",
    b"\0docker://example.com:5000/a/b:1@sha256:00",
    b"\0containerd:@c0ffee",
    b"\0-",
    b"\x80a.tar:b:/etc",
    b"\x01a/**/*.[!a-c]?\0a/b/x.d1",
    b"\x01*\\*[\0a*[",
    b"\x01**/a\0x/y/a",
    b"\x02a/../b/./c//\x1b[0m",
    b"\x02caf\xe9\\x\xe2\x80\xae",
    b"\x03sha256:0000000000000000000000000000000000000000000000000000000000000000",
    b"\x03linux/arm64/v8",
    b"\x03windows(10.0.1)/amd64",
    b"\x03linux",
];

fn streams() -> Vec<Vec<u8>> {
    let text = b"line of a file\n".repeat(200);
    let mut seeds = Vec::new();
    for compression in 0..4_u8 {
        for soft in [100_u16, 3000] {
            let choices =
                |is_data: u8| [&[compression, is_data][..], &soft.to_le_bytes(), &noise(3)[..40]].concat();
            seeds.push(join(&[choices(1), text.clone(), noise(1), vec![0; 2000]]));
            let kind = [Compression::Gzip, Compression::Zstd, Compression::Xz, Compression::Bzip2]
                [usize::from(compression)];
            seeds.push(join(&[
                choices(0),
                compressed(kind, &text),
                compressed(kind, b"2"),
                b"junk".to_vec(),
            ]));
        }
    }
    seeds
}

fn images() -> Vec<Vec<u8>> {
    let tars = tars();
    let mut seeds: Vec<_> = (0..8)
        .map(|seed| {
            let mut choices = noise(seed);
            choices.truncate(12);
            // Not the raw archive.
            choices[0] &= 0xfc;
            join(&[&choices, &tars[0], &tars[1], &tars[2]])
        })
        .collect();
    seeds.push(join(&[&[3_u8][..], &tars[0]]));
    seeds
}
