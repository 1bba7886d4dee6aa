//! Building a snapshot's tree: entries to leaves to nodes, ends chosen by content, so that an
//! unchanged stretch gives the frames that are there already (docs/format.md, "Trees").

use crate::compress::Packer;
use crate::core::Keys;
use crate::error::{Error, Result};
use crate::ingest::Ingest;
use crate::progress::Progress;
use format::entry::{Entry, Extent};
use format::extents::{ExtentList, data_of, is_valid, length_of};
use format::frame::Kind;
use format::leaf::{Content, LeafBuilder, MAX_INLINE, MAX_LEAF_PATHS};
use format::node::{Child, Node};
use format::{Digest, FormatError};
use std::sync::Arc;

/// A leaf may end from this weight on, does so after about as much again, and must at the last.
const LEAF_MIN: usize = 32 << 10;
const LEAF_MAX: usize = 256 << 10;
/// One path in so many ends a leaf that is long enough.
const LEAF_ONE_IN: u64 = 256;
/// Children of a node, items of an extent list: fewest, one in so many ends it, most.
const LIST_MIN: usize = 32;
const LIST_ONE_IN: u64 = 128;
const LIST_MAX: usize = 1024;
/// A node whose paths, written out, take this much must end.
const NODE_PATHS: usize = 2 << 20;

/// Where metadata frames go.
pub(crate) struct Sink<'a> {
    pub(crate) ingest: &'a Ingest,
    pub(crate) keys: &'a Arc<Keys>,
    pub(crate) progress: &'a Progress,
    pub(crate) packer: &'a mut Packer,
}

impl Sink<'_> {
    fn put(&mut self, kind: Kind, (content, refs): (Vec<u8>, Vec<Digest>)) -> Result<Digest> {
        self.ingest
            .put_metadata(self.keys, self.progress, self.packer, kind, &refs, &content)
    }
}

/// Whether a list may end after this item: a property of the item alone.
fn ends_list(digest: &Digest) -> bool {
    let [a, b, c, d, ..] = digest.0;
    u64::from(u32::from_le_bytes([a, b, c, d])).is_multiple_of(LIST_ONE_IN)
}

fn is_full(count: usize, last: Option<&Digest>) -> bool {
    count >= LIST_MAX || (count >= LIST_MIN && last.is_some_and(ends_list))
}

/// What was stored of a tree.
pub(crate) struct Built {
    pub(crate) root: Digest,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

#[derive(Default)]
pub(crate) struct TreeBuilder {
    leaf: LeafBuilder,
    first_path: Vec<u8>,
    leaf_bytes: u64,
    /// Children waiting for their node, by level of that node less 1.
    levels: Vec<Vec<Child>>,
    entries: u64,
    bytes: u64,
}

impl TreeBuilder {
    /// Adds an entry, whose content is chunks that the datastore has or has claimed. Answers the leaf
    /// that ends with it.
    pub(crate) fn add(&mut self, sink: &mut Sink<'_>, entry: &Entry) -> Result<Option<Child>> {
        let content = if entry.content.len() > MAX_INLINE {
            let sum = entry
                .content
                .iter()
                .map(length_of)
                .try_fold(0u64, u64::checked_add);
            if sum != Some(entry.size) || !entry.content.iter().all(is_valid) {
                return Err(refused(entry)(FormatError::Field {
                    what: "entry",
                    field: "size",
                }));
            }
            Content::List(put_extents(sink, &entry.content)?)
        } else {
            Content::Inline
        };
        let bytes = entry.content.iter().map(data_of).sum();
        self.add_kept(sink, entry, &content, bytes)
    }

    /// Adds an entry with content that the datastore has, so many bytes without the holes.
    pub(crate) fn add_kept(
        &mut self,
        sink: &mut Sink<'_>,
        entry: &Entry,
        content: &Content,
        bytes: u64,
    ) -> Result<Option<Child>> {
        self.leaf.push(entry, content).map_err(refused(entry))?;
        if self.leaf.count() == 1 {
            self.first_path.clone_from(&entry.path);
        }
        self.leaf_bytes += bytes;
        let weight = self.leaf.weight();
        let chosen = weight >= LEAF_MIN
            && sink
                .keys
                .digests
                .path_boundary(&entry.path)
                .is_multiple_of(LEAF_ONE_IN);
        if chosen || weight >= LEAF_MAX || self.leaf.path_bytes() >= MAX_LEAF_PATHS / 2 {
            return self.end_leaf(sink).map(Some);
        }
        Ok(None)
    }

