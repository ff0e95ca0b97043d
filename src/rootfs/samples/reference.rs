//! A second merge, slow and simple, to compare the real one with: maps from whole paths to their
//! states. It shares no code with the merge under test except the notation of [`super::Item`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Item, ItemKind, MergeOptions, Semantics};
use crate::path::escape;

/// The components of a path from the root; empty for the root itself.
type Path = Vec<Vec<u8>>;

#[derive(Debug, Clone, Copy, PartialEq)]
struct Attributes {
    mode: u16,
    uid: u32,
    gid: u32,
}

const PLAIN: Attributes = Attributes { mode: 0o755, uid: 0, gid: 0 };

#[derive(Debug, Clone)]
struct Object {
    layer: usize,
    kind: ItemKind,
    attributes: Attributes,
}

/// The state of a path in one layer.
#[derive(Debug, Clone)]
enum Own {
    Directory(Option<Attributes>),
    Object(usize),
    Waiting(usize),
}

/// The state of a path in all layers together.
#[derive(Debug, Clone)]
enum All {
    /// A directory with its attributes, and its attributes in each layer that has it.
    Directory(Attributes, BTreeMap<usize, Attributes>),
    Object(usize),
}

#[derive(Debug, Clone, Copy, Default)]
struct Deletion {
    late: bool,
    remade: bool,
}

/// The contents of one layer.
#[derive(Debug, Clone, Default)]
struct Said {
    own: BTreeMap<Path, Own>,
    deleted: BTreeMap<Path, Deletion>,
    opaque: BTreeSet<Path>,
    /// Directories that are more than parents of whiteouts.
    real: BTreeSet<Path>,
    /// Directories that lower layers also had when this layer first mentioned them.
    in_lower: BTreeSet<Path>,
}

struct Waiting {
    path: Path,
    target: Path,
    before: Said,
}

impl Said {
    /// Removes everything at and below a path; deletions of the path itself stay.
    fn cut(&mut self, path: &Path) -> Said {
        let below = |other: &Path| other.starts_with(path);
        let strictly = |other: &Path| other.starts_with(path) && other != path;
        let mut cut = Said {
            own: self.own.clone().into_iter().filter(|(at, _)| below(at)).collect(),
            deleted: self.deleted.clone().into_iter().filter(|(at, _)| strictly(at)).collect(),
            ..Said::default()
        };
        for (from, to) in [
            (&mut self.opaque, &mut cut.opaque),
            (&mut self.real, &mut cut.real),
            (&mut self.in_lower, &mut cut.in_lower),
        ] {
            *to = from.iter().filter(|at| below(at)).cloned().collect();
            from.retain(|at| !below(at));
        }
        self.own.retain(|at, _| !below(at));
        self.deleted.retain(|at, _| !strictly(at));
        cut
    }

    fn put_back(&mut self, cut: Said) {
        self.own.extend(cut.own);
        self.deleted.extend(cut.deleted);
        self.opaque.extend(cut.opaque);
        self.real.extend(cut.real);
        self.in_lower.extend(cut.in_lower);
    }
}

struct Reference {
    options: MergeOptions,
    objects: Vec<Object>,
    all: BTreeMap<Path, All>,
    layer: usize,
    said: Said,
    waiting: Vec<Waiting>,
}

/// Merges layers and lists the result in the notation of [`super::listing`].
pub(crate) fn listing(layers: &[Vec<Item>], options: MergeOptions) -> Vec<String> {
    let mut all = BTreeMap::new();
    all.insert(Path::new(), All::Directory(PLAIN, BTreeMap::new()));
    let objects = Vec::new();
    let (said, waiting) = (Said::default(), Vec::new());
    let mut reference = Reference { options, objects, all, layer: 0, said, waiting };
    for (layer, items) in layers.iter().enumerate() {
        reference.layer = layer;
        reference.read(items);
        reference.bind();
        reference.merge();
    }
    reference.list()
}

