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
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Longest chunk, bytes.
pub const MAX_CHUNK: usize = PART;
/// Most runs in one message; the content of a larger file comes in several before its entry.
pub const MAX_RUNS: usize = 8192;
/// Most runs that are held for files under way, of all sessions together: 40 bytes each.
const MAX_HELD: usize = 1 << 24;
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
    /// A whole entry; its content under the agent's digests.
    Entry(Box<entry::Entry>),
    /// Something to note.
    Problem(snapshot::Problem),
    /// Nothing to do.
    Alive,
    /// To be made durable now.
    Commit,
}

/// Memory for the runs of files under way, which all sessions of a site share. No agent takes more
/// than it leaves free: one alone may have half, and whatever others hold, one more finds some.
#[derive(Clone, Debug)]
pub struct Runs {
    most: usize,
    /// How many each agent holds.
    held: Arc<Mutex<HashMap<String, usize>>>,
}

impl Default for Runs {
    fn default() -> Self {
        Self::new(MAX_HELD)
    }
}

impl Runs {
    fn new(most: usize) -> Self {
        let held = Arc::default();
        Self { most, held }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one session holds of [`Runs`]; given back when dropped.
#[derive(Debug)]
struct Share {
    of: Runs,
    agent: String,
    count: usize,
}

impl Share {
    fn take(&mut self, count: usize) -> Result<(), WireError> {
        let mut held = self.of.held();
        let all = held.values().sum::<usize>() + count;
        let mine = held.get(&self.agent).copied().unwrap_or_default() + count;
        if mine > self.of.most.saturating_sub(all) {
            return Err(WireError::Crowded);
        }
        held.insert(self.agent.clone(), mine);
        self.count += count;
        Ok(())
    }

    fn give_back(&mut self) {
        let count = std::mem::take(&mut self.count);
        let mut held = self.of.held();
        if let Some(mine) = held.get_mut(&self.agent) {
            *mine -= count;
            if *mine == 0 {
                held.remove(&self.agent);
            }
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// The site's end: holds the agent to the order of things.
#[derive(Debug)]
pub struct Receiver {
    begun: bool,
    ended: bool,
    last: Option<Vec<u8>>,
    content: Vec<Extent>,
    share: Share,
}

impl Receiver {
    /// One for this agent, that takes its memory from these.
    pub fn new(agent: &str, runs: &Runs) -> Self {
        Self {
            begun: false,
            ended: false,
            last: None,
            content: Vec::new(),
            share: Share {
                of: runs.clone(),
                agent: agent.to_owned(),
                count: 0,
            },
        }
    }

    /// Takes a message.
    ///
    /// # Errors
    /// What is out of order, or no snapshot may hold.
    pub fn receive(&mut self, message: FromAgent) -> Result<Event, WireError> {
        let unexpected = |what| Err(WireError::Unexpected(what));
        if self.content.is_empty() {
            // the entry that had them has been dealt with
            self.share.give_back();
        }
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
                self.share.take(runs.len())?;
                for run in runs {
                    self.push(run.check()?)?;
                }
                Ok(Event::Alive)
            }
            FromAgent::Entry(entry) => {
                let mut entry = entry.check()?;
                if self
                    .last
                    .as_ref()
                    .is_some_and(|l| entry::Entry::cmp_path(l, &entry.path).is_ge())
                {
                    return unexpected("entries out of order");
                }
                entry.content = std::mem::take(&mut self.content);
                let sum = entry
                    .content
                    .iter()
                    .map(length_of)
                    .try_fold(0, u64::checked_add);
                if sum != Some(entry.size) {
                    return unexpected("an entry whose content is not as long as it says");
                }
                self.last = Some(entry.path.clone());
                Ok(Event::Entry(Box::new(entry)))
            }
            FromAgent::Problem { path, text } => {
                Ok(Event::Problem(snapshot::Problem { path: path.0, text }))
            }
            FromAgent::Alive => Ok(Event::Alive),
            FromAgent::Commit if self.last.is_none() || !self.content.is_empty() => {
                unexpected("an end before an entry")
            }
            FromAgent::Commit => {
                self.ended = true;
                Ok(Event::Commit)
            }
            FromAgent::Begin(_) => unexpected("a second beginning"),
        }
    }

    /// Holes that touch become one: a file that changes while it is read has some, and a run of two
    /// bytes on the wire must not cost one of forty.
    fn push(&mut self, run: Extent) -> Result<(), WireError> {
        match (self.content.last_mut(), &run) {
            (Some(Extent::Hole { length }), Extent::Hole { length: more }) => {
                *length = length
                    .checked_add(*more)
                    .ok_or(WireError::Unexpected("a hole beyond all files"))?;
            }
            _ => self.content.push(run),
        }
        Ok(())
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
        begun_by("a", &Runs::default())
    }

    fn begun_by(agent: &str, runs: &Runs) -> Receiver {
        let mut receiver = Receiver::new(agent, runs);
        receiver.receive(begin()).unwrap();
        receiver
    }

    /// Sends runs one by one until one is refused; how many were taken.
    fn fill(receiver: &mut Receiver) -> usize {
        let runs = [Run::Hole(1), Run::Data([7; 32], 1)].into_iter().cycle();
        let runs = runs.take(10_000);
        let mut refusal = Ok(Event::Alive);
        let taken = runs
            .take_while(|run| {
                refusal = receiver.receive(FromAgent::Content(vec![*run]));
                refusal.is_ok()
            })
            .count();
        assert!(matches!(refusal, Err(WireError::Crowded)), "{refusal:?}");
        taken
    }

    fn entry(path: &str, size: u64) -> FromAgent {
        FromAgent::Entry(Box::new((&file(path, size)).into()))
    }

    #[test]
    fn content_comes_before_its_entry_and_is_as_long_as_it_says() {
        let mut receiver = begun();
        receiver
            .receive(FromAgent::Content(vec![
                Run::Data([1; 32], 5),
                Run::Hole(3),
            ]))
            .unwrap();
        receiver
            .receive(FromAgent::Content(vec![Run::Data([2; 32], 2)]))
            .unwrap();
        match receiver.receive(entry("a", 10)).unwrap() {
            Event::Entry(entry) => assert_eq!(entry.content.len(), 3),
            other => panic!("{other:?}"),
        }
        assert!(begun().receive(entry("a", 10)).is_err());
        receiver
            .receive(FromAgent::Content(vec![Run::Hole(u64::MAX)]))
            .unwrap();
        receiver
            .receive(FromAgent::Content(vec![Run::Data([1; 32], 1)]))
            .unwrap();
        assert!(receiver.receive(entry("b", 0)).is_err());
    }

    #[test]
    fn holes_that_touch_are_one_and_overflow_nothing() {
        let mut receiver = begun();
        for _ in 0..3 {
            receiver
                .receive(FromAgent::Content(vec![Run::Hole(1); 1000]))
                .unwrap();
        }
        match receiver.receive(entry("a", 3000)).unwrap() {
            Event::Entry(entry) => assert_eq!(entry.content, [Extent::Hole { length: 3000 }]),
            other => panic!("{other:?}"),
        }
        let holes = vec![Run::Hole(u64::MAX), Run::Hole(1)];
        assert!(receiver.receive(FromAgent::Content(holes)).is_err());
    }

    #[test]
    fn a_hostile_agents_sessions_take_half_of_the_memory_and_leave_half() {
        let runs = Runs::new(1000);
        let mut hostile: Vec<_> = (0..8).map(|_| begun_by("hostile", &runs)).collect();
        assert_eq!(hostile.iter_mut().map(fill).sum::<usize>(), 500);
        let mut honest = begun_by("honest", &runs);
        assert_eq!(fill(&mut honest), 250);
        drop(hostile);
        // an entry's are free again once it has been dealt with
        honest.receive(entry("a", 250)).unwrap();
        assert_eq!(fill(&mut honest), 500);
        drop(honest);
        assert!(runs.held().is_empty());
    }

    #[test]
    fn what_is_out_of_order_is_refused() {
        assert!(
            Receiver::new("a", &Runs::default())
                .receive(FromAgent::Alive)
                .is_err()
        );
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
                    let bytes = message(*kind, 8, bytes);
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
