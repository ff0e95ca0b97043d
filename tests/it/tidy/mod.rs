//! Checks that the compiler does not make: the rulebook, the order of modules, files that are never
//! run.
//!
//! | part | checks |
//! |---|---|
//! | `rules` | rules have tests, and cited codes are rules |
//! | `layering` | the order of modules |
//! | `limits` | docs/limits.md has all limits of the source |

mod layering;
mod limits;
mod rules;

use std::fs;
use std::path::{Path, PathBuf};

use crate::mounted::Imgmount;

/// Maximum number of lines of a file; a longer file should be split.
const MAX_LINES: usize = 600;

/// Returns every Rust file below `folder` of the checkout: its relative path and its text.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut open = vec![root.join(folder)];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root).unwrap().to_owned(), text));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} has no Rust in it");
    found.sort();
    found
}

/// Returns the files of the library without its own tests.
fn library() -> impl Iterator<Item = (PathBuf, String)> {
    let is_test =
        |path: &Path| path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs");
    let is_program = |path: &Path| path.starts_with("src/cli") || path == Path::new("src/main.rs");
    sources("src").into_iter().filter(move |(path, _)| !is_test(path) && !is_program(path))
}

/// Returns the lines of `text` whose code contains one of `words`.
fn lines_with(text: &str, words: &[&str]) -> Vec<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.filter(|line| words.iter().any(|word| line.contains(word))).map(str::to_owned).collect()
}

#[track_caller]
fn assert_absent(files: impl Iterator<Item = (PathBuf, String)>, words: &[&str], why: &str) {
    let found: Vec<_> = files
        .flat_map(|(path, text)| {
            lines_with(&text, words)
                .into_iter()
                .map(move |line| format!("{}: {}", path.display(), line.trim()))
        })
        .collect();
    assert!(found.is_empty(), "{why}:\n{}", found.join("\n"));
}

#[test]
fn fuser_is_used_in_src_fuse_only() {
    let others = sources("src").into_iter().filter(|(path, _)| !path.starts_with("src/fuse"));
    assert_absent(others, &["fuser::", "use fuser"], "the kernel's protocol is the business of src/fuse");
}

#[test]
fn ureq_is_used_in_one_file_only() {
    let others =
        sources("src").into_iter().filter(|(path, _)| path != Path::new("src/source/registry/http.rs"));
    assert_absent(others, &["ureq::", "use ureq"], "http.rs alone makes connections");
}

#[test]
fn the_library_neither_prints_nor_looks_at_environment_or_terminal() {
    let words =
        ["println!", "eprintln!", "print!(", "io::stdout", "io::stderr", "IsTerminal", "indicatif", "clap"];
    assert_absent(library(), &words, "only src/cli prints");
    let environment =
        ["env::var", "env::args", "env::vars", "env::temp_dir", "env::home_dir", "env::current_dir"];
    // fusermount.rs reads PATH, to find a program to run.
    let others = library().filter(|(path, _)| path != Path::new("src/fuse/fusermount.rs"));
    assert_absent(others, &environment, "only src/cli looks at the environment");
}

/// Paths of the host contain any bytes. A path that is kept as text in an error is escaped when the error is shown.
#[test]
fn x19_paths_of_the_host_are_escaped_in_messages() {
    let without_tests = |text: String| match text.split_once("\nmod tests {") {
        Some((code, _)) => code.to_owned(),
        None => text,
    };
    let is_test = |path: &Path| path.ends_with("tests.rs") || path.iter().any(|part| part == "tests");
    let files = sources("src").into_iter().filter(|(path, _)| !is_test(path));
    let files = files.map(|(path, text)| (path, without_tests(text).replace(".display().to_string()", "")));
    assert_absent(files, &[".display()"], "use escape_path");
}

#[test]
fn every_file_of_these_tests_is_run_and_listed() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let main = fs::read_to_string(here.join("main.rs")).unwrap();
    for entry in fs::read_dir(here).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let name = name.trim_end_matches(".rs");
        if name != "main" {
            assert!(main.contains(&format!("\nmod {name};")), "tests/it/{name} is never run");
            assert!(main.contains(&format!("//! | `{name}` | ")), "main.rs does not say what {name} is for");
        }
    }
}

#[test]
fn every_command_is_in_the_help_and_every_command_of_the_help_in_the_readme() {
    let help = Imgmount::new().run(&["--help"]).expect(0).text().to_owned();
    let commands = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let commands: Vec<&str> = commands.lines().filter_map(|line| line.split_whitespace().next()).collect();
    for (path, text) in sources("src/cli") {
        let name = path.file_stem().unwrap().to_str().unwrap();
        // The help does not list commands for `make install` and for shells.
        let is_hidden = text.contains("const HIDDEN: bool = true;");
        if path.components().count() == 3 && text.contains("impl Command for ") && !is_hidden {
            assert!(commands.contains(&name), "{name}: {commands:?}");
        }
    }
    let readme = include_str!("../../../README.md");
    for command in commands {
        assert!(
            readme.contains(&format!("imgmount {command}")) || readme.contains(&format!("`{command}`")),
            "{command}"
        );
    }
}

#[test]
fn make_random_runs_every_test_that_takes_a_seed() {
    let makefile = include_str!("../../../Makefile");
    let words = makefile.split("\nrandom_tests = ").nth(1).unwrap().lines().next().unwrap();
    for (path, text) in ["src", "tests"].into_iter().flat_map(sources) {
        let module = format!(
            "{}::",
            path.with_extension("")
                .iter()
                .map(|part| part.display().to_string())
                .collect::<Vec<_>>()
                .join("::")
        );
        if text.contains("seed::config(") || text.contains("seed::seed(") {
            let is_run =
                words.split_whitespace().any(|word| module.contains(word)) || module.contains("tidy");
            assert!(is_run, "make random does not run {module}");
        }
    }
}

#[test]
fn no_file_is_longer_than_a_reader_can_hold() {
    let files = ["src", "tests", "examples", "benches"].into_iter().flat_map(sources);
    let long: Vec<_> =
        files.filter(|(_, text)| text.lines().count() > MAX_LINES).map(|(path, _)| path).collect();
    assert_eq!(long, Vec::<PathBuf>::new());
}
