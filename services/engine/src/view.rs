//! A snapshot looked into anywhere: entries by path and by their number in the order of entries, and
//! bytes of files from any place on. What was read of late is kept, in bounded memory, so that the next
//! look nearby is quick.

mod content;
mod names;

use crate::core::{Core, Keys, frame_error, frame_name};
use crate::error::{Error, Result};
use crate::holds::Hold;
use crate::read::SnapshotInfo;
use crate::store::Store;
use format::entry::{Entry, Extent, Kind, Xattr};
use format::extents::ExtentList;
use format::frame::Kind as FrameKind;
use format::leaf::{Content, LeafReader};
use format::node::{Child, Node};
use format::{Digest, FormatError};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::sync::Arc;

/// Bytes of what was read that are kept.
const KEPT: u64 = 48 << 20;

/// A frame that was opened.
enum Opened {
    Leaf(Arc<Entries>),
    /// With the number of entries before each child.
    Node(Node, Vec<u64>),
    Extents(ExtentList),
    Data(Vec<u8>),
}

type Entries = Vec<(Entry, Content)>;

#[derive(Clone)]
struct Weight;

impl Weighter<Digest, Arc<Opened>> for Weight {
    fn weight(&self, _: &Digest, opened: &Arc<Opened>) -> u64 {
        let bytes = match &**opened {
            Opened::Leaf(entries) => entries.iter().map(|(entry, _)| weight(entry)).sum(),
            Opened::Node(node, _) => {
                let children = node.children.iter();
                children
                    .map(|c| c.first_path.len() + size_of::<Child>() + 32)
                    .sum()
            }
            Opened::Extents(ExtentList::Extents(list)) => list.len() * size_of::<Extent>(),
            Opened::Extents(ExtentList::Lists { children, .. }) => children.len() * 40,
            Opened::Data(bytes) => bytes.len(),
        };
        bytes as u64 + 200
    }
}

fn weight(entry: &Entry) -> usize {
    // as the allocator counts
    let allocated = |bytes: usize| if bytes == 0 { 0 } else { bytes.max(8) + 24 };
    let target = match &entry.kind {
        Kind::Symlink(target) | Kind::HardLink(target) => target.len(),
        _ => 0,
    };
    let attributes = entry.xattrs.iter();
    let attributes: usize = attributes
        .map(|x| allocated(x.name.len()) + allocated(x.value.len()) + size_of::<Xattr>())
        .sum();
    let parts = [&entry.path, &entry.user, &entry.group].map(|part| allocated(part.len()));
    size_of::<(Entry, Content)>()
        + parts.iter().sum::<usize>()
        + allocated(target)
        + allocated(entry.content.len() * size_of::<Extent>())
        + attributes
}

/// What several views share: what was read of late.
#[derive(Clone)]
pub struct Kept {
    opened: Arc<Cache<Digest, Arc<Opened>, Weight>>,
    /// How much of a large file is data, by its list of extents.
    data: Arc<Cache<Digest, u64>>,
}

impl Default for Kept {
    fn default() -> Self {
        let items = (KEPT / (32 << 10)) as usize;
        Self {
            opened: Arc::new(Cache::with_weighter(items, KEPT, Weight)),
            data: Arc::new(Cache::new(1 << 16)),
        }
    }
}

/// See [`Store::view`].
pub struct View {
    core: Arc<Core>,
    keys: Arc<Keys>,
    kept: Kept,
    root: Digest,
    _hold: Hold,
}

/// An entry of a view.
#[derive(Clone)]
pub struct Seen {
    leaf: Arc<Entries>,
    at: usize,
    number: u64,
}

impl Seen {
    /// The entry; the content of a large file is not in it.
    pub fn entry(&self) -> &Entry {
        &self.leaf[self.at].0
    }

    /// Its number in the order of entries, from 0.
    pub fn number(&self) -> u64 {
        self.number
    }
}

/// Which entry is looked for.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    Number(u64),
    /// The first at or after a path.
    From(&'a [u8]),
    /// The first after a path and all that is below it.
    Past(&'a [u8]),
}

impl Wanted<'_> {
    /// Whether it comes after an entry of this number and path.
    fn is_after(&self, number: u64, path: &[u8]) -> bool {
        match self {
            Self::Number(wanted) => number < *wanted,
            Self::From(from) => Entry::cmp_path(path, from).is_lt(),
            Self::Past(past) => {
                Entry::cmp_path(path, past).is_lt() || Entry::is_at_or_below(path, past)
            }
        }
    }
}

