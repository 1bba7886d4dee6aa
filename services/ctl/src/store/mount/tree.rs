//! What is seen below the mountpoint, by inode numbers that say by themselves what they are of: nothing
//! is held for an inode, however many the kernel knows.

use super::attr::Names;
use super::names;
use engine::{Kept, Seen, SnapshotInfo, Store, View};
use format::entry::{Entry, Kind};
use fuser::{Errno, FileAttr, FileType};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Directory of links to snapshots by their ids; no group is called so.
pub(super) const IDS: &str = ".ids";
/// Link to the newest snapshot of a group.
pub(super) const LATEST: &str = "latest";
/// Sentences told of what cannot be read.
const MOST_TOLD: u64 = 1000;
/// Longest target of a link that it takes.
const LONGEST_TARGET: usize = 4095;

// an inode number of something in a snapshot: the snapshot's place and 1, components of a path, an
// entry's number
const NUMBER_BITS: u32 = 36;
const DEPTH_BITS: u32 = 10;
/// Most snapshots.
const MOST: usize = (1 << (64 - NUMBER_BITS - DEPTH_BITS)) - 1;

pub(super) type Answer<T> = Result<T, Errno>;

/// A snapshot as it is shown.
pub(super) struct Shown {
    pub(super) snapshot: SnapshotInfo,
    pub(super) view: View,
    pub(super) name: String,
    group: usize,
}

pub(super) struct Group {
    pub(super) name: String,
    /// Newest first.
    pub(super) snapshots: Vec<usize>,
}

pub(super) struct Tree {
    pub(super) groups: Vec<Group>,
    pub(super) shown: Vec<Shown>,
    pub(super) names: Names,
    told: AtomicU64,
}

/// Something that is seen.
pub(super) enum Item {
    Top,
    Ids,
    Group(usize),
    Latest(usize),
    Id(usize),
    /// The root of a snapshot that cannot be read.
    Lost(usize),
    /// An entry of a snapshot.
    Entry(usize, Seen),
    /// A directory that has no entry, but entries below it: so many components of the path of the
    /// first one.
    Way(usize, Seen, usize),
}

impl Item {
    pub(super) fn ino(&self) -> u64 {
        let fixed = |kind: u64, at: usize| kind << 32 | at as u64;
        let within = |snapshot: usize, depth: usize, seen: &Seen| {
            let place = (snapshot as u64 + 1) << DEPTH_BITS | depth as u64;
            place << NUMBER_BITS | seen.number()
        };
        match self {
            Self::Top => 1,
            Self::Ids => 2,
            Self::Group(at) => fixed(1, *at),
            Self::Latest(at) => fixed(2, *at),
            Self::Id(at) => fixed(3, *at),
            Self::Lost(at) => fixed(4, *at),
            Self::Entry(snapshot, seen) => within(*snapshot, 0, seen),
            Self::Way(snapshot, seen, components) => within(*snapshot, components + 1, seen),
        }
    }

    pub(super) fn kind(&self) -> FileType {
        match self {
            Self::Latest(_) | Self::Id(_) => FileType::Symlink,
            Self::Entry(_, seen) => match seen.entry().kind {
                Kind::File | Kind::HardLink(_) => FileType::RegularFile,
                Kind::Directory => FileType::Directory,
                Kind::Symlink(_) => FileType::Symlink,
                Kind::CharDevice(..) => FileType::CharDevice,
                Kind::BlockDevice(..) => FileType::BlockDevice,
                Kind::Fifo => FileType::NamedPipe,
                Kind::Socket => FileType::Socket,
            },
            _ => FileType::Directory,
        }
    }
}

/// The first components of a path, with the slashes between them.
fn components(path: &[u8], count: usize) -> &[u8] {
    let mut slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/');
    match count.checked_sub(1) {
        None => &[],
        Some(before) => slashes.nth(before).map_or(path, |(end, _)| &path[..end]),
    }
}

/// The path that a name in a directory has.
pub(super) fn joined(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if dir.is_empty() { b"" } else { b"/" };
    [dir, slash, name].concat()
}

/// Number of components of a path.
fn depth(path: &[u8]) -> usize {
    match path {
        [] => 0,
        path => 1 + path.iter().filter(|b| **b == b'/').count(),
    }
}

/// Whether a file may be the first of several names.
fn is_first(entry: &Entry) -> bool {
    !matches!(entry.kind, Kind::Directory | Kind::HardLink(_))
}

