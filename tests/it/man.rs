//! Tests the manual pages and the installed files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::mounted::{Imgmount, Need, have, run};

fn pages(imgmount: &Imgmount) -> Vec<PathBuf> {
    let dir = imgmount.dir().join("man");
    fs::create_dir(&dir).unwrap();
    run(imgmount.command(&["man"]).arg(&dir)).expect(0);
    let mut pages: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.sort();
    pages
}

/// Returns the commands that `help` lists.
fn commands(imgmount: &Imgmount, of: &[&str]) -> Vec<String> {
    let out = imgmount.run(&[of, &["--help"]].concat()).expect(0);
    let list = out.lines().into_iter().skip_while(|line| *line != "Commands:").skip(1);
    // Long help starts a description on its own line, indented further.
    let names = list.take_while(|line| line.is_empty() || line.starts_with("  "));
    let names = names.filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')));
    names.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn every_command_has_a_page() {
    let imgmount = Imgmount::new();
    let top = commands(&imgmount, &[]);
    assert!(top.iter().any(|name| name == "mount"), "{top:?}");
    let mut expected = vec!["imgmount.1".to_owned()];
    expected.extend(top.iter().map(|name| format!("imgmount-{name}.1")));
    for name in &top {
        let inner = commands(&imgmount, &[name.as_str()]).into_iter().filter(|inner| inner != "help");
        expected.extend(inner.map(|inner| format!("imgmount-{name}-{inner}.1")));
    }
    expected.sort();
    let found = pages(&imgmount);
    let found: Vec<_> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(found, expected);
}

/// Returns a formatted page on one line, and the formatter's warnings.
fn formatted(page: &Path) -> (String, String) {
    let mut man = Command::new("man");
    man.args(["--warnings", "-l"]).arg(page).env("LC_ALL", "C.UTF-8").env("MANWIDTH", "200");
    let out = run(&mut man).expect(0);
    (out.text().split_whitespace().collect::<Vec<_>>().join(" "), out.stderr)
}

#[test]
fn every_page_reads_well() {
    if !have(&[Need::Program("man")]) {
        return;
    }
    let imgmount = Imgmount::new();
    for page in pages(&imgmount) {
        let (text, warnings) = formatted(&page);
        assert_eq!(warnings, "", "{}", page.display());
        let sections = [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "EXIT STATUS",
            "ENVIRONMENT",
            "FILES",
            "EXAMPLES",
            "SEE ALSO",
        ];
        let mut rest = text.as_str();
        for section in sections {
            let at = rest.find(&format!(" {section} "));
            let at = at.unwrap_or_else(|| panic!("{}: no {section}", page.display()));
            rest = &rest[at + 1..];
        }
    }
}

#[test]
fn a_page_says_how_to_call_the_command_and_what_its_answer_means() {
    if !have(&[Need::Program("man")]) {
        return;
    }
    let imgmount = Imgmount::new();
    let pages = pages(&imgmount);
    let text = |name: &str| formatted(pages.iter().find(|page| page.ends_with(name)).unwrap()).0;
    let main = text("imgmount.1");
    assert!(
        main.contains(
            "SYNOPSIS imgmount IMAGE DIR [OPTIONS] imgmount SOURCE imgmount COMMAND ... DESCRIPTION"
        ),
        "{main}"
    );
    let mount = text("imgmount-mount.1");
    assert!(mount.contains("SYNOPSIS imgmount mount [OPTIONS] <IMAGE> <DIR> DESCRIPTION"), "{mount}");
    assert!(mount.contains("fuse.imgmount noauto,user,platform=linux/arm64 0 0"), "{mount}");
    let verify = text("imgmount-verify.1");
    assert!(verify.contains(
        "EXIT STATUS 0 No difference and no mismatch was found. 1 A difference or a mismatch was found."
    ));
}

#[test]
fn every_variable_that_has_an_effect_is_on_the_page() {
    let document = include_str!("../../docs/cli.md");
    let table = document.split("\n## Environment\n").nth(1).unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let named = rows.flat_map(|row| row.split(" | ").next().unwrap().split('`').skip(1).step_by(2));
    let imgmount = Imgmount::new();
    let pages = pages(&imgmount);
    let page = fs::read_to_string(pages.iter().find(|page| page.ends_with("imgmount.1")).unwrap()).unwrap();
    let listed: Vec<&str> = page.split("\n.SH FILES").next().unwrap().split("\\fB").skip(1).collect();
    for name in named.filter(|name| !["HOME", "PATH"].contains(name)) {
        let is_listed =
            listed.iter().any(|term| term.split("\\fR").next().unwrap().split(", ").any(|one| one == name));
        assert!(is_listed, "{name}");
    }
}

fn make(target: &str, root: &Path) {
    let mut make = Command::new("make");
    make.current_dir(env!("CARGO_MANIFEST_DIR")).arg(target).arg("PREFIX=/usr");
    make.arg(format!("DESTDIR={}", root.display())).arg(concat!("program=", env!("CARGO_BIN_EXE_imgmount")));
    run(&mut make).expect(0);
}

fn files(root: &Path) -> Vec<String> {
    let mut open = vec![root.to_owned()];
    let mut files = Vec::new();
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                files.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    files.sort();
    files
}

#[test]
fn make_installs_program_pages_and_completions_and_takes_them_away_again() {
    if !have(&[Need::Program("make")]) {
        return;
    }
    let imgmount = Imgmount::new();
    let root = imgmount.dir().join("root");
    make("install", &root);
    let (pages_installed, rest): (Vec<_>, Vec<_>) =
        files(&root).into_iter().partition(|file| file.starts_with("usr/share/man/man1/"));
    let expected = [
        "usr/bin/imgmount",
        "usr/share/bash-completion/completions/imgmount",
        "usr/share/fish/vendor_completions.d/imgmount.fish",
        "usr/share/zsh/site-functions/_imgmount",
    ];
    assert_eq!(rest, expected);
    assert_eq!(pages_installed.len(), pages(&imgmount).len());
    for completions in &expected[1..] {
        let text = fs::read_to_string(root.join(completions)).unwrap();
        assert!(text.contains("verify") && !text.is_empty(), "{completions}");
    }
    make("uninstall", &root);
    assert_eq!(files(&root), [""; 0]);
}
