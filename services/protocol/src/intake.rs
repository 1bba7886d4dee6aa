//! A backup on its way in (docs/protocol.md, "Intake").
//!
//! The agent names chunks by digests under a key of its own, which the site gives it; it asks
//! which the site knows of it, sends the others, and then the entry they belong to. [`Sender`] and
//! [`Receiver`] are the two ends without I/O.

use crate::bounded::{bytes, cut, list, text};
use crate::digests::{Bitmap, Digests};
use crate::entry::{Entry, Run};
use crate::frame::{PART, WireError};
use format::entry::{self, Extent, MAX_PATH};
use format::extents::length_of;
use format::{Digest, snapshot};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Longest chunk, bytes.
pub const MAX_CHUNK: usize = PART;
/// Most runs in one message; the content of a larger file comes in several before its entry.
pub const MAX_RUNS: usize = 8192;
/// Most paths a backup is said to protect.
const MAX_ROOTS: usize = 1024;

/// What the site gives the agent to work with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Key of this agent's digests.
    pub digest_key: [u8; 32],
    /// Seed of the chunk cutter, the same for all of a datastore.
    pub cut_seed: u64,
}

/// What a backup is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// The run jobd ordered.
    #[serde(deserialize_with = "text::<128, _>")]
    pub run: String,
    /// Name of the protected server.
    #[serde(deserialize_with = "text::<256, _>")]
    pub host: String,
    /// Its operating system as it calls itself.
    #[serde(deserialize_with = "text::<256, _>")]
    pub source: String,
    /// What is protected, as the operator named it.
    #[serde(deserialize_with = "list::<MAX_ROOTS, _, _>")]
    pub paths: Vec<Path>,
}

/// A path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Path(
    #[serde(
        serialize_with = "bytes::serialize",
        deserialize_with = "bytes::deserialize::<MAX_PATH, _>"
    )]
    pub Vec<u8>,
);

/// From the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromAgent {
    /// First.
    Begin(Begin),
    /// Which of these do you know of me? Answered by [`FromSite::Known`], in the order asked.
    Have(Digests),
    /// A chunk.
    Chunk(
        #[serde(
            serialize_with = "bytes::serialize",
            deserialize_with = "bytes::deserialize::<MAX_CHUNK, _>"
        )]
        Vec<u8>,
    ),
    /// The next runs of the content of the entry that follows.
    Content(#[serde(deserialize_with = "list::<MAX_RUNS, _, _>")] Vec<Run>),
    /// An entry, after its content, in the order of a snapshot.
    Entry(Box<Entry>),
    /// A file that was skipped or changed while it was read.
    Problem {
        /// Its path at the source.
        path: Path,
        /// One sentence.
        #[serde(deserialize_with = "text::<4096, _>")]
        text: String,
    },
    /// I am still reading.
    Alive,
    /// That was all.
    Commit,
    /// No entry follows the content so far: the rest of the file cannot be read.
    Discard,
}

/// From the site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromSite {
    /// First.
    Terms(Terms),
    /// One bit for each digest of the oldest question not answered yet: it is known.
    Known(Bitmap),
    /// The snapshot is durable. The session ends.
    Committed(Committed),
    /// The backup failed, nothing was kept as a snapshot. The session ends.
    Failed(#[serde(deserialize_with = "text::<4096, _>")] String),
}

impl FromSite {
    /// A failure in one sentence.
    pub fn failed(sentence: impl Into<String>) -> Self {
        Self::Failed(cut(sentence.into(), 4096))
    }
}

/// What became of a backup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// The snapshot's id.
    pub snapshot: [u8; 16],
    /// Number of entries.
    pub entries: u64,
    /// Bytes of all files' content.
    pub logical: u64,
    /// Bytes of content the datastore did not have.
    pub unique: u64,
    /// Bytes on disk for them.
    pub stored: u64,
    /// Bytes that came over the wire.
    pub wire: u64,
}

/// The agent's end: what was asked and not answered.
#[derive(Debug, Default)]
pub struct Sender {
    asked: VecDeque<Vec<Digest>>,
}

