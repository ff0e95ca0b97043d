//! Hostile images of at most 10 MB: each asks for as much as it can of one thing.

use serde_json::{Value, json};

use super::layer::{LayerWriter, Made, Packing, archive, archive_items, header, pack};
use crate::fixture::{Image, Item, file, oci, sha256_hex, tar};

/// The largest image, in bytes.
pub(super) const MAX_BYTES: usize = 10_000_000;
/// The length of layers that are filled up to the largest image, in compressed bytes: what an encoder still
/// holds, and the archive around the layer, need the rest.
const FULL: usize = 9_600_000;

/// An image that asks for as much as possible of one thing.
pub(super) struct Hostile {
    pub(super) name: &'static str,
    /// What the image has too much of.
    pub(super) about: &'static str,
    /// Writes the image file.
    pub(super) make: fn() -> Vec<u8>,
}

macro_rules! hostile {
    ($($make:ident: $about:literal;)*) => {
        pub(super) const ALL: &[Hostile] = &[
            $(Hostile { name: stringify!($make), about: $about, make: $make },)*
        ];
    };
}

hostile! {
    same_name: "16 Mi entries of one name";
    many_names: "entries with names of their own in one directory";
    many_directories: "directories with names of their own in one directory";
    long_paths: "entries with paths of 4,000 bytes";
    implied: "names of 4,095 bytes that imply 2,047 directories, in 100 layers";
    deep: "one directory in another, 2,000 deep, with files at every depth";
    whiteouts: "two layers, the second deletes names that the first does not have";
    replaced: "a layer whose 200,000 directories replace files, and the reverse";
    links_to_one: "hard links to one file";
    link_chain: "a chain of hard links";
    symlink_chains: "entries below chains of symbolic links";
    xattrs: "extended attributes of 64 KiB for every entry";
    xattr_names: "1 MiB of short extended attributes for every entry";
    sparse_runs: "a sparse file of 1 Mi runs, and 2,000 hard links to it";
    sparse_files: "100,000 sparse files with 1,000 runs each";
    huge_holes: "sparse files of 8 EiB";
    layers_4096: "4,096 layers of one file";
    layers_of_names: "127 layers that replace the same names";
    gzip_layer: "a layer of zeros in gzip";
    zstd_layer: "a layer of zeros in zstd";
    bzip2_layer: "a layer of zeros in bzip2";
    xz_layer: "a layer of zeros in xz";
    zstd_rle: "a layer of zeros in zstd blocks of four bytes";
    gzip_archive: "zeros in an archive that is compressed with gzip";
    bzip2_archive: "zeros in an archive that is compressed with bzip2";
    headers_archive: "members in an archive that is compressed with zstd";
    zstd_windows: "eight layers with windows of 128 MiB";
    xz_dictionaries: "eight layers with dictionaries of 256 MiB";
    parked: "64 layers with large files in gzip, read in turn";
    members: "members of an archive with names of their own";
    member_names: "members of an archive with names of 1 MiB";
    config_path: "a config name of 1 MiB with 524,288 directories";
    manifest_values: "a manifest.json of 10 MB";
    index_manifests: "an image index of manifests without a platform";
    nested_indexes: "image indexes in image indexes";
    history_steps: "a config with as many steps of history as it can hold";
    labels: "a config with as many labels as it can hold";
    texts: "two layers with different text files";
}

fn layer(packing: Packing, write: impl FnOnce(&mut LayerWriter)) -> Made {
    let mut layer = LayerWriter::new(packing);
    write(&mut layer);
    layer.finish()
}

fn one(packing: Packing, write: impl FnOnce(&mut LayerWriter)) -> Vec<u8> {
    archive(&[layer(packing, write)])
}

/// Calls `write` with ascending numbers until the layer is full.
fn fill(layer: &mut LayerWriter, mut write: impl FnMut(&mut LayerWriter, u64)) {
    let mut number = 0;
    while layer.stored_bytes() < FULL {
        write(layer, number);
        number += 1;
    }
}

