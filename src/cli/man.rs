//! `imgmount man DIR`: the manual pages, one a command, for who installs or packages the program.
//!
//! Names, synopses, descriptions and options are those of the command line's own definition. What that does
//! not have is added here: exit codes, environment, files, examples. The command is hidden, since a reader of
//! `--help` has no use for it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Command, CommandFactory as _};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

use super::{Cli, IMAGE_HELP};

/// Write the manual pages
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// A directory that is there
    dir: PathBuf,
}

pub(crate) fn run(args: &ManArgs) -> Result<ExitCode> {
    let mut command = Cli::command();
    command.build();
    write_pages(&command, &args.dir)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the page of a command and those of its subcommands.
fn write_pages(command: &Command, dir: &Path) -> Result<()> {
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        write_pages(subcommand, dir)?;
    }
    let path = dir.join(format!("{}.1", page_name(command)));
    let failed = || format!("cannot write '{}'", path.display());
    let mut file = BufWriter::new(File::create(&path).with_context(failed)?);
    render(command, &mut file).and_then(|()| file.flush()).with_context(failed)
}

/// `imgmount-mount`.
fn page_name(command: &Command) -> String {
    command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned()
}

fn render(command: &Command, out: &mut impl Write) -> std::io::Result<()> {
    let name = page_name(command);
    let is_main = name == "imgmount";
    // One line that can be read; the options follow anyway.
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
        paragraphs(&mut more, "IMAGES", &[IMAGE_HELP, IMAGE_PATHS]);
    }
    definitions(&mut more, "EXIT STATUS", exit_codes(&name));
    definitions(&mut more, "ENVIRONMENT", &ENVIRONMENT);
    definitions(&mut more, "FILES", &FILES);
    examples(&mut more, &name);
    see_also(&mut more, &name);
    more.to_writer(out)
}

const IMAGE_PATHS: &str = "\
Where a command takes IMAGE:/path, the text is split at its last \":/\". Several images in one place are told \
apart by REF or @INDEX; without either, they are listed and the exit status is 2.";

/// Commands whose answer can be no.
const ASKING: [&str; 2] = ["imgmount-diff", "imgmount-verify"];
const DONE_OR_FAILED: [(&str, &str); 2] =
    [("0", "Done; also when whoever read the output has seen enough."), ("2", "Failure or wrong usage.")];
const ANSWERED: [(&str, &str); 3] = [
    ("0", "Everything is the same, or as it should be."),
    ("1", "Something is not."),
    ("2", "Failure or wrong usage: there is no answer."),
];

fn exit_codes(name: &str) -> &'static [(&'static str, &'static str)] {
    if ASKING.contains(&name) { &ANSWERED } else { &DONE_OR_FAILED }
}

const ENVIRONMENT: [(&str, &str); 5] = [
    (
        "IMGMOUNT_CACHE_DIR",
        "Where layer indexes are kept, instead of imgmount in the user's cache directory.",
    ),
    ("XDG_CACHE_HOME", "The user's cache directory; ~/.cache by default."),
    ("IMGMOUNT_LOG", "What is told on standard error: error, warn, info or debug. Goes before -q and -v."),
    ("NO_COLOR", "When set, nothing is coloured."),
    ("TMPDIR", "Where an image from standard input is spooled when there is no cache."),
];

const FILES: [(&str, &str); 1] = [(
    "~/.cache/imgmount",
    "Indexes and seekable copies of layers. Must be the user's own and writable by nobody else. All of it can \
     be removed at any time; imgmount-cache(1) does so.",
)];

/// What is typed, and what that is good for.
type Example = (&'static str, &'static str);

