//! `imgmount man DIR`: writes the manual pages, one for each command, for those who install or package
//! the program.
//!
//! Names, synopses, descriptions and options come from the command line's own definition. This module
//! adds exit codes, environment, files and examples. The command is hidden, because users of `--help`
//! do not need it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Command, CommandFactory as _};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

use super::commands::{self, Example, Row};
use super::{Cli, image_help};
use imgmount::escape_path;

/// Write the manual pages
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Existing directory to write the pages to
    dir: PathBuf,
}

impl commands::Command for ManArgs {
    const NAME: &'static str = "man";
    const EXAMPLES: &'static [Example] = &[];
    const HIDDEN: bool = true;

    fn run(self) -> Result<ExitCode> {
        run(&self)
    }
}

fn run(args: &ManArgs) -> Result<ExitCode> {
    let mut command = Cli::command();
    command.build();
    write_pages(&command, &args.dir)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the page of a command and the pages of its subcommands.
fn write_pages(command: &Command, dir: &Path) -> Result<()> {
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        write_pages(subcommand, dir)?;
    }
    let path = dir.join(format!("{}.1", page_name(command)));
    let failed = || format!("cannot write '{}'", escape_path(&path));
    let mut file = BufWriter::new(File::create(&path).with_context(failed)?);
    render(command, &mut file).and_then(|()| file.flush()).with_context(failed)
}

/// Returns the name of a page, such as `imgmount-mount`.
fn page_name(command: &Command) -> String {
    command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned()
}

fn render(command: &Command, out: &mut impl Write) -> std::io::Result<()> {
    let name = page_name(command);
    let is_main = name == "imgmount";
    // The synopsis is one readable line; the options are listed later.
    let usage = command.clone().render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage).to_owned();
    let page = Man::new(command.clone().override_usage(usage))
        .title(name.to_uppercase())
        .source(concat!("imgmount ", env!("CARGO_PKG_VERSION")))
        .manual("User Commands");
    page.render_title(out)?;
    page.render_name_section(out)?;
    page.render_synopsis_section(out)?;
    page.render_description_section(out)?;
    page.render_options_section(out)?;
    if command.get_subcommands().any(|subcommand| !subcommand.is_hide_set()) {
        page.render_subcommands_section(out)?;
    }
    let mut more = Roff::new();
    if is_main {
        paragraphs(&mut more, "IMAGES", &[&image_help(), IMAGE_PATHS]);
    }
    definitions(&mut more, "EXIT STATUS", exit_codes(&name));
    definitions(&mut more, "ENVIRONMENT", &ENVIRONMENT);
    definitions(&mut more, "FILES", &FILES);
    examples(&mut more, &name);
    see_also(&mut more, &name);
    more.to_writer(out)
}

const IMAGE_PATHS: &str = "\
IMAGE:/path is split at its last \":/\". If the path itself contains \":/\", use --path, as in: \
imgmount cat IMAGE --path /C:/x. If a file or directory holds several images and none is selected by REF, \
@INDEX or --image, they are listed and the exit status is 2.";

const DONE_OR_FAILED: [(&str, &str); 2] =
    [("0", "Success; also if the reader of the output closes the pipe."), ("2", "Failure or wrong usage.")];
const ANSWERED: [(&str, &str); 3] = [
    ("0", "No difference and no mismatch was found."),
    ("1", "A difference or a mismatch was found."),
    ("2", "Failure or wrong usage."),
];

fn exit_codes(name: &str) -> &'static [(&'static str, &'static str)] {
    let command = name.strip_prefix("imgmount-").and_then(Row::named);
    if command.is_some_and(|row| row.asks) { &ANSWERED } else { &DONE_OR_FAILED }
}

const ENVIRONMENT: [(&str, &str); 13] = [
    ("IMGMOUNT_CACHE_DIR", "The cache directory; the default is $XDG_CACHE_HOME/imgmount."),
    ("XDG_CACHE_HOME", "The parent of the default cache directory; the default is ~/.cache."),
    (
        "IMGMOUNT_LOG",
        "The level of messages on standard error: error, warn, info or debug. Overrides -q and -v.",
    ),
    (
        "XDG_DATA_HOME, XDG_CONFIG_HOME",
        "The parents of the stores of a rootless engine and of its configuration; the defaults are ~/.local/share \
         and ~/.config.",
    ),
    (
        "CONTAINERS_STORAGE_CONF",
        "The file that is used instead of storage.conf to find the stores of containers-storage:.",
    ),
    ("DOCKER_HOST", "The socket of the engine for docker-daemon:, as unix://PATH."),
    (
        "XDG_RUNTIME_DIR",
        "The parent of the socket of the user's podman for docker-daemon:, and of the credentials that podman stores.",
    ),
    (
        "REGISTRY_AUTH_FILE, DOCKER_CONFIG",
        "The only file with credentials of registries, and the directory of Docker's config.json. --authfile overrides \
         both.",
    ),
    ("CONTAINERS_REGISTRIES_CONF", "The file that is used instead of registries.conf."),
    (
        "http_proxy, https_proxy, no_proxy",
        "The proxies for registries, and the hosts that need none; the names in capitals work too. This machine is \
         never contacted through a proxy.",
    ),
    (
        "SSL_CERT_FILE, SSL_CERT_DIR",
        "A file and a directory with root certificates that replace those of the system, for registries.",
    ),
    ("NO_COLOR", "If set, help texts have no colours."),
    (
        "TMPDIR",
        "The directory for temporary copies of standard input, and of images of docker-daemon:, if no cache is used; \
         the default is /tmp.",
    ),
];