impl Tree {
    /// Of snapshots of an unlocked datastore, newest first.
    pub(super) fn new(store: &Store, snapshots: Vec<SnapshotInfo>) -> anyhow::Result<Self> {
        if snapshots.len() > MOST {
            anyhow::bail!("the datastore has more than {MOST} snapshots; forget some first");
        }
        let mut by_name: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (at, snapshot) in snapshots.iter().enumerate() {
            let name = snapshot.details.as_ref().map_or("", |d| &d.group);
            let name = names::of_group(name, snapshot.clear.group);
            by_name.entry(name).or_default().push(at);
        }
        let mut names: Vec<(usize, String)> = vec![Default::default(); snapshots.len()];
        let mut groups = Vec::new();
        for (name, of_group) in by_name {
            let infos = of_group.iter().map(|at| &snapshots[*at]);
            for (at, name) in of_group.iter().zip(names::of_snapshots(infos)) {
                names[*at] = (groups.len(), name);
            }
            groups.push(Group {
                name,
                snapshots: of_group,
            });
        }
        let kept = Kept::default();
        let mut shown = Vec::new();
        for (snapshot, (group, name)) in snapshots.into_iter().zip(names) {
            shown.push(Shown {
                view: store.view(&snapshot, &kept)?,
                snapshot,
                group,
                name,
            });
        }
        Ok(Self {
            groups,
            shown,
            names: Names::default(),
            told: AtomicU64::new(0),
        })
    }

    /// How many things could not be read so far.
    pub(super) fn told(&self) -> u64 {
        self.told.load(Relaxed)
    }

    pub(super) fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Tells what cannot be read, and where.
    pub(super) fn tell(&self, snapshot: usize, path: &[u8], why: &str) -> Errno {
        let count = self.told.fetch_add(1, Relaxed);
        if count < MOST_TOLD {
            let shown = &self.shown[snapshot];
            let group = &self.groups[shown.group].name;
            let path = filetree::shown(path);
            eprintln!("{group}/{}: {path}: {why}", shown.name);
        } else if count == MOST_TOLD {
            eprintln!("more is not told");
        }
        Errno::EIO
    }

