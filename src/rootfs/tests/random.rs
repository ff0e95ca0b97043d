//! Compares merges of random layers with the [`reference`](super::super::samples::reference) merge.
//!
//! There are few names, so that entries meet: whiteouts often have a target, and links often form
//! cycles.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::layer::LayerId;
use crate::rootfs::{Before, Stat, replay};

fn component() -> impl Strategy<Value = &'static str> {
    select(vec!["a", "b", "c"])
}

fn path() -> impl Strategy<Value = String> {
    prop_oneof![
        12 => prop::collection::vec(component(), 1..4).prop_map(|parts| parts.join("/")),
        1 => component().prop_map(|name| format!(".wh..wh.plnk/{name}")),
        1 => (component(), component()).prop_map(|(a, b)| format!("./{a}/../{b}")),
    ]
}

fn whiteout() -> impl Strategy<Value = Item> {
    let base = select(vec![".wh.a", ".wh.b", ".wh.c", ".wh..wh..opq", ".wh..wh..opq", ".wh.."]);
    (prop::collection::vec(component(), 0..3), base).prop_map(|(mut parts, base)| {
        parts.push(base);
        mark(parts.join("/"))
    })
}

fn link_target() -> impl Strategy<Value = &'static str> {
    select(vec!["a", "b", "c", "../a", "/b", "a/b", "/c/a", "..", "/", "b/../c", "../../c/b"])
}

fn any_item() -> impl Strategy<Value = Item> {
    let owner = 0u32..3;
    let mode = select(vec![0o700, 0o750, 0o777]);
    prop_oneof![
        4 => (path(), any::<u16>()).prop_map(|(path, content)| file(path, content.into())),
        3 => path().prop_map(dir),
        2 => (path(), link_target()).prop_map(|(path, target)| symlink(path, target)),
        3 => (path(), path()).prop_map(|(path, target)| hardlink(path, target)),
        1 => path().prop_map(|path| item(path, ItemKind::Char(0, 0), 0o600)),
        1 => path().prop_map(|path| item(path, ItemKind::Fifo, 0o600)),
        4 => whiteout(),
    ]
    .prop_flat_map(move |item| (Just(item), owner.clone(), mode.clone()))
    .prop_map(|(item, owner, mode)| {
        let mode = if matches!(item.kind, ItemKind::Symlink(_)) { 0o777 } else { mode };
        item.owner(owner, owner).mode(mode)
    })
}

fn any_stack() -> impl Strategy<Value = Vec<Vec<Item>>> {
    prop::collection::vec(prop::collection::vec(any_item(), 0..9), 1..4)
}

fn any_options() -> impl Strategy<Value = MergeOptions> {
    (select(vec![Semantics::Runtime, Semantics::Oci]), any::<bool>()).prop_map(
        |(semantics, follow_dirlinks)| MergeOptions { semantics, follow_dirlinks, ..MergeOptions::default() },
    )
}

proptest! {
    #![proptest_config(crate::seed::config(2000))]

    #[test]
    fn any_stack_merges_as_the_reference_does(stack in any_stack(), options in any_options()) {
        let tree = merged_with(&stack, options);
        prop_assert_eq!(listing(&tree), reference::listing(&stack, options));
    }

    #[test]
    fn the_same_stack_has_the_same_numbers_every_time(stack in any_stack(), options in any_options()) {
        let numbers = |tree: &Rootfs| tree.walk(ROOT).collect::<Vec<_>>();
        let (one, other) = (merged_with(&stack, options), merged_with(&stack, options));
        prop_assert_eq!(numbers(&one), numbers(&other));
        prop_assert_eq!(warned(&one), warned(&other));
    }

    #[test]
    fn what_is_told_of_each_layer_makes_every_state_of_the_stack(stack in any_stack(), options in any_options()) {
        let layers: Vec<_> = stack.iter().map(|items| layer(items)).collect();
        let mut changes = Vec::new();
        replay(&layers, &options, &mut |change| {
            changes.push((change.layer, change.path.to_vec(), change.before, change.after));
            Ok(())
        }).unwrap();
        let mut state: BTreeMap<Vec<u8>, Before> = BTreeMap::new();
        for (at, _) in layers.iter().enumerate() {
            let id = LayerId(u16::try_from(at).unwrap());
            let mut told = BTreeSet::new();
            for (_, path, before, after) in changes.iter().filter(|(layer, ..)| *layer == id) {
                prop_assert!(told.insert(path), "{} is told of twice", crate::path::escape(path));
                prop_assert_eq!(*before, state.get(path).copied());
                match *after {
                    Some(inode) => state.insert(path.clone(), Before { inode, since: id }),
                    None => state.remove(path),
                };
            }
            let merged = merge(layers[..=at].to_vec(), &options).unwrap();
            let named = |path: &[u8], inode: &Stat| (path.to_vec(), Stat { nlink: 0, ..*inode });
            let shown: BTreeMap<_, _> =
                merged.walk(ROOT).map(|(path, id)| named(&path, &merged.inode(id).unwrap())).collect();
            let kept: BTreeMap<_, _> = state.iter().map(|(path, stood)| named(path, &stood.inode.stat(&layers))).collect();
            prop_assert_eq!(kept, shown);
        }
    }

    #[test]
    fn every_number_is_used_and_every_directory_knows_its_path(stack in any_stack(), options in any_options()) {
        let tree = merged_with(&stack, options);
        let mut used = vec![false; tree.inode_count() as usize];
        for (path, id) in tree.walk(ROOT) {
            used[id.0 as usize] = true;
            if tree.inode(id).unwrap().kind == InodeKind::Directory {
                prop_assert_eq!(tree.path(id), path);
            }
        }
        prop_assert!(used.iter().all(|used| *used));
    }
}