impl Store {
    /// Looks into a snapshot of [`Store::snapshots`]. All of it stays while the answer is held, and a
    /// collection waits for that.
    ///
    /// # Errors
    /// [`Error::Locked`]; [`Error::NoSnapshot`], when it was forgotten since; it cannot be read.
    pub fn view(&self, snapshot: &SnapshotInfo, kept: &Kept) -> Result<View> {
        let (keys, hold) = (self.core.keys()?, self.core.hold()?);
        // what was forgotten before the hold may be gone
        let snapshot = self.core.snapshot(snapshot.clear.id)?;
        Ok(View {
            keys,
            core: self.core.clone(),
            kept: kept.clone(),
            root: snapshot.clear.root,
            _hold: hold,
        })
    }
}

fn wrong(digest: &Digest, what: &'static str, field: &'static str) -> Error {
    Error::Format {
        name: frame_name(digest),
        source: FormatError::Field { what, field },
    }
}

impl View {
    fn open(&self, digest: &Digest) -> Result<Arc<Opened>> {
        self.kept.opened.get_or_insert_with(digest, || {
            let (kind, content, refs) = self.core.read_metadata(&self.keys, digest)?;
            let opened = match kind {
                FrameKind::Data => Ok(Opened::Data(content)),
                FrameKind::Leaf => LeafReader::new(&content, &refs)
                    .and_then(Iterator::collect)
                    .map(|entries| Opened::Leaf(Arc::new(entries))),
                FrameKind::Node => Node::parse(&content, &refs).map(|node| {
                    let before = |sum: &mut u64, child: &Child| {
                        let before = *sum;
                        *sum = sum.saturating_add(child.entries);
                        Some(before)
                    };
                    let starts = node.children.iter().scan(0, before).collect();
                    Opened::Node(node, starts)
                }),
                FrameKind::Extents => ExtentList::parse(&content, &refs).map(Opened::Extents),
                FrameKind::Delta => Err(FormatError::Version {
                    what: "delta frame",
                    found: 2,
                }),
            };
            opened.map(Arc::new).map_err(frame_error(*digest))
        })
    }

    /// The entry of a number.
    ///
    /// # Errors
    /// A frame on the way to it cannot be read.
    pub fn at(&self, number: u64) -> Result<Option<Seen>> {
        let (seen, _) = self.descend(Wanted::Number(number))?;
        Ok(seen)
    }

    /// The entry after another one.
    ///
    /// # Errors
    /// A frame on the way to it cannot be read.
    pub fn after(&self, seen: &Seen) -> Result<Option<Seen>> {
        let number = seen.number.saturating_add(1);
        if seen.at + 1 == seen.leaf.len() {
            return self.at(number);
        }
        Ok(Some(Seen {
            leaf: seen.leaf.clone(),
            at: seen.at + 1,
            number,
        }))
    }

    /// The first entry at or after a path.
    ///
    /// # Errors
    /// A frame on the way to it cannot be read.
    pub fn first_from(&self, path: &[u8]) -> Result<Option<Seen>> {
        self.first(Wanted::From(path))
    }

    /// The first entry after a path and all that is below it.
    ///
    /// # Errors
    /// A frame on the way to it cannot be read.
    pub fn first_past(&self, path: &[u8]) -> Result<Option<Seen>> {
        self.first(Wanted::Past(path))
    }

    fn first(&self, wanted: Wanted<'_>) -> Result<Option<Seen>> {
        match self.descend(wanted)? {
            (None, next) => self.at(next),
            (seen, _) => Ok(seen),
        }
    }

    /// What is wanted, or else the number of what comes after the leaf it would be in.
    fn descend(&self, wanted: Wanted<'_>) -> Result<(Option<Seen>, u64)> {
        let (mut digest, mut above, mut number) = (self.root, u8::MAX, 0u64);
        loop {
            let opened = self.open(&digest)?;
            match &*opened {
                Opened::Leaf(entries) => {
                    let is_before = |at: usize| {
                        wanted.is_after(number.saturating_add(at as u64), &entries[at].0.path)
                    };
                    let at = partition_point(entries.len(), is_before);
                    let found = number.saturating_add(at as u64);
                    let seen = (at < entries.len()).then(|| Seen {
                        leaf: entries.clone(),
                        at,
                        number: found,
                    });
                    return Ok((seen, found));
                }
                // levels only fall, so a tree made to be endless ends
                Opened::Node(node, starts) if node.level < above => {
                    // the last child that begins before it, or with it
                    let begins_before = |at: usize| {
                        let start = number.saturating_add(starts[at]);
                        match wanted {
                            Wanted::Number(wanted) => start <= wanted,
                            _ => wanted.is_after(start, &node.children[at].first_path),
                        }
                    };
                    let at = partition_point(starts.len(), begins_before).saturating_sub(1);
                    (digest, above) = (node.children[at].digest, node.level);
                    number = number.saturating_add(starts[at]);
                }
                _ => return Err(wrong(&digest, "tree", "kind of frame")),
            }
        }
    }
}

/// The number of items for which something holds that holds for the first ones only.
fn partition_point(count: usize, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}