const FILES: [(&str, &str); 4] = [
    (
        "~/.cache/imgmount",
        "The default cache directory: indexes and seekable copies of layers, and what was downloaded from registries. It must be owned by the user and \
     writable only by the user. Everything in it can be removed at any time, for example with imgmount-cache(1).",
    ),
    (
        "~/.config/containers/auth.json, ~/.docker/config.json",
        "Credentials of registries, as `podman login` and `docker login` store them.",
    ),
    (
        "~/.config/containers/registries.conf, /etc/containers/registries.conf, /etc/containerd/certs.d/HOST/hosts.toml",
        "Mirrors of registries, and registries that are insecure or blocked.",
    ),
    (
        "~/.config/containers/certs.d/HOST, /etc/containers/certs.d/HOST, /etc/docker/certs.d/HOST",
        "Certificates for a registry: of its authority (*.crt), and of the client (*.cert with *.key).",
    ),
];

/// Examples of the program as a whole.
const EXAMPLES: [Example; 4] = [
    ("imgmount image.tar /mnt", "Mount an image that docker save wrote:"),
    ("imgmount ls -l image.tar:/etc", "List files without mounting:"),
    ("imgmount docker://registry.example.com/team/app:1 /mnt", "Mount an image in a registry:"),
    ("docker save alpine | imgmount cat -:/etc/os-release", "Print a file from an image on standard input:"),
];

/// Returns the examples of a page: those of the command, or for a nested command those that mention it.
fn examples_of(page: &str) -> Vec<Example> {
    let Some(command) = page.strip_prefix("imgmount-") else { return EXAMPLES.to_vec() };
    let (command, nested) = command.split_once('-').map_or((command, None), |(c, n)| (c, Some(n)));
    let examples = Row::named(command).map(|row| row.examples).unwrap_or_default();
    let typed = nested.map(|nested| format!("imgmount {command} {nested}")).unwrap_or_default();
    examples.iter().filter(|(line, _)| line.contains(&typed)).copied().collect()
}

fn paragraphs(roff: &mut Roff, heading: &str, texts: &[&str]) {
    roff.control("SH", [heading]);
    for text in texts {
        roff.control("PP", []);
        roff.text([roman(*text)]);
    }
}

fn definitions(roff: &mut Roff, heading: &str, rows: &[(&str, &str)]) {
    roff.control("SH", [heading]);
    for (term, text) in rows {
        roff.control("TP", []);
        roff.text([bold(*term)]);
        roff.text([roman(*text)]);
    }
}

fn examples(roff: &mut Roff, name: &str) {
    roff.control("SH", ["EXAMPLES"]);
    for (typed, purpose) in examples_of(name) {
        roff.control("PP", []);
        roff.text([roman(purpose)]);
        roff.control("PP", []);
        roff.control("RS", ["4"]);
        roff.control("nf", []);
        roff.text([roman(typed)]);
        roff.control("fi", []);
        roff.control("RE", []);
    }
}

fn see_also(roff: &mut Roff, name: &str) {
    let pages: &[(&str, &str)] = match name {
        "imgmount" => &[("fusermount3", "1"), ("mount.fuse3", "8"), ("skopeo", "1"), ("umoci", "1")],
        "imgmount-mount" => {
            &[("imgmount", "1"), ("imgmount-umount", "1"), ("fstab", "5"), ("mount.fuse3", "8")]
        }
        "imgmount-umount" => &[("imgmount", "1"), ("imgmount-mount", "1"), ("fusermount3", "1")],
        _ => &[("imgmount", "1")],
    };
    roff.control("SH", ["SEE ALSO"]);
    let mut line = Vec::new();
    for (at, (page, section)) in pages.iter().enumerate() {
        if at > 0 {
            line.push(roman(", "));
        }
        line.extend([italic(*page), roman(format!("({section})"))]);
    }
    roff.text(line);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(command: &Command) -> Vec<String> {
        let visible = command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set());
        visible.flat_map(pages).chain([page_name(command)]).collect()
    }

    #[test]
    fn every_page_has_an_example() {
        let mut command = Cli::command();
        command.build();
        for page in pages(&command) {
            assert_ne!(examples_of(&page), [], "{page}");
        }
    }
}
