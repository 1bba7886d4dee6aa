//! The site's end.

use super::{FromCentre, FromSite, MAX_SNAPSHOTS, WINDOW, parts};
use crate::digests::{self, Digests};
use crate::frame::WireError;
use format::{Digest, SnapshotId};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

/// Digests remembered as sent, so that what two snapshots share travels once: this many, and
/// as many of before.
const REMEMBERED: usize = 1 << 17;

/// What the sender reads of its datastore.
pub trait Source {
    /// Why it cannot.
    type Error;
    /// What a frame refers to.
    ///
    /// # Errors
    /// It is not there or damaged.
    fn refs(&mut self, digest: &Digest) -> Result<Vec<Digest>, Self::Error>;
    /// The frame as it lies on disk.
    ///
    /// # Errors
    /// It is not there or damaged.
    fn frame(&mut self, digest: &Digest) -> Result<Vec<u8>, Self::Error>;
    /// A snapshot's file and its root.
    ///
    /// # Errors
    /// It is not there or damaged.
    fn snapshot(&mut self, id: SnapshotId) -> Result<(Vec<u8>, Digest), Self::Error>;
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this.
    Send(FromSite),
    /// Take a message of the centre's.
    Wait,
    /// All is copied and confirmed.
    Done,
}

/// Sums so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Snapshots confirmed.
    pub snapshots: u64,
    /// Frames sent.
    pub frames: u64,
    /// Bytes of frames and snapshot files sent.
    pub bytes: u64,
    /// Frames asked for that the centre had.
    pub present: u64,
}

/// A frame the centre lacks, which waits for what it refers to.
struct Waiting {
    digest: Digest,
    above: Above,
    /// Questions about its references not answered, and references not sent.
    open: usize,
}

/// What waits for a frame.
#[derive(Clone, Copy)]
enum Above {
    Frame(u64),
    Snapshot(SnapshotId),
}

enum Todo {
    /// Look whether it refers to anything; send it, or what it refers to first.
    Missing(Digest, Above),
    /// All it refers to was sent.
    Complete(u64),
}

/// The site's end: asks, and sends what the centre lacks.
pub struct Sender {
    /// Not known yet before the centre's list is complete.
    wanted: Option<VecDeque<SnapshotId>>,
    own: Vec<SnapshotId>,
    held: HashSet<SnapshotId>,
    confirmed: BTreeSet<SnapshotId>,
    files: HashMap<SnapshotId, Vec<u8>>,
    unconfirmed: HashSet<SnapshotId>,
    waiting: HashMap<u64, Waiting>,
    next_waiting: u64,
    asked: VecDeque<(Above, Vec<Digest>)>,
    questions: VecDeque<(Above, Vec<Digest>)>,
    todo: Vec<Todo>,
    outgoing: VecDeque<FromSite>,
    sent: [HashSet<Digest>; 2],
    totals: Totals,
    done: bool,
}

impl Sender {
    /// A sender of these snapshots, in this order, of those the centre has not.
    pub fn new(datastore: [u8; 16], superblock: Vec<u8>, own: Vec<SnapshotId>) -> Self {
        Self {
            wanted: None,
            own,
            held: HashSet::new(),
            confirmed: BTreeSet::new(),
            files: HashMap::new(),
            unconfirmed: HashSet::new(),
            waiting: HashMap::new(),
            next_waiting: 0,
            asked: VecDeque::new(),
            questions: VecDeque::new(),
            todo: Vec::new(),
            outgoing: VecDeque::from([FromSite::Hello {
                datastore,
                superblock,
            }]),
            sent: Default::default(),
            totals: Totals::default(),
            done: false,
        }
    }

    /// Sums so far.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Snapshots of ours that the centre has confirmed now or had before; complete at the end.
    pub fn confirmed(&self) -> &BTreeSet<SnapshotId> {
        &self.confirmed
    }

