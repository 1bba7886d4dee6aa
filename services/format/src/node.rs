//! Nodes: the levels above the entry leaves of a snapshot (docs/format.md, "Nodes").

use crate::entry::{Entry, MAX_PATH};
use crate::frame::MAX_REFS;
use crate::wire::{Reader, put_bytes, put_varint};
use crate::{Digest, Result};

const WHAT: &str = "node";
/// Most levels of nodes above the leaves.
pub const MAX_LEVEL: u8 = 12;

/// One leaf or node below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Its digest.
    pub digest: Digest,
    /// Path of the first entry below it.
    pub first_path: Vec<u8>,
    /// Number of entries below it.
    pub entries: u64,
    /// Bytes of content below it, holes not counted.
    pub bytes: u64,
}

/// Leaves or nodes in the order of their entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// 1 above leaves, and one more above each level, to [`MAX_LEVEL`].
    pub level: u8,
    /// What is below.
    pub children: Vec<Child>,
}

impl Node {
    /// Content and references of the frame.
    pub fn encode(&self) -> (Vec<u8>, Vec<Digest>) {
        let mut out = vec![self.level];
        let mut last: &[u8] = &[];
        for child in &self.children {
            let shared = last
                .iter()
                .zip(&child.first_path)
                .take_while(|(a, b)| a == b)
                .count();
            put_varint(&mut out, shared as u64);
            put_bytes(&mut out, &child.first_path[shared..]);
            put_varint(&mut out, child.entries);
            put_varint(&mut out, child.bytes);
            last = &child.first_path;
        }
        (out, self.children.iter().map(|c| c.digest).collect())
    }

    /// Reads the content of a frame with these references: one child for each.
    ///
    /// # Errors
    /// When it is no node.
    pub fn parse(content: &[u8], refs: &[Digest]) -> Result<Self> {
        let mut reader = Reader::new(content, WHAT);
        let level = reader.u8()?;
        if level == 0 || level > MAX_LEVEL {
            return Err(reader.wrong("level"));
        }
        if refs.is_empty() || refs.len() > MAX_REFS {
            return Err(reader.wrong("number of references"));
        }
        let mut children: Vec<Child> = Vec::with_capacity(refs.len().min(content.len() / 4));
        let mut room = MAX_NODE_PATHS;
        for digest in refs {
            let last = children.last().map_or(&[][..], |c| &c.first_path);
            let shared = reader.varint_max(last.len() as u64, "path")? as usize;
            let suffix = reader.bytes(MAX_PATH, "path")?;
            room = room
                .checked_sub(shared + suffix.len())
                .ok_or(reader.wrong("path"))?;
            let mut first_path = last[..shared].to_vec();
            first_path.extend_from_slice(suffix);
            let in_order = children.is_empty() || Entry::cmp_path(last, &first_path).is_lt();
            if !in_order || !Entry::path_is_valid(&first_path) {
                return Err(reader.wrong("path"));
            }
            let (entries, bytes) = (reader.varint()?, reader.varint()?);
            children.push(Child {
                digest: *digest,
                first_path,
                entries,
                bytes,
            });
        }
        reader.finish()?;
        Ok(Self { level, children })
    }
}

/// Most bytes of paths in a node once shared beginnings are written out: what bounds the memory
/// a hostile node can take.
pub const MAX_NODE_PATHS: usize = 16 << 20;
