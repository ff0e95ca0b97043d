//! Makes images that no distribution makes: a million files, hundreds of layers, one huge file.

use std::io::{self, Read};
use std::path::Path;

use anyhow::Result;
use tar::{EntryType, Header};

use super::data::Data;
use super::layout::{self, LayerTar};
use super::random::Random;

/// Time of all members, in seconds since 1970.
const MTIME: u64 = 1_700_000_000;
/// Maximum length of a small file, in bytes; the minimum is 1.
const SMALL_LEN: usize = 1500;
const FILES_A_DIRECTORY: usize = 100;
/// Length of the pool that small files are cut from, in bytes.
const POOL_LEN: usize = 4 << 20;
/// Length of the pieces in which a huge file is written, in bytes.
const CHUNK_LEN: usize = 1 << 20;
/// A sparse file has one chunk of data in this many chunks.
const HOLES: u64 = 128;

/// Makes one layer of `count` small files, 100 in each directory.
pub(crate) fn many_files(dir: &Path, count: usize) -> Result<()> {
    layered_files(dir, 1, count)
}

/// Makes layers of `each` small files. In every layer but the first, a tenth of the files replace files
/// of the layer below, and one in a hundred of the files there is hidden.
pub(crate) fn layered_files(dir: &Path, layers: usize, each: usize) -> Result<()> {
    let mut files = Files::new();
    layout::write(dir, layers, |layer, tar| {
        let (hidden, replaced) = if layer == 0 { (0, 0) } else { (each / 100, each / 10) };
        for number in 0..each {
            // Counted from the end, where the layer below has its own files.
            let below = each - 1 - number;
            if number < replaced {
                files.append(tar, layer - 1, below)?;
            } else if number < replaced + hidden {
                let path = path_of(layer - 1, below);
                let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
                append(tar, &format!("{parent}/.wh.{name}"), 0, io::empty())?;
            } else {
                files.append(tar, layer, number)?;
            }
        }
        Ok(())
    })
}

/// Makes one layer with one file of so many MiB that compress as files do.
pub(crate) fn dense_file(dir: &Path, mebibytes: u64) -> Result<()> {
    layout::write(dir, 1, |_, tar| {
        let content = Chunks { data: Data::new(1), chunk: Vec::new(), at: 0 };
        append(tar, "srv/dense", mebibytes << 20, content.take(mebibytes << 20))
    })
}

/// Makes one layer with one file of so many MiB, nearly all of it holes, as GNU tar stores it in PAX
/// format 1.0: a map of the data in decimal, then the data.
pub(crate) fn sparse_file(dir: &Path, mebibytes: u64) -> Result<()> {
    let chunk_len = CHUNK_LEN as u64;
    let data: Vec<u64> =
        (0..mebibytes).step_by(usize::try_from(HOLES)?).map(|chunk| chunk * chunk_len).collect();
    let mut map = format!("{}\n", data.len() + 1);
    for offset in &data {
        map.push_str(&format!("{offset}\n{chunk_len}\n"));
    }
    // An empty run at the end gives the length of the file.
    map.push_str(&format!("{}\n0\n", mebibytes << 20));
    let map_len = map.len().next_multiple_of(512);
    map.extend(std::iter::repeat_n('\0', map_len - map.len()));
    let data_len = data.len() as u64 * chunk_len;
    layout::write(dir, 1, |_, tar| {
        let len = (mebibytes << 20).to_string();
        let records = [
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.name", "srv/sparse"),
            ("GNU.sparse.realsize", len.as_str()),
        ];
        tar.append_pax_extensions(records.map(|(name, value)| (name, value.as_bytes())))?;
        let content = Chunks { data: Data::new(2), chunk: Vec::new(), at: 0 };
        let stored = map.as_bytes().chain(content.take(data_len));
        append(tar, "srv/GNUSparseFile.0/sparse", map_len as u64 + data_len, stored)
    })
}

/// Small files, cut from a pool.
struct Files {
    pool: Vec<u8>,
    random: Random,
}

impl Files {
    fn new() -> Self {
        let mut pool = Vec::new();
        Data::new(3).fill(&mut pool, POOL_LEN);
        Files { pool, random: Random::new(4) }
    }

    fn append(&mut self, tar: &mut LayerTar, layer: usize, number: usize) -> Result<()> {
        let start = self.random.index(POOL_LEN - SMALL_LEN);
        let len = 1 + self.random.index(SMALL_LEN);
        append(tar, &path_of(layer, number), len as u64, &self.pool[start..start + len])
    }
}

/// An endless sequence of data in chunks.
struct Chunks {
    data: Data,
    chunk: Vec<u8>,
    at: usize,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            self.data.fill(&mut self.chunk, CHUNK_LEN);
            self.at = 0;
        }
        let len = (&self.chunk[self.at..]).read(buffer)?;
        self.at += len;
        Ok(len)
    }
}

fn path_of(layer: usize, number: usize) -> String {
    let directory = number / FILES_A_DIRECTORY;
    format!("usr/share/layer-{layer:03}/package-{directory:05}/module-{number:07}.txt")
}

fn append(tar: &mut LayerTar, path: &str, len: u64, content: impl Read) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_mtime(MTIME);
    header.set_size(len);
    tar.append_data(&mut header, path, content)?;
    Ok(())
}
