//! A range of a list that is shared with other owners.
//!
//! An image has a tree for each of its states, and the layers of a state are a range of the layers of the image.
//! Copies of these ranges would take memory in proportion to the square of the number of layers.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// A range of a shared list. A clone shares the list, too.
pub(crate) struct Sublist<T> {
    all: Arc<[T]>,
    range: Range<usize>,
}

impl<T> Sublist<T> {
    /// Returns a range of this list; `None` if the list is too short.
    #[must_use]
    #[cfg(any(test, feature = "fuse"))]
    pub(crate) fn part(&self, range: Range<usize>) -> Option<Self> {
        self.get(range.clone())?;
        let start = self.range.start.checked_add(range.start)?;
        let range = start..start.checked_add(range.len())?;
        Some(Sublist { all: Arc::clone(&self.all), range })
    }
}

impl<T> Deref for Sublist<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.all.get(self.range.clone()).unwrap_or_default()
    }
}

impl<T> Clone for Sublist<T> {
    fn clone(&self) -> Self {
        Sublist { all: Arc::clone(&self.all), range: self.range.clone() }
    }
}

impl<T> From<Vec<T>> for Sublist<T> {
    fn from(list: Vec<T>) -> Self {
        let range = 0..list.len();
        Sublist { all: list.into(), range }
    }
}

impl<T: fmt::Debug> fmt::Debug for Sublist<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_part_is_a_range_of_the_same_list() {
        let list = Sublist::from(vec!['a', 'b', 'c', 'd']);
        let part = list.part(1..4).unwrap();
        let inner = part.part(1..2).unwrap();
        assert_eq!((&*part, &*inner), (&['b', 'c', 'd'][..], &['c'][..]));
        assert!(std::ptr::eq(&raw const list[2], &raw const inner[0]));
        assert!(part.part(0..4).is_none() && part.part(4..4).is_none());
        assert_eq!(part.part(3..3).map(|empty| empty.len()), Some(0));
    }
}
