//! `imgmount images`: lists the images and containers of a place, or of all engines on this host.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use super::args::{SelectArgs, environment, image_value, open_store};
use super::commands::{Command, Example};
use super::output::{json_line, json_name, stdout};
use super::places::Place;
use super::progress::Bars;
use imgmount::{
    Engine, Environment, Error, ImageDetails, ImageKind, ImageSummary, Platform, Progress, Reference,
    Selection, Source, Transport, Verify, escape, escape_path,
};

/// List images and containers
///
/// Without SOURCE, lists the images and containers in the default locations of Docker, podman, containerd and
/// the storage of a registry on this host. A store that cannot be read is named on standard error. If SOURCE selects by name
/// or ID, as in PATH:NAME, only the images that match are listed. The last column is a reference for other
/// commands. Sizes are in bytes: the size that the engine states, or else the sum of the stored layers.
/// For docker://NAME without a tag or digest, the tags of the repository are listed.
#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    /// Archive, layout, store or engine: [TRANSPORT:]PATH, docker-daemon:, docker://NAME, or - for standard input
    #[arg(value_name = "SOURCE", value_parser = image_value())]
    source: Option<OsString>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    select: SelectArgs,
}

impl Command for ImagesArgs {
    const NAME: &'static str = "images";
    const EXAMPLES: &'static [Example] = &[
        ("imgmount images images.tar", "List the images of an archive:"),
        ("sudo imgmount images", "List the images and containers of all engines on this host:"),
        ("imgmount images /mnt/disk/var/lib/docker", "List those on the disk of another host:"),
        (
            "imgmount images --json docker-graph: | jq -r 'select(.kind == \"container\") | .source'",
            "Print references to all containers of Docker:",
        ),
    ];

    fn run(self) -> Result<ExitCode> {
        run(&self)
    }
}

/// One image or container, in JSON.
#[derive(Debug, Serialize)]
struct JsonImage {
    names: Vec<String>,
    id: Option<String>,
    platform: Option<String>,
    size: Option<u64>,
    created: Option<String>,
    layers: Option<usize>,
    kind: &'static str,
    source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_b64: Option<String>,
}

/// Opens sources, and describes their images.
struct Lister {
    engine: Engine,
    /// Describes images whose digests cannot be checked.
    unchecked: Engine,
    platform: Option<Platform>,
}

