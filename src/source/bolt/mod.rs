//! A read-only reader of bbolt databases, in which containerd keeps its metadata.
//!
//! This module owns the layout of a database: meta pages, branches, leaves, buckets, and which copy of a
//! database that is being written is complete. It works on a copy in memory, takes no lock and changes
//! nothing. It must not know what keys and values mean. All integers are little-endian; a database of a
//! big-endian machine is refused by name. Source: go.etcd.io/bbolt, `page.go`, `db.go`, `bucket.go`.
//!
//! ```text
//! page     id u64 | flags u16 | count u16 | overflow u32 | elements | keys and values
//! meta     magic u32 | version u32 | page size u32 | flags u32 | root bucket | freelist u64 | end u64 |
//!          transaction u64 | checksum u64 (FNV-1a of all bytes before)
//! branch   element: position u32 | key length u32 | page u64
//! leaf     element: flags u32 | position u32 | key length u32 | value length u32
//! bucket   value: root page u64 | sequence u64 | a leaf page, if the root page is 0
//! ```
//!
//! The positions of an element count from the element. A page with an overflow of N takes N more pages.
//!
//! | part | decides |
//! |---|---|
//! | `meta` | which of the two meta pages is in force |
//! | `page` | whether a page is well-formed |
//! | `copy` | which copy of a database is complete |
//!
//! A reader of a hostile database never loops, and its work is bounded by the size of the file: each page has
//! one place that refers to it, and the keys and values of a page do not overlap.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod copy;
mod meta;
mod page;
#[cfg(any(test, fuzzing))]
pub(super) use meta::fnv_1a as checksum;
#[cfg(test)]
pub(super) mod tests;

use std::cell::RefCell;
use std::collections::HashMap;

use self::meta::Meta;
use self::page::{HEADER_BYTES, Kind, Page};
use crate::error::{Error, Result, Subject};

pub(super) use self::copy::read;

/// Maximum size of a database in bytes, because a database is copied to memory: 512 MiB. The database of a
/// node with thousands of containers takes some 10 MiB.
pub(super) const MAX_DATABASE_BYTES: u64 = 512 << 20;
/// Maximum number of pages from the root of a bucket to a leaf. Eight levels of 4 KiB pages already hold
/// more keys than fit into [`MAX_DATABASE_BYTES`].
const MAX_DEPTH: usize = 32;
/// Maximum length of a key in bytes, as bbolt limits it.
const MAX_KEY_BYTES: usize = 32_768;

/// A copy of a database, as of its latest complete transaction.
#[derive(Debug)]
pub(super) struct Database {
    what: Subject,
    bytes: Vec<u8>,
    meta: Meta,
    /// The place that refers to each page that was read: the offset of an element, or 0 for the meta page. A
    /// second place is an error, so pages form a tree, and reading ends.
    referrers: RefCell<HashMap<u64, usize>>,
}

/// A set of keys in a database, each with a value or a bucket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket<'a> {
    database: &'a Database,
    root: Root,
}