/// Examples by page; commands that take the same arguments have their own all the same.
const EXAMPLES: [(&str, &[Example]); 19] = [
    (
        "imgmount",
        &[
            ("imgmount image.tar /mnt", "Mount what docker save wrote:"),
            ("imgmount ls -l image.tar:/etc", "Look into it without mounting:"),
            ("docker save alpine | imgmount cat -:/etc/os-release", "Read a file from standard input:"),
        ],
    ),
    (
        "imgmount-mount",
        &[
            (
                "imgmount mount --idle-timeout 10m image.tar:app /mnt",
                "Mount one of several images, for a while:",
            ),
            ("imgmount mount --view all image.tar /mnt", "See every layer, and the tree after each:"),
            (
                "/srv/image.tar  /mnt  fuse.imgmount  noauto,user,platform=linux/arm64  0 0",
                "A line of fstab(5) that lets everybody mount it:",
            ),
            ("mount -t fuse.imgmount -o view=all /srv/image.tar /mnt", "The same without fstab, as root:"),
        ],
    ),
    ("imgmount-umount", &[("imgmount umount /mnt", "End a mount, also one whose process is gone:")]),
    (
        "imgmount-ls",
        &[
            ("imgmount ls -R image.tar", "List everything:"),
            ("imgmount ls 'image.tar:/etc/*.conf'", "List what matches:"),
            (
                "imgmount ls -R --json image.tar | jq -r 'select(.mode | startswith(\"4\")) | .path'",
                "Find programs that are set-user-id:",
            ),
        ],
    ),
    (
        "imgmount-cat",
        &[
            ("imgmount cat image.tar:/etc/os-release", "Print a file:"),
            ("imgmount cat --layer 0 image.tar:/etc/motd", "Print it as the first layer has it:"),
        ],
    ),
    (
        "imgmount-cp",
        &[
            ("imgmount cp image.tar:/etc/nginx .", "Copy a directory out:"),
            ("imgmount cp image.tar:/usr/bin/tool - | tar tv", "As a tar:"),
        ],
    ),
    ("imgmount-extract", &[("imgmount extract image.tar rootfs", "Unpack the whole tree:")]),
    ("imgmount-export", &[("imgmount export image.tar | podman import -", "Make an image of one layer:")]),
    ("imgmount-inspect", &[("imgmount inspect --json image.tar | jq .layers", "List layers, for a script:")]),
    (
        "imgmount-history",
        &[
            ("imgmount history image.tar", "List layers with their commands:"),
            ("imgmount history image.tar:/etc/passwd", "Find out who touched a file:"),
        ],
    ),
    ("imgmount-deleted", &[("imgmount deleted image.tar", "List what later layers deleted:")]),
    (
        "imgmount-diff",
        &[
            ("imgmount diff old.tar new.tar", "List what changed:"),
            ("imgmount diff --ignore '*.pyc' -u old.tar new.tar", "As unified diffs, without noise:"),
        ],
    ),
    (
        "imgmount-verify",
        &[
            ("imgmount verify image.tar && echo sound", "Check a download:"),
            (
                "imgmount verify --json image.tar | jq -c 'select(.status != \"ok\")'",
                "List what is wrong with it:",
            ),
        ],
    ),
    ("imgmount-cache", &[("imgmount cache ls", "See what is kept:")]),
    ("imgmount-cache-path", &[("du -sh \"$(imgmount cache path)\"", "See how much is kept:")]),
    (
        "imgmount-cache-ls",
        &[("imgmount cache ls --json | jq -s 'map(.size) | add'", "Add up what is kept, in bytes:")],
    ),
    (
        "imgmount-cache-prune",
        &[("imgmount cache prune --older-than 30d --max-size 2G", "Once a day, from a timer:")],
    ),
    ("imgmount-cache-clear", &[("imgmount cache clear", "Begin anew:")]),
    (
        "imgmount-completions",
        &[("imgmount completions bash > ~/.local/share/bash-completion/completions/imgmount", "For bash:")],
    ),
];

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
    let Some((_, examples)) = EXAMPLES.iter().find(|(page, _)| *page == name) else { return };
    roff.control("SH", ["EXAMPLES"]);
    for (typed, purpose) in *examples {
        roff.control("PP", []);
        roff.text([roman(*purpose)]);
        roff.control("PP", []);
        roff.control("RS", ["4"]);
        roff.control("nf", []);
        roff.text([roman(*typed)]);
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
            assert!(EXAMPLES.iter().any(|(name, _)| *name == page), "{page}");
        }
    }
}