    /// Snapshots still to be sent, once the centre has said what it has.
    pub fn wanted(&self) -> Option<impl Iterator<Item = SnapshotId> + '_> {
        self.wanted.as_ref().map(|w| w.iter().copied())
    }

    /// Takes a message of the centre's; a [`FromCentre::Failed`] is the caller's to act on.
    ///
    /// # Errors
    /// What fits no question.
    pub fn receive(&mut self, message: FromCentre) -> Result<(), WireError> {
        let unexpected = |what| Err(WireError::Unexpected(what));
        match message {
            FromCentre::Snapshots(_) if self.wanted.is_some() => {
                unexpected("a list of snapshots nobody asked for")
            }
            FromCentre::Snapshots(page) => {
                self.held.extend(page.iter().map(SnapshotId));
                if self.held.len() > MAX_SNAPSHOTS {
                    return unexpected("a list of too many snapshots");
                }
                if page.last {
                    let held = std::mem::take(&mut self.held);
                    let (have, lack): (Vec<_>, Vec<_>) =
                        self.own.iter().partition(|id| held.contains(id));
                    self.confirmed = have.into_iter().collect();
                    self.wanted = Some(lack.into());
                }
                Ok(())
            }
            FromCentre::Known(bitmap) => {
                let Some((above, digests)) = self.asked.pop_front() else {
                    return unexpected("an answer to no question");
                };
                let Some(answers) = bitmap.answers(digests.len()) else {
                    return unexpected("an answer of another length than its question");
                };
                let missing: Vec<Digest> = digests
                    .iter()
                    .zip(answers)
                    .filter(|(_, has)| !has)
                    .map(|(d, _)| *d)
                    .collect();
                self.totals.present += (digests.len() - missing.len()) as u64;
                if let Above::Frame(number) = above
                    && let Some(frame) = self.waiting.get_mut(&number)
                {
                    frame.open += missing.len();
                }
                let known = missing.is_empty();
                self.todo
                    .extend(missing.into_iter().rev().map(|d| Todo::Missing(d, above)));
                // the question itself is answered; a root the centre has completes its snapshot
                match above {
                    Above::Frame(_) => self.one_less(above),
                    Above::Snapshot(_) if known => self.one_less(above),
                    Above::Snapshot(_) => {}
                }
                Ok(())
            }
            FromCentre::Stored(id) => {
                let id = SnapshotId(id);
                if !self.unconfirmed.remove(&id) {
                    return unexpected("a receipt for a snapshot that was not sent");
                }
                self.confirmed.insert(id);
                self.totals.snapshots += 1;
                Ok(())
            }
            FromCentre::Failed(_) => Ok(()),
        }
    }

    /// What to do next.
    ///
    /// # Errors
    /// What the source fails with.
    pub fn next<S: Source>(&mut self, source: &mut S) -> Result<Step, S::Error> {
        loop {
            if let Some(message) = self.outgoing.pop_front() {
                return Ok(Step::Send(message));
            }
            if self.asked.len() < WINDOW
                && let Some((above, digests)) = self.questions.pop_front()
            {
                self.asked.push_back((above, digests.clone()));
                return Ok(Step::Send(FromSite::Have(Digests(digests))));
            }
            if self.questions.is_empty()
                && let Some(todo) = self.todo.pop()
            {
                self.work(todo, source)?;
                continue;
            }
            if !self.asked.is_empty() {
                return Ok(Step::Wait);
            }
            match self.wanted.as_mut().map(VecDeque::pop_front) {
                Some(Some(id)) => {
                    let (file, root) = source.snapshot(id)?;
                    self.files.insert(id, file);
                    self.questions.push_back((Above::Snapshot(id), vec![root]));
                }
                None => return Ok(Step::Wait),
                Some(None) if !self.unconfirmed.is_empty() => return Ok(Step::Wait),
                Some(None) if std::mem::replace(&mut self.done, true) => return Ok(Step::Done),
                Some(None) => return Ok(Step::Send(FromSite::Done)),
            }
        }
    }

    fn work<S: Source>(&mut self, todo: Todo, source: &mut S) -> Result<(), S::Error> {
        match todo {
            Todo::Missing(digest, above) => {
                if self.was_sent(&digest) {
                    self.one_less(above);
                    return Ok(());
                }
                let refs = source.refs(&digest)?;
                if refs.is_empty() {
                    self.send(&source.frame(&digest)?, digest, above);
                    return Ok(());
                }
                let number = self.next_waiting;
                self.next_waiting += 1;
                let open = refs.len().div_ceil(digests::MAX);
                self.waiting.insert(
                    number,
                    Waiting {
                        digest,
                        above,
                        open,
                    },
                );
                let about = Above::Frame(number);
                self.questions
                    .extend(refs.chunks(digests::MAX).map(|c| (about, c.to_vec())));
            }
            Todo::Complete(number) => {
                // two frames may have waited for it, each on its own way down
                let Some(frame) = self.waiting.remove(&number) else {
                    return Ok(());
                };
                if self.was_sent(&frame.digest) {
                    self.one_less(frame.above);
                } else {
                    self.send(&source.frame(&frame.digest)?, frame.digest, frame.above);
                }
            }
        }
        Ok(())
    }

    fn was_sent(&self, digest: &Digest) -> bool {
        self.sent.iter().any(|sent| sent.contains(digest))
    }

    fn send(&mut self, frame: &[u8], digest: Digest, above: Above) {
        self.totals.frames += 1;
        self.totals.bytes += frame.len() as u64;
        self.outgoing
            .extend(parts(frame).into_iter().map(FromSite::Frame));
        if self.sent[0].len() >= REMEMBERED {
            self.sent.swap(0, 1);
            self.sent[0].clear();
        }
        self.sent[0].insert(digest);
        self.one_less(above);
    }

    /// One thing less that `above` waits for.
    fn one_less(&mut self, above: Above) {
        match above {
            Above::Frame(number) => {
                if let Some(frame) = self.waiting.get_mut(&number) {
                    frame.open -= 1;
                    if frame.open == 0 {
                        self.todo.push(Todo::Complete(number));
                    }
                }
            }
            Above::Snapshot(id) => {
                if let Some(file) = self.files.remove(&id) {
                    self.totals.bytes += file.len() as u64;
                    self.unconfirmed.insert(id);
                    self.outgoing
                        .extend(parts(&file).into_iter().map(FromSite::Snapshot));
                }
            }
        }
    }
}