    pub(super) fn failed<'a>(
        &'a self,
        snapshot: usize,
        path: &'a [u8],
    ) -> impl Fn(engine::Error) -> Errno + 'a {
        move |error| self.tell(snapshot, path, &format!("{:#}", anyhow::Error::from(error)))
    }

    pub(super) fn item(&self, ino: u64) -> Answer<Item> {
        let number = ino & ((1 << NUMBER_BITS) - 1);
        let components = (ino >> NUMBER_BITS) as usize & ((1 << DEPTH_BITS) - 1);
        let Some(snapshot) = ((ino >> (NUMBER_BITS + DEPTH_BITS)) as usize).checked_sub(1) else {
            let at = (number & 0xffff_ffff) as usize;
            return match (number >> 32, at) {
                (0, 1) => Ok(Item::Top),
                (0, 2) => Ok(Item::Ids),
                (1, at) if at < self.groups.len() => Ok(Item::Group(at)),
                (2, at) if at < self.groups.len() => Ok(Item::Latest(at)),
                (3, at) if at < self.shown.len() => Ok(Item::Id(at)),
                (4, at) if at < self.shown.len() => Ok(Item::Lost(at)),
                _ => Err(Errno::ENOENT),
            };
        };
        let shown = self.shown.get(snapshot).ok_or(Errno::ENOENT)?;
        let seen = shown.view.at(number).map_err(self.failed(snapshot, b""))?;
        let seen = seen.ok_or(Errno::ENOENT)?;
        Ok(match components {
            0 => Item::Entry(snapshot, seen),
            more => Item::Way(snapshot, seen, more - 1),
        })
    }

    /// The topmost directory of a snapshot.
    pub(super) fn root(&self, snapshot: usize) -> Answer<Item> {
        let found = self.find(snapshot, b"")?;
        // one without entries has none of its own
        found.ok_or(Errno::ENOENT)
    }

    /// What is at a path of a snapshot.
    fn find(&self, snapshot: usize, path: &[u8]) -> Answer<Option<Item>> {
        let view = &self.shown[snapshot].view;
        let seen = view.first_from(path).map_err(self.failed(snapshot, path))?;
        seen.map(|seen| self.named(snapshot, path, seen))
            .transpose()
            .map(Option::flatten)
    }

    /// What a path is, whose first entry at or after it is this.
    pub(super) fn named(&self, snapshot: usize, path: &[u8], seen: Seen) -> Answer<Option<Item>> {
        let entry = seen.entry();
        if !Entry::is_at_or_below(&entry.path, path) {
            return Ok(None);
        }
        if entry.path != path {
            let depth = depth(path);
            let fits = depth + 1 < 1 << DEPTH_BITS;
            return Ok(fits.then_some(Item::Way(snapshot, seen, depth)));
        }
        let Kind::HardLink(target) = &entry.kind else {
            return Ok(Some(Item::Entry(snapshot, seen)));
        };
        let view = &self.shown[snapshot].view;
        let first = view
            .first_from(target)
            .map_err(self.failed(snapshot, path))?;
        match first {
            Some(first) if first.entry().path == *target && is_first(first.entry()) => {
                Ok(Some(Item::Entry(snapshot, first)))
            }
            _ => {
                let target = filetree::shown(target);
                let why = format!("is another name of {target}, which the snapshot does not have");
                Err(self.tell(snapshot, path, &why))
            }
        }
    }

    pub(super) fn lookup(&self, parent: u64, name: &[u8]) -> Answer<FileAttr> {
        let item = match self.item(parent)? {
            Item::Top if name == IDS.as_bytes() => Item::Ids,
            Item::Top => {
                let at = self.groups.iter().position(|g| g.name.as_bytes() == name);
                Item::Group(at.ok_or(Errno::ENOENT)?)
            }
            Item::Ids => {
                let is_it = |shown: &Shown| shown.snapshot.clear.id.to_string().as_bytes() == name;
                Item::Id(self.shown.iter().position(is_it).ok_or(Errno::ENOENT)?)
            }
            Item::Group(group) if name == LATEST.as_bytes() => Item::Latest(group),
            Item::Group(group) => {
                let mut snapshots = self.groups[group].snapshots.iter();
                let at = snapshots.find(|at| self.shown[**at].name.as_bytes() == name);
                self.root(*at.ok_or(Errno::ENOENT)?)?
            }
            item => {
                let (snapshot, dir) = self.directory(&item)?;
                let found = self.find(snapshot, &joined(dir, name))?;
                found.ok_or(Errno::ENOENT)?
            }
        };
        self.attr_of(&item)
    }

    /// Snapshot and path of a directory in it.
    pub(super) fn directory<'a>(&self, item: &'a Item) -> Answer<(usize, &'a [u8])> {
        match item {
            Item::Entry(snapshot, seen) if seen.entry().kind == Kind::Directory => {
                Ok((*snapshot, &seen.entry().path))
            }
            Item::Way(snapshot, seen, count) => {
                Ok((*snapshot, components(&seen.entry().path, *count)))
            }
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// What a link of this tree's own, or of a snapshot, points to.
    pub(super) fn target(&self, item: &Item) -> Answer<Vec<u8>> {
        match item {
            Item::Latest(group) => {
                let newest = self.groups[*group].snapshots.first().ok_or(Errno::ENOENT)?;
                Ok(self.shown[*newest].name.clone().into_bytes())
            }
            Item::Id(at) => {
                let Shown { group, name, .. } = &self.shown[*at];
                Ok(format!("../{}/{name}", self.groups[*group].name).into_bytes())
            }
            Item::Entry(_, seen) => match &seen.entry().kind {
                Kind::Symlink(target) if target.len() > LONGEST_TARGET => Err(Errno::ENAMETOOLONG),
                Kind::Symlink(target) => Ok(target.clone()),
                _ => Err(Errno::EINVAL),
            },
            _ => Err(Errno::EINVAL),
        }
    }

    pub(super) fn link(&self, ino: u64) -> Answer<Vec<u8>> {
        self.target(&self.item(ino)?)
    }

    /// Bytes of a file.
    pub(super) fn read(&self, ino: u64, offset: u64, length: u32) -> Answer<Vec<u8>> {
        let (snapshot, seen) = self.file(ino)?;
        let read = self.shown[snapshot]
            .view
            .read(&seen, offset, length as usize);
        read.map_err(self.failed(snapshot, &seen.entry().path))
    }

    /// Where data, or a hole, begins from a place on.
    pub(super) fn seek(&self, ino: u64, offset: u64, data: bool) -> Answer<u64> {
        let (snapshot, seen) = self.file(ino)?;
        if offset >= seen.entry().size {
            return Err(Errno::ENXIO);
        }
        let found = self.shown[snapshot].view.seek(&seen, offset, data);
        let found = found.map_err(self.failed(snapshot, &seen.entry().path))?;
        // there is a hole behind the end, and no data
        if data && found >= seen.entry().size {
            return Err(Errno::ENXIO);
        }
        Ok(found)
    }

    fn file(&self, ino: u64) -> Answer<(usize, Seen)> {
        match self.item(ino)? {
            Item::Entry(snapshot, seen) if seen.entry().kind == Kind::File => Ok((snapshot, seen)),
            item if item.kind() == FileType::Directory => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The entry that an inode is of; this tree's own have none.
    pub(super) fn entry(&self, ino: u64) -> Answer<Option<Seen>> {
        match self.item(ino)? {
            Item::Entry(_, seen) => Ok(Some(seen)),
            _ => Ok(None),
        }
    }
}
