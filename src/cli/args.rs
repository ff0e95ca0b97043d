//! Options of every command that opens an image, and the engine that they configure.
//!
//! This module owns the names and defaults of these options. It is the only module that reads the
//! environment.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, ValueEnum};

use super::limits::LimitArgs;
use super::net::{self, NetArgs};
use super::options::parse_bytes;
use super::progress::Bars;
use imgmount::{
    Engine, EngineOptions, Environment, Image, LayerRange, LoadOptions, Platform, Progress, Reference,
    SelectedImage, Semantics, Store, Verify, escape, escape_path, split_path,
};

/// Which of the images in a place is meant.
#[derive(Debug, Clone, Args)]
pub(crate) struct SelectArgs {
    /// Select by name, tag, ID, @INDEX or @CONTAINER; IMAGE is then only [TRANSPORT:]PATH
    #[arg(long, value_name = "REF")]
    pub(crate) image: Option<String>,
    /// Select the image for OS/ARCH[/VARIANT]; the default is Linux on this machine's architecture
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<String>,
    /// Search only this namespace of containerd; the default is all namespaces
    #[arg(long, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) net: NetArgs,
}

/// How an image is opened and merged.
#[derive(Debug, Clone, Args)]
pub(crate) struct ImageArgs {
    #[command(flatten)]
    pub(crate) select: SelectArgs,
    /// Verify the image's digests, or disable verification
    #[arg(long, value_name = "MODE", default_value = "full")]
    pub(crate) verify: VerifyMode,
    /// Memory for decompressed data, in bytes or with suffix K, M, G or T
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value = "256M")]
    pub(crate) cache_size: u64,
    /// Do not use the cache directory
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Merge layers as container runtimes do, or as the OCI specification says
    #[arg(long, value_name = "RULES", default_value = "runtime")]
    pub(crate) semantics: SemanticsMode,
    /// Fail if merging the layers gives a warning
    #[arg(long)]
    pub(crate) strict: bool,
    /// Follow symbolic links of lower layers in the paths of entries, as umoci does
    #[arg(long)]
    pub(crate) follow_dirlinks: bool,
}

/// `--verify`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum VerifyMode {
    /// Verify every size and digest, and all data again when it is read
    #[default]
    Full,
    /// Do not verify; recover what is readable from a damaged image
    Off,
}

/// `--semantics`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum SemanticsMode {
    /// As Docker and containerd do
    #[default]
    Runtime,
    /// As the OCI specification says where runtimes differ from it
    Oci,
}

/// Which layers make the tree.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct LayerArgs {
    /// Use only layer N, counted from 0
    #[arg(long, value_name = "N", conflicts_with = "upto")]
    pub(crate) layer: Option<u16>,
    /// Use only layers 0 to N: the state after layer N
    #[arg(long, value_name = "N")]
    pub(crate) upto: Option<u16>,
}

impl LayerArgs {
    /// Returns the range of layers that the options select.
    pub(crate) fn range(&self) -> LayerRange {
        match (self.layer, self.upto) {
            (Some(layer), _) => LayerRange::Only(layer),
            (None, Some(upto)) => LayerRange::Upto(upto),
            (None, None) => LayerRange::All,
        }
    }
}

/// Where in an image a command works.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct PathArgs {
    /// Path inside the image, for a path that contains ":/"; IMAGE then names only the image
    #[arg(long, value_name = "PATH")]
    path: Option<OsString>,
}

impl PathArgs {
    /// Returns the image and the path inside it: `text` as a whole and `--path`, or the two parts of
    /// `IMAGE:/path`.
    pub(crate) fn split(&self, text: &OsStr) -> (OsString, Option<Vec<u8>>) {
        match &self.path {
            Some(path) => (text.to_owned(), Some(path.as_bytes().to_vec())),
            None => split_path(text),
        }
    }
}

impl SelectArgs {
    /// Parses the image reference `text` and the `--platform` option.
    ///
    /// # Errors
    /// [`Error::Reference`](imgmount::Error::Reference) if one of them is malformed.
    pub(crate) fn parse(&self, text: &OsStr) -> imgmount::Result<(Reference, Option<Platform>)> {
        let reference = Reference::parse(text, self.image.as_deref())?;
        let platform = self.platform.as_deref().map(str::parse).transpose()?;
        Ok((reference, platform))
    }

    /// Returns the options of an engine that opens the sources that these arguments and the environment
    /// name.
    pub(crate) fn engine_options(&self) -> EngineOptions {
        EngineOptions::default()
            .environment(environment())
            .namespace(self.namespace.clone())
            .spool_dir(std::env::temp_dir())
            .limits(self.limits.limits)
            .registry(self.net.options())
    }
}

/// Returns what decides where engines keep their images.
pub(crate) fn environment() -> Environment {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let path = |name| set(name).map(PathBuf::from);
    let mut environment = Environment::default();
    environment.uid = rustix::process::geteuid().as_raw();
    environment.home = path("HOME");
    environment.data_home = path("XDG_DATA_HOME");
    environment.config_home = path("XDG_CONFIG_HOME");
    environment.runtime_dir = path("XDG_RUNTIME_DIR");
    environment.docker_host = set("DOCKER_HOST").and_then(|host| host.into_string().ok());
    environment.storage_conf = path("CONTAINERS_STORAGE_CONF");
    net::read_variables(&mut environment, &set);
    environment
}

impl ImageArgs {
    /// Selects the image that `text` names; no layer is read.
    pub(crate) fn select(&self, text: &OsStr) -> Result<SelectedImage> {
        self.select_with(&self.engine(), text)
    }

