//! The sending end: asks about chunks in batches, many in flight, and sends what the site does
//! not know, entries and all in the order in which they were read.

use super::cache;
use super::read::{ForOneFile, Item, data_of};
use super::{Counters, MAX_PROBLEMS, Outcome};
use crate::{Error, Result, Stream};
use filetree::Problem;
use filetree::walk::{Fingerprint, Found};
use format::Digest;
use format::entry::{Entry, Extent};
use format::extents::length_of;
use protocol::WireError;
use protocol::entry::Run;
use protocol::frame::{self, aio};
use protocol::intake::{self, Begin, Committed, FromAgent, FromSite, MAX_RUNS, Path};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Digests in one question.
const BATCH: usize = 512;
/// Questions in flight; answers to so many fit into the queue they come by.
const WINDOW: usize = 32;
/// Bytes of chunks held until their answers come.
const MAX_HELD: usize = 32 << 20;
/// Unchanged files held until their answers come: each may keep a directory open.
const MAX_UNCHANGED: usize = 256;
/// Digests remembered as sent, before all are forgotten and asked about again.
const MAX_SENT: usize = 1 << 18;
/// Bytes gathered before they are written out.
const GATHERED: usize = 1 << 18;
/// With nothing to say for so long, the site is told that we are still here.
const ALIVE: Duration = Duration::from_secs(30);

/// Something read that waits for its turn.
struct Slot {
    item: Item,
    /// Digests the site has not answered.
    open: usize,
    /// Digests the site does not know.
    unknown: HashSet<Digest>,
}

pub(super) struct Sender<S> {
    write: WriteHalf<S>,
    read: Option<ReadHalf<S>>,
    counters: Arc<Counters>,
    distrust: Arc<AtomicBool>,
    memory: Option<cache::Writer>,
    again: ForOneFile,
    slots: VecDeque<Slot>,
    /// Number of the first slot.
    first: u64,
    held: usize,
    unchanged: usize,
    machine: intake::Sender,
    /// Digests to ask about next and the slots they are of.
    batch: Vec<(Digest, u64)>,
    /// The slots of questions in flight.
    asked: VecDeque<Vec<u64>>,
    sent: HashSet<Digest>,
    out: Vec<u8>,
    /// Content that was sent of the entry that follows: all of it, or as much as shows that it is too
    /// long to be remembered; and its bytes without holes.
    content: (Vec<Extent>, u64),
    data: u64,
    problems: Vec<String>,
    problem_count: u64,
}

impl<S: Stream> Sender<S> {
    pub(super) fn new(
        stream: S,
        counters: Arc<Counters>,
        distrust: Arc<AtomicBool>,
        memory: Option<cache::Writer>,
        again: ForOneFile,
    ) -> Self {
        let (read, write) = tokio::io::split(stream);
        Self {
            write,
            read: Some(read),
            counters,
            distrust,
            memory,
            again,
            slots: VecDeque::new(),
            first: 0,
            held: 0,
            unchanged: 0,
            machine: intake::Sender::default(),
            batch: Vec::new(),
            asked: VecDeque::new(),
            sent: HashSet::new(),
            out: Vec::new(),
            content: Default::default(),
            data: 0,
            problems: Vec::new(),
            problem_count: 0,
        }
    }

    /// Sends everything of the queue and has it committed.
    pub(super) async fn run(
        mut self,
        begin: Begin,
        mut queue: mpsc::Receiver<Item>,
        cancel: CancellationToken,
    ) -> Result<Outcome> {
        let read = self.read.take().ok_or(WireError::Ended)?;
        let (answers, mut from_site) = mpsc::channel(WINDOW + 4);
        // reading is not cancel-safe, so it has a task of its own
        let reading = tokio::spawn(answers_of(read, answers));
        let sent = self
            .send_all(begin, &mut queue, &mut from_site, &cancel)
            .await;
        let committed = match sent {
            // the site may have said why before it closed
            Err(Error::Wire(WireError::Ended | WireError::Io(_))) => {
                Err(last_words(&mut from_site).await)
            }
            other => other,
        };
        // said in order, or the other end takes it for a cut
        let _ = self.write.shutdown().await;
        reading.abort();
        let committed = committed?;
        if let Some(memory) = self.memory.take() {
            let data = self.data;
            tokio::task::spawn_blocking(move || memory.finish(data))
                .await
                .map_err(|e| Error::Fault(e.to_string()))?;
        }
        let (problems, problem_count) = (self.problems, self.problem_count);
        Ok(Outcome {
            committed,
            problems,
            problem_count,
        })
    }

