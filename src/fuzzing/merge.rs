//! The merge of layers against a second merge, which is slow and simple.

use super::input::Choices;
use crate::rootfs::samples::{Item, compare, device, dir, fifo, file, hardlink, symlink};
use crate::rootfs::{MergeOptions, Semantics};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const PATHS: [&str; 8] = ["./a/../b", "/a", "a//b", "../c", ".wh..wh.plnk/a", "a/.", "", "a/b/c/d"];
const MARKS: [&str; 8] =
    [".wh.a", ".wh.b", ".wh.c", ".wh..wh..opq", ".wh..wh..opq", ".wh..", ".wh.", ".wh..wh.aufs"];
const TARGETS: [&str; 12] =
    ["a", "b", "c", "../a", "/b", "a/b", "/c/a", "..", "/", "b/../c", "../../c/b", ""];

pub(super) fn run(data: &[u8]) {
    let mut choices = Choices::new(data);
    let semantics = if choices.flag() { Semantics::Oci } else { Semantics::Runtime };
    let options = MergeOptions { semantics, follow_dirlinks: choices.flag(), ..MergeOptions::default() };
    let mut stack = vec![Vec::new()];
    while !choices.is_empty() && stack.len() < 6 {
        match item(&mut choices) {
            Some(item) => stack.last_mut().unwrap().push(item),
            None => stack.push(Vec::new()),
        }
    }
    compare(&stack, options);
}

/// Returns the next entry, or `None` at the end of a layer.
fn item(choices: &mut Choices<'_>) -> Option<Item> {
    let kind = choices.below(24);
    let item = match kind {
        0..=5 => file(path(choices), choices.short().into()),
        6..=9 => dir(path(choices)),
        10..=12 => symlink(path(choices), *choices.pick(&TARGETS)),
        13..=15 => hardlink(path(choices), path(choices)),
        16 => device(path(choices)),
        17 => fifo(path(choices)),
        18..=22 => {
            let mut name = directory(choices);
            name.push_str(choices.pick::<&str>(&MARKS));
            file(name, 0)
        }
        _ => return None,
    };
    let owner = u32::from(choices.byte()) % 3;
    // Symbolic links always have this mode.
    let mode = if (10..=12).contains(&kind) { 0o777 } else { *choices.pick(&[0o700, 0o750, 0o777]) };
    Some(item.owner(owner, owner).mode(mode))
}

fn directory(choices: &mut Choices<'_>) -> String {
    (0..choices.below(4)).map(|_| format!("{}/", choices.pick(&NAMES))).collect()
}

fn path(choices: &mut Choices<'_>) -> String {
    if choices.below(16) == 15 {
        return (*choices.pick(&PATHS)).to_owned();
    }
    format!("{}{}", directory(choices), choices.pick(&NAMES))
}
