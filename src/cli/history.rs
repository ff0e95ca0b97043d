//! `imgmount history`: the layers of an image with their commands, or what each layer did to one path.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::args::{ImageArgs, Opened, PathArgs, image_value, report_warnings};
use super::commands::{Command, Example};
use super::output::{JsonEntry, JsonLayer, json_line, json_name_of, stdout};
use imgmount::analysis::history::{Action, Event, Step, is_aligned, of_path, steps};
use imgmount::analysis::{Field, Thing};
use imgmount::error::{Error, PathFault};
use imgmount::image::{HistoryEntry, ImageConfig};
use imgmount::load::{LayerInfo, LayerRange, Tree};
use imgmount::path::escape;
use imgmount::rootfs::Follow;

/// What is printed for a command or a time that the image does not tell.
const UNKNOWN: &str = "unknown";

/// Show an image's layers and their commands, or what each layer did to a path
///
/// Of an image: every step of its history, the oldest first; steps that made no layer say `empty`. Where
/// steps and layers do not line up, commands are unknown: layers come first, then the steps.
///
/// Of a path: each layer that added, changed, deleted, hid or re-added it. `changed` names what differs:
/// content, mode, owner, rdev, target, type, xattr, mtime. Links in the path are not followed, unless
/// nothing was ever at the path as it is written.
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// The image, or a path in it as IMAGE:/path
    #[arg(value_name = "IMAGE[:/path]", value_parser = image_value())]
    image_path: OsString,
    /// One JSON object a line
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
        ("imgmount history image.tar:/etc/passwd", "Find out who touched a file:"),
    ];

    fn run(self) -> Result<ExitCode> {
        run(&self)
    }
}

