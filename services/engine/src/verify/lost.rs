//! Which files of a snapshot are damaged, by what leads to something damaged or missing.
//!
//! Of a tree only that is walked. What was counted below a frame is kept, so that what snapshots share
//! is walked once but for the names, and takes memory as the set of these frames does.

use crate::Store;
use crate::core::{Core, Keys};
use crate::error::Result;
use crate::progress::Progress;
use crate::read::leaf_of;
use format::entry::{Entry, Extent};
use format::frame::Kind;
use format::leaf::Content;
use format::node::{MAX_LEVEL, Node};
use format::{Digest, SnapshotId};
use std::collections::{HashMap, HashSet};

/// Most names for one snapshot, and for all.
const MAX_NAMES: usize = 100;
const MAX_ALL_NAMES: usize = 10_000;

/// What is lost of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Which one.
    pub snapshot: SnapshotId,
    /// Paths of files whose content is damaged, in order; of the first 100 at the most, and of fewer
    /// where there are very many snapshots.
    pub files: Vec<Vec<u8>>,
    /// How many there are.
    pub file_count: u64,
    /// Entries that are in damaged parts of the tree, so that not even their names are known.
    pub nameless: u64,
}

struct Search<'a> {
    core: &'a Core,
    keys: &'a Keys,
    bad: &'a HashSet<Digest>,
    progress: &'a Progress,
    /// Files and nameless entries below frames.
    counted: HashMap<Digest, (u64, u64)>,
    /// Names that are left for this snapshot.
    names: usize,
}

impl Store {
    pub(super) fn lost(
        &self,
        bad: &HashSet<Digest>,
        snapshots: &[SnapshotId],
        keys: &Keys,
        progress: &Progress,
    ) -> Result<Vec<Lost>> {
        let mut search = Search {
            core: &self.core,
            keys,
            bad,
            progress,
            counted: HashMap::new(),
            names: 0,
        };
        let (mut all, mut left) = (Vec::new(), MAX_ALL_NAMES);
        for id in snapshots {
            // its file is damaged, or gone by now
            let Ok(snapshot) = self.core.snapshot(*id) else {
                continue;
            };
            let mut lost = Lost {
                snapshot: *id,
                files: Vec::new(),
                file_count: 0,
                nameless: 0,
            };
            search.names = left.min(MAX_NAMES);
            let clear = &snapshot.clear;
            search.below(&clear.root, MAX_LEVEL + 1, clear.entries, &mut lost)?;
            left -= lost.files.len();
            all.push(lost);
        }
        Ok(all)
    }
}

impl Search<'_> {
    /// Adds what is lost below a frame that should have so many entries.
    fn below(&mut self, digest: &Digest, above: u8, entries: u64, lost: &mut Lost) -> Result<()> {
        let known = self.counted.get(digest);
        // each walk of what was walked before adds a name, so a tree made to be endless ends
        if let Some((files, nameless)) = known
            && (*files == 0 || lost.files.len() >= self.names)
        {
            lost.file_count = lost.file_count.saturating_add(*files);
            lost.nameless = lost.nameless.saturating_add(*nameless);
            return Ok(());
        }
        self.progress.check()?;
        let before = (lost.file_count, lost.nameless);
        match self.core.read_metadata(self.keys, digest) {
            Ok((Kind::Leaf, content, refs)) if let Ok(all) = leaf_of(digest, &content, &refs) => {
                for (entry, content) in all {
                    self.entry(entry, &content, lost);
                }
            }
            Ok((Kind::Node, content, refs))
                if let Ok(node) = Node::parse(&content, &refs)
                    && node.level < above =>
            {
                for child in &node.children {
                    if self.bad.contains(&child.digest) {
                        self.below(&child.digest, node.level, child.entries, lost)?;
                    }
                }
            }
            _ => lost.nameless = lost.nameless.saturating_add(entries),
        }
        let found = (lost.file_count - before.0, lost.nameless - before.1);
        self.counted.insert(*digest, found);
        Ok(())
    }

    fn entry(&self, entry: Entry, content: &Content, lost: &mut Lost) {
        let damaged = match content {
            Content::List(list) => self.bad.contains(list),
            Content::Inline => entry.content.iter().any(
                |extent| matches!(extent, Extent::Data { digest, .. } if self.bad.contains(digest)),
            ),
        };
        if damaged {
            lost.file_count = lost.file_count.saturating_add(1);
            if lost.files.len() < self.names {
                lost.files.push(entry.path);
            }
        }
    }
}
