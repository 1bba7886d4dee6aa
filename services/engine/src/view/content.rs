//! Bytes of files, and where their holes are.

use super::{Opened, Seen, View, wrong};
use crate::error::{Error, Result};
use crate::read::Pieces;
use format::entry::Extent;
use format::extents::{ExtentList, data_of, length_of};
use format::leaf::Content;

/// Extents looked at to find where data or a hole begins, or how much of a file is data. Beyond, all
/// that is left counts as data, as it may.
const PATIENCE: usize = 1 << 22;

impl View {
    /// Bytes of a file from a place on, at most so many; fewer only at its end.
    ///
    /// # Errors
    /// A frame that is needed cannot be read.
    pub fn read(&self, seen: &Seen, offset: u64, length: usize) -> Result<Vec<u8>> {
        let size = seen.entry().size;
        let length = size.saturating_sub(offset).min(length as u64) as usize;
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let at = offset + bytes.len() as u64;
            let (extent, start) = self.extent(seen, at)?;
            let (room, within) = (length - bytes.len(), at - start);
            match extent {
                Extent::Hole { length } => {
                    let zeros = (length - within).min(room as u64) as usize;
                    bytes.resize(bytes.len() + zeros, 0);
                }
                Extent::Data { digest, length } => match &*self.open(&digest)? {
                    Opened::Data(data) if data.len() == length as usize => {
                        let data = &data[within as usize..];
                        bytes.extend_from_slice(&data[..data.len().min(room)]);
                    }
                    _ => return Err(Error::Content { digest }),
                },
            }
        }
        Ok(bytes)
    }

    /// The extent of a file that this byte, which it has, is in, and where it starts.
    fn extent(&self, seen: &Seen, at: u64) -> Result<(Extent, u64)> {
        let (entry, content) = &seen.leaf[seen.at];
        let mut start = 0;
        let (mut digest, mut above, mut length) = match content {
            Content::List(digest) => (*digest, u8::MAX, entry.size),
            Content::Inline => {
                let found = find(&entry.content, &mut start, at, length_of);
                let found = found.ok_or_else(|| wrong(&self.root, "entry", "size"))?;
                return Ok((*found, start));
            }
        };
        loop {
            match &*self.open(&digest)? {
                Opened::Extents(ExtentList::Extents(extents)) => {
                    let sum = sum(extents, length_of);
                    let found = find(extents, &mut start, at, length_of);
                    return match found {
                        Some(found) if sum == Some(length) => Ok((*found, start)),
                        _ => Err(wrong(&digest, "extent list", "length")),
                    };
                }
                Opened::Extents(ExtentList::Lists { level, children }) if *level < above => {
                    let found = find(children, &mut start, at, |child| child.1);
                    let sum = sum(children, |child| child.1);
                    match found {
                        Some(child) if sum == Some(length) => {
                            (digest, above, length) = (child.0, *level, child.1);
                        }
                        _ => return Err(wrong(&digest, "extent list", "length")),
                    }
                }
                _ => return Err(wrong(&digest, "extent list", "kind of frame")),
            }
        }
    }

    /// Where data, or a hole, begins in a file from a place on; its end where there is none.
    ///
    /// # Errors
    /// A list of extents cannot be read.
    pub fn seek(&self, seen: &Seen, mut at: u64, data: bool) -> Result<u64> {
        let size = seen.entry().size;
        for _ in 0..PATIENCE {
            if at >= size {
                return Ok(size);
            }
            let (extent, start) = self.extent(seen, at)?;
            if matches!(extent, Extent::Data { .. }) == data {
                return Ok(at);
            }
            at = start.saturating_add(length_of(&extent));
        }
        Ok(if data { at } else { size })
    }

    /// Bytes of a file that are no holes.
    ///
    /// # Errors
    /// A list of extents cannot be read.
    pub fn data_in(&self, seen: &Seen) -> Result<u64> {
        let (entry, content) = &seen.leaf[seen.at];
        let Content::List(list) = content else {
            return Ok(entry.content.iter().map(data_of).sum());
        };
        self.kept.data.get_or_insert_with(list, || {
            let mut extents = Pieces::new(self.core.clone(), self.core.keys()?, entry, content);
            let mut holes = 0u64;
            for _ in 0..PATIENCE {
                match extents.next_extent()? {
                    Some(Extent::Hole { length }) => holes = holes.saturating_add(length),
                    Some(Extent::Data { .. }) => {}
                    None => break,
                }
            }
            Ok(entry.size.saturating_sub(holes))
        })
    }
}

/// The item that this byte is in, by the items' lengths; moves `start` to where it starts.
fn find<'a, T>(
    items: &'a [T],
    start: &mut u64,
    at: u64,
    length: impl Fn(&T) -> u64,
) -> Option<&'a T> {
    items.iter().find(|item| {
        let end = start.saturating_add(length(item));
        let within = at < end;
        if !within {
            *start = end;
        }
        within
    })
}

fn sum<T>(items: &[T], length: impl Fn(&T) -> u64) -> Option<u64> {
    items.iter().map(length).try_fold(0u64, u64::checked_add)
}
