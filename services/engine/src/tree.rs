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
        if entry.content.len() <= MAX_INLINE {
            let bytes = entry.content.iter().map(data_of).sum();
            return self.add_kept(sink, entry, &Content::Inline, bytes);
        }
        let mut content = LongContent::default();
        for extent in &entry.content {
            content.push(sink, *extent)?;
        }
        if content.size != entry.size {
            return Err(refused(entry)(FormatError::Field {
                what: "entry",
                field: "size",
            }));
        }
        let bytes = content.bytes;
        let (content, _) = content.end(sink)?;
        self.add_kept(sink, entry, &content, bytes)
    }

    /// Adds an entry with content that was stored as it came.
    pub(crate) fn add_long(
        &mut self,
        sink: &mut Sink<'_>,
        entry: &mut Entry,
        content: LongContent,
    ) -> Result<Option<Child>> {
        let bytes = content.bytes;
        entry.size = content.size;
        let (content, extents) = content.end(sink)?;
        entry.content = extents;
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

/// The content of a file, its extents stored as they come: however long it is, few of them are held.
#[derive(Default)]
pub struct LongContent {
    /// Extents that no list has yet.
    open: Vec<Extent>,
    /// Lists that none above has yet, with the bytes they stand for, from the lowest level up.
    levels: Vec<Vec<(Digest, u64)>>,
    size: u64,
    bytes: u64,
}

impl LongContent {
    /// Its length so far, holes included.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes so far without the holes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn push(&mut self, sink: &mut Sink<'_>, extent: Extent) -> Result<()> {
        let size = self.size.checked_add(length_of(&extent));
        let Some(size) = size.filter(|_| is_valid(&extent)) else {
            let source = FormatError::Field {
                what: "extent",
                field: "length",
            };
            let name = "the content of a file".into();
            return Err(Error::Format { name, source });
        };
        self.size = size;
        self.bytes += data_of(&extent);
        if let (Some(Extent::Hole { length }), Extent::Hole { length: more }) =
            (self.open.last_mut(), &extent)
        {
            *length += more;
            return Ok(());
        }
        self.open.push(extent);
        if !self.levels.is_empty() {
            return self.cut(sink);
        }
        // up to here it may be that no list is needed
        if self.open.len() > MAX_INLINE {
            self.levels.push(Vec::new());
            for extent in std::mem::take(&mut self.open) {
                self.open.push(extent);
                self.cut(sink)?;
            }
        }
        Ok(())
    }

    /// Ends a list that is long enough.
    fn cut(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        let last = match self.open.last() {
            Some(Extent::Data { digest, .. }) => Some(digest),
            _ => None,
        };
        if is_full(self.open.len(), last) {
            self.end_extents(sink)?;
        }
        Ok(())
    }

    fn end_extents(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        let extents = std::mem::take(&mut self.open);
        let length = extents.iter().map(length_of).sum();
        let list = sink.put(Kind::Extents, ExtentList::Extents(extents).encode())?;
        self.push_list(sink, 0, (list, length))
    }

    fn push_list(&mut self, sink: &mut Sink<'_>, level: usize, list: (Digest, u64)) -> Result<()> {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        let lists = &mut self.levels[level];
        lists.push(list);
        if is_full(lists.len(), Some(&list.0)) {
            return self.end_lists(sink, level);
        }
        Ok(())
    }

    fn end_lists(&mut self, sink: &mut Sink<'_>, level: usize) -> Result<()> {
        let children = std::mem::take(&mut self.levels[level]);
        let length = children.iter().map(|(_, length)| length).sum();
        let above = level as u8 + 1;
        let list = ExtentList::Lists {
            level: above,
            children,
        };
        let list = sink.put(Kind::Extents, list.encode())?;
        self.push_list(sink, level + 1, (list, length))
    }

    /// Where all of it is, and the extents if these are so few that the entry has them itself.
    fn end(mut self, sink: &mut Sink<'_>) -> Result<(Content, Vec<Extent>)> {
        if self.levels.is_empty() {
            return Ok((Content::Inline, self.open));
        }
        if !self.open.is_empty() {
            self.end_extents(sink)?;
        }
        let mut level = 0;
        loop {
            let top = level + 1 == self.levels.len();
            match self.levels[level][..] {
                [(only, _)] if top => return Ok((Content::List(only), Vec::new())),
                [] => {}
                _ => self.end_lists(sink, level)?,
            }
            level += 1;
        }
    }
}