    /// Returns an engine that opens and reads images with these options. Images of one engine share a
    /// cache, and layers.
    pub(crate) fn engine(&self) -> Engine {
        if self.verify == VerifyMode::Off {
            log::warn!("--verify off: the content of the image is not verified");
        }
        let verify = match self.verify {
            VerifyMode::Full => Verify::Full,
            VerifyMode::Off => Verify::Off,
        };
        let options = self
            .select
            .engine_options()
            .verify(verify)
            .cache_bytes(usize::try_from(self.cache_size).unwrap_or(usize::MAX))
            .store(self.store())
            .progress(Arc::new(Bars::default()) as Arc<dyn Progress>);
        Engine::new(options)
    }

    /// As [`ImageArgs::select`], with an engine that can open several images.
    pub(crate) fn select_with(&self, engine: &Engine, text: &OsStr) -> Result<SelectedImage> {
        let (reference, platform) = self.select.parse(text)?;
        Ok(engine.select(&reference, platform.as_ref())?)
    }

    /// Finds, indexes and merges the layers of the image that `text` names.
    pub(crate) fn load(&self, text: &OsStr, layers: LayerRange) -> Result<Image> {
        self.load_with(&self.engine(), text, layers)
    }

    /// As [`ImageArgs::load`], with an engine whose waits can be ended.
    pub(crate) fn load_with(&self, engine: &Engine, text: &OsStr, layers: LayerRange) -> Result<Image> {
        let image = self.select_with(engine, text)?.load(&self.load_options(layers))?;
        report_warnings(&image);
        Ok(image)
    }

    /// Returns the options for loading `layers`.
    pub(crate) fn load_options(&self, layers: LayerRange) -> LoadOptions {
        let semantics = match self.semantics {
            SemanticsMode::Runtime => Semantics::Runtime,
            SemanticsMode::Oci => Semantics::Oci,
        };
        LoadOptions::default()
            .layers(layers)
            .semantics(semantics)
            .follow_dirlinks(self.follow_dirlinks)
            .strict(self.strict)
    }

    fn store(&self) -> Option<Store> {
        if self.no_cache { None } else { open_store() }
    }
}

/// Opens the index store. Without a usable cache directory a command is slower, but gives the same result.
pub(crate) fn open_store() -> Option<Store> {
    let directory = cache_directory().map_err(|error| log::warn!("{error:#}")).ok()?;
    Store::open(&directory).map_err(|error| log::warn!("the cache is not used: {error}")).ok()
}

/// Prefix that protects `-:/path` and `-@INDEX` from clap, which reads arguments with a leading hyphen
/// as options. No program argument can contain this byte.
const NOT_AN_OPTION: &str = "\0";

/// Adds the prefix to an argument that names standard input, except to a bare `-`, which clap accepts.
pub(crate) fn mark_standard_input(argument: OsString) -> OsString {
    match argument.as_bytes() {
        [b'-', b':' | b'@', ..] => {
            let mut marked = OsString::from(NOT_AN_OPTION);
            marked.push(argument);
            marked
        }
        _ => argument,
    }
}

/// Returns the parser of an argument that names an image.
pub(crate) fn image_value() -> impl TypedValueParser<Value = OsString> {
    OsStringValueParser::new().map(|value| {
        let plain = value.as_bytes().strip_prefix(NOT_AN_OPTION.as_bytes());
        plain.map_or(value.clone(), |plain| OsStr::from_bytes(plain).to_owned())
    })
}

/// Logs the number of merge warnings, and the warnings themselves with `-v`: some images have many, and
/// they change nothing.
pub(crate) fn report_warnings(image: &Image) {
    for (layer, warning) in image.warnings() {
        log::info!("layer {}: {}: {}", layer.0, escape(&warning.path), warning.kind);
    }
    let count = image.warning_counts().fold(0, |sum: u64, (_, count)| sum.saturating_add(count));
    let listed = image.warnings().len() as u64;
    if count > listed {
        log::info!("{} more warning(s) are not listed", count - listed);
    }
    if count > 0 {
        log::info!("{count} warning(s) while merging");
    }
}

/// Returns `IMGMOUNT_CACHE_DIR`, or `imgmount` in the user's cache directory (XDG Base Directory
/// Specification), unless that directory would be below one of another user: under sudo, HOME can be the home
/// of the user who called it, who could not remove what root creates there.
pub(crate) fn cache_directory() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(directory) = set("IMGMOUNT_CACHE_DIR") {
        return std::path::absolute(directory).context("IMGMOUNT_CACHE_DIR");
    }
    // The specification requires that relative values are ignored.
    let xdg = set("XDG_CACHE_HOME").filter(|directory| directory.is_absolute());
    let (name, parent) = match (xdg, set("HOME")) {
        (Some(xdg), _) => ("XDG_CACHE_HOME", xdg),
        (None, Some(home)) => ("HOME", home.join(".cache")),
        (None, None) => bail!("no cache directory: HOME, XDG_CACHE_HOME and IMGMOUNT_CACHE_DIR are not set"),
    };
    if let Some(other) = owned_by_another(&parent) {
        let other = escape_path(other);
        bail!("no cache directory: '{other}', from {name}, belongs to another user; set IMGMOUNT_CACHE_DIR");
    }
    Ok(parent.join("imgmount"))
}

/// Returns the nearest existing directory on the way to `directory`, if it belongs neither to this user nor to
/// root.
fn owned_by_another(directory: &Path) -> Option<&Path> {
    let mut existing = directory.ancestors().filter_map(|path| Some((path, path.metadata().ok()?.uid())));
    let (path, owner) = existing.next()?;
    (owner != 0 && owner != rustix::process::geteuid().as_raw()).then_some(path)
}