fn same_name() -> Vec<u8> {
    let mut block = header(b"a", b'0');
    block.set_cksum();
    let blocks = block.as_bytes().repeat(4096);
    one(Packing::Zstd, |layer| {
        for _ in 0..(16 << 20) / 4096 - 1 {
            layer.bytes(&blocks);
        }
    })
}

fn many_names() -> Vec<u8> {
    one(Packing::Zstd, |layer| fill(layer, |layer, n| layer.empty(format!("{n:x}").as_bytes(), b'0')))
}

fn many_directories() -> Vec<u8> {
    one(Packing::Zstd, |layer| fill(layer, |layer, n| layer.empty(format!("{n:x}").as_bytes(), b'5')))
}

fn long_paths() -> Vec<u8> {
    let parent = vec!["d".repeat(200); 19].join("/");
    one(Packing::Zstd, |layer| {
        fill(layer, |layer, n| {
            let path = format!("{parent}/{n:0>90x}");
            layer.pax(&[("path", path.as_bytes())]);
            layer.empty(b"a", b'0');
        });
    })
}

fn implied() -> Vec<u8> {
    let layers: Vec<_> = (0..100)
        .map(|at| {
            layer(Packing::Gzip, |layer| {
                for n in 0..4000 {
                    let path = format!("{at:02x}{n:03x}{}", "/a".repeat(2045));
                    layer.pax(&[("path", path.as_bytes())]);
                    layer.empty(b"a", b'0');
                    if layer.stored_bytes() > FULL / 130 {
                        break;
                    }
                }
            })
        })
        .collect();
    archive(&layers)
}

fn deep() -> Vec<u8> {
    one(Packing::Zstd, |layer| {
        for depth in 1..2000 {
            for n in 0..100 {
                let path = format!("{}{n}", "d/".repeat(depth));
                layer.pax(&[("path", path.as_bytes())]);
                layer.empty(b"a", b'0');
            }
        }
    })
}

fn whiteouts() -> Vec<u8> {
    let lower = layer(Packing::Zstd, |layer| layer.empty(b"a", b'0'));
    let upper = layer(Packing::Zstd, |layer| {
        fill(layer, |layer, n| layer.empty(format!(".wh.{n:x}").as_bytes(), b'0'));
    });
    archive(&[lower, upper])
}

fn replaced() -> Vec<u8> {
    let of = |even: u8, odd: u8| {
        layer(Packing::Zstd, |layer| {
            for n in 0..200_000 {
                layer.empty(format!("{n:x}").as_bytes(), if n % 2 == 0 { even } else { odd });
            }
        })
    };
    archive(&[of(b'0', b'5'), of(b'5', b'0')])
}

fn links_to_one() -> Vec<u8> {
    one(Packing::Zstd, |layer| {
        layer.file(b"file", b"content");
        fill(layer, |layer, n| layer.link(format!("{n:x}").as_bytes(), b'1', b"file"));
    })
}

fn link_chain() -> Vec<u8> {
    one(Packing::Zstd, |layer| {
        layer.file(b"0", b"content");
        fill(layer, |layer, n| {
            layer.link(format!("{:x}", n + 1).as_bytes(), b'1', format!("{n:x}").as_bytes());
        });
    })
}

fn symlink_chains() -> Vec<u8> {
    let lower = layer(Packing::Zstd, |layer| {
        layer.empty(b"d", b'5');
        for n in 0..40_000 {
            let target = if n % 250 == 0 { "d".to_owned() } else { format!("l{}", n - 1) };
            layer.link(format!("l{n}").as_bytes(), b'2', target.as_bytes());
        }
    });
    let upper = layer(Packing::Zstd, |layer| {
        for n in 0..200_000 {
            layer.link(format!("h{n}").as_bytes(), b'1', format!("l{}/x", n % 160 * 250 + 249).as_bytes());
        }
    });
    archive(&[lower, upper])
}

fn xattrs() -> Vec<u8> {
    let value = vec![b'x'; 60_000];
    one(Packing::Gzip, |layer| {
        fill(layer, |layer, n| {
            layer.pax(&[("SCHILY.xattr.user.a", &value)]);
            layer.empty(format!("{n:x}").as_bytes(), b'0');
        });
    })
}