    async fn send_all(
        &mut self,
        begin: Begin,
        queue: &mut mpsc::Receiver<Item>,
        from_site: &mut mpsc::Receiver<Result<FromSite, WireError>>,
        cancel: &CancellationToken,
    ) -> Result<Committed> {
        self.put(&FromAgent::Begin(begin))?;
        let (mut more, mut committing) = (true, false);
        loop {
            self.pass_on(cancel).await?;
            let idle = queue.is_empty() || !self.has_room();
            if self.batch.len() >= BATCH
                || (idle && !self.batch.is_empty() && self.asked.is_empty())
            {
                self.ask()?;
            }
            if !more && self.slots.is_empty() && !committing {
                self.put(&FromAgent::Commit)?;
                committing = true;
            }
            if self.out.len() >= GATHERED || idle {
                self.flush(cancel).await?;
            }
            // every branch is cancel-safe: channels, a timer, a token
            tokio::select! {
                item = queue.recv(), if more && self.has_room() => match item.ok_or_else(half)? {
                    Item::End => more = false,
                    item => self.take(item),
                },
                message = from_site.recv() => match message.ok_or(WireError::Ended)?? {
                    FromSite::Known(bitmap) => self.answered(&bitmap)?,
                    FromSite::Committed(committed) if committing => return Ok(committed),
                    FromSite::Failed(sentence) => return Err(Error::Refused(sentence)),
                    _ => return Err(WireError::Unexpected("an answer to nothing").into()),
                },
                () = tokio::time::sleep(ALIVE), if !committing => {
                    self.put(&FromAgent::Alive)?;
                    self.flush(cancel).await?;
                }
                () = cancel.cancelled() => return Err(Error::Cancelled),
            }
        }
    }

    fn has_room(&self) -> bool {
        self.held < MAX_HELD && self.unchanged < MAX_UNCHANGED && self.asked.len() < WINDOW
    }

    /// Takes what was read into the line, and its digests into the next question.
    fn take(&mut self, item: Item) {
        let number = self.first + self.slots.len() as u64;
        let before = self.batch.len();
        match &item {
            Item::Chunk(digest, bytes) => {
                self.held += bytes.len();
                if !self.sent.contains(digest) {
                    self.batch.push((*digest, number));
                }
            }
            Item::Unchanged(_, extents, _) => {
                self.unchanged += 1;
                let mut seen = HashSet::new();
                for extent in extents {
                    if let Extent::Data { digest, .. } = extent
                        && !self.sent.contains(digest)
                        && seen.insert(*digest)
                    {
                        self.batch.push((*digest, number));
                    }
                }
            }
            Item::Content(_) | Item::Entry(..) | Item::Discard | Item::Problem(_) | Item::End => {}
        }
        let open = self.batch.len() - before;
        self.slots.push_back(Slot {
            item,
            open,
            unknown: HashSet::new(),
        });
    }

    fn ask(&mut self) -> Result<()> {
        for batch in std::mem::take(&mut self.batch).chunks(protocol::digests::MAX) {
            let (digests, slots) = batch.iter().copied().unzip();
            self.asked.push_back(slots);
            let question = self.machine.ask(digests);
            self.put(&question)?;
        }
        Ok(())
    }

    fn answered(&mut self, bitmap: &protocol::digests::Bitmap) -> Result<()> {
        let answers = self.machine.answered(bitmap)?;
        let slots = self.asked.pop_front().unwrap_or_default();
        for ((digest, known), number) in answers.into_iter().zip(slots) {
            let at = usize::try_from(number - self.first).unwrap_or(usize::MAX);
            if let Some(slot) = self.slots.get_mut(at) {
                slot.open -= 1;
                if !known {
                    slot.unknown.insert(digest);
                }
            }
        }
        Ok(())
    }

    /// Sends from the head of the line what is answered.
    async fn pass_on(&mut self, cancel: &CancellationToken) -> Result<()> {
        while self.slots.front().is_some_and(|slot| slot.open == 0) {
            let Some(slot) = self.slots.pop_front() else {
                break;
            };
            self.first += 1;
            match slot.item {
                Item::Chunk(digest, bytes) => {
                    self.held -= bytes.len();
                    if slot.unknown.contains(&digest) {
                        self.chunk(digest, bytes)?;
                    }
                }
                Item::Unchanged(found, extents, _held) => {
                    self.unchanged -= 1;
                    if slot.unknown.is_empty() {
                        let mut entry = found.entry;
                        entry.size = extents.iter().map(length_of).sum();
                        entry.content = extents;
                        self.entry(entry, Some(found.fingerprint))?;
                    } else {
                        self.read_again(*found, &extents, &slot.unknown, cancel)
                            .await?;
                    }
                }
                other => self.pass(other)?,
            }
            if self.out.len() >= GATHERED {
                self.flush(cancel).await?;
            }
        }
        Ok(())
    }

