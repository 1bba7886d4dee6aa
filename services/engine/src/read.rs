//! The way back: snapshots, their entries in order, and the bytes of files.

use crate::core::{Core, Keys, SNAPSHOTS, frame_error, frame_name};
use crate::error::{Error, Result, format_error};
use crate::holds::Hold;
use format::entry::{Entry, Extent};
use format::extents::{ExtentList, length_of};
use format::frame::Kind;
use format::leaf::{Content, LeafReader};
use format::node::{Child, MAX_LEVEL, Node};
use format::snapshot::{Clear, Details, MAX_SNAPSHOT, Snapshot};
use format::{Digest, FormatError, SnapshotId};
use std::sync::Arc;
use std::vec;

/// A snapshot as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The part in clear.
    pub clear: Clear,
    /// The encrypted part; `None` while the datastore is locked.
    pub details: Option<Details>,
}

/// Name of a snapshot's file in its directory.
pub(crate) fn snapshot_name(id: SnapshotId) -> String {
    format!("{id}.snap")
}

impl Core {
    /// Reads a snapshot's file.
    pub(crate) fn snapshot(&self, id: SnapshotId) -> Result<Snapshot> {
        let name = format!("{SNAPSHOTS}/{}", snapshot_name(id));
        let file = self
            .storage
            .open(&name)
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => Error::NoSnapshot { id },
                _ => self.io("open", &name)(error),
            })?;
        let length = file.len().map_err(self.io("read", &name))?;
        if length > MAX_SNAPSHOT as u64 {
            let source = FormatError::Field {
                what: "snapshot",
                field: "length",
            };
            return Err(Error::Format { name, source });
        }
        let bytes = crate::storage::read_exact(&*file, 0, length as usize)
            .map_err(self.io("read", &name))?;
        let snapshot = Snapshot::parse(bytes).map_err(format_error(&name))?;
        if snapshot.clear.datastore != self.datastore {
            let found = snapshot.clear.datastore;
            return Err(Error::Foreign {
                name,
                found,
                datastore: self.datastore,
            });
        }
        if snapshot.clear.id != id {
            let source = FormatError::Field {
                what: "snapshot",
                field: "name",
            };
            return Err(Error::Format { name, source });
        }
        Ok(snapshot)
    }

    /// The ids of all snapshots, sorted; other files are left alone.
    pub(crate) fn snapshot_ids(&self) -> Result<Vec<SnapshotId>> {
        let names = self
            .storage
            .list(SNAPSHOTS)
            .map_err(self.io("list", SNAPSHOTS))?;
        let id = |name: &String| {
            let id = name.strip_suffix(".snap")?.parse().ok()?;
            (snapshot_name(id) == *name).then_some(id)
        };
        Ok(names.iter().filter_map(id).collect())
    }

    /// The entries of a leaf.
    pub(crate) fn read_leaf(&self, keys: &Keys, digest: &Digest) -> Result<Vec<(Entry, Content)>> {
        match self.read_metadata(keys, digest)? {
            (Kind::Leaf, content, refs) => leaf_of(digest, &content, &refs),
            _ => Err(Error::Content { digest: *digest }),
        }
    }

    pub(crate) fn info(&self, id: SnapshotId) -> Result<SnapshotInfo> {
        let snapshot = self.snapshot(id)?;
        let details = match self.keys() {
            Ok(keys) => Some(
                snapshot
                    .details(&keys.frames)
                    .map_err(format_error(format!("snapshot {id}")))?,
            ),
            Err(_) => None,
        };
        Ok(SnapshotInfo {
            clear: snapshot.clear,
            details,
        })
    }
}

pub(crate) fn leaf_of(
    digest: &Digest,
    content: &[u8],
    refs: &[Digest],
) -> Result<Vec<(Entry, Content)>> {
    let reader = LeafReader::new(content, refs).map_err(frame_error(*digest))?;
    let all: Result<Vec<_>, _> = reader.collect();
    all.map_err(frame_error(*digest))
}

/// The entries of a snapshot in order, the content of each still to be read by [`Pieces`].
pub struct Entries {
    core: Arc<Core>,
    keys: Arc<Keys>,
    /// Only what is here or below; empty for all.
    below: Vec<u8>,
    /// What is still to be gone down into, the next one last, with the level it must have.
    stack: Vec<(Digest, u8)>,
    leaf: vec::IntoIter<(Entry, Content)>,
    /// Path of the last entry of the leaf before.
    last: Option<Vec<u8>>,
    _hold: Hold,
}

impl Entries {
    pub(crate) fn new(core: Arc<Core>, id: SnapshotId, below: &[u8]) -> Result<Self> {
        let keys = core.keys()?;
        let hold = core.hold()?;
        let snapshot = core.snapshot(id)?;
        let stack = vec![(snapshot.clear.root, MAX_LEVEL + 1)];
        Ok(Self {
            core,
            keys,
            below: below.to_vec(),
            stack,
            leaf: Vec::new().into_iter(),
            last: None,
            _hold: hold,
        })
    }

    fn contains(&self, path: &[u8]) -> bool {
        Entry::is_at_or_below(path, &self.below)
    }

    /// Whether a child whose entries begin at `first` and end before `next` may hold what is wanted.
    fn meets(&self, first: &[u8], next: Option<&[u8]>) -> bool {
        let too_late = Entry::cmp_path(first, &self.below).is_gt() && !self.contains(first);
        let too_early = next.is_some_and(|next| Entry::cmp_path(next, &self.below).is_le());
        !too_late && !too_early
    }

