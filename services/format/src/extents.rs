//! Where the bytes of a file are: extents in an entry, and lists of extents in frames of their
//! own for large files (docs/format.md, "Extents").

use crate::entry::Extent;
use crate::frame::{MAX_PLAIN, MAX_REFS};
use crate::wire::{Reader, put_varint};
use crate::{Digest, Result};
use std::collections::HashMap;

/// Most levels of lists above each other.
pub const MAX_LEVEL: u8 = 6;

const WHAT: &str = "extent list";

/// Collects the digests a frame refers to, each once, in order of first use.
#[derive(Default)]
pub struct Refs {
    list: Vec<Digest>,
    places: HashMap<Digest, u64>,
}

impl Refs {
    /// Place of this digest in the list, which it joins if need be.
    pub fn place(&mut self, digest: Digest) -> u64 {
        *self.places.entry(digest).or_insert_with(|| {
            self.list.push(digest);
            self.list.len() as u64 - 1
        })
    }

    /// The digests so far.
    pub fn list(&self) -> &[Digest] {
        &self.list
    }

    /// The digests, starting over with none.
    pub fn take(&mut self) -> Vec<Digest> {
        self.places.clear();
        std::mem::take(&mut self.list)
    }
}

pub(crate) fn put_extent(out: &mut Vec<u8>, refs: &mut Refs, extent: &Extent) {
    match extent {
        Extent::Data { digest, length } => {
            put_varint(out, refs.place(*digest) << 1);
            put_varint(out, u64::from(*length));
        }
        Extent::Hole { length } => {
            put_varint(out, 1);
            put_varint(out, *length);
        }
    }
}

pub(crate) fn read_extent(reader: &mut Reader<'_>, refs: &[Digest]) -> Result<Extent> {
    let head = reader.varint()?;
    let length = reader.varint()?;
    if length == 0 {
        return Err(reader.wrong("length of an extent"));
    }
    if head == 1 {
        return Ok(Extent::Hole { length });
    }
    let digest = reference(reader, refs, head)?;
    if head & 1 == 1 || length > MAX_PLAIN as u64 {
        return Err(reader.wrong("length of an extent"));
    }
    Ok(Extent::Data {
        digest,
        length: length as u32,
    })
}

/// The reference a number twice its place names.
pub(crate) fn reference(reader: &Reader<'_>, refs: &[Digest], head: u64) -> Result<Digest> {
    usize::try_from(head >> 1)
        .ok()
        .and_then(|place| refs.get(place))
        .copied()
        .ok_or(reader.wrong("reference"))
}

/// Whether an extent may be stored: it is not empty, and its chunk not longer than a frame holds.
pub fn is_valid(extent: &Extent) -> bool {
    match extent {
        Extent::Data { length, .. } => (1..=MAX_PLAIN).contains(&(*length as usize)),
        Extent::Hole { length } => *length > 0,
    }
}

/// Bytes of data an extent stands for, none for a hole.
pub fn data_of(extent: &Extent) -> u64 {
    match extent {
        Extent::Data { length, .. } => u64::from(*length),
        Extent::Hole { .. } => 0,
    }
}

/// Bytes an extent stands for.
pub fn length_of(extent: &Extent) -> u64 {
    match extent {
        Extent::Data { length, .. } => u64::from(*length),
        Extent::Hole { length } => *length,
    }
}

/// One frame's worth of extents, or of lists of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExtentList {
    /// Level 0: the extents themselves.
    Extents(Vec<Extent>),
    /// A level above: digests of lists one level down, each with the bytes it stands for.
    Lists {
        /// This list's level, 1 to [`MAX_LEVEL`].
        level: u8,
        /// Lists of the level below, in order.
        children: Vec<(Digest, u64)>,
    },
}

impl ExtentList {
    /// Content and references of the frame.
    pub fn encode(&self) -> (Vec<u8>, Vec<Digest>) {
        let mut refs = Refs::default();
        let mut out = Vec::new();
        match self {
            Self::Extents(extents) => {
                out.push(0);
                put_varint(&mut out, extents.len() as u64);
                extents
                    .iter()
                    .for_each(|e| put_extent(&mut out, &mut refs, e));
            }
            Self::Lists { level, children } => {
                out.push(*level);
                put_varint(&mut out, children.len() as u64);
                for (digest, length) in children {
                    put_varint(&mut out, refs.place(*digest) << 1);
                    put_varint(&mut out, *length);
                }
            }
        }
        (out, refs.take())
    }

    /// Reads the content of a frame with these references.
    ///
    /// # Errors
    /// When it is no extent list.
    pub fn parse(content: &[u8], refs: &[Digest]) -> Result<Self> {
        let mut reader = Reader::new(content, WHAT);
        let level = reader.u8()?;
        // an item takes at least two bytes, so the count bounds nothing by itself
        let count = reader.varint_max(MAX_REFS as u64, "number of extents")? as usize;
        // lists that stand for nothing could be gone through without end
        if count == 0 {
            return Err(reader.wrong("number of extents"));
        }
        let room = count.min(content.len() / 2);
        let list = if level == 0 {
            let mut extents = Vec::with_capacity(room);
            for _ in 0..count {
                extents.push(read_extent(&mut reader, refs)?);
            }
            Self::Extents(extents)
        } else if level <= MAX_LEVEL {
            let mut children = Vec::with_capacity(room);
            for _ in 0..count {
                let head = reader.varint()?;
                let length = reader.varint()?;
                if head & 1 == 1 {
                    return Err(reader.wrong("reference"));
                }
                if length == 0 {
                    return Err(reader.wrong("length of a list"));
                }
                children.push((reference(&reader, refs, head)?, length));
            }
            Self::Lists { level, children }
        } else {
            return Err(reader.wrong("level"));
        };
        reader.finish()?;
        Ok(list)
    }
}
