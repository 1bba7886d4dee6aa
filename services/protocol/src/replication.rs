//! A site's copy on its way to the centre (docs/protocol.md, "Replication").
//!
//! Frames travel as they lie on disk; neither end needs a key. The site asks top-down which frames
//! the centre lacks, beginning with a snapshot's root, and sends them bottom-up: a frame never
//! leaves before all it refers to. So a frame the centre has stands for everything below it, a
//! subtree it has is not looked into, and whatever arrived before a connection was cut stays of
//! use. The snapshot itself comes last.
//!
//! The centre only adds: no message removes, replaces or shortens anything there.

mod receiver;
mod sender;

pub use receiver::{ReceiveError, Receiver, Sink};
pub use sender::{Sender, Source, Step, Totals};

use crate::bounded::{bytes, cut, text};
use crate::digests::{Bitmap, Digests};
use crate::frame::PART;
use format::superblock::SUPERBLOCK_LEN;
use serde::{Deserialize, Serialize};

/// Questions the site asks before the first of them is answered.
pub const WINDOW: usize = 32;
/// Most snapshots in one message of the list.
pub const MAX_LISTED: usize = 8192;
/// Most snapshots of a datastore that the two ends speak of.
pub const MAX_SNAPSHOTS: usize = 1 << 20;

/// A piece of something longer than a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The last piece.
    pub last: bool,
    /// Its bytes.
    #[serde(
        serialize_with = "bytes::serialize",
        deserialize_with = "bytes::deserialize::<PART, _>"
    )]
    pub bytes: Vec<u8>,
}

/// From the site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromSite {
    /// First: what is to be copied. Answered by the list of the snapshots the centre has.
    Hello {
        /// The datastore's id.
        datastore: [u8; 16],
        /// Its datastore file, docs/format.md "The datastore file".
        #[serde(
            serialize_with = "bytes::serialize",
            deserialize_with = "bytes::deserialize::<SUPERBLOCK_LEN, _>"
        )]
        superblock: Vec<u8>,
    },
    /// Which of these frames do you have? Answered by [`FromCentre::Known`], in the order asked.
    Have(Digests),
    /// A frame, or a piece of it.
    Frame(Part),
    /// A snapshot file, or a piece of it; all it refers to was sent. Answered by
    /// [`FromCentre::Stored`].
    Snapshot(Part),
    /// That was all. The session ends.
    Done,
}

/// From the centre.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromCentre {
    /// Snapshots of this datastore that the centre has, 16 bytes each.
    Snapshots(Ids),
    /// One bit for each digest of the oldest question: it is here.
    Known(Bitmap),
    /// This snapshot and all it refers to are durable here.
    Stored([u8; 16]),
    /// It goes no further, for this reason. What arrived stays.
    Failed(#[serde(deserialize_with = "text::<4096, _>")] String),
}

impl FromCentre {
    /// A failure in one sentence.
    pub fn failed(sentence: impl Into<String>) -> Self {
        Self::Failed(cut(sentence.into(), 4096))
    }
}

/// One message of the list of snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    /// No more follow.
    pub last: bool,
    /// 16 bytes each.
    #[serde(
        serialize_with = "bytes::serialize",
        deserialize_with = "bytes::deserialize::<{ MAX_LISTED * 16 }, _>"
    )]
    ids: Vec<u8>,
}

impl Ids {
    /// The messages that list these.
    pub fn pages(ids: &[[u8; 16]]) -> Vec<Ids> {
        let mut pages: Vec<Ids> = ids
            .chunks(MAX_LISTED)
            .map(|page| Ids {
                last: false,
                ids: page.concat(),
            })
            .collect();
        match pages.last_mut() {
            Some(page) => page.last = true,
            None => pages.push(Ids {
                last: true,
                ids: Vec::new(),
            }),
        }
        pages
    }

    /// The ids of this message; bytes that make up no whole id are ignored.
    pub fn iter(&self) -> impl Iterator<Item = [u8; 16]> + '_ {
        self.ids.as_chunks::<16>().0.iter().copied()
    }
}

/// The pieces of `whole`, at least one.
fn parts(whole: &[u8]) -> Vec<Part> {
    let mut parts: Vec<Part> = whole
        .chunks(PART)
        .map(|p| Part {
            last: false,
            bytes: p.to_vec(),
        })
        .collect();
    match parts.last_mut() {
        Some(part) => part.last = true,
        None => parts.push(Part {
            last: true,
            bytes: Vec::new(),
        }),
    }
    parts
}

#[cfg(test)]
mod tests;
