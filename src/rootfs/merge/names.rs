//! Finds slots by directory and name, with about eleven bytes for each slot.
//!
//! This is a hash table with open addressing that holds only numbers; the names are read from the
//! slots. Copies of the names would otherwise take most of a merge's memory. Half of each hash is kept,
//! so that nearly every lookup finds the right slot at once, and growing the table hashes nothing
//! again. The hash is keyed: no image can be made whose names all collide.
//!
//! hashbrown's `HashTable` of the same pairs is slower and larger: `ls` of an image of a million files
//! without a cache took 1.58 s with it and 1.43 s with this table (medians of five runs in turns), and
//! 5 MB more.

use std::hash::{BuildHasher, RandomState};

use super::tree::{DirId, SlotId};

/// A free place in the table.
const FREE: u64 = 0;

/// A hash table of slot numbers.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// The hash in the high half, the slot's number plus one in the low half; ordered by hash, except for
    /// collisions.
    places: Vec<u64>,
    used: usize,
    keys: RandomState,
}

/// The half of a hash that is kept, as the key of a lookup.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hashed(u64);

impl Names {
    pub(super) fn hash(&self, directory: DirId, name: &[u8]) -> Hashed {
        Hashed(self.keys.hash_one((directory, name)) >> 32)
    }

    /// Returns the slot with this hash for which `is_right` returns true.
    pub(super) fn find(&self, hash: Hashed, mut is_right: impl FnMut(SlotId) -> bool) -> Option<SlotId> {
        self.from(hash.0)
            .map_while(slot_at)
            .find_map(|(found, slot)| (found == hash.0 && is_right(slot)).then_some(slot))
    }

    /// Adds a slot that the table does not have.
    pub(super) fn insert(&mut self, hash: Hashed, slot: SlotId) {
        // Above three quarters, runs of taken places become long.
        if self.used >= self.places.len() / 4 * 3 {
            self.grow(self.used + 1);
        }
        self.put(hash.0 << 32 | (u64::from(slot.0) + 1));
        self.used += 1;
    }

    /// Reserves memory for `more` additional slots.
    pub(super) fn reserve(&mut self, more: usize) {
        let wanted = self.used + more;
        if wanted > self.places.len() / 4 * 3 {
            self.resize(wanted);
        }
    }

    fn grow(&mut self, wanted: usize) {
        self.resize(wanted.saturating_mul(2));
    }

    fn resize(&mut self, slots: usize) {
        let len = (slots / 3 + 1).saturating_mul(4);
        let old = std::mem::replace(&mut self.places, vec![FREE; len]);
        old.into_iter().filter(|place| *place != FREE).for_each(|place| self.put(place));
    }

    fn put(&mut self, place: u64) {
        let free = self.order(place >> 32).find(|at| self.places.get(*at) == Some(&FREE));
        if let Some(free) = free.and_then(|at| self.places.get_mut(at)) {
            *free = place;
        }
    }

    fn from(&self, hash: u64) -> impl Iterator<Item = u64> {
        self.order(hash).filter_map(|at| self.places.get(at).copied())
    }

    /// Yields the place for this hash, then the places that are tried after a collision, in order.
    fn order(&self, hash: u64) -> impl Iterator<Item = usize> + use<> {
        let len = self.places.len();
        // The hash has 32 bits, and the product is below `len` times that.
        let first = usize::try_from((u128::from(hash) * len as u128) >> 32).unwrap_or(0);
        (first..len).chain(0..first)
    }
}

fn slot_at(place: u64) -> Option<(u64, SlotId)> {
    let number = u32::try_from(place & u64::from(u32::MAX)).ok()?.checked_sub(1)?;
    Some((place >> 32, SlotId(number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds a name as a tree does: slots are numbered in the order of their addition.
    fn add(names: &mut Names, slots: &mut Vec<(DirId, Vec<u8>)>, directory: DirId, name: &[u8]) -> SlotId {
        let hash = names.hash(directory, name);
        let right = |slot: SlotId| slots[slot.0 as usize] == (directory, name.to_vec());
        if let Some(slot) = names.find(hash, right) {
            return slot;
        }
        let slot = SlotId(u32::try_from(slots.len()).unwrap());
        slots.push((directory, name.to_vec()));
        names.insert(hash, slot);
        slot
    }

    #[test]
    fn every_name_has_one_slot_while_the_table_grows() {
        for reserved in [0, 1, 20_000] {
            let (mut names, mut slots) = (Names::default(), Vec::new());
            names.reserve(reserved);
            for round in 0..2 {
                for at in 0..20_000_u32 {
                    let slot = add(&mut names, &mut slots, DirId(at % 7), at.to_string().as_bytes());
                    assert_eq!(slot, SlotId(at), "round {round}, {reserved} reserved");
                }
            }
        }
    }

    #[test]
    fn names_of_one_hash_are_told_apart() {
        let mut names = Names::default();
        for hash in [0, 7, u64::from(u32::MAX)] {
            for slot in 0..50 {
                names.insert(Hashed(hash), SlotId(slot));
            }
        }
        for hash in [0, 7, u64::from(u32::MAX)] {
            for wanted in 0..50 {
                assert_eq!(names.find(Hashed(hash), |slot| slot.0 == wanted), Some(SlotId(wanted)));
            }
            assert_eq!(names.find(Hashed(hash), |_| false), None);
        }
        assert_eq!(names.find(Hashed(1 << 31), |_| true), None);
    }

    #[test]
    fn an_empty_table_has_nothing() {
        let names = Names::default();
        assert_eq!(names.find(names.hash(DirId(0), b"a"), |_| true), None);
    }
}