impl Sender {
    /// Asks about at most [`crate::digests::MAX`] digests.
    pub fn ask(&mut self, digests: Vec<Digest>) -> FromAgent {
        self.asked.push_back(digests.clone());
        FromAgent::Have(Digests(digests))
    }

    /// Takes an answer: the digests of the oldest question, and whether each is known.
    ///
    /// # Errors
    /// An answer to nothing, or of another length.
    pub fn answered(&mut self, bitmap: &Bitmap) -> Result<Vec<(Digest, bool)>, WireError> {
        let unexpected = || WireError::Unexpected("an answer that fits no question");
        let digests = self.asked.pop_front().ok_or_else(unexpected)?;
        let answers = bitmap.answers(digests.len()).ok_or_else(unexpected)?;
        Ok(digests.into_iter().zip(answers).collect())
    }
}

/// What a message from the agent means to the site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The backup begins.
    Begin(Begin),
    /// A question to answer.
    Have(Vec<Digest>),
    /// A chunk to store.
    Chunk(Vec<u8>),
    /// Where the next bytes of a file are, under the agent's digests; its entry or a discard follows.
    Content(Vec<Extent>),
    /// The entry of what came by [`Event::Content`], which is as long as it says.
    Entry(Box<entry::Entry>),
    /// What came by [`Event::Content`] is of no entry.
    Discard,
    /// Something to note.
    Problem(snapshot::Problem),
    /// Nothing to do.
    Alive,
    /// To be made durable now.
    Commit,
}

/// The site's end: holds the agent to the order of things.
#[derive(Debug, Default)]
pub struct Receiver {
    begun: bool,
    ended: bool,
    last: Option<Vec<u8>>,
    /// Bytes of content since the last entry, holes included; none of content that is empty.
    size: u64,
}