fn xattr_names() -> Vec<u8> {
    let names: Vec<_> = (0..30_000).map(|n| format!("SCHILY.xattr.user.{n:04x}")).collect();
    let records: Vec<_> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
    one(Packing::Zstd, |layer| {
        for n in 0..900 {
            layer.pax(&records);
            layer.empty(format!("{n:x}").as_bytes(), b'0');
        }
    })
}

/// Returns the payload of a file with `runs` runs of one byte each.
fn sparse_payload(runs: u64, between: u64) -> Vec<u8> {
    use std::fmt::Write as _;
    let mut payload = format!("{runs}\n");
    for run in 0..runs {
        writeln!(payload, "{}\n1", run * between).unwrap();
    }
    let mut payload = payload.into_bytes();
    payload.resize(payload.len().next_multiple_of(512), 0);
    payload.resize(payload.len() + usize::try_from(runs).unwrap(), b'x');
    payload
}

/// Writes a sparse file of `size` bytes.
fn sparse_file(layer: &mut LayerWriter, name: &[u8], size: u64, payload: &[u8]) {
    layer.pax(&[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", name),
        ("GNU.sparse.realsize", size.to_string().as_bytes()),
    ]);
    layer.file(b"s", payload);
}

fn sparse_runs() -> Vec<u8> {
    let payload = sparse_payload(1 << 20, 2);
    one(Packing::Zstd, |layer| {
        sparse_file(layer, b"sparse", 2 << 20, &payload);
        for n in 0..2000 {
            layer.link(format!("{n:x}").as_bytes(), b'1', b"sparse");
        }
    })
}

fn sparse_files() -> Vec<u8> {
    let payload = sparse_payload(1000, 2);
    one(Packing::Zstd, |layer| {
        for n in 0..100_000 {
            sparse_file(layer, format!("{n:x}").as_bytes(), 2000, &payload);
        }
    })
}

fn huge_holes() -> Vec<u8> {
    let payload = sparse_payload(1, 1);
    one(Packing::Gzip, |layer| {
        for n in 0..1000 {
            sparse_file(layer, format!("{n:x}").as_bytes(), i64::MAX.unsigned_abs(), &payload);
        }
    })
}

fn layers_4096() -> Vec<u8> {
    let made: Vec<_> = (0..4096)
        .map(|at| layer(Packing::Gzip, |layer| layer.file(format!("{at}").as_bytes(), b"content")))
        .collect();
    archive(&made)
}

fn layers_of_names() -> Vec<u8> {
    let made: Vec<_> = (0..127)
        .map(|at| {
            layer(Packing::Zstd, |layer| {
                for n in 0..12_000 {
                    if layer.stored_bytes() > FULL / 127 {
                        break;
                    }
                    layer.file(format!("{n:x}").as_bytes(), &[at]);
                }
            })
        })
        .collect();
    archive(&made)
}

/// A layer with one file of zeros that fills the image.
fn zeros(packing: Packing, bytes: u64) -> Vec<u8> {
    one(packing, |layer| {
        layer.file_of(b"zeros", bytes);
        layer.zeros(bytes);
    })
}

fn gzip_layer() -> Vec<u8> {
    zeros(Packing::Gzip, 9 << 30)
}

fn zstd_layer() -> Vec<u8> {
    zeros(Packing::Zstd, 16 << 30)
}

fn xz_layer() -> Vec<u8> {
    zeros(Packing::Xz(8), 8 << 30)
}

fn bzip2_layer() -> Vec<u8> {
    zeros(Packing::Bzip2, 4 << 30)
}

/// Returns a layer of one huge file, whose stream is written by hand: its digests are not known.
fn zstd_rle() -> Vec<u8> {
    let mut head = header(b"zeros", b'0');
    head.set_size(64 << 30);
    head.set_cksum();
    // A frame with a window of 128 KiB and no checksum: one raw block, then RLE blocks of 128 KiB.
    let mut blob = vec![0x28, 0xB5, 0x2F, 0xFD, 0x00, 0x38];
    let block = |last: u32, kind: u32, len: u32| (last | kind << 1 | len << 3).to_le_bytes();
    blob.extend(&block(0, 0, 512)[..3]);
    blob.extend(head.as_bytes());
    for _ in 0..(64_u64 << 30 >> 17) {
        blob.extend(&block(0, 1, 128 << 10)[..3]);
        blob.push(0);
    }
    blob.extend(&block(1, 0, 0)[..3]);
    archive(&[Made { diff_id: format!("sha256:{}", "0".repeat(64)), blob }])
}

