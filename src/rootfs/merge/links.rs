//! Binds hard links whose target did not exist when they were read, after the whole layer is read.
//!
//! A target is looked up in the layer itself first, then in the lower layers as they were before this
//! layer's whiteouts (docs/semantics.md H2, H3, H5). No target depends on the order in which links are
//! bound.

use super::own::LayerMerge;
use super::tree::{FoundAt, LinkId, Occupant, SlotId};
use crate::path::clean;
use crate::warning::WarningKind;

/// A hard link that waits for its target.
#[derive(Debug)]
pub(super) struct Link<'a> {
    /// The slot that the link will fill, unless a later entry fills it.
    pub(super) slot: SlotId,
    /// The name of the link's entry.
    pub(super) name: &'a [u8],
    pub(super) target: &'a [u8],
    /// The occupant of the slot if the link is left out: the slot's earlier occupant.
    pub(super) fallback: Occupant,
}

impl<'a> LayerMerge<'a, '_> {
    /// Binds every waiting link, or leaves it out.
    pub(super) fn bind_links(&mut self) {
        let links = std::mem::take(&mut self.own.links);
        let aims: Vec<Option<FoundAt>> =
            links.iter().map(|link| self.find_own(&clean(link.target).components)).collect();
        let mut on_chain = vec![false; links.len()];
        for start in 0..links.len() {
            self.bind_chain(start, &links, &aims, &mut on_chain);
        }
    }

    /// Binds a link, after binding the links that its target leads through.
    fn bind_chain(
        &mut self,
        start: usize,
        links: &[Link<'a>],
        aims: &[Option<FoundAt>],
        on_chain: &mut [bool],
    ) {
        let mut chain = vec![start];
        while let Some(at) = chain.last().copied() {
            let (Some(link), Some(aim), Some(mark)) = (links.get(at), aims.get(at), on_chain.get_mut(at))
            else {
                return;
            };
            *mark = true;
            match self.waiting(link, at, *aim) {
                Some(next) if on_chain.get(next) == Some(&true) => {
                    let cycle = chain.iter().position(|other| *other == next).unwrap_or_default();
                    for left_out in chain.drain(cycle..).filter_map(|other| links.get(other)) {
                        self.leave_out(left_out, WarningKind::LinkCycle);
                    }
                }
                Some(next) => {
                    chain.push(next);
                    continue;
                }
                None => {
                    if self.is_waiting(link, at) {
                        self.bind(link, *aim);
                    }
                    chain.pop();
                }
            }
        }
    }

    fn is_waiting(&self, link: &Link<'a>, at: usize) -> bool {
        matches!(self.own.tree[link.slot].occupant(), Occupant::Link(LinkId(own)) if own as usize == at)
    }

    /// Returns the waiting link that currently is the target of `link`.
    fn waiting(&self, link: &Link<'a>, at: usize, aim: Option<FoundAt>) -> Option<usize> {
        if !self.is_waiting(link, at) {
            return None;
        }
        match self.own.tree[aim?.slot()?].occupant() {
            Occupant::Link(LinkId(next)) => Some(next as usize),
            _ => None,
        }
    }

    fn bind(&mut self, link: &Link<'a>, aim: Option<FoundAt>) {
        let own =
            aim.and_then(FoundAt::slot).map_or(Occupant::Nothing, |slot| self.own.tree[slot].occupant());
        let (found, kind) = match own {
            Occupant::Object(object) if self.objects[object].layer == self.layer => {
                (own, WarningKind::LinkToLater)
            }
            Occupant::Object(_) | Occupant::Directory(_) => (own, WarningKind::LinkToLower),
            Occupant::Nothing | Occupant::Link(_) => self.find_lower(link),
        };
        match found {
            Occupant::Object(_) => {
                self.own.tree[link.slot].put(found);
                self.warn_at(kind, link.name);
            }
            Occupant::Directory(_) => self.leave_out(link, WarningKind::LinkToDirectory),
            Occupant::Nothing | Occupant::Link(_) => self.leave_out(link, WarningKind::LinkToNothing),
        }
    }

    /// Finds the target of a link in the lower layers. Also returns the kind of warning to report.
    fn find_lower(&mut self, link: &Link<'a>) -> (Occupant, WarningKind) {
        let components = clean(link.target).components;
        let found = self.lower.find(&components, self.objects, &mut self.steps, |_, _| None);
        let found = match found {
            Some(FoundAt::Root) => Occupant::Directory(self.lower.root),
            Some(FoundAt::Slot(slot)) => self.lower[slot].occupant(),
            None => Occupant::Nothing,
        };
        let whited_out = self.whites_out(&components);
        (found, if whited_out { WarningKind::LinkToWhitedOut } else { WarningKind::LinkToLower })
    }

    /// Whether this layer deletes the path in lower layers.
    fn whites_out(&self, components: &[&[u8]]) -> bool {
        let mut at = self.own.tree.root;
        for name in components {
            let slot = self.own.tree.known(at, name);
            if self.own.tree[at].opaque || slot.is_some_and(|slot| self.own.tree[slot].whiteout().is_some()) {
                return true;
            }
            match slot.map(|slot| self.own.tree[slot].occupant()) {
                Some(Occupant::Directory(dir)) => at = dir,
                _ => return false,
            }
        }
        false
    }

    fn leave_out(&mut self, link: &Link<'a>, kind: WarningKind) {
        self.own.tree[link.slot].put(link.fallback);
        self.warn_at(kind, link.name);
    }
}
