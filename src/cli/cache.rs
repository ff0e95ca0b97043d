//! `imgmount cache`: lists and removes entries of the cache directory.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::args::cache_directory;
use super::commands::{Command, Example};
use super::options::{parse_bytes, parse_duration};
use super::output::{json_line, long_iso, rfc3339, stdout};
use imgmount::{Allowance, Store, StoredLayer, Timestamp};

/// List and remove layer indexes and downloads in the cache directory
///
/// Running mounts are not disturbed. If the index of a layer was removed, the next mount reads the whole layer
/// again. If a downloaded layer was removed, the next mount downloads the bytes that it needs again.
#[derive(Debug, Args)]
pub(crate) struct CacheArgs {
    #[command(subcommand)]
    command: CacheCommand,
}

#[derive(Debug, Subcommand)]
enum CacheCommand {
    /// Print the cache directory
    Path,
    /// List cache entries, most recently used first
    ///
    /// Prints one line per layer: the time of last use (UTC), bytes on disk, compression, number of tar
    /// entries, and diff_id. Other entries are listed by file name: archives that are compressed as a
    /// whole, merged trees, indexes that are damaged or of another version, and data from
    /// registries: layers (blobs/), manifests and configs (docs/), digests of tags (refs/),
    /// and how hosts authenticate users (hosts/).
    Ls(LsArgs),
    /// Remove old entries, or shrink the cache to a size
    Prune(PruneArgs),
    /// Remove all entries
    Clear,
}

#[derive(Debug, Args)]
struct LsArgs {
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[group(id = "allowance", required = true, multiple = true)]
struct PruneArgs {
    /// Remove entries not used for this period, such as 12h or 30d
    #[arg(long, value_name = "DUR", value_parser = parse_duration, group = "allowance")]
    older_than: Option<Duration>,
    /// Remove the least recently used entries until at most BYTES remain; suffix K, M, G or T
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, group = "allowance")]
    max_size: Option<u64>,
}

#[derive(Debug, Serialize)]
struct JsonLayer<'a> {
    name: &'a str,
    size: u64,
    index_size: u64,
    copy_size: u64,
    kept_size: u64,
    last_used: String,
    diff_id: Option<String>,
    digest: Option<String>,
    compression: Option<&'static str>,
    blob_size: Option<u64>,
    complete: Option<bool>,
    tar_size: Option<u64>,
    entries: Option<u32>,
}

impl Command for CacheArgs {
    const NAME: &'static str = "cache";
    const EXAMPLES: &'static [Example] = &[
        ("imgmount cache ls", "List cache entries:"),
        ("du -sh \"$(imgmount cache path)\"", "Print the size of the cache directory:"),
        ("imgmount cache ls --json | jq -s 'map(.size) | add'", "Add up the sizes of all entries, in bytes:"),
        (
            "imgmount cache prune --older-than 30d --max-size 2G",
            "Limit age and size, for example once a day:",
        ),
        ("imgmount cache clear", "Remove all entries:"),
    ];

    fn run(self) -> Result<ExitCode> {
        run(&self)
    }
}

fn run(args: &CacheArgs) -> Result<ExitCode> {
    let directory = cache_directory()?;
    let mut out = stdout();
    match &args.command {
        CacheCommand::Path => {
            // The path is for scripts, so its bytes are printed without escaping.
            out.write_all(directory.as_os_str().as_bytes())?;
            out.write_all(b"\n")?;
        }
        CacheCommand::Ls(args) => {
            let layers = Store::existing(&directory)?.map_or(Ok(Vec::new()), |store| store.list())?;
            list(&layers, args.json, &mut out)?;
        }
        CacheCommand::Prune(args) => {
            let allowance = Allowance::default().unused_for(args.older_than).total_bytes(args.max_size);
            let prune = |store: Store| store.prune(&allowance, SystemTime::now());
            report(&Store::existing(&directory)?.map_or(Ok(Vec::new()), prune)?, &mut out)?;
        }
        CacheCommand::Clear => {
            let clear = |store: Store| store.clear();
            report(&Store::existing(&directory)?.map_or(Ok(Vec::new()), clear)?, &mut out)?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn list(layers: &[StoredLayer], json: bool, out: &mut impl Write) -> Result<()> {
    if json {
        for layer in layers {
            json_line(out, &json_layer(layer))?;
        }
        return Ok(());
    }
    let rows: Vec<[String; 5]> = layers.iter().map(row).collect();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max();
    let (w_bytes, w_entries) = (width(1).unwrap_or(0), width(3).unwrap_or(0));
    for [time, bytes, compression, entries, name] in &rows {
        writeln!(out, "{time}  {bytes:>w_bytes$}  {compression:<5}  {entries:>w_entries$}  {name}")?;
    }
    Ok(())
}

fn row(layer: &StoredLayer) -> [String; 5] {
    let (compression, entries, diff_id) = match &layer.facts {
        Some((facts, entries)) => (facts.compression.name(), entries.to_string(), facts.diff_id),
        None => ("-", "-".to_owned(), None),
    };
    let name = diff_id.map_or_else(|| layer.name.clone(), |diff_id| diff_id.to_string());
    let time = long_iso(timestamp(layer.last_used));
    [time, layer.bytes().to_string(), compression.to_owned(), entries, name]
}

fn json_layer(layer: &StoredLayer) -> JsonLayer<'_> {
    let facts = layer.facts.as_ref().map(|(facts, _)| facts);
    JsonLayer {
        name: &layer.name,
        size: layer.bytes(),
        index_size: layer.index_bytes,
        copy_size: layer.copy_bytes,
        kept_size: layer.blob.as_ref().map_or(0, |blob| blob.kept_bytes),
        last_used: rfc3339(timestamp(layer.last_used)),
        diff_id: facts.and_then(|facts| facts.diff_id).map(|digest| digest.to_string()),
        digest: facts
            .and_then(|facts| facts.blob_digest)
            .or(layer.blob.as_ref().map(|blob| blob.digest))
            .map(|digest| digest.to_string()),
        compression: facts.map(|facts| facts.compression.name()),
        blob_size: facts.map(|facts| facts.blob_bytes).or(layer.blob.as_ref().map(|blob| blob.blob_bytes)),
        complete: layer.blob.as_ref().map(|blob| blob.is_whole),
        tar_size: facts.map(|facts| facts.tar_bytes),
        entries: layer.facts.as_ref().map(|(_, entries)| *entries),
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: since.as_secs(), nanos: since.subsec_nanos() }
}

fn report(removed: &[StoredLayer], out: &mut impl Write) -> Result<()> {
    let bytes: u64 = removed.iter().map(StoredLayer::bytes).sum();
    Ok(writeln!(out, "entries removed: {}, bytes: {bytes}", removed.len())?)
}