fn archive_of_zeros(packing: Packing, bytes: u64) -> Vec<u8> {
    let items = archive_items(&[layer(Packing::Gzip, |layer| layer.empty(b"a", b'0'))], &json!({}));
    let archive = tar(&items);
    pack(packing, |out| {
        let mut head = header(b"zeros", b'0');
        head.set_size(bytes);
        head.set_cksum();
        out.write_all(head.as_bytes())?;
        let piece = vec![0; 1 << 20];
        for _ in 0..bytes >> 20 {
            out.write_all(&piece)?;
        }
        out.write_all(&archive)
    })
}

fn gzip_archive() -> Vec<u8> {
    archive_of_zeros(Packing::Gzip, 9 << 30)
}

fn bzip2_archive() -> Vec<u8> {
    archive_of_zeros(Packing::Bzip2, 4 << 30)
}

fn headers_archive() -> Vec<u8> {
    let items = archive_items(&[layer(Packing::Gzip, |layer| layer.empty(b"a", b'0'))], &json!({}));
    let archive = tar(&items);
    pack(Packing::Zstd, |out| {
        for n in 0..1_000_000 {
            let mut head = header(format!("{n:x}").as_bytes(), b'0');
            head.set_cksum();
            out.write_all(head.as_bytes())?;
        }
        out.write_all(&archive)
    })
}

/// Returns layers with a file of 300 MB that differs at its beginning.
fn wide(packing: Packing, layers: u8, bytes: u64) -> Vec<u8> {
    let made: Vec<_> = (0..layers)
        .map(|at| {
            layer(packing, |layer| {
                layer.file(format!("first{at}").as_bytes(), &[at]);
                layer.file_of(format!("zeros{at}").as_bytes(), bytes);
                layer.zeros(bytes);
            })
        })
        .collect();
    archive(&made)
}

fn zstd_windows() -> Vec<u8> {
    wide(Packing::ZstdLong, 8, 300 << 20)
}

fn xz_dictionaries() -> Vec<u8> {
    wide(Packing::Xz(256), 8, 300 << 20)
}

fn parked() -> Vec<u8> {
    wide(Packing::Gzip, 64, 100 << 20)
}

fn simple() -> Vec<Item> {
    archive_items(&[layer(Packing::Gzip, |layer| layer.empty(b"a", b'0'))], &json!({}))
}

fn members() -> Vec<u8> {
    let mut items: Vec<_> = (0..18_000).map(|n| file(format!("{n:x}"), b"")).collect();
    items.extend(simple());
    tar(&items)
}

fn member_names() -> Vec<u8> {
    let archive = tar(&simple());
    pack(Packing::Gzip, |out| {
        for n in 0..900 {
            let path = format!("{}{n:03}", "a".repeat(999_997));
            let record = format!("1000014 path={path}\n");
            let mut head = header(b"pax", b'x');
            head.set_size(record.len() as u64);
            head.set_cksum();
            out.write_all(head.as_bytes())?;
            out.write_all(record.as_bytes())?;
            out.write_all(&vec![0; record.len().next_multiple_of(512) - record.len()])?;
            let mut head = header(b"a", b'0');
            head.set_cksum();
            out.write_all(head.as_bytes())?;
        }
        out.write_all(&archive)
    })
}

fn config_path() -> Vec<u8> {
    let manifest = json!([{"Config": "a/".repeat(524_288), "RepoTags": ["a:1"], "Layers": []}]);
    tar(&[file("manifest.json", manifest.to_string())])
}