fn run(args: &ImagesArgs) -> Result<ExitCode> {
    let platform = args.select.platform.as_deref().map(str::parse).transpose()?;
    let options = || {
        let bars = std::sync::Arc::new(Bars::default()) as std::sync::Arc<dyn Progress>;
        args.select.engine_options().store(open_store()).progress(bars)
    };
    let engine = Engine::new(options());
    let lister = Lister { engine, unchecked: Engine::new(options().verify(Verify::Off)), platform };
    let mut out = stdout();
    let mut rows = Rows { json: args.json, table: Vec::new() };
    match &args.source {
        Some(source) => {
            let reference = Reference::parse(source, args.select.image.as_deref())?;
            lister.list(&reference, &mut rows, &mut out)?;
        }
        None if args.select.image.is_some() => bail!("--image selects from one SOURCE, which is missing"),
        None => lister.list_stores(&environment(), &mut rows, &mut out)?,
    }
    rows.print_table(&mut out)?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

impl Lister {
    /// Lists the images of the place that `reference` names; if it selects, only those that match.
    fn list(&self, reference: &Reference, rows: &mut Rows, out: &mut impl Write) -> Result<()> {
        let source = self.engine.open(reference)?;
        let images = source.images()?;
        let place = Place::of(reference, source.format());
        let references = place.references(&images);
        let matching = images.iter().zip(references);
        // The name of an image in a registry is its place.
        let is_remote = reference.transport.is_some_and(Transport::is_remote);
        let is_named = is_remote && matches!(reference.selection, Selection::Name(_));
        let is_wanted = |image: &ImageSummary| is_named || matches(image, &reference.selection);
        let matching: Vec<_> = matching.filter(|(image, _)| is_wanted(image)).collect();
        if reference.selection != Selection::Sole && matching.is_empty() {
            bail!(
                "'{}' holds no image '{}'",
                escape_path(place.text()),
                escape(reference.selection.to_string().as_bytes())
            );
        }
        for (image, text) in matching {
            if source.lists_names_only() {
                rows.add(json_image(image, &text, None), out)?;
                continue;
            }
            let details = self.details(&source, reference, image);
            if is_remote {
                rows.add(json_image(image, &text, Some(details?)), out)?;
                continue;
            }
            if let Err(error) = &details {
                log::warn!("'{}': {error}", escape_path(&text));
            }
            rows.add(json_image(image, &text, details.ok()), out)?;
        }
        Ok(())
    }

    fn details(
        &self,
        source: &Source,
        reference: &Reference,
        image: &ImageSummary,
    ) -> Result<ImageDetails, Error> {
        let details = source.details(image, self.platform.as_ref());
        if !matches!(details, Err(Error::Unverifiable { .. })) {
            return details;
        }
        // A list shows no contents, so it needs no warning that they cannot be checked.
        let level = log::max_level();
        log::set_max_level(log::LevelFilter::Error);
        let unchecked =
            self.unchecked.open(reference).and_then(|source| source.details(image, self.platform.as_ref()));
        log::set_max_level(level);
        unchecked
    }

    /// Lists the images of all stores on this host.
    fn list_stores(&self, environment: &Environment, rows: &mut Rows, out: &mut impl Write) -> Result<()> {
        let (mut found, mut failed) = (0, 0);
        for reference in stores(environment) {
            match self.list(&reference, rows, out) {
                Ok(()) => found += 1,
                // An engine that is installed and has never run.
                Err(error) if matches!(error.downcast_ref(), Some(Error::NotAnImage { .. })) => {
                    log::info!("{error}");
                }
                Err(error) if error.is::<Error>() => {
                    failed += 1;
                    log::warn!("{}: {error}", escape_path(Place::of(&reference, "").text()));
                }
                // The output cannot be written.
                Err(error) => return Err(error),
            }
        }
        match (found, failed) {
            (0, 0) => log::warn!("found no store of an engine on this host"),
            (0, _) => bail!("no store of an engine can be read; only root can read most stores"),
            _ => {}
        }
        Ok(())
    }
}

/// Returns references to all stores that exist on this host: those of the user, and those of the system, which
/// the user may be allowed to read. The store that a transport means without a path gets none.
fn stores(environment: &Environment) -> Vec<Reference> {
    let mut system = environment.clone();
    system.uid = 0;
    for of_user in
        [&mut system.home, &mut system.data_home, &mut system.config_home, &mut system.storage_conf]
    {
        *of_user = None;
    }
    let mut found = Vec::new();
    for transport in Transport::supported().filter(|transport| transport.is_store()) {
        let own = transport.own_places(environment);
        let meant = own.iter().find(|path| path.exists()).cloned();
        let mut seen = HashSet::new();
        for path in own.into_iter().chain(transport.own_places(&system)) {
            // A directory whose parent may not be searched can exist.
            let exists = path.try_exists().unwrap_or(true);
            if !exists || !seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())) {
                continue;
            }
            let mut text = OsString::from(format!("{}:", transport.name()));
            if meant.as_ref() != Some(&path) {
                text.push(&path);
            }
            // A default location is an absolute path, which every transport accepts.
            found.extend(Reference::parse(&text, None));
        }
    }
    found
}

/// Returns whether an image is one of those that `selection` lists. A name without a tag lists all tags, and
/// need not begin with its registry, as in `docker images NAME`.
fn matches(image: &ImageSummary, selection: &Selection) -> bool {
    let has_id = |digits: &str| {
        let id = image.id.as_deref().unwrap_or_default();
        !digits.is_empty()
            && (id.starts_with(digits) || id.rsplit(':').next().unwrap_or(id).starts_with(digits))
    };
    let is_container = image.kind == ImageKind::Container;
    match selection {
        Selection::Sole => true,
        Selection::Index(index) => image.index == *index,
        Selection::Container(name) => is_container && (image.names.contains(name) || has_id(name)),
        Selection::Name(_) if is_container => false,
        Selection::Name(name) => has_id(name) || image.names.iter().any(|one| is_named(one, name)),
        _ => false,
    }
}

