//! `imgmount inspect`: shows an image's properties, its layers and its warnings.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::args::{ImageArgs, image_value};
use super::commands::{Command, Example};
use super::known::KnownImage;
use super::output::{json_line, json_name, stdout};
use imgmount::{Compression, Container, LayerId, LayerRange, Warning, escape};

/// Show an image's format, digests, platform, config, layers and warnings
///
/// No layer is downloaded. For an image in a registry, the unpacked sizes, the numbers of entries and the
/// warnings are shown only after a command has read all its layers.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Image: [TRANSPORT:]PATH[:REF | @INDEX | @CONTAINER], docker://NAME, or - for standard input
    #[arg(value_name = "IMAGE", value_parser = image_value())]
    image_name: OsString,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    image: ImageArgs,
}

#[derive(Debug, Serialize)]
struct ImageReport<'a> {
    format: &'static str,
    names: &'a [String],
    manifest_digest: Option<String>,
    config_digest: Option<String>,
    platform: Option<String>,
    created: Option<&'a str>,
    config: &'a Value,
    container: Option<ContainerReport<'a>>,
    layers: Vec<LayerReport<'a>>,
    warnings: Option<Vec<WarningReport>>,
    warning_counts: Option<BTreeMap<String, u64>>,
}

#[derive(Debug, Serialize)]
struct LayerReport<'a> {
    layer: u16,
    diff_id: Option<String>,
    origin: &'static str,
    digest: Option<String>,
    media_type: Option<&'a str>,
    compression: Option<&'static str>,
    size: u64,
    tar_size: Option<u64>,
    entries: Option<u32>,
    created_by: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct ContainerReport<'a> {
    id: &'a str,
    name: Option<&'a str>,
    image: Option<&'a str>,
    created: Option<&'a str>,
    mounts: Vec<MountReport<'a>>,
}

#[derive(Debug, Serialize)]
struct MountReport<'a> {
    destination: &'a str,
    source: Option<&'a str>,
    kind: &'a str,
}

#[derive(Debug, Serialize)]
struct WarningReport {
    layer: u16,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    kind: String,
    message: String,
}

impl Command for InspectArgs {
    const NAME: &'static str = "inspect";
    const EXAMPLES: &'static [Example] =
        &[("imgmount inspect --json image.tar | jq .layers", "Print the layers as JSON:")];

    fn run(self) -> Result<ExitCode> {
        run(&self)
    }
}

fn run(args: &InspectArgs) -> Result<ExitCode> {
    let selected = args.image.select(&args.image_name)?;
    let image = KnownImage::of(selected, &args.image.load_options(LayerRange::All))?;
    let report = report(&image);
    let mut out = stdout();
    if args.json {
        json_line(&mut out, &report)?;
    } else {
        print(&report, &mut out)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn report(image: &KnownImage) -> ImageReport<'_> {
    let info = image.info();
    let layers = (0..).zip(image.layers()).map(|(at, layer)| LayerReport {
        layer: at,
        diff_id: layer.diff_id.map(|digest| digest.to_string()),
        origin: layer.origin.name(),
        digest: layer.digest.map(|digest| digest.to_string()),
        media_type: layer.media_type,
        compression: layer.compression.map(Compression::name),
        size: layer.blob_bytes,
        tar_size: layer.tar_bytes,
        entries: layer.entries,
        created_by: layer.created_by,
    });
    let warning = |(layer, warning): &(LayerId, Warning)| {
        let (path, path_b64) = json_name(&warning.path);
        let (kind, message) = (warning.kind.name(), warning.kind.to_string());
        WarningReport { layer: layer.0, path, path_b64, kind, message }
    };
    ImageReport {
        format: image.format(),
        names: &info.names,
        manifest_digest: info.manifest_digest.map(|digest| digest.to_string()),
        config_digest: info.config_digest.map(|digest| digest.to_string()),
        platform: info.platform.as_ref().map(ToString::to_string),
        created: info.config.created.as_deref(),
        config: &info.config.runtime,
        container: info.container.as_ref().map(container_report),
        layers: layers.collect(),
        warnings: image.warnings().map(|warnings| warnings.iter().map(warning).collect()),
        warning_counts: image.warning_counts(),
    }
}

fn container_report(container: &Container) -> ContainerReport<'_> {
    let mounts = container.mounts.iter().map(|mount| MountReport {
        destination: &mount.destination,
        source: mount.source.as_deref(),
        kind: &mount.kind,
    });
    ContainerReport {
        id: &container.id,
        name: container.name.as_deref(),
        image: container.image.as_deref(),
        created: container.created.as_deref(),
        mounts: mounts.collect(),
    }
}