/// The value of a key.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    /// The bytes of a value.
    Bytes(&'a [u8]),
    /// A nested bucket.
    Bucket(Bucket<'a>),
}

/// The root of the pages of a bucket.
#[derive(Debug, Clone, Copy)]
enum Root {
    /// A page, and the offset of the element that refers to the page.
    Page { id: u64, referrer: usize },
    /// A leaf inside of a value: the range of its bytes in the database.
    Inline { start: usize, end: usize },
}

/// The keys that a page can have, according to the branches above: from the first, and below the second.
type Bounds<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

impl Database {
    /// Takes a copy of a database. `what` names the database in errors.
    ///
    /// # Errors
    /// [`Error::Malformed`] when both meta pages are damaged, [`Error::Unsupported`] for other versions.
    pub(super) fn new(what: Subject, bytes: Vec<u8>) -> Result<Self> {
        let meta = meta::current(&what, &meta::both(&bytes), &bytes)?;
        Ok(Database { what, bytes, meta, referrers: RefCell::default() })
    }

    /// Returns the name of the database in errors.
    pub(super) fn what(&self) -> &Subject {
        &self.what
    }

    /// Returns the bucket that contains all others.
    pub(super) fn root(&self) -> Bucket<'_> {
        Bucket { database: self, root: Root::Page { id: self.meta.root, referrer: 0 } }
    }

    /// Returns the page `id`, to which the element at the offset `referrer` refers.
    fn page(&self, id: u64, referrer: usize) -> Result<Page<'_>> {
        let bad = |reason: &str| self.malformed(format!("page {id} {reason}"));
        let len = u64::from(self.meta.page_size);
        let start = id.checked_mul(len).filter(|_| id > 1 && id < self.meta.end);
        let start =
            start.and_then(|start| usize::try_from(start).ok()).ok_or_else(|| bad("does not exist"))?;
        let header = self.bytes.get(start..).and_then(page::header).ok_or_else(|| bad("does not exist"))?;
        if header.id != id {
            return Err(bad(&format!("has the number {}", header.id)));
        }
        let pages = u64::from(header.overflow).saturating_add(1);
        let last = id.saturating_add(pages);
        let end = pages.checked_mul(len).and_then(|len| len.checked_add(start as u64));
        let end = end.and_then(|end| usize::try_from(end).ok()).filter(|_| last <= self.meta.end);
        let bytes = end.and_then(|end| self.bytes.get(start..end)).ok_or_else(|| bad("is cut off"))?;
        self.claim(id..last, referrer)?;
        Page::parse(bytes, start).map_err(|reason| bad(&reason))
    }

    /// Records that the element at `referrer` refers to `pages`.
    fn claim(&self, pages: std::ops::Range<u64>, referrer: usize) -> Result<()> {
        let mut referrers = self.referrers.borrow_mut();
        for page in pages {
            if *referrers.entry(page).or_insert(referrer) != referrer {
                return Err(self.malformed(format!("page {page} is used twice")));
            }
        }
        Ok(())
    }

    fn malformed(&self, reason: impl Into<String>) -> Error {
        Error::malformed(self.what.clone(), format!("damaged database: {}", reason.into()))
    }
}

