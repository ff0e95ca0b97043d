//! `imgmount history`: shows the layers of an image with their commands, or the changes of each layer
//! to one path.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::args::{ImageArgs, PathArgs, image_value, report_warnings};
use super::commands::{Command, Example};
use super::known::{KnownImage, KnownLayer};
use super::output::{JsonEntry, JsonLayer, json_line, json_name_of, stdout};
use imgmount::{
    Action, Error, Event, Field, HistoryEntry, Image, ImageInfo, LayerDescriptor, LayerInfo, LayerOrigin,
    LayerRange, PathFault, Step, escape, normalize_path,
};

/// Printed instead of a command or a time that the image does not contain.
const UNKNOWN: &str = "unknown";

/// Show an image's layers and their commands, or the layers that changed a path
///
/// For an image: prints every step of its history, oldest first; a step without a layer is shown as `empty`.
/// If the numbers of steps and layers do not match, the layers are printed first, without commands, then the
/// steps.
///
/// For a path: prints each layer that added, changed, deleted, hid or re-added it. `changed` is followed by
/// the fields that differ: content, mode, owner, rdev, target, type, xattr, mtime. Symbolic links in the path
/// are followed only if no layer has the path as written.
///
/// For an image in a registry, layers are downloaded only if a path is given. UNPACKED and ENTRIES are
/// `-` until a command has read all its layers.
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// Image, or a path inside it
    #[arg(value_name = "IMAGE[:/path]", value_parser = image_value())]
    image_path: OsString,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    path: PathArgs,
    #[command(flatten)]
    image: ImageArgs,
}

impl Command for HistoryArgs {
    const NAME: &'static str = "history";
    const EXAMPLES: &'static [Example] = &[
        ("imgmount history image.tar", "List layers with their commands:"),
        ("imgmount history image.tar:/etc/passwd", "Find the layers that changed a file:"),
    ];

    fn run(self) -> Result<ExitCode> {
        run(&self)
    }
}

fn run(args: &HistoryArgs) -> Result<ExitCode> {
    let (name, path) = args.path.split(&args.image_path);
    let mut out = stdout();
    match path {
        None => {
            let options = args.image.load_options(LayerRange::All);
            let image = KnownImage::of(args.image.select(&name)?, &options)?;
            if let KnownImage::Loaded(image) = &image {
                report_warnings(image);
            }
            check_steps(image.info());
            print_steps(args.json, &image, &mut out)?;
        }
        Some(path) => {
            let image = args.image.load(&name, LayerRange::All)?;
            check_steps(image.info());
            of_path(args.json, &image, &path, &mut out)?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Warns if the history does not have one step for each layer.
fn check_steps(info: &ImageInfo) {
    let steps = info.config.history.iter().filter(|step| !step.empty_layer).count();
    let of_image = |layer: &&LayerDescriptor| layer.origin == LayerOrigin::Image;
    let layers = info.layers.iter().filter(of_image).count();
    if steps != layers {
        log::warn!(
            "the history has {steps} step(s) for {layers} layer(s): commands are not assigned to layers"
        );
    }
}

fn of_path(json: bool, image: &Image, path: &[u8], out: &mut impl Write) -> Result<()> {
    let written = normalize_path(path);
    let mut found = (image.history(&written)?, written.clone());
    if found.0.is_empty()
        && let Some(real) = through_links(image, &written)
    {
        found = (image.history(&real)?, real);
    }
    let (events, path) = found;
    if events.is_empty() {
        return Err(Error::Path { path: escape(&written), reason: PathFault::NotFound }.into());
    }
    print_events(json, image, &path, &events, out)?;
    Ok(())
}

/// Resolves the symbolic links above the last component of a path, in the final state of the image.
fn through_links(image: &Image, path: &[u8]) -> Option<Vec<u8>> {
    let slash = path.iter().rposition(|byte| *byte == b'/')?;
    let (parent, name) = path.split_at(slash);
    let directory = image.resolve(parent).ok()?;
    let is_directory = image.is_directory(directory);
    is_directory.then(|| normalize_path(&[&image.path(directory), name].concat()))
}

#[derive(Debug, Serialize)]
struct JsonStep<'a> {
    layer: Option<u16>,
    empty_layer: bool,
    diff_id: Option<String>,
    digest: Option<String>,
    size: Option<u64>,
    tar_size: Option<u64>,
    entries: Option<u32>,
    created: Option<&'a str>,
    author: Option<&'a str>,
    created_by: Option<&'a str>,
    comment: Option<&'a str>,
}

impl<'a> JsonStep<'a> {
    fn new(step: &Step<'a>, layers: &[KnownLayer<'a>]) -> Self {
        let layer = step.layer.and_then(|layer| layers.get(usize::from(layer.0)));
        let text =
            |text: fn(&HistoryEntry) -> &Option<String>| step.entry.and_then(|entry| text(entry).as_deref());
        JsonStep {
            layer: step.layer.map(|layer| layer.0),
            empty_layer: step.entry.is_some_and(|entry| entry.empty_layer),
            diff_id: layer.and_then(|layer| layer.diff_id).map(|digest| digest.to_string()),
            digest: layer.and_then(|layer| layer.digest).map(|digest| digest.to_string()),
            size: layer.map(|layer| layer.blob_bytes),
            tar_size: layer.and_then(|layer| layer.tar_bytes),
            entries: layer.and_then(|layer| layer.entries),
            created: text(|entry| &entry.created),
            author: text(|entry| &entry.author),
            created_by: text(|entry| &entry.created_by)
                .or_else(|| layer.filter(|_| step.entry.is_none())?.created_by),
            comment: text(|entry| &entry.comment),
        }
    }

    fn row(&self) -> [String; 6] {
        let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let text = |text: Option<&str>| escape(text.unwrap_or(UNKNOWN).as_bytes());
        let layer = match (self.layer, self.empty_layer) {
            (Some(layer), _) => layer.to_string(),
            (None, true) => "empty".to_owned(),
            (None, false) => "?".to_owned(),
        };
        let entries = number(self.entries.map(u64::from));
        [layer, text(self.created), number(self.size), number(self.tar_size), entries, text(self.created_by)]
    }
}

fn print_steps(json: bool, image: &KnownImage, out: &mut impl Write) -> io::Result<()> {
    let (steps, layers) = (image.steps(), image.layers());
    let steps = steps.iter().map(|step| JsonStep::new(step, &layers));
    if json {
        return steps.into_iter().try_for_each(|step| json_line(out, &step));
    }
    let head = ["LAYER", "CREATED", "STORED", "UNPACKED", "ENTRIES", "COMMAND"].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(steps.map(|step| step.row())).collect();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max();
    let [layer_w, created_w, size_w, tar_w, entries_w] =
        [0, 1, 2, 3, 4].map(|column| width(column).unwrap_or(0));
    for [layer, created, size, tar, entries, command] in &rows {
        writeln!(
            out,
            "{layer:<layer_w$}  {created:<created_w$}  {size:>size_w$}  {tar:>tar_w$}  {entries:>entries_w$}  {command}"
        )?;
    }
    Ok(())
}

#[derive(Debug, Serialize)]
struct JsonEvent<'a> {
    #[serde(flatten)]
    layer: JsonLayer<'a>,
    action: &'static str,
    fields: Vec<&'static str>,
    by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by_b64: Option<String>,
    entry: Option<JsonEntry>,
}