fn run(args: &HistoryArgs) -> Result<ExitCode> {
    let (image, path) = args.path.split(&args.image_path);
    let Opened { engine, image, .. } = args.image.open(&image)?;
    let config = image.info.config.clone();
    let options = args.image.tree_options(LayerRange::All);
    let tree = engine.load(image, &options)?;
    report_warnings(&tree);
    if !is_aligned(&config) {
        let steps = config.history.iter().filter(|step| !step.empty_layer).count();
        let layers = tree.layers().len();
        log::warn!("the history has {steps} step(s) for {layers} layer(s): which made which is unknown");
    }
    let mut out = stdout();
    match path {
        None => print_steps(args.json, &config, &tree, &mut out)?,
        Some(path) => {
            let of = |path: &[u8]| of_path(tree.rootfs().layers(), &options.merge, &tree, path);
            let written = literal(&path);
            let mut found = (of(&written)?, written.clone());
            if found.0.is_empty()
                && let Some(real) = through_links(&tree, &written)
            {
                found = (of(&real)?, real);
            }
            let (events, path) = found;
            if events.is_empty() {
                return Err(Error::Path { path: escape(&written), reason: PathFault::NotFound }.into());
            }
            print_events(args.json, &tree, &path, &events, &mut out)?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// A path in its shortest spelling, as it stands.
fn literal(path: &[u8]) -> Vec<u8> {
    let components = imgmount::path::clean(path).components;
    if components.is_empty() { b"/".to_vec() } else { [&b"/"[..], &components.join(&b'/')].concat() }
}

/// Where a path leads when the links above its last component are followed, as the image is in the end.
fn through_links(tree: &Tree, path: &[u8]) -> Option<Vec<u8>> {
    let slash = path.iter().rposition(|byte| *byte == b'/')?;
    let (parent, name) = path.split_at(slash);
    let rootfs = tree.rootfs();
    let directory = rootfs.resolve(parent, Follow::Last).ok()?;
    let is_directory = rootfs.is_directory(directory);
    is_directory.then(|| literal(&[&rootfs.path(directory), name].concat()))
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
    fn new(step: &Step<'a>, tree: &'a Tree) -> Self {
        let layer = step.layer.and_then(|layer| tree.layer(layer));
        let told =
            |text: fn(&HistoryEntry) -> &Option<String>| step.told.and_then(|told| text(told).as_deref());
        JsonStep {
            layer: step.layer.map(|layer| layer.0),
            empty_layer: step.told.is_some_and(|told| told.empty_layer),
            diff_id: layer.map(|layer| layer.diff_id.to_string()),
            digest: layer.and_then(|layer| layer.digest).map(|digest| digest.to_string()),
            size: layer.map(|layer| layer.blob_bytes),
            tar_size: layer.map(|layer| layer.tar_bytes),
            entries: layer.map(|layer| layer.entries),
            created: told(|told| &told.created),
            author: told(|told| &told.author),
            created_by: told(|told| &told.created_by),
            comment: told(|told| &told.comment),
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

fn print_steps(json: bool, config: &ImageConfig, tree: &Tree, out: &mut impl Write) -> io::Result<()> {
    let steps = steps(config);
    let steps = steps.iter().map(|step| JsonStep::new(step, tree));
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
    fn new(tree: &'a Tree, path: &[u8], event: &Event) -> Self {
        let (action, by) = word(&event.action);
        let (by, by_b64) = json_name_of(by);
        let fields: &[Field] = match &event.action {
            Action::Changed(fields) => fields,
            _ => &[],
        };
        let thing = event.after.map(|inode| Thing::new(inode, tree.rootfs().layers()));
        JsonEvent {
            layer: JsonLayer::new(tree, event.layer),
            action,
            fields: fields.iter().map(|field| field.name()).collect(),
            by,
            by_b64,
            entry: thing.map(|thing| JsonEntry::of_state(tree, path, &thing)),
        }
    }
}

fn command(layer: Option<&LayerInfo>) -> Option<&str> {
    layer.and_then(|layer| layer.created_by.as_deref())
}

/// The word for what happened, and the path of what made it happen, where that is a mark or a directory.
fn word(action: &Action) -> (&'static str, Option<&[u8]>) {
    match action {
        Action::Added => ("added", None),
        Action::ReAdded => ("re-added", None),
        Action::Changed(fields) if fields.is_empty() => ("unchanged", None),
        Action::Changed(_) => ("changed", None),
        Action::Deleted(of) => ("deleted", Some(of)),
        Action::HiddenByOpaque(directory) => ("hidden-opaque", Some(directory)),
        Action::HiddenByReplaced(directory) => ("hidden-replaced", Some(directory)),
    }
}

fn print_events(
    json: bool,
    tree: &Tree,
    path: &[u8],
    events: &[Event],
    out: &mut impl Write,
) -> io::Result<()> {
    let number = |event: &Event| tree.layer_number(event.layer).to_string();
    let what = |event: &Event| describe(path, event);
    let width = |text: &dyn Fn(&Event) -> String| events.iter().map(|event| text(event).len()).max();
    let (number_width, what_width) = (width(&number).unwrap_or(0), width(&what).unwrap_or(0));
    for event in events {
        if json {
            json_line(out, &JsonEvent::new(tree, path, event))?;
        } else {
            let command = escape(command(tree.layer(event.layer)).unwrap_or(UNKNOWN).as_bytes());
            writeln!(out, "{:>number_width$}  {:<what_width$}  {command}", number(event), what(event))?;
        }
    }
    Ok(())
}

fn describe(path: &[u8], event: &Event) -> String {
    match &event.action {
        Action::Changed(fields) if !fields.is_empty() => {
            let names: Vec<_> = fields.iter().map(|field| field.name()).collect();
            format!("changed {}", names.join(","))
        }
        Action::Deleted(of) if &**of != path => format!("deleted with {}", escape(of)),
        Action::HiddenByOpaque(directory) => format!("hidden by opaque {}", escape(directory)),
        Action::HiddenByReplaced(directory) => format!("hidden by new {}", escape(directory)),
        action => word(action).0.to_owned(),
    }
}