impl Receiver {
    /// Takes a message.
    ///
    /// # Errors
    /// What is out of order, or no snapshot may hold.
    pub fn receive(&mut self, message: FromAgent) -> Result<Event, WireError> {
        let unexpected = |what| Err(WireError::Unexpected(what));
        if self.ended {
            return unexpected("a message after the last");
        }
        if let FromAgent::Begin(begin) = message {
            if std::mem::replace(&mut self.begun, true) {
                return unexpected("a second beginning");
            }
            return Ok(Event::Begin(begin));
        }
        if !self.begun {
            return unexpected("no beginning");
        }
        match message {
            FromAgent::Have(digests) => Ok(Event::Have(digests.0)),
            FromAgent::Chunk(bytes) if bytes.is_empty() => unexpected("an empty chunk"),
            FromAgent::Chunk(bytes) => Ok(Event::Chunk(bytes)),
            FromAgent::Content(runs) => {
                let checked = runs.into_iter().map(Run::check);
                let extents = checked.collect::<Result<Vec<_>, _>>()?;
                let mut lengths = extents.iter().map(length_of);
                self.size = lengths
                    .try_fold(self.size, u64::checked_add)
                    .ok_or(WireError::Unexpected("content beyond all files"))?;
                Ok(Event::Content(extents))
            }
            FromAgent::Entry(entry) => {
                let entry = entry.check()?;
                if self
                    .last
                    .as_ref()
                    .is_some_and(|l| entry::Entry::cmp_path(l, &entry.path).is_ge())
                {
                    return unexpected("entries out of order");
                }
                if std::mem::take(&mut self.size) != entry.size {
                    return unexpected("an entry whose content is not as long as it says");
                }
                self.last = Some(entry.path.clone());
                Ok(Event::Entry(Box::new(entry)))
            }
            FromAgent::Problem { path, text } => {
                Ok(Event::Problem(snapshot::Problem { path: path.0, text }))
            }
            FromAgent::Alive => Ok(Event::Alive),
            FromAgent::Discard => {
                self.size = 0;
                Ok(Event::Discard)
            }
            FromAgent::Commit if self.last.is_none() || self.size > 0 => {
                unexpected("an end before an entry")
            }
            FromAgent::Commit => {
                self.ended = true;
                Ok(Event::Commit)
            }
            FromAgent::Begin(_) => unexpected("a second beginning"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::tests::file;
    use crate::fuzz::{again, message};

    fn begin() -> FromAgent {
        FromAgent::Begin(Begin {
            run: "1".into(),
            host: "h".into(),
            source: "Debian".into(),
            paths: vec![],
        })
    }

    fn begun() -> Receiver {
        let mut receiver = Receiver::default();
        receiver.receive(begin()).unwrap();
        receiver
    }

    fn entry(path: &str, size: u64) -> FromAgent {
        FromAgent::Entry(Box::new((&file(path, size)).into()))
    }

    #[test]
    fn content_comes_before_its_entry_and_is_as_long_as_it_says() {
        let content = |runs: &[Run]| FromAgent::Content(runs.to_vec());
        let mut receiver = begun();
        let runs = [Run::Data([1; 32], 5), Run::Hole(3)];
        match receiver.receive(content(&runs)).unwrap() {
            Event::Content(extents) => assert_eq!(extents.len(), 2),
            other => panic!("{other:?}"),
        }
        receiver.receive(content(&[Run::Data([2; 32], 2)])).unwrap();
        assert!(matches!(
            receiver.receive(entry("a", 10)).unwrap(),
            Event::Entry(_)
        ));
        assert!(begun().receive(entry("a", 10)).is_err());
        receiver.receive(content(&[Run::Hole(u64::MAX)])).unwrap();
        assert!(receiver.receive(content(&[Run::Data([1; 32], 1)])).is_err());
    }

    #[test]
    fn what_is_discarded_is_of_no_entry() {
        let mut receiver = begun();
        let content = FromAgent::Content(vec![Run::Hole(5)]);
        receiver.receive(content.clone()).unwrap();
        let discarded = receiver.receive(FromAgent::Discard).unwrap();
        assert_eq!(discarded, Event::Discard);
        receiver.receive(entry("a", 0)).unwrap();
        receiver.receive(content).unwrap();
        assert!(receiver.receive(FromAgent::Commit).is_err());
        receiver.receive(FromAgent::Discard).unwrap();
        receiver.receive(FromAgent::Commit).unwrap();
    }

    #[test]
    fn what_is_out_of_order_is_refused() {
        assert!(Receiver::default().receive(FromAgent::Alive).is_err());
        assert!(begun().receive(begin()).is_err());
        assert!(begun().receive(FromAgent::Commit).is_err());
        assert!(begun().receive(FromAgent::Chunk(vec![])).is_err());
        assert!(
            begun()
                .receive(FromAgent::Content(vec![Run::Hole(0)]))
                .is_err()
        );
        let mut receiver = begun();
        receiver.receive(entry("b", 0)).unwrap();
        assert!(receiver.receive(entry("a", 0)).is_err());
        assert!(receiver.receive(entry("b", 0)).is_err());
        receiver.receive(FromAgent::Commit).unwrap();
        assert!(receiver.receive(FromAgent::Alive).is_err());
    }

    #[test]
    fn answers_fit_the_oldest_question() {
        let mut sender = Sender::default();
        let digests: Vec<_> = (0..9).map(|n| Digest([n; 32])).collect();
        sender.ask(digests[..3].to_vec());
        sender.ask(digests[3..].to_vec());
        let answer = sender.answered(&Bitmap::new([true, false, true])).unwrap();
        assert_eq!(
            answer,
            vec![(digests[0], true), (digests[1], false), (digests[2], true)]
        );
        assert!(sender.answered(&Bitmap::new([true; 9])).is_err());
        assert!(sender.answered(&Bitmap::new([])).is_err());
    }

    #[test]
    fn any_bytes_are_understood_or_refused() {
        bolero::check!()
            .with_type::<Vec<(u8, Vec<u8>)>>()
            .for_each(|messages| {
                let (mut receiver, mut sender) = (begun(), Sender::default());
                for (kind, bytes) in messages {
                    let bytes = message(*kind, 9, bytes);
                    if let Some(message) = again::<FromAgent>(&bytes) {
                        let _ = receiver.receive(message);
                    }
                    if let Some(FromSite::Known(bitmap)) = again::<FromSite>(&bytes) {
                        sender.ask(vec![Digest([0; 32]); bytes.len()]);
                        let _ = sender.answered(&bitmap);
                    }
                }
            });
    }
}