    /// The site does not know a chunk of a file that is unchanged: it is read after all.
    async fn read_again(
        &mut self,
        found: Found,
        extents: &[Extent],
        unknown: &HashSet<Digest>,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let known: HashSet<Digest> = extents
            .iter()
            .filter_map(|extent| match extent {
                Extent::Data { digest, .. } if !unknown.contains(digest) => Some(*digest),
                _ => None,
            })
            .collect();
        if known.is_empty() {
            // the site seems to have lost what it knew of us
            self.distrust.store(true, Relaxed);
        }
        let mut queue = self.again.read(found);
        loop {
            match queue.recv().await.ok_or_else(half)? {
                Item::End => return Ok(()),
                Item::Chunk(digest, _) if known.contains(&digest) => {}
                Item::Problem(problem) => {
                    self.counters.problems.fetch_add(1, Relaxed);
                    self.problem(&problem)?;
                }
                other => self.pass(other)?,
            }
            if self.out.len() >= GATHERED {
                self.flush(cancel).await?;
            }
        }
    }

    /// Sends what needs no answer.
    fn pass(&mut self, item: Item) -> Result<()> {
        match item {
            Item::Chunk(digest, bytes) => self.chunk(digest, bytes),
            Item::Content(extents) => self.content(extents),
            Item::Entry(entry, fingerprint) => self.entry(*entry, fingerprint),
            Item::Discard => self.discard(),
            Item::Problem(problem) => self.problem(&problem),
            Item::Unchanged(..) | Item::End => Ok(()),
        }
    }

    fn chunk(&mut self, digest: Digest, bytes: Vec<u8>) -> Result<()> {
        if self.sent.contains(&digest) {
            return Ok(());
        }
        if self.sent.len() >= MAX_SENT {
            self.sent.clear();
        }
        self.sent.insert(digest);
        self.counters.sent.fetch_add(bytes.len() as u64, Relaxed);
        self.put(&FromAgent::Chunk(bytes))
    }

    fn content(&mut self, extents: Vec<Extent>) -> Result<()> {
        for runs in extents.chunks(MAX_RUNS) {
            self.put(&FromAgent::Content(runs.iter().map(Run::from).collect()))?;
        }
        let (content, data) = &mut self.content;
        *data += data_of(&extents);
        if content.is_empty() {
            *content = extents;
        } else if content.len() <= cache::MAX_RUNS {
            content.extend(extents);
        }
        Ok(())
    }

    fn discard(&mut self) -> Result<()> {
        match std::mem::take(&mut self.content).0.is_empty() {
            true => Ok(()),
            false => self.put(&FromAgent::Discard),
        }
    }

    fn entry(&mut self, mut entry: Entry, fingerprint: Option<Fingerprint>) -> Result<()> {
        let message = FromAgent::Entry(Box::new((&entry).into()));
        let message = match frame::encode(&message) {
            Ok(message) => message,
            Err(_) => {
                self.discard()?;
                let sentence = "has more attributes than a backup holds; it is left out";
                return self.problem(&Problem {
                    path: entry.path,
                    kind: filetree::ProblemKind::Attributes,
                    sentence: sentence.into(),
                });
            }
        };
        self.content(std::mem::take(&mut entry.content))?;
        self.out.extend_from_slice(&message);
        let (content, data) = std::mem::take(&mut self.content);
        entry.content = content;
        self.data += data;
        if let (Some(memory), Some(fingerprint)) = (&mut self.memory, fingerprint) {
            memory.add(&entry, &fingerprint);
        }
        Ok(())
    }

    fn problem(&mut self, problem: &Problem) -> Result<()> {
        tracing::warn!("{problem}");
        self.problem_count += 1;
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem.to_string());
        }
        let text = super::shortened(&problem.sentence, 4096);
        self.put(&FromAgent::Problem {
            path: Path(problem.path.clone()),
            text,
        })
    }

    fn put(&mut self, message: &FromAgent) -> Result<()> {
        Ok(frame::append(message, &mut self.out)?)
    }

    async fn flush(&mut self, cancel: &CancellationToken) -> Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        // a site that takes nothing must not hold a cancelled backup; the stream is then given up
        tokio::select! {
            written = self.write.write_all(&self.out) => written?,
            () = cancel.cancelled() => return Err(Error::Cancelled),
        }
        self.out.clear();
        self.write.flush().await?;
        Ok(())
    }
}

/// A queue ended before what was read did.
fn half() -> Error {
    Error::Fault("what reads the files is gone".into())
}

async fn answers_of<S: Stream>(
    mut read: ReadHalf<S>,
    answers: mpsc::Sender<Result<FromSite, WireError>>,
) {
    while let Some(message) = aio::read(&mut read).await.transpose() {
        let last = message.is_err();
        if answers.send(message).await.is_err() || last {
            return;
        }
    }
}

