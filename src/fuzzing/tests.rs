//! Runs every target on its seeds, and on the inputs that once failed.

use std::fs;
use std::path::{Path, PathBuf};

use super::mutate::Random;
use super::{TARGETS, seeds};

/// Mutations of each seed.
const MUTATIONS: u32 = 8;

/// Inputs that failed once, in a directory for each target. The name of a file says what failed.
fn regressions(target: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz").join(target);
    let Ok(files) = fs::read_dir(directory) else { return Vec::new() };
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn inputs_that_failed_once_fail_no_more() {
    for target in TARGETS {
        for path in regressions(target.name) {
            eprintln!("{}", path.display());
            target.run(&fs::read(path).unwrap());
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let directories =
        fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    for directory in directories {
        assert!(TARGETS.iter().any(|target| target.name == directory), "no target is named {directory}");
    }
}

/// A change of every kind to every seed, by the mutations that the fuzzer uses.
#[test]
fn seeds_and_mutations_of_them_pass_every_target() {
    for target in TARGETS {
        let seeds = seeds::of(target.name);
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for (number, seed) in seeds.iter().enumerate() {
            eprintln!("{} {number}", target.name);
            assert!(seed.len() <= target.max_bytes, "{} {number} has {} bytes", target.name, seed.len());
            target.run(seed);
            for round in 0..MUTATIONS {
                let mut data = seed.clone();
                let mut random = Random::new(u64::from(round) << 32 | number as u64);
                target.mutate(&mut data, round, &mut |bytes| {
                    let at = random.below(bytes.len());
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = random.next().to_le_bytes()[0];
                    }
                });
                target.run(&data);
            }
        }
    }
}

/// Writes the seeds for `make fuzz`, which sets the variable; otherwise it does nothing.
#[test]
fn write_seeds() {
    let Some(directory) = std::env::var_os("IMGMOUNT_FUZZ_SEEDS") else { return };
    for target in TARGETS {
        let directory = Path::new(&directory).join(target.name);
        fs::create_dir_all(&directory).unwrap();
        for (number, seed) in seeds::of(target.name).into_iter().enumerate() {
            fs::write(directory.join(format!("seed-{number}")), seed).unwrap();
        }
    }
}

#[test]
fn every_target_has_a_binary_and_a_line_in_the_documentation() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(root.join("fuzz/Cargo.toml")).unwrap();
    let page = fs::read_to_string(root.join("docs/fuzzing.md")).unwrap();
    for target in TARGETS {
        let name = target.name;
        let binary = fs::read_to_string(root.join(format!("fuzz/fuzz_targets/{name}.rs"))).unwrap();
        assert!(binary.contains(&format!("fuzz!(\"{name}\")")), "{name}");
        assert!(manifest.contains(&format!("\npath = \"fuzz_targets/{name}.rs\"\n")), "{name}");
        assert!(page.contains(&format!("\n| `{name}` |")), "{name}");
    }
}
