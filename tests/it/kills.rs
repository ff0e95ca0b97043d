//! Kills the program at random moments of its first look at an image. Whatever the moment, the next run shows the
//! whole tree, and then nothing is left that a run to its end would not leave.
//!
//! `IMGMOUNT_KILLS=N` sets the number of kills; `make kills` makes 1,000. With it, the counts are printed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};
use std::{env, fs, thread};

use crate::fixture::{
    Compression, Image, Item, Registry, dir, docker_legacy, file, oci, patterned, tar, write_dir,
};
use crate::mounted::{Imgmount, Need, have, is_mounted, run, unmount, wait, wait_until};
use crate::numbers::Random;
use crate::seed;
use crate::tree::{Field, Snapshot};

const VARIABLE: &str = "IMGMOUNT_KILLS";
const DEFAULT_KILLS: u64 = 8;
/// Enough names for the merged tree to be stored, too.
const NAMES: usize = 10_500;

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Action {
    Mount,
    List,
    Export,
    Extract,
}

const ACTIONS: [Action; 4] = [Action::Mount, Action::List, Action::Export, Action::Extract];

/// An image in one place.
struct Source {
    name: &'static str,
    reference: String,
    /// The files in the cache directory after a run that was not killed.
    kept: BTreeSet<String>,
    /// How long each action takes with an empty cache directory, until it is of no use to wait longer.
    lengths: BTreeMap<Action, Duration>,
}

/// Everything that a run has at hand.
struct Place {
    imgmount: Imgmount,
    tree: Snapshot,
}

fn layers() -> [(Vec<Item>, Compression); 3] {
    let mut many = vec![dir("many")];
    many.extend((0..NAMES).map(|number| file(format!("many/{number}"), b"")));
    // The second layer is one frame, which needs a seekable copy.
    [
        (vec![file("large", patterned(3 << 20, 1))], Compression::Gzip(6)),
        (vec![file("frame", patterned(6 << 20, 2))], Compression::Zstd),
        (many, Compression::Gzip(1)),
    ]
}

fn image(plain: bool) -> Image {
    layers().into_iter().fold(Image::named("a:1"), |image, (items, compression)| {
        let compression = if plain { Compression::Plain } else { compression };
        image.layer_as("COPY", &items, "", compression)
    })
}

/// Returns the names of all files below a directory.
fn names(directory: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).into_iter().flatten() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false => drop(names.insert(path.strip_prefix(directory).unwrap().display().to_string())),
            }
        }
    }
    names
}