fn manifest_values() -> Vec<u8> {
    let layers = vec!["0.tar"; 520_000];
    let manifest = json!([{"Config": "c.json", "RepoTags": ["a:1"], "Layers": layers}]);
    let config =
        json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}});
    tar(&[
        file("manifest.json", manifest.to_string()),
        file("c.json", config.to_string()),
        file("0.tar", [0; 1024]),
    ])
}

/// Returns an OCI layout with these documents as blobs, and `top` in its index.json.
fn layout(documents: &[Vec<u8>], top: &[Value]) -> Vec<u8> {
    let mut items = vec![
        file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#),
        file("index.json", json!({"schemaVersion": 2, "manifests": top}).to_string()),
    ];
    items.extend(documents.iter().map(|bytes| file(format!("blobs/sha256/{}", sha256_hex(bytes)), bytes)));
    tar(&items)
}

fn described(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": format!("application/vnd.oci.image.{media_type}.v1+json"),
        "digest": format!("sha256:{}", sha256_hex(bytes)), "size": bytes.len()})
}

fn index_manifests() -> Vec<u8> {
    // Each manifest has a large annotation, so that reading it is work.
    let config =
        json!({"architecture": "other", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}});
    let config = config.to_string().into_bytes();
    let mut documents = vec![config.clone()];
    let mut listed = Vec::new();
    for n in 0..4500 {
        let manifest = json!({"schemaVersion": 2, "config": described("config", &config), "layers": [],
            "annotations": {"n": n.to_string()}});
        let manifest = manifest.to_string().into_bytes();
        listed.push(described("manifest", &manifest));
        documents.push(manifest);
    }
    let index = json!({"schemaVersion": 2, "manifests": listed}).to_string().into_bytes();
    let top = described("index", &index);
    documents.push(index);
    layout(&documents, &[top])
}

fn nested_indexes() -> Vec<u8> {
    let image = Image::named("a:1").layer("COPY", &[file("a", b"1")]);
    let manifest = image.manifest_descriptor();
    let mut documents = Vec::new();
    let mut tops = Vec::new();
    for n in 0..20 {
        let missing = |at: u64| {
            let digest = sha256_hex(format!("{n} {at}").as_bytes());
            json!({"mediaType": "application/vnd.oci.image.index.v1+json", "size": 9,
                "digest": format!("sha256:{digest}")})
        };
        let mut listed: Vec<_> = (0..2500).map(missing).collect();
        listed.push(manifest.clone());
        let index = json!({"schemaVersion": 2, "manifests": listed}).to_string().into_bytes();
        tops.push(described("index", &index));
        documents.push(index);
    }
    let top = json!({"schemaVersion": 2, "manifests": tops}).to_string().into_bytes();
    let described_top = described("index", &top);
    documents.push(top);
    let mut items = oci(&[image]);
    items.retain(|item| item.name != b"index.json");
    let index = json!({"schemaVersion": 2, "manifests": [described_top]});
    items.push(file("index.json", index.to_string()));
    items.extend(documents.iter().map(|bytes| file(format!("blobs/sha256/{}", sha256_hex(bytes)), bytes)));
    tar(&items)
}

/// Returns an image whose config has `more` fields.
fn with_config(more: &Value) -> Vec<u8> {
    tar(&archive_items(&[layer(Packing::Gzip, |layer| layer.empty(b"a", b'0'))], more))
}

fn history_steps() -> Vec<u8> {
    let steps: Vec<_> = (0..130_000).map(|_| json!({"empty_layer": true})).collect();
    with_config(&json!({"history": steps}))
}

fn labels() -> Vec<u8> {
    let labels: serde_json::Map<_, _> = (0..250_000).map(|n| (format!("{n:x}"), json!(""))).collect();
    with_config(&json!({"config": {"Labels": labels}}))
}

fn texts() -> Vec<u8> {
    // Lines in another order: the search for the shortest difference takes as long as it may.
    let of = |step: u64| {
        layer(Packing::Zstd, |layer| {
            for n in 0..200 {
                let lines: String =
                    (0..20_000_u64).map(|line| format!("{:x}\n", (line * step + n) % 20_011)).collect();
                layer.file(format!("{n:x}").as_bytes(), lines.as_bytes());
            }
        })
    };
    archive(&[of(1), of(7919)])
}