/// What the site said before it closed the connection.
async fn last_words(from_site: &mut mpsc::Receiver<Result<FromSite, WireError>>) -> Error {
    let listen = async {
        while let Some(Ok(message)) = from_site.recv().await {
            if let FromSite::Failed(sentence) = message {
                return Error::Refused(sentence);
            }
        }
        WireError::Ended.into()
    };
    let patience = Duration::from_secs(5);
    tokio::time::timeout(patience, listen)
        .await
        .unwrap_or(WireError::Ended.into())
}

#[cfg(test)]
mod tests {
    use super::super::read::Reader;
    use super::*;
    use filetree::ProblemKind;
    use format::entry::Kind;
    use protocol::digests::Bitmap;
    use protocol::intake::Terms;

    /// What a site that knows nothing hears of these, after which the reader is gone, and the end.
    async fn heard(items: Vec<Item>) -> (Vec<FromAgent>, Result<Outcome>) {
        let terms = Terms {
            digest_key: [1; 32],
            cut_seed: 1,
        };
        let (reader, queue) = mpsc::channel(128);
        for item in items {
            reader.try_send(item).map_err(|_| ()).unwrap();
        }
        let now = std::time::SystemTime::now();
        let reader = Reader::new(&terms, reader, Arc::default(), Arc::default(), now);
        let again = reader.for_one_file();
        drop(reader);
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let sender = Sender::new(ours, Arc::default(), Arc::default(), None, again);
        let begin = Begin {
            run: String::new(),
            host: String::new(),
            source: String::new(),
            paths: vec![],
        };
        let site = async {
            let mut heard = Vec::new();
            while let Some(message) = aio::read(&mut theirs).await.unwrap() {
                let answer = match &message {
                    FromAgent::Have(digests) => Some(FromSite::Known(Bitmap::new(
                        digests.0.iter().map(|_| false),
                    ))),
                    FromAgent::Commit => Some(FromSite::Committed(Committed::default())),
                    _ => None,
                };
                heard.push(message);
                if let Some(answer) = answer {
                    // an agent that broke off takes none
                    let _ = aio::write(&mut theirs, &answer).await;
                }
            }
            heard
        };
        tokio::join!(site, sender.run(begin, queue, CancellationToken::new()))
    }

    fn chunk(byte: u8) -> (Item, Extent) {
        let digest = Digest([byte; 32]);
        let data = Extent::Data { digest, length: 9 };
        (Item::Chunk(digest, vec![byte; 9]), data)
    }

    fn entry(path: &str, content: Vec<Extent>) -> Entry {
        Entry {
            path: path.into(),
            kind: Kind::File,
            mode: 0o600,
            uid: 0,
            gid: 0,
            user: vec![],
            group: vec![],
            modified: Default::default(),
            xattrs: vec![],
            size: content.iter().map(length_of).sum(),
            content,
        }
    }

    #[tokio::test]
    async fn what_a_reader_has_read_that_broke_off_is_not_committed() {
        let (bytes, data) = chunk(1);
        let items = vec![bytes, Item::Entry(Box::new(entry("a", vec![data])), None)];
        let (heard, end) = heard(items).await;
        assert!(matches!(end, Err(Error::Fault(_))), "{end:?}");
        assert!(!heard.contains(&FromAgent::Commit), "{heard:?}");
    }

    #[tokio::test]
    async fn a_file_that_turns_out_unreadable_leaves_nothing_to_the_next() {
        let ((bytes, data), (others, other)) = (chunk(1), chunk(2));
        let problem = Problem {
            path: b"a".to_vec(),
            kind: ProblemKind::Unreadable,
            sentence: "cannot be read".into(),
        };
        let items = vec![
            bytes,
            Item::Content(vec![data]),
            Item::Problem(problem),
            Item::Discard,
            others,
            Item::Entry(Box::new(entry("b", vec![other])), None),
            // of one nothing of which was sent there is nothing to take back
            Item::Discard,
            Item::End,
        ];
        let (heard, end) = heard(items).await;
        assert_eq!(end.unwrap().problem_count, 1);
        let after_chunks = |m: &&FromAgent| {
            !matches!(
                m,
                FromAgent::Begin(_) | FromAgent::Have(_) | FromAgent::Chunk(_)
            )
        };
        let heard: Vec<_> = heard.iter().filter(after_chunks).collect();
        let runs = |extent| FromAgent::Content(vec![Run::from(extent)]);
        let told = FromAgent::Problem {
            path: Path(b"a".to_vec()),
            text: "cannot be read".into(),
        };
        let whole = FromAgent::Entry(Box::new((&entry("b", vec![other])).into()));
        assert_eq!(
            heard,
            [
                &runs(&data),
                &told,
                &FromAgent::Discard,
                &runs(&other),
                &whole,
                &FromAgent::Commit
            ]
        );
    }
}