impl Place {
    fn new() -> Self {
        let items: Vec<Item> = layers().into_iter().flat_map(|(items, _)| items).collect();
        Place { imgmount: Imgmount::new(), tree: Snapshot::described(&items) }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.imgmount.command(args);
        command.env("HOME", self.imgmount.dir()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn at(&self, name: &str) -> PathBuf {
        self.imgmount.dir().join(name)
    }

    /// Starts an action. A mount ends when it is unmounted.
    fn start(&self, action: Action, reference: &str) -> Child {
        let (point, tar, files) = (self.at("point"), self.at("out/tar"), self.at("files"));
        let [point, tar, files] = [&point, &tar, &files].map(|path| path.to_str().unwrap());
        let mut command = match action {
            Action::Mount => self.command(&["mount", "-f", reference, point]),
            Action::List => self.command(&["ls", "-R", reference]),
            Action::Export => self.command(&["export", "-o", tar, reference]),
            Action::Extract => self.command(&["extract", reference, files]),
        };
        command.spawn().expect("starting the program")
    }

    /// Waits until an action has ended, or has mounted.
    fn finish(&self, action: Action, child: &mut Child) {
        let point = self.at("point");
        if action == Action::Mount {
            assert!(wait_until(|| is_mounted(&point)), "no mount");
            // An unmount before the first answer is an error of the server.
            fs::metadata(&point).unwrap();
            assert!(wait_until(|| unmount(&point, false)), "no unmount");
        }
        assert!(wait(child).expect("an end").success(), "{action:?}");
    }

    /// Begins anew: no cache, no results.
    fn clear(&self) {
        for name in ["cache", "out", "files", "point"] {
            let _ = fs::remove_dir_all(self.at(name));
        }
        for name in ["out", "point"] {
            fs::create_dir(self.at(name)).unwrap();
        }
    }

    /// Runs every action once, without a kill.
    fn measured(&self, name: &'static str, reference: String) -> Source {
        let mut source = Source { name, reference, kept: BTreeSet::new(), lengths: BTreeMap::new() };
        for action in ACTIONS {
            self.clear();
            let begun = Instant::now();
            let mut child = self.start(action, &source.reference);
            self.finish(action, &mut child);
            source.lengths.insert(action, begun.elapsed());
        }
        self.check_tree(&source, "without a kill");
        source.kept = names(&self.imgmount.cache());
        let kinds = ["idx", "copy", "tree"];
        let has = |kind: &&str| source.kept.iter().any(|name| name.ends_with(*kind));
        assert!(kinds.iter().all(has), "{}: {:?}", source.name, source.kept);
        source
    }

    fn check_tree(&self, source: &Source, about: &str) {
        let mounted = self.imgmount.mount(&source.reference, &[]);
        let found = Snapshot::of(mounted.path()).without(Field::Root);
        self.tree.clone().without(Field::Root).assert_shown_by(&found, about);
    }

    /// Kills an action after `delay`. Returns whether it was still running.
    fn kill(&self, action: Action, source: &Source, delay: Duration) -> bool {
        let mut child = self.start(action, &source.reference);
        thread::sleep(delay);
        let was_running = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        let point = self.at("point");
        if is_mounted(&point) {
            assert!(unmount(&point, true), "a mount without a server");
        }
        was_running
    }

    /// Checks what killed runs have left, what the next run makes of it, and what is left then.
    fn check(&self, action: Action, source: &Source, about: &str) {
        let out = names(&self.at("out"));
        assert!(out.iter().all(|name| action == Action::Export && name == "tar"), "{about}: {out:?}");
        if action == Action::Extract {
            let files = self.at("files");
            for (name, content) in [("large", patterned(3 << 20, 1)), ("frame", patterned(6 << 20, 2))] {
                let found = fs::read(files.join(name)).unwrap_or_else(|_| content.clone());
                assert!(found == content, "{about}: {name} has its name, but not its bytes");
            }
            let path = files.to_str().unwrap();
            run(&mut self.command(&["extract", "--force", &source.reference, path])).expect(0);
            let described: BTreeSet<String> = layers()
                .iter()
                .flat_map(|(items, _)| items)
                .filter(|item| item.name != b"many")
                .map(|item| String::from_utf8(item.name.clone()).unwrap())
                .collect();
            let (found, mut extra) = (names(&files), BTreeSet::new());
            extra.extend(found.difference(&described));
            let is_temporary =
                |name: &&&String| name.starts_with(".imgmount-") || name.contains("/.imgmount-");
            assert_eq!(extra.iter().find(|name| !is_temporary(name)), None, "{about}");
            assert!(found.is_superset(&described) && extra.len() <= MAX_LEFT, "{about}: {extra:?}");
        }
        self.check_tree(source, about);
        // A file gets its name in two steps. A run that is killed between them leaves a draft, for a day.
        let cache = self.imgmount.cache();
        let is_draft = |name: &&String| name.starts_with(".draft-");
        for draft in names(&cache).iter().filter(is_draft) {
            let old = SystemTime::now() - Duration::from_secs(25 * 60 * 60);
            File::options().write(true).open(cache.join(draft)).unwrap().set_modified(old).unwrap();
        }
        run(&mut self.command(&["ls", &source.reference])).expect(0);
        // A layer whose index was stored before the end of its download is kept in part, as after other reads.
        let whole = |name: String| match name.strip_suffix(".part").or_else(|| name.strip_suffix(".map")) {
            Some(blob) => format!("{blob}.blob"),
            None => name,
        };
        let found: BTreeSet<String> = names(&cache).into_iter().map(whole).collect();
        assert_eq!(found, source.kept, "{about}: files in the cache directory");
    }
}

/// Temporary files that a killed extraction may leave in its target: one for each thread.
const MAX_LEFT: usize = 64;

#[test]
fn x39_a_kill_at_any_moment_leaves_no_wrong_byte_and_no_rubbish() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let set = env::var(VARIABLE).ok();
    let kills: u64 = set.as_deref().map_or(DEFAULT_KILLS, |text| text.parse().expect("a number of kills"));
    let (place, registry) = (Place::new(), Registry::start());
    let whole = Compression::Zstd.compress(&tar(&docker_legacy(&[image(true)])));
    let archive = place.imgmount.write("whole.tar.zst", &whole);
    let layout = place.at("layout");
    write_dir(&oci(&[image(false)]), &layout);
    registry.push("app:1", &image(false));
    let sources = [
        place.measured("compressed archive", archive.display().to_string()),
        place.measured("layout", layout.display().to_string()),
        place.measured("registry", registry.reference("app:1")),
    ];

    let (mut random, mut counts) = (Random::new(seed::seed(), 42), BTreeMap::<String, u64>::new());
    let mut made = 0;
    while made < kills {
        let (source, action) = (random.pick(&sources), *random.pick(&ACTIONS));
        place.clear();
        // Several runs may be killed before one succeeds.
        for _ in 0..=random.below(3) {
            let delay = source.lengths[&action].mul_f64(random.below(1100) as f64 / 1000.0);
            let was_running = place.kill(action, source, delay);
            made += 1;
            let about = if was_running { "killed" } else { "had ended" };
            *counts.entry(format!("{action:?} {about}")).or_default() += 1;
        }
        place.check(action, source, &format!("{action:?} of {} after kill {made}", source.name));
        if set.is_some() && (made % 50 == 0 || made >= kills) {
            writeln!(std::io::stderr(), "{made} kills: {counts:?}").unwrap();
        }
    }
}
