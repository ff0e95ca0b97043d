//! Measures programs of the image, run in its tree: many small reads of libraries and modules.

use std::path::Path;

use anyhow::Result;

use super::Findings;
use crate::bench::Bench;
use crate::measure::{Sample, run};
use crate::tools;
use crate::trees::{Trees, WAYS};

const PROGRAMS: [(&str, &[&str]); 2] =
    [("python3 -c 'import json'", &["python3", "-c", "import json"]), ("node -e 1", &["node", "-e", "1"])];

pub(crate) fn measure(bench: &Bench, trees: &Trees<'_>) -> Result<Findings> {
    let mut groups = Vec::new();
    for (title, words) in PROGRAMS {
        let work = |path: &Path, _| chroot(path, words);
        groups.push(trees.warm(&format!("{title}, warm"), &WAYS, bench.many_runs(), &work));
        groups.push(trees.cold(&format!("{title}, cold"), &WAYS, &work));
    }
    Ok(Findings::new(groups, &["By chroot(8). Neither /dev nor /proc is mounted in the tree."]))
}

fn chroot(root: &Path, words: &[&str]) -> Result<Sample> {
    let mut command = tools::command("chroot");
    command.arg(root).args(words).env("PATH", "/usr/local/bin:/usr/bin:/bin");
    Ok(run(&mut command)?.wall_only())
}
