//! Slots found by directory and name, for some eleven bytes each.
//!
//! A table with open addressing that holds numbers only: what they stand for is looked up where the slots are. Most
//! of a merge's memory would otherwise be copies of what every slot has already. Half of each hash is kept, so that
//! nearly every look leads to the right slot at once, and growing hashes nothing again. The hash is keyed: no image
//! can be made whose names all collide.
//!
//! hashbrown's `HashTable` of the same pairs is slower and larger: `ls` of an image of a million files without a
//! cache took 1.58 s with it and 1.43 s with this table (medians of five runs in turns), and 5 MB more.

use std::hash::{BuildHasher, RandomState};

use super::tree::{DirId, SlotId};

/// No slot.
const FREE: u64 = 0;

/// The numbers of slots.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Hash in the high half, the slot's number and one in the low half; in order of hashes, up to collisions.
    places: Vec<u64>,
    used: usize,
    keys: RandomState,
}

/// What is looked for: the half of a hash that is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hashed(u64);

impl Names {
    pub(super) fn hash(&self, directory: DirId, name: &[u8]) -> Hashed {
        Hashed(self.keys.hash_one((directory, name)) >> 32)
    }

    /// The slot of this hash that is the right one.
    pub(super) fn find(&self, hash: Hashed, mut is_right: impl FnMut(SlotId) -> bool) -> Option<SlotId> {
        self.from(hash.0)
            .map_while(slot_at)
            .find_map(|(found, slot)| (found == hash.0 && is_right(slot)).then_some(slot))
    }

    /// Adds a slot that is not there.
    pub(super) fn insert(&mut self, hash: Hashed, slot: SlotId) {
        // Beyond three quarters, runs of taken places grow long.
        if self.used >= self.places.len() / 4 * 3 {
            self.grow(self.used + 1);
        }
        self.put(hash.0 << 32 | (u64::from(slot.0) + 1));
        self.used += 1;
    }

    /// Makes room for `more` slots than there are.
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

    /// Where something of this hash is, or else something that took its place, and so on.
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

    /// As a tree uses it: slots are numbered as they come.
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