    /// Whether what comes next begins a leaf.
    pub(crate) fn is_between_leaves(&self) -> bool {
        self.leaf.count() == 0
    }

    /// Adds a leaf that the datastore has, where one may begin.
    pub(crate) fn add_leaf(&mut self, sink: &mut Sink<'_>, leaf: Child) -> Result<()> {
        self.entries += leaf.entries;
        self.bytes += leaf.bytes;
        self.push(sink, 0, leaf)
    }

    fn end_leaf(&mut self, sink: &mut Sink<'_>) -> Result<Child> {
        let entries = u64::from(self.leaf.count());
        let digest = sink.put(Kind::Leaf, self.leaf.finish())?;
        let leaf = Child {
            digest,
            first_path: std::mem::take(&mut self.first_path),
            entries,
            bytes: std::mem::take(&mut self.leaf_bytes),
        };
        self.add_leaf(sink, leaf.clone())?;
        Ok(leaf)
    }

    /// Ends the last leaf; a tree without entries is one empty leaf.
    pub(crate) fn end(&mut self, sink: &mut Sink<'_>) -> Result<Option<Child>> {
        if self.leaf.count() > 0 || self.levels.is_empty() {
            return self.end_leaf(sink).map(Some);
        }
        Ok(None)
    }

    fn push(&mut self, sink: &mut Sink<'_>, level: usize, child: Child) -> Result<()> {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        let digest = child.digest;
        self.levels[level].push(child);
        let paths: usize = self.levels[level].iter().map(|c| c.first_path.len()).sum();
        if is_full(self.levels[level].len(), Some(&digest)) || paths >= NODE_PATHS {
            let children = std::mem::take(&mut self.levels[level]);
            self.end_node(sink, level, children)?;
        }
        Ok(())
    }

    fn end_node(&mut self, sink: &mut Sink<'_>, level: usize, children: Vec<Child>) -> Result<()> {
        let entries = children.iter().map(|c| c.entries).sum();
        let bytes = children.iter().map(|c| c.bytes).sum();
        let first_path = children[0].first_path.clone();
        let node = Node {
            level: level as u8 + 1,
            children,
        };
        let digest = sink.put(Kind::Node, node.encode())?;
        self.push(
            sink,
            level + 1,
            Child {
                digest,
                first_path,
                entries,
                bytes,
            },
        )
    }

    /// Ends the tree.
    pub(crate) fn finish(mut self, sink: &mut Sink<'_>) -> Result<Built> {
        self.end(sink)?;
        let mut level = 0;
        let root = loop {
            let children = std::mem::take(&mut self.levels[level]);
            let top = level + 1 == self.levels.len();
            match &children[..] {
                [only] if top => break only.digest,
                [] => {}
                _ => self.end_node(sink, level, children)?,
            }
            level += 1;
        };
        Ok(Built {
            root,
            entries: self.entries,
            bytes: self.bytes,
        })
    }
}

fn refused(entry: &Entry) -> impl FnOnce(FormatError) -> Error + use<> {
    let path = String::from_utf8_lossy(&entry.path).into_owned();
    move |source| Error::Entry { path, source }
}

/// Stores the list of a large file's extents; answers the digest of its topmost list.
fn put_extents(sink: &mut Sink<'_>, extents: &[Extent]) -> Result<Digest> {
    let mut lists: Vec<(Digest, u64)> = Vec::new();
    let mut from = 0;
    for (at, extent) in extents.iter().enumerate() {
        let last = match extent {
            Extent::Data { digest, .. } => Some(digest),
            Extent::Hole { .. } => None,
        };
        if is_full(at + 1 - from, last) || at + 1 == extents.len() {
            let part = &extents[from..=at];
            let list = ExtentList::Extents(part.to_vec());
            lists.push((
                sink.put(Kind::Extents, list.encode())?,
                part.iter().map(length_of).sum(),
            ));
            from = at + 1;
        }
    }
    let mut level = 1;
    while lists.len() > 1 {
        let mut above = Vec::new();
        let mut children = Vec::new();
        let count = lists.len();
        for (at, (digest, length)) in lists.into_iter().enumerate() {
            children.push((digest, length));
            if is_full(children.len(), Some(&digest)) || at + 1 == count {
                let sum = children.iter().map(|(_, length)| length).sum();
                let list = ExtentList::Lists {
                    level,
                    children: std::mem::take(&mut children),
                };
                above.push((sink.put(Kind::Extents, list.encode())?, sum));
            }
        }
        lists = above;
        level += 1;
    }
    Ok(lists[0].0)
}