    /// Refuses a leaf that does not go on where the one before ended. So each leaf comes once, and
    /// a tree made of few frames that are named again and again ends too.
    fn follow(
        &mut self,
        entries: &[(Entry, Content)],
        above: u8,
    ) -> std::result::Result<(), &'static str> {
        let (Some((first, _)), Some((last, _))) = (entries.first(), entries.last()) else {
            return if above > MAX_LEVEL {
                Ok(())
            } else {
                Err("empty leaf")
            };
        };
        let before = self.last.replace(last.path.clone());
        match before {
            Some(before) if Entry::cmp_path(&before, &first.path).is_ge() => Err("order of leaves"),
            _ => Ok(()),
        }
    }

    /// Goes down until a leaf with entries is open; false when there is none left.
    fn open_leaf(&mut self) -> Result<bool> {
        while let Some((digest, above)) = self.stack.pop() {
            let (kind, content, refs) = self.core.read_metadata(&self.keys, &digest)?;
            let wrong = |field| {
                let source = FormatError::Field {
                    what: "tree",
                    field,
                };
                Error::Format {
                    name: frame_name(&digest),
                    source,
                }
            };
            match kind {
                Kind::Leaf => {
                    let mut entries = leaf_of(&digest, &content, &refs)?;
                    self.follow(&entries, above).map_err(wrong)?;
                    entries.retain(|(entry, _)| self.contains(&entry.path));
                    self.leaf = entries.into_iter();
                    return Ok(true);
                }
                Kind::Node => {
                    let node = Node::parse(&content, &refs).map_err(frame_error(digest))?;
                    // levels only fall, so a tree made to be endless ends
                    if node.level >= above {
                        return Err(wrong("level"));
                    }
                    let child =
                        |at: usize| node.children.get(at).map(|c: &Child| &c.first_path[..]);
                    let wanted = (0..node.children.len())
                        .filter(|&at| self.meets(&node.children[at].first_path, child(at + 1)));
                    let wanted: Vec<_> = wanted
                        .map(|at| (node.children[at].digest, node.level))
                        .collect();
                    self.stack.extend(wanted.into_iter().rev());
                }
                _ => return Err(wrong("kind of frame")),
            }
        }
        Ok(false)
    }
}

impl Iterator for Entries {
    type Item = Result<(Entry, Content)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.leaf.next() {
                return Some(Ok(entry));
            }
            match self.open_leaf() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    self.stack.clear();
                    return Some(Err(error));
                }
            }
        }
    }
}

/// A run of a file's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// These bytes.
    Data(Vec<u8>),
    /// So many zeros that take no space.
    Hole(u64),
}

/// The bytes of one file, in order.
pub struct Pieces {
    core: Arc<Core>,
    keys: Arc<Keys>,
    /// Lists still to be gone down into, the next one last, with the level they must stay below
    /// and the bytes they must stand for.
    lists: Vec<(Digest, u8, u64)>,
    extents: vec::IntoIter<Extent>,
}

impl Pieces {
    pub(crate) fn new(core: Arc<Core>, keys: Arc<Keys>, entry: &Entry, content: &Content) -> Self {
        let (lists, extents) = match content {
            Content::Inline => (Vec::new(), entry.content.clone()),
            Content::List(digest) => (
                vec![(*digest, format::extents::MAX_LEVEL + 1, entry.size)],
                Vec::new(),
            ),
        };
        Self {
            core,
            keys,
            lists,
            extents: extents.into_iter(),
        }
    }

    /// The next extent, its bytes not read.
    pub fn next_extent(&mut self) -> Result<Option<Extent>> {
        loop {
            if let Some(extent) = self.extents.next() {
                return Ok(Some(extent));
            }
            let Some((digest, above, length)) = self.lists.pop() else {
                return Ok(None);
            };
            let wrong = |field| {
                let source = FormatError::Field {
                    what: "extent list",
                    field,
                };
                Error::Format {
                    name: frame_name(&digest),
                    source,
                }
            };
            let (kind, content, refs) = self.core.read_metadata(&self.keys, &digest)?;
            if kind != Kind::Extents {
                return Err(wrong("kind of frame"));
            }
            match ExtentList::parse(&content, &refs).map_err(frame_error(digest))? {
                ExtentList::Extents(extents) => {
                    let sum = extents
                        .iter()
                        .map(length_of)
                        .try_fold(0u64, u64::checked_add);
                    if sum != Some(length) {
                        return Err(wrong("length"));
                    }
                    self.extents = extents.into_iter();
                }
                ExtentList::Lists { level, children } => {
                    let sum = children
                        .iter()
                        .map(|c| c.1)
                        .try_fold(0u64, u64::checked_add);
                    if level >= above || sum != Some(length) {
                        return Err(wrong("length"));
                    }
                    let below = children
                        .into_iter()
                        .map(|(digest, length)| (digest, level, length));
                    self.lists.extend(below.rev());
                }
            }
        }
    }

    fn next_piece(&mut self) -> Result<Option<Piece>> {
        Ok(match self.next_extent()? {
            None => None,
            Some(Extent::Hole { length }) => Some(Piece::Hole(length)),
            Some(Extent::Data { digest, length }) => {
                let bytes = self.core.read_data(&self.keys, &digest)?;
                if bytes.len() != length as usize {
                    return Err(Error::Content { digest });
                }
                Some(Piece::Data(bytes))
            }
        })
    }
}

impl Iterator for Pieces {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        let piece = self.next_piece();
        if piece.is_err() {
            self.lists.clear();
            self.extents = Vec::new().into_iter();
        }
        piece.transpose()
    }
}
