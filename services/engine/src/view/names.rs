//! Files that have several names.

use super::{View, wrong};
use crate::core::frame_error;
use crate::error::Result;
use format::Digest;
use format::entry::{Entry, Kind};
use format::frame::Kind as FrameKind;
use format::leaf::LeafReader;
use format::node::Node;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

impl View {
    /// Which files have further names, by their number, and how many. All entries are read for it, by
    /// several threads; what cannot be read is passed over.
    ///
    /// # Errors
    /// The tree's nodes cannot be read.
    pub fn further_names(&self) -> Result<Vec<(u64, u32)>> {
        let leaves = self.leaves()?;
        let next = AtomicUsize::new(0);
        let firsts = Mutex::new(Vec::new());
        let work = || {
            while let Some(digest) = leaves.get(next.fetch_add(1, Relaxed)) {
                let found = self.firsts(digest);
                let mut firsts = firsts.lock().unwrap_or_else(PoisonError::into_inner);
                firsts.extend(found);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.core.options.threads.max(1) {
                scope.spawn(work);
            }
        });
        let mut firsts: Vec<u64> = firsts.into_inner().unwrap_or_else(PoisonError::into_inner);
        firsts.sort_unstable();
        let same = firsts.chunk_by(|a, b| a == b);
        Ok(same.map(|names| (names[0], names.len() as u32)).collect())
    }

    /// Of the hard links in a leaf, the numbers of the files' first names.
    fn firsts(&self, leaf: &Digest) -> Vec<u64> {
        let Ok((FrameKind::Leaf, content, refs)) = self.core.read_metadata(&self.keys, leaf) else {
            return Vec::new();
        };
        let reader = LeafReader::new(&content, &refs).into_iter().flatten();
        let targets = reader.flatten().filter_map(|(entry, _)| match entry.kind {
            Kind::HardLink(target) => Some(target),
            _ => None,
        });
        let first = |target: Vec<u8>| {
            let seen = self.first_from(&target).ok()??;
            (seen.entry().path == target).then_some(seen.number)
        };
        targets.filter_map(first).collect()
    }

    /// The leaves of the tree, in order.
    fn leaves(&self) -> Result<Vec<Digest>> {
        let (mut leaves, mut last) = (Vec::new(), None);
        let mut stack = vec![(self.root, u8::MAX)];
        while let Some((digest, above)) = stack.pop() {
            let (kind, content, refs) = self.core.read_metadata(&self.keys, &digest)?;
            if kind == FrameKind::Leaf && digest == self.root {
                return Ok(vec![digest]);
            }
            if kind != FrameKind::Node {
                return Err(wrong(&digest, "tree", "kind of frame"));
            }
            let node = Node::parse(&content, &refs).map_err(frame_error(digest))?;
            if node.level >= above {
                return Err(wrong(&digest, "tree", "level"));
            }
            if node.level > 1 {
                let children = node.children.iter().rev();
                stack.extend(children.map(|child| (child.digest, node.level)));
                continue;
            }
            for child in node.children {
                let path = last.replace(child.first_path.clone());
                // so a tree of few frames that are named again and again ends
                if path.is_some_and(|path| Entry::cmp_path(&path, &child.first_path).is_ge()) {
                    return Err(wrong(&digest, "tree", "order of leaves"));
                }
                leaves.push(child.digest);
            }
        }
        Ok(leaves)
    }
}