/// Returns whether `wanted` is the name of an image, or a part of it: without the tag, and without leading
/// components.
fn is_named(name: &str, wanted: &str) -> bool {
    let ends_so = |name: &str| {
        let before = name.strip_suffix(wanted);
        before.is_some_and(|before| before.is_empty() || before.ends_with('/'))
    };
    let untagged = name.split_once('@').map_or(name, |(name, _)| name);
    let untagged = match untagged.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => untagged,
    };
    ends_so(name) || ends_so(untagged)
}

fn json_image(image: &ImageSummary, reference: &OsStr, details: Option<ImageDetails>) -> JsonImage {
    let (source, source_b64) = json_name(reference.as_bytes());
    let (layers, size) = details.as_ref().map(|details| (details.layers, details.size)).unzip();
    let (id, platform, created) =
        details.map_or((None, None, None), |details| (details.id, details.platform, details.created));
    JsonImage {
        names: image.names.clone(),
        id: id.or_else(|| image.id.clone()),
        platform: platform.or_else(|| image.platform.clone()).map(|platform| platform.to_string()),
        size,
        created,
        layers,
        kind: image.kind.name(),
        source,
        source_b64,
    }
}

/// The lines to print. JSON is printed at once; a table needs all its lines to align columns.
struct Rows {
    json: bool,
    table: Vec<[String; COLUMNS]>,
}

const COLUMNS: usize = 8;
const HEADINGS: [&str; COLUMNS] = ["NAME", "ID", "KIND", "PLATFORM", "CREATED", "LAYERS", "SIZE", "SOURCE"];
/// Columns of numbers, which are aligned to the right.
const NUMBERS: [usize; 2] = [5, 6];
/// The number of digits to which an ID is shortened, as engines do.
const SHORT_ID_DIGITS: usize = 12;

impl Rows {
    fn add(&mut self, image: JsonImage, out: &mut impl Write) -> io::Result<()> {
        if self.json {
            return json_line(out, &image);
        }
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let names: Vec<_> = image.names.iter().map(|name| escape(name.as_bytes())).collect();
        let short = |id: String| {
            let digits = id.rsplit(':').next().unwrap_or_default();
            escape(digits.chars().take(SHORT_ID_DIGITS).collect::<String>().as_bytes())
        };
        self.table.push([
            or_dash((!names.is_empty()).then(|| names.join(","))),
            or_dash(image.id.map(short)),
            image.kind.to_owned(),
            or_dash(image.platform.map(|platform| escape(platform.as_bytes()))),
            or_dash(image.created.map(|created| escape(date(&created).as_bytes()))),
            or_dash(image.layers.map(|layers| layers.to_string())),
            or_dash(image.size.map(|size| size.to_string())),
            escape(image.source.as_bytes()),
        ]);
        Ok(())
    }

    /// Prints the table. Without a line there is no heading.
    fn print_table(&self, out: &mut impl Write) -> io::Result<()> {
        if self.table.is_empty() {
            return Ok(());
        }
        let heading = HEADINGS.map(str::to_owned);
        let lines = || std::iter::once(&heading).chain(&self.table);
        let width =
            |at: usize| lines().filter_map(|line| line.get(at)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..COLUMNS).map(|at| width(at).unwrap_or(0)).collect();
        for line in lines() {
            let last = COLUMNS - 1;
            for (at, (cell, width)) in line.iter().zip(&widths).enumerate() {
                match at {
                    _ if at == last => writeln!(out, "{cell}")?,
                    _ if NUMBERS.contains(&at) => write!(out, "{cell:>width$}  ")?,
                    _ => write!(out, "{cell:<width$}  ")?,
                }
            }
        }
        Ok(())
    }
}

/// Returns `2026-01-02 03:04` of a time such as `2026-01-02T03:04:05Z`; another text is returned unchanged.
fn date(created: &str) -> String {
    let is_utc = created.ends_with('Z') && created.is_ascii();
    match (created.get(..10), created.get(10..11), created.get(11..16)) {
        (Some(day), Some("T"), Some(minute)) if is_utc => format!("{day} {minute}"),
        _ => created.to_owned(),
    }
}