fn clean(name: &[u8]) -> Path {
    let mut path = Path::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(path.pop()),
            _ => path.push(part.to_vec()),
        }
    }
    path
}

fn joined(path: &Path, name: &[u8]) -> Path {
    let mut joined = path.clone();
    joined.push(name.to_vec());
    joined
}

/// Cancels a name without an object, and everything between, if a later `..` belongs to it.
fn taken_back(ahead: &mut VecDeque<Vec<u8>>) -> bool {
    let mut depth = 1;
    for at in 0..ahead.len() {
        match ahead[at].as_slice() {
            b"" | b"." => {}
            b".." => depth -= 1,
            _ => depth += 1,
        }
        if depth == 0 {
            ahead.drain(..=at);
            return true;
        }
    }
    false
}

fn is_aufs(path: &Path) -> bool {
    path.first().is_some_and(|name| name.starts_with(b".wh..wh.") && name != b".wh..wh..opq")
}

impl Reference {
    fn link(&self, object: usize) -> Option<Vec<u8>> {
        match &self.objects[object].kind {
            ItemKind::Symlink(target) => Some(target.clone()),
            _ => None,
        }
    }

    fn read(&mut self, items: &[Item]) {
        self.said = Said::default();
        self.said.own.insert(Path::new(), Own::Directory(Some(PLAIN)));
        self.said.real.insert(Path::new());
        self.said.in_lower.insert(Path::new());
        for item in items {
            let mut path = clean(&item.name);
            let aufs = is_aufs(&path);
            let Some(base) = path.pop() else { continue };
            let deletes = base.strip_prefix(b".wh.").filter(|_| !aufs).map(<[u8]>::to_vec);
            if deletes.as_ref().is_some_and(|name| matches!(name.as_slice(), b"" | b"." | b"..")) {
                continue;
            }
            let Some(parent) = self.enter(path) else { continue };
            match deletes {
                Some(name) if name == b".wh..opq" => {
                    if !parent.is_empty() || self.options.semantics == Semantics::Oci {
                        self.said.opaque.insert(parent);
                    }
                }
                Some(name) => {
                    let path = joined(&parent, &name);
                    let late = self.said.own.contains_key(&path);
                    self.said.deleted.entry(path).or_default().late |= late;
                }
                None => self.put(&parent, joined(&parent, &base), item),
            }
        }
    }