impl<'a> Bucket<'a> {
    /// Returns the value of `key`, if the bucket has this key.
    ///
    /// # Errors
    /// [`Error::Malformed`] when a page on the way to the key is damaged.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Value<'a>>> {
        let mut page = self.root_page()?;
        let mut bounds = (None, None);
        for _ in 0..MAX_DEPTH {
            self.check_bounds(&page, bounds)?;
            if page.kind() == Kind::Leaf {
                let found = page.position(key).ok();
                return found.map(|at| self.value(&page, at)).transpose();
            }
            // A key before the first one can only be below the first one.
            let at = page.position(key).unwrap_or_else(|after| after.saturating_sub(1));
            (page, bounds) = self.child(&page, at, bounds)?;
        }
        Err(self.too_deep())
    }

    /// Returns the bucket `key`, if the bucket has this key.
    ///
    /// # Errors
    /// As [`Bucket::get`], and [`Error::Malformed`] when the key has a value that is not a bucket.
    pub(super) fn bucket(&self, key: &[u8]) -> Result<Option<Bucket<'a>>> {
        match self.get(key)? {
            None => Ok(None),
            Some(Value::Bucket(bucket)) => Ok(Some(bucket)),
            Some(Value::Bytes(_)) => Err(self.wrong(key, "a value, not a bucket")),
        }
    }

    /// Returns the bytes of `key`, if the bucket has this key.
    ///
    /// # Errors
    /// As [`Bucket::get`], and [`Error::Malformed`] when the key has a bucket.
    pub(super) fn bytes(&self, key: &[u8]) -> Result<Option<&'a [u8]>> {
        match self.get(key)? {
            None => Ok(None),
            Some(Value::Bytes(bytes)) => Ok(Some(bytes)),
            Some(Value::Bucket(_)) => Err(self.wrong(key, "a bucket, not a value")),
        }
    }

    /// Calls `visit` with each key and its value, in the order of keys.
    ///
    /// # Errors
    /// [`Error::Malformed`] when a page is damaged, and the first error of `visit`.
    pub(super) fn for_each(&self, visit: &mut dyn FnMut(&'a [u8], Value<'a>) -> Result<()>) -> Result<()> {
        self.walk(&self.root_page()?, (None, None), 0, visit)
    }

    /// Calls `visit` with each key that has a bucket, and this bucket.
    ///
    /// # Errors
    /// As [`Bucket::for_each`].
    pub(super) fn for_each_bucket(
        &self,
        visit: &mut dyn FnMut(&'a [u8], Bucket<'a>) -> Result<()>,
    ) -> Result<()> {
        self.for_each(&mut |key, value| match value {
            Value::Bucket(bucket) => visit(key, bucket),
            Value::Bytes(_) => Ok(()),
        })
    }

    /// Returns the database of the bucket.
    pub(super) fn database(&self) -> &'a Database {
        self.database
    }

    fn walk(
        &self,
        page: &Page<'a>,
        bounds: Bounds<'a>,
        depth: usize,
        visit: &mut dyn FnMut(&'a [u8], Value<'a>) -> Result<()>,
    ) -> Result<()> {
        if depth >= MAX_DEPTH {
            return Err(self.too_deep());
        }
        self.check_bounds(page, bounds)?;
        for at in 0..page.len() {
            match page.kind() {
                Kind::Leaf => visit(self.key(page, at)?, self.value(page, at)?)?,
                Kind::Branch => {
                    let (child, bounds) = self.child(page, at, bounds)?;
                    self.walk(&child, bounds, depth.saturating_add(1), visit)?;
                }
            }
        }
        Ok(())
    }

    fn root_page(&self) -> Result<Page<'a>> {
        match self.root {
            Root::Page { id, referrer } => self.database.page(id, referrer),
            Root::Inline { start, end } => {
                let bytes = self.database.bytes.get(start..end).unwrap_or_default();
                let bad = |reason: String| self.database.malformed(format!("bucket at {start} {reason}"));
                let page = Page::parse(bytes, start).map_err(bad)?;
                match page.kind() {
                    Kind::Leaf => Ok(page),
                    Kind::Branch => Err(bad("is a branch".to_owned())),
                }
            }
        }
    }

    /// Returns the page below element `at` of a branch, and the keys that the page can have.
    fn child(&self, page: &Page<'a>, at: usize, bounds: Bounds<'a>) -> Result<(Page<'a>, Bounds<'a>)> {
        let (id, referrer) = page.child(at).ok_or_else(|| self.database.malformed("a branch is empty"))?;
        let above = at.checked_add(1).and_then(|next| page.key(next)).or(bounds.1);
        Ok((self.database.page(id, referrer)?, (page.key(at), above)))
    }

    /// Checks that the keys of `page` are within `bounds`, which they are not if a copy of the database mixes
    /// two transactions.
    fn check_bounds(&self, page: &Page<'a>, bounds: Bounds<'a>) -> Result<()> {
        let first = page.key(0);
        let last = page.len().checked_sub(1).and_then(|last| page.key(last));
        let before = first.zip(bounds.0).is_some_and(|(first, from)| first < from);
        let after = last.zip(bounds.1).is_some_and(|(last, below)| last >= below);
        if before || after {
            return Err(self.database.malformed(format!("keys at {} are out of order", page.offset())));
        }
        Ok(())
    }

    fn key(&self, page: &Page<'a>, at: usize) -> Result<&'a [u8]> {
        page.key(at).ok_or_else(|| self.database.malformed("a page is cut off"))
    }

    fn value(&self, page: &Page<'a>, at: usize) -> Result<Value<'a>> {
        let cut_off = || self.database.malformed("a value is cut off");
        let leaf = page.leaf(at).ok_or_else(cut_off)?;
        if !leaf.is_bucket {
            return Ok(Value::Bytes(leaf.value));
        }
        let id = page::u64_at(leaf.value, 0).ok_or_else(cut_off)?;
        let root = if id == 0 {
            let end = leaf.offset.checked_add(leaf.value.len()).ok_or_else(cut_off)?;
            Root::Inline { start: leaf.offset.saturating_add(HEADER_BYTES), end }
        } else {
            Root::Page { id, referrer: leaf.offset }
        };
        Ok(Value::Bucket(Bucket { database: self.database, root }))
    }

    fn too_deep(&self) -> Error {
        let depth = MAX_DEPTH.saturating_add(1) as u64;
        Error::limit(self.database.what.clone(), "MAX_DEPTH", depth, MAX_DEPTH as u64)
    }

    fn wrong(&self, key: &[u8], what: &str) -> Error {
        self.database.malformed(format!("'{}' is {what}", crate::path::escape(key)))
    }
}
