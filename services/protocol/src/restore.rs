//! A snapshot on its way back, and the list of snapshots (docs/protocol.md, "Restore").
//!
//! The stream is the same whether an agent asked for it or `OpenRestore` gave it over the bus.
//! [`Receiver`] is the end that takes it, without I/O.

use crate::bounded::{bytes, cut, list, text};
use crate::entry::Entry;
use crate::frame::{PART, WireError};
use format::entry::{self, MAX_PATH};
use serde::{Deserialize, Serialize};

/// Most paths a listed snapshot names.
pub const MAX_ROOTS: usize = 64;

/// What the agent asks for, after it was let in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The snapshot's id.
    pub snapshot: [u8; 16],
    /// Only this path of the snapshot and what is below it; empty for all.
    #[serde(
        serialize_with = "bytes::serialize",
        deserialize_with = "bytes::deserialize::<MAX_PATH, _>"
    )]
    pub path: Vec<u8>,
}

/// A piece of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Item {
    /// The next entry, in the order of a snapshot. The content of a file follows it.
    Entry(Box<Entry>),
    /// Bytes of the file.
    Data(
        #[serde(
            serialize_with = "bytes::serialize",
            deserialize_with = "bytes::deserialize::<PART, _>"
        )]
        Vec<u8>,
    ),
    /// Zeros of the file that take no space.
    Hole(u64),
    /// The rest of the file cannot be had, for this reason; the next entry follows.
    Lost(#[serde(deserialize_with = "text::<4096, _>")] String),
    /// All was sent.
    End {
        /// Number of entries.
        entries: u64,
        /// Bytes of content, holes included, lost ones not.
        bytes: u64,
    },
    /// It goes no further, for this reason.
    Failed(#[serde(deserialize_with = "text::<4096, _>")] String),
}

impl Item {
    /// A failure in one sentence.
    pub fn failed(sentence: impl Into<String>) -> Self {
        Self::Failed(cut(sentence.into(), 4096))
    }

    /// A loss in one sentence.
    pub fn lost(sentence: impl Into<String>) -> Self {
        Self::Lost(cut(sentence.into(), 4096))
    }
}

/// What a piece means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Begin this entry; the one before is complete.
    Entry(Box<entry::Entry>),
    /// Append to the file.
    Data(Vec<u8>),
    /// Append zeros to the file.
    Hole(u64),
    /// Give the file up.
    Lost(String),
    /// All is there.
    End {
        /// Number of entries.
        entries: u64,
        /// Bytes of content.
        bytes: u64,
    },
    /// It failed at the other end.
    Failed(String),
}

/// The end that takes the stream: a stream cut short, or with a file too short or too long, is
/// never taken for a whole one.
#[derive(Debug, Default)]
pub struct Receiver {
    last: Option<Vec<u8>>,
    /// Bytes the open file still lacks.
    left: u64,
    entries: u64,
    bytes: u64,
    ended: bool,
}

impl Receiver {
    /// Takes a piece.
    ///
    /// # Errors
    /// What is out of order.
    pub fn receive(&mut self, item: Item) -> Result<Event, WireError> {
        let unexpected = |what| Err(WireError::Unexpected(what));
        if self.ended {
            return unexpected("a message after the last");
        }
        match item {
            Item::Entry(entry) => {
                let entry = entry.check()?;
                if self.left > 0 {
                    return unexpected("a file shorter than its entry says");
                }
                if self
                    .last
                    .as_ref()
                    .is_some_and(|l| entry::Entry::cmp_path(l, &entry.path).is_ge())
                {
                    return unexpected("entries out of order");
                }
                self.last = Some(entry.path.clone());
                self.left = entry.size;
                self.entries += 1;
                Ok(Event::Entry(Box::new(entry)))
            }
            Item::Data(bytes) => {
                self.take(bytes.len() as u64)?;
                Ok(Event::Data(bytes))
            }
            Item::Hole(length) => {
                self.take(length)?;
                Ok(Event::Hole(length))
            }
            Item::Lost(_) if self.left == 0 => unexpected("a loss of nothing"),
            Item::Lost(sentence) => {
                self.left = 0;
                Ok(Event::Lost(sentence))
            }
            Item::End { entries, bytes } => {
                if (self.left, self.entries, self.bytes) != (0, entries, bytes) {
                    return unexpected("an end that does not fit what came before");
                }
                self.ended = true;
                Ok(Event::End { entries, bytes })
            }
            Item::Failed(sentence) => {
                self.ended = true;
                Ok(Event::Failed(sentence))
            }
        }
    }