impl<'a> JsonEvent<'a> {
    fn new(image: &'a Image, path: &[u8], event: &Event<'_>) -> Self {
        let (by, by_b64) = json_name_of(event.action.by());
        let fields: &[Field] = match &event.action {
            Action::Changed(fields) => fields,
            _ => &[],
        };
        JsonEvent {
            layer: JsonLayer::new(image, event.layer),
            action: event.action.name(),
            fields: fields.iter().map(|field| field.name()).collect(),
            by,
            by_b64,
            entry: event.after.as_ref().map(|inode| JsonEntry::of_inode(image, path, inode)),
        }
    }
}

fn command(layer: Option<&LayerInfo>) -> Option<&str> {
    layer.and_then(|layer| layer.created_by.as_deref())
}

fn print_events(
    json: bool,
    image: &Image,
    path: &[u8],
    events: &[Event<'_>],
    out: &mut impl Write,
) -> io::Result<()> {
    let number = |event: &Event<'_>| event.layer.0.to_string();
    let what = |event: &Event<'_>| describe(path, event);
    let width = |text: &dyn Fn(&Event<'_>) -> String| events.iter().map(|event| text(event).len()).max();
    let (number_width, what_width) = (width(&number).unwrap_or(0), width(&what).unwrap_or(0));
    for event in events {
        if json {
            json_line(out, &JsonEvent::new(image, path, event))?;
        } else {
            let command = escape(command(image.layer(event.layer)).unwrap_or(UNKNOWN).as_bytes());
            writeln!(out, "{:>number_width$}  {:<what_width$}  {command}", number(event), what(event))?;
        }
    }
    Ok(())
}

fn describe(path: &[u8], event: &Event<'_>) -> String {
    match &event.action {
        Action::Changed(fields) if !fields.is_empty() => {
            let names: Vec<_> = fields.iter().map(|field| field.name()).collect();
            format!("changed {}", names.join(","))
        }
        Action::Deleted(of) if &**of != path => format!("deleted with {}", escape(of)),
        Action::HiddenByOpaque(directory) => format!("hidden by opaque {}", escape(directory)),
        Action::HiddenByReplaced(directory) => format!("hidden by new {}", escape(directory)),
        action => action.name().to_owned(),
    }
}
