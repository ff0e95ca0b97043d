//! Tests of the adapter's decisions, without a kernel.

use super::*;
use crate::rootfs::ROOT;

const CHILDREN: [(&[u8], InodeId); 3] = [(b"a", InodeId(5)), (b"b", InodeId(6)), (b"c", InodeId(7))];

/// Returns the children from a position on, as a tree does.
fn children_from(position: usize) -> impl Iterator<Item = (&'static [u8], InodeId)> {
    CHILDREN.into_iter().skip(position)
}

/// Returns the entries that a reader gets with room for `room` entries at a time.
fn read_in_pages(room: usize) -> Vec<(Vec<u8>, u32)> {
    let (mut all, mut offset) = (Vec::new(), 0);
    loop {
        let dots = [(&b"."[..], InodeId(3)), (&b".."[..], ROOT)];
        let entries: Vec<_> = page(dots, children_from, offset).take(room).collect();
        let Some((_, next)) = entries.last() else { return all };
        offset = *next;
        all.extend(entries.into_iter().map(|((name, id), _)| (name.to_vec(), id.0)));
    }
}

#[test]
fn a_directory_reads_the_same_in_pages_of_any_size() {
    let names = [(&b"."[..], 3), (b"..", 0), (b"a", 5), (b"b", 6), (b"c", 7)];
    let expected: Vec<(Vec<u8>, u32)> = names.map(|(name, id)| (name.to_vec(), id)).into();
    for room in 1..=6 {
        assert_eq!(read_in_pages(room), expected, "{room} entries a page");
    }
}

#[test]
fn x11_every_request_for_a_directory_begins_at_its_position() {
    // A directory of a million names is read in some ten thousand requests. Each one used to step over all
    // names before its own: 10 s of processor time.
    let (stepped, mut offset) = (std::cell::Cell::new(0), 0);
    for _ in 0..1_000 {
        let step = |at| {
            stepped.set(stepped.get() + 1);
            (&b"a"[..], at)
        };
        let children = |position: usize| (position..100_000).map(step);
        let dots = [(&b"."[..], 0), (&b".."[..], 0)];
        offset = page(dots, children, offset).take(100).last().map_or(offset, |(_, next)| next);
    }
    assert_eq!((offset, stepped.get()), (100_000, 100_000 - 2));
}

#[test]
fn a_directory_offset_past_the_end_reads_nothing() {
    let dots = [(&b"."[..], ROOT), (&b".."[..], ROOT)];
    assert_eq!(page(dots, children_from, 5).count(), 0);
    assert_eq!(page(dots, children_from, u64::MAX).count(), 0);
}

fn file_with_mode(mode: u16) -> fuser::FileAttr {
    fuser::FileAttr { kind: fuser::FileType::RegularFile, perm: mode, ..attr::nothing() }
}

fn access_errno(mode: u16, mask: AccessFlags) -> Option<i32> {
    may_access(&file_with_mode(mode), mask).err().map(Errno::code)
}

#[test]
fn the_owner_of_the_mount_reads_whatever_the_mode_says() {
    assert_eq!(access_errno(0o000, AccessFlags::R_OK), None);
}

#[test]
fn nobody_writes() {
    assert_eq!(access_errno(0o777, AccessFlags::W_OK | AccessFlags::R_OK), Some(libc::EROFS));
}

#[test]
fn a_file_runs_only_with_an_x_for_somebody() {
    assert_eq!(access_errno(0o644, AccessFlags::X_OK), Some(libc::EACCES));
    assert_eq!(access_errno(0o744, AccessFlags::X_OK), None);
}

#[test]
fn a_panic_says_why() {
    let panic = catch_unwind(|| panic!("span {} is gone", 3)).unwrap_err();
    assert_eq!(panic_text(panic.as_ref()), "span 3 is gone");
    assert_eq!(panic_text(&7), "panic");
}

#[test]
fn time_idle_counts_from_the_last_request() {
    let long_ago = Instant::now().checked_sub(Duration::from_secs(100)).unwrap();
    let activity = Activity { start: long_ago, last: AtomicU64::new(10_000) };
    assert_eq!(activity.idle().as_secs(), 90);
    activity.touch();
    assert!(activity.idle() < Duration::from_secs(90));
}