    fn take(&mut self, length: u64) -> Result<(), WireError> {
        self.left = match self.left.checked_sub(length) {
            Some(left) if length > 0 => left,
            _ => return Err(WireError::Unexpected("a file longer than its entry says")),
        };
        self.bytes = self.bytes.saturating_add(length);
        Ok(())
    }
}

/// A snapshot the agent may restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its id.
    pub snapshot: [u8; 16],
    /// When the backup began: seconds since the Unix epoch.
    pub time: i64,
    /// Name of the protected server.
    #[serde(deserialize_with = "text::<256, _>")]
    pub host: String,
    /// What was protected.
    #[serde(deserialize_with = "list::<MAX_ROOTS, _, _>")]
    pub paths: Vec<crate::intake::Path>,
    /// Number of entries.
    pub entries: u64,
    /// Bytes of all files' content.
    pub logical: u64,
    /// Bytes it added to the datastore, before compression.
    pub unique: u64,
    /// Number of files skipped or changed while read.
    pub problems: u64,
}

/// A piece of the list, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ListItem {
    /// A snapshot.
    Snapshot(Box<Listed>),
    /// That was all.
    End,
    /// It goes no further, for this reason.
    Failed(#[serde(deserialize_with = "text::<4096, _>")] String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::tests::file;
    use crate::fuzz::{again, message};

    fn entry(path: &str, size: u64) -> Item {
        Item::Entry(Box::new((&file(path, size)).into()))
    }

    fn all(items: Vec<Item>) -> Result<Vec<Event>, WireError> {
        let mut receiver = Receiver::default();
        items
            .into_iter()
            .map(|item| receiver.receive(item))
            .collect()
    }

    #[test]
    fn a_whole_stream_is_taken_and_no_other() {
        let data = |n| Item::Data(vec![0; n]);
        let end = |entries, bytes| Item::End { entries, bytes };
        assert!(
            all(vec![
                entry("a", 7),
                data(3),
                Item::Hole(4),
                entry("b", 0),
                end(2, 7)
            ])
            .is_ok()
        );
        assert!(
            all(vec![
                entry("a", 7),
                data(3),
                Item::lost("x"),
                entry("b", 0),
                end(2, 3)
            ])
            .is_ok()
        );
        // of holes more than can be counted
        let size = i64::MAX as u64;
        let files = ["a", "b", "c"].map(|path| [entry(path, size), Item::Hole(size)]);
        let items = files.into_iter().flatten().chain([end(3, u64::MAX)]);
        assert!(all(items.collect()).is_ok());
        for bad in [
            vec![entry("a", 7), data(3), end(1, 3)],
            vec![entry("a", 7), data(3), entry("b", 0)],
            vec![entry("a", 2), data(3)],
            vec![entry("a", 2), Item::Hole(0)],
            vec![entry("b", 0), entry("a", 0)],
            vec![entry("b", 0), Item::lost("x")],
            vec![entry("b", 0), end(2, 0)],
            vec![end(0, 0), entry("a", 0)],
            vec![data(1)],
        ] {
            assert!(all(bad.clone()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn any_bytes_are_understood_or_refused() {
        bolero::check!()
            .with_type::<Vec<(u8, Vec<u8>)>>()
            .for_each(|messages| {
                let mut receiver = Receiver::default();
                for (kind, bytes) in messages {
                    let bytes = message(*kind, 6, bytes);
                    again::<ListItem>(&bytes);
                    again::<Request>(&bytes);
                    if let Some(item) = again::<Item>(&bytes) {
                        let _ = receiver.receive(item);
                    }
                }
            });
    }
}