fn print(report: &ImageReport<'_>, out: &mut impl Write) -> io::Result<()> {
    let mut field = |name: &str, value: &str| writeln!(out, "{name:<10}{}", escape(value.as_bytes()));
    field("Format:", report.format)?;
    for name in report.names {
        field("Name:", name)?;
    }
    if let Some(digest) = &report.manifest_digest {
        field("Manifest:", digest)?;
    }
    field("Config:", report.config_digest.as_deref().unwrap_or("none"))?;
    field("Platform:", report.platform.as_deref().unwrap_or("unknown"))?;
    field("Created:", report.created.unwrap_or("unknown"))?;
    print_config(report.config, out)?;
    if let Some(container) = &report.container {
        print_container(container, out)?;
    }
    writeln!(out, "\nLayers:")?;
    for layer in &report.layers {
        let diff_id = layer.diff_id.as_deref().unwrap_or("unknown diff_id");
        writeln!(out, "{:>4}  {diff_id}  {}", layer.layer, size(layer))?;
        if let Some(digest) = &layer.digest {
            writeln!(out, "      blob {digest}")?;
        }
        writeln!(out, "      {}", escape(layer.created_by.unwrap_or("unknown command").as_bytes()))?;
    }
    let warnings = match report.warnings.as_deref() {
        None => return writeln!(out, "\nWarnings are known once all layers were read."),
        Some([]) => return writeln!(out, "\nNo warnings."),
        Some(warnings) => warnings,
    };
    let empty = BTreeMap::new();
    let counts = report.warning_counts.as_ref().unwrap_or(&empty);
    writeln!(out, "\n{} warning(s):", counts.values().fold(0, |sum: u64, count| sum.saturating_add(*count)))?;
    for warning in warnings {
        let path = escape(warning.path.as_bytes());
        writeln!(out, "  layer {}: {path}: {} ({})", warning.layer, warning.message, warning.kind)?;
    }
    for (kind, count) in counts {
        let listed = warnings.iter().filter(|warning| warning.kind == *kind).count();
        let more = count.saturating_sub(listed as u64);
        if more > 0 {
            writeln!(out, "  and {more} more ({kind})")?;
        }
    }
    Ok(())
}

/// Returns compression and sizes of a layer.
fn size(layer: &LayerReport<'_>) -> String {
    let compression = layer.compression.unwrap_or("unknown compression");
    match (layer.tar_size, layer.entries) {
        (Some(tar_size), Some(entries)) => {
            format!("{compression}, {} of {tar_size} bytes, {entries} entries", layer.size)
        }
        _ => format!("{compression}, {} bytes, not read yet", layer.size),
    }
}

/// Prints the names of a container, and what is mounted over its tree when it runs.
fn print_container(container: &ContainerReport<'_>, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "\nContainer:")?;
    let fields = [
        ("ID", Some(container.id)),
        ("Name", container.name),
        ("Image", container.image),
        ("Created", container.created),
    ];
    for (name, value) in fields {
        writeln!(out, "  {name}: {}", escape(value.unwrap_or("unknown").as_bytes()))?;
    }
    for mount in &container.mounts {
        let from = mount.source.map(|source| format!(" from {}", escape(source.as_bytes())));
        let (destination, kind) = (escape(mount.destination.as_bytes()), escape(mount.kind.as_bytes()));
        writeln!(out, "  Mount, not in the tree: {destination} ({kind}{})", from.unwrap_or_default())?;
    }
    Ok(())
}

/// Prints the settings with which a runtime would start a container, one line for each.
fn print_config(config: &Value, out: &mut impl Write) -> io::Result<()> {
    let Some(config) = config.as_object() else { return Ok(()) };
    for (name, value) in config {
        let empty = match value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            Value::Bool(_) | Value::Number(_) => false,
        };
        if !empty {
            writeln!(out, "  {}: {}", escape(name.as_bytes()), escape(value.to_string().as_bytes()))?;
        }
    }
    Ok(())
}