    /// Walks to a directory of the layer and makes missing directories. Returns `None` after too many
    /// links.
    fn enter(&mut self, path: Path) -> Option<Path> {
        let (mut at, mut links) = (Path::new(), 0);
        let mut ahead = VecDeque::from(path);
        while let Some(name) = ahead.pop_front() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    at.pop();
                    continue;
                }
                _ => {}
            }
            let next = joined(&at, &name);
            let target = match self.said.own.get(&next) {
                Some(Own::Directory(_)) => {
                    at = next;
                    continue;
                }
                Some(Own::Object(object)) => self.link(*object),
                Some(Own::Waiting(_)) => None,
                None => self.lower_link(&at, &next),
            };
            let Some(target) = target else {
                if taken_back(&mut ahead) {
                    continue;
                }
                self.make_directory(&next, None);
                at = next;
                continue;
            };
            links += 1;
            if links > 255 {
                return None;
            }
            if target.starts_with(b"/") {
                at.clear();
            }
            for part in target.rsplit(|byte| *byte == b'/') {
                ahead.push_front(part.to_vec());
            }
        }
        Some(at)
    }

    fn lower_link(&self, parent: &Path, path: &Path) -> Option<Vec<u8>> {
        if !self.options.follow_dirlinks
            || self.said.opaque.contains(parent)
            || self.said.deleted.contains_key(path)
            || !self.said.in_lower.contains(parent)
        {
            return None;
        }
        match self.all.get(path) {
            Some(All::Object(object)) => self.link(*object),
            _ => None,
        }
    }

    fn make_directory(&mut self, path: &Path, attributes: Option<Attributes>) {
        self.said.cut(path);
        self.said.own.insert(path.clone(), Own::Directory(attributes));
        let parent = path[..path.len() - 1].to_vec();
        let lower = matches!(self.all.get(path), Some(All::Directory(..)));
        if lower && !self.said.deleted.contains_key(path) && self.said.in_lower.contains(&parent) {
            self.said.in_lower.insert(path.clone());
        }
        if let Some(deletion) = self.said.deleted.get_mut(path) {
            deletion.remade = attributes.is_some() && !deletion.late;
        }
    }

    fn put(&mut self, parent: &Path, path: Path, item: &Item) {
        if matches!(item.kind, ItemKind::Char(0, 0)) {
            self.said.cut(&path);
            self.said.deleted.entry(path).or_default();
            return;
        }
        let real = (0..=parent.len()).map(|len| parent[..len].to_vec());
        self.said.real.extend(real);
        let attributes = Attributes { mode: item.meta.mode, uid: item.meta.uid, gid: item.meta.gid };
        match &item.kind {
            ItemKind::Directory => {
                match self.said.own.get_mut(&path) {
                    Some(Own::Directory(known)) => *known = Some(attributes),
                    _ => self.make_directory(&path, Some(attributes)),
                }
                self.said.real.insert(path);
            }
            ItemKind::Hardlink(target) => self.put_link(path, clean(target), attributes),
            kind => {
                self.said.cut(&path);
                self.objects.push(Object { layer: self.layer, kind: kind.clone(), attributes });
                self.said.own.insert(path, Own::Object(self.objects.len() - 1));
            }
        }
    }

    fn put_link(&mut self, path: Path, target: Path, attributes: Attributes) {
        let found = self.find_own(&target);
        if found.as_ref() == Some(&path) || target == path {
            return;
        }
        match found.and_then(|found| self.said.own.get(&found).cloned()) {
            Some(Own::Directory(_)) => {}
            Some(Own::Object(object)) => {
                let mode = if self.link(object).is_some() { 0o777 } else { attributes.mode };
                self.objects[object].attributes = Attributes { mode, ..attributes };
                self.said.cut(&path);
                self.said.own.insert(path, Own::Object(object));
            }
            Some(Own::Waiting(_)) | None => {
                let mut before = self.said.cut(&path);
                if let Some(Own::Waiting(earlier)) = before.own.get(&path) {
                    before = std::mem::take(&mut self.waiting[*earlier].before);
                }
                self.said.own.insert(path.clone(), Own::Waiting(self.waiting.len()));
                self.waiting.push(Waiting { path, target, before });
            }
        }
    }

    /// Resolves a target within the layer, whether or not an object exists there.
    fn find_own(&self, target: &Path) -> Option<Path> {
        let Some((base, parents)) = target.split_last() else { return Some(Path::new()) };
        let (mut at, mut links) = (Path::new(), 0);
        let mut ahead: VecDeque<_> = parents.iter().cloned().collect();
        while let Some(name) = ahead.pop_front() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    at.pop();
                    continue;
                }
                _ => {}
            }
            let next = joined(&at, &name);
            let target = match self.said.own.get(&next) {
                Some(Own::Directory(_)) => {
                    at = next;
                    continue;
                }
                Some(Own::Object(object)) => self.link(*object),
                Some(Own::Waiting(_)) => None,
                None => self.lower_link(&at, &next),
            };
            let Some(target) = target else {
                if taken_back(&mut ahead) {
                    continue;
                }
                return None;
            };
            links += 1;
            if links > 255 {
                return None;
            }
            if target.starts_with(b"/") {
                at.clear();
            }
            for part in target.rsplit(|byte| *byte == b'/') {
                ahead.push_front(part.to_vec());
            }
        }
        Some(joined(&at, base))
    }

    /// Follows a path of the lower layers from a directory; every link counts toward the limit.
    fn find_lower(&self, from: &Path, path: &[u8]) -> Option<Path> {
        let mut at = if path.starts_with(b"/") { Path::new() } else { from.clone() };
        let (mut links, mut ahead) = (1, VecDeque::new());
        ahead.extend(path.split(|byte| *byte == b'/').map(<[u8]>::to_vec));
        while let Some(name) = ahead.pop_front() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    at.pop();
                    continue;
                }
                _ => {}
            }
            let next = joined(&at, &name);
            match self.all.get(&next) {
                Some(All::Directory(..)) => at = next,
                other => {
                    let link = match other {
                        Some(All::Object(object)) => self.link(*object),
                        _ => None,
                    };
                    let Some(target) = link else {
                        if taken_back(&mut ahead) {
                            continue;
                        }
                        return None;
                    };
                    links += 1;
                    if links > 255 {
                        return None;
                    }
                    if target.starts_with(b"/") {
                        at.clear();
                    }
                    for part in target.rsplit(|byte| *byte == b'/') {
                        ahead.push_front(part.to_vec());
                    }
                }
            }
        }
        Some(at)
    }

    fn bind(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let aims: Vec<_> = waiting.iter().map(|link| self.find_own(&link.target)).collect();
        let waits = |said: &Said, at: usize| matches!(said.own.get(&waiting[at].path), Some(Own::Waiting(number)) if *number == at);
        let aimed = |said: &Said, at: usize| match said.own.get(aims[at].as_ref()?) {
            Some(Own::Waiting(next)) => Some(*next),
            _ => None,
        };
        // Links in a cycle are left out first.
        let mut cyclic = Vec::new();
        for start in (0..waiting.len()).filter(|at| waits(&self.said, *at)) {
            let mut at = aimed(&self.said, start);
            for _ in 0..waiting.len() {
                if at == Some(start) {
                    cyclic.push(start);
                    break;
                }
                at = at.and_then(|at| aimed(&self.said, at));
            }
        }
        for at in cyclic {
            self.give_up(&waiting[at]);
        }
        loop {
            let ready =
                (0..waiting.len()).find(|at| waits(&self.said, *at) && aimed(&self.said, *at).is_none());
            let Some(at) = ready else { break };
            let link = &waiting[at];
            match aims[at].as_ref().and_then(|aim| self.said.own.get(aim)) {
                Some(Own::Object(object)) => {
                    let object = *object;
                    self.said.own.insert(link.path.clone(), Own::Object(object));
                }
                Some(_) => self.give_up(link),
                None => match self.lower_object(&link.target) {
                    Some(object) => drop(self.said.own.insert(link.path.clone(), Own::Object(object))),
                    None => self.give_up(link),
                },
            }
        }
    }

    fn give_up(&mut self, link: &Waiting) {
        self.said.own.remove(&link.path);
        self.said.put_back(link.before.clone());
    }

    fn lower_object(&self, target: &Path) -> Option<usize> {
        let (base, parents) = target.split_last()?;
        let parent = self.find_lower(&Path::new(), &parents.join(&b'/'))?;
        match self.all.get(&joined(&parent, base))? {
            All::Object(object) => Some(*object),
            All::Directory(..) => None,
        }
    }

    fn hides(&self, path: &Path) -> bool {
        self.said.deleted.get(path).is_some_and(|deletion| {
            deletion.late || !deletion.remade || self.options.semantics == Semantics::Oci
        })
    }

    /// Returns the attributes of an implied directory in lower layers.
    fn lower_attributes(&self, path: &Path) -> Option<Attributes> {
        let (mut at, mut only) = (Path::new(), None);
        for len in 1..=path.len() {
            if self.hides(&path[..len].to_vec()) {
                return None;
            }
            let next = joined(&at, &path[len - 1]);
            match self.all.get(&next)? {
                All::Directory(..) => at = next,
                All::Object(object) => {
                    let layer = self.objects[*object].layer;
                    if only.is_some_and(|only| only != layer) {
                        return None;
                    }
                    only = Some(layer);
                    at = self.find_lower(&at, &self.link(*object)?)?;
                }
            }
        }
        match (self.all.get(&at)?, only) {
            (All::Directory(attributes, _), None) => Some(*attributes),
            (All::Directory(_, seen), Some(layer)) => seen.get(&layer).copied(),
            (All::Object(_), _) => None,
        }
    }

    fn merge(&mut self) {
        // A deleted directory that contains only deletions is not a directory.
        let own = self.said.own.clone();
        let void: Vec<_> = own
            .iter()
            .filter(|(path, node)| {
                matches!(node, Own::Directory(_))
                    && self.said.deleted.contains_key(*path)
                    && !self.said.real.contains(*path)
            })
            .map(|(path, _)| path.clone())
            .collect();
        let shown = |path: &Path| !is_aufs(path) && !void.iter().any(|void| path.starts_with(void));
        let own: Vec<_> = own.into_iter().filter(|(path, _)| shown(path)).collect();
        let dressed: Vec<_> = own
            .into_iter()
            .map(|(path, node)| match node {
                Own::Directory(None) => {
                    let attributes = self.lower_attributes(&path).unwrap_or(PLAIN);
                    (path, Own::Directory(Some(attributes)))
                }
                node => (path, node),
            })
            .collect();
        for path in self.said.deleted.keys().filter(|path| !is_aufs(path)) {
            let whole = !matches!(self.said.own.get(path), Some(Own::Directory(_))) || void.contains(path);
            if whole || self.hides(path) {
                self.all.retain(|at, _| !at.starts_with(path));
            }
        }
        for path in self.said.opaque.iter().filter(|path| shown(path)) {
            self.all.retain(|at, _| !at.starts_with(path) || at == path);
            // An opaque directory is not the same directory as the one below it.
            if let Some(All::Directory(_, seen)) = self.all.get_mut(path) {
                seen.clear();
            }
        }
        for (path, node) in dressed {
            match node {
                Own::Object(object) => {
                    self.all.retain(|at, _| !at.starts_with(&path));
                    self.all.insert(path, All::Object(object));
                }
                Own::Directory(attributes) => {
                    let attributes = attributes.unwrap_or(PLAIN);
                    let mut seen = match self.all.remove(&path) {
                        Some(All::Directory(_, seen)) => seen,
                        _ => BTreeMap::new(),
                    };
                    if !path.is_empty() {
                        seen.insert(self.layer, attributes);
                    }
                    self.all.insert(path, All::Directory(attributes, seen));
                }
                Own::Waiting(_) => unreachable!("all links are bound or given up"),
            }
        }
    }

    fn list(&self) -> Vec<String> {
        let names = |object: usize| {
            self.all.values().filter(|node| matches!(node, All::Object(other) if *other == object)).count()
        };
        let subdirectories = |path: &Path| {
            let below = |at: &Path| at.len() == path.len() + 1 && at.starts_with(path);
            self.all.iter().filter(|(at, node)| below(at) && matches!(node, All::Directory(..))).count()
        };
        let line = |(path, node): (&Path, &All)| {
            let (kind, content, attributes, nlink) = match node {
                All::Directory(attributes, _) => {
                    ("dir", String::new(), *attributes, 2 + subdirectories(path))
                }
                All::Object(object) => {
                    let Object { kind, attributes, .. } = &self.objects[*object];
                    let (kind, content) = match kind {
                        ItemKind::File(content) => ("file", format!(" #{content}")),
                        ItemKind::Symlink(target) => ("link", format!(" -> {}", escape(target))),
                        _ => ("fifo", String::new()),
                    };
                    (kind, content, *attributes, names(*object))
                }
            };
            let Attributes { mode, uid, gid } = attributes;
            format!("/{} {kind} {mode:o} {uid}:{gid} {nlink}{content}", escape(&path.join(&b'/')))
        };
        self.all.iter().skip(1).map(line).collect()
    }
}
