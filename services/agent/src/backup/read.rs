//! The reading end: walks, and turns files into chunks under the agent's digests.

use super::Counters;
use super::cache;
use chunking::{Chunker, Cutter, DigestKeys, Sizes};
use filetree::walk::{Attributes, Content, Fingerprint, Found, Segment, Walk};
use filetree::{Problem, ProblemKind};
use format::Digest;
use format::entry::{Entry, Extent};
use format::extents::length_of;
use protocol::intake::{MAX_CHUNK, MAX_RUNS, Terms};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::SystemTime;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// What the reader finds, in the order in which the site is to have it.
pub(super) enum Item {
    /// A chunk of the file whose entry follows.
    Chunk(Digest, Vec<u8>),
    /// Where the next bytes of that file are: of a long one not all is held until its entry.
    Content(Vec<Extent>),
    /// An entry with the rest of its content; the fingerprint when it may be remembered.
    Entry(Box<Entry>, Option<Fingerprint>),
    /// No entry follows the content so far.
    Discard,
    /// A file that is as it was when it had this content, and the right to hold so many runs.
    Unchanged(Box<Found>, Vec<Extent>, OwnedSemaphorePermit),
    /// Something to tell.
    Problem(Problem),
    /// That was all. A queue that ends without it was let go of by a panic.
    End,
}

/// The sender is gone; what is read is of no use any more.
pub(super) struct Gone;

pub(super) struct Reader {
    keys: DigestKeys,
    cutter: Cutter,
    chunker: Chunker,
    items: mpsc::Sender<Item>,
    counters: Arc<Counters>,
    distrust: Arc<AtomicBool>,
    began: SystemTime,
    /// Runs of unchanged files that may be under way: those of the longest that is remembered.
    room: Arc<Semaphore>,
}

/// Makes readers of single files.
pub(super) struct ForOneFile {
    keys: DigestKeys,
    cutter: Cutter,
    began: SystemTime,
}

impl ForOneFile {
    /// Reads a file into a queue of its own, in a thread of its own; counts nothing.
    pub(super) fn read(&self, found: Found) -> mpsc::Receiver<Item> {
        let (items, queue) = mpsc::channel(16);
        let mut reader = Reader {
            keys: self.keys.clone(),
            cutter: self.cutter.clone(),
            chunker: Chunker::new(self.cutter.clone()),
            items,
            counters: Arc::default(),
            distrust: Arc::default(),
            began: self.began,
            room: Arc::new(Semaphore::new(0)),
        };
        let settled = found.fingerprint.settled(self.began);
        tokio::task::spawn_blocking(move || {
            let read = reader.file(&found, settled);
            read.and_then(|_| reader.put(Item::End))
        });
        queue
    }
}

impl Reader {
    pub(super) fn new(
        terms: &Terms,
        items: mpsc::Sender<Item>,
        counters: Arc<Counters>,
        distrust: Arc<AtomicBool>,
        began: SystemTime,
    ) -> Self {
        const { assert!(MAX_CHUNK >= 96 << 10) };
        let cutter = Cutter::new(Sizes::default(), terms.cut_seed);
        let keys = DigestKeys::new(&terms.digest_key);
        let chunker = Chunker::new(cutter.clone());
        Self {
            keys,
            cutter,
            chunker,
            items,
            counters,
            distrust,
            began,
            room: Arc::new(Semaphore::new(cache::MAX_RUNS)),
        }
    }

    pub(super) fn for_one_file(&self) -> ForOneFile {
        ForOneFile {
            keys: self.keys.clone(),
            cutter: self.cutter.clone(),
            began: self.began,
        }
    }

    /// Reads everything the walk finds.
    pub(super) fn all(mut self, mut walk: Walk, mut cache: Option<cache::Reader>) {
        let mut attributes = walk.attributes();
        while let Some(found) = walk.step() {
            let stay = match found {
                Ok(found) => self.object(&mut walk, found, &mut attributes, &mut cache),
                Err(problem) => self.put(Item::Problem(problem)),
            };
            self.counters.entries.fetch_add(1, Relaxed);
            if stay.is_err() {
                return;
            }
        }
        // a sender that is gone needs no end
        let _ = self.put(Item::End);
    }

    fn put(&self, item: Item) -> Result<(), Gone> {
        if matches!(item, Item::Problem(_)) {
            self.counters.problems.fetch_add(1, Relaxed);
        }
        self.items.blocking_send(item).map_err(|_| Gone)
    }

    fn object(
        &mut self,
        walk: &mut Walk,
        mut found: Found,
        attributes: &mut Attributes,
        cache: &mut Option<cache::Reader>,
    ) -> Result<(), Gone> {
        if self.distrust.load(Relaxed) {
            *cache = None;
        }
        let remembered = cache
            .as_mut()
            .filter(|_| found.is_file())
            .and_then(|cache| cache.unchanged(&mut found));
        if let Some(extents) = remembered {
            self.counters.done.fetch_add(data_of(&extents), Relaxed);
            // nothing is read and so nothing else slows this: many long files would fill memory
            let held = self.room.clone().acquire_many_owned(extents.len() as u32);
            let held = Handle::current().block_on(held).map_err(|_| Gone)?;
            return self.put(Item::Unchanged(Box::new(found), extents, held));
        }
        let lacking = attributes.complete(&mut found, None);
        // one whose attributes could not be read is tried again
        let settled = lacking.is_none() && found.fingerprint.settled(self.began);
        if !found.is_file() {
            self.put(Item::Entry(Box::new(found.entry), None))?;
        } else if !self.file(&found, settled)? {
            walk.forget(&found);
        }
        lacking.map_or(Ok(()), |problem| self.put(Item::Problem(problem)))
    }

    /// Reads a file; false when it could not be read and its entry is left out.
    fn file(&mut self, found: &Found, settled: bool) -> Result<bool, Gone> {
        let mut content = match found.open() {
            Ok(content) => content,
            Err(problem) => return self.left_out(problem),
        };
        let mut entry = found.entry.clone();
        entry.size = 0;
        loop {
            match content.segment() {
                Ok(None) => break,
                Ok(Some(Segment::Hole { length })) => {
                    self.extend(&mut entry, Extent::Hole { length })?;
                }
                Ok(Some(Segment::Data { .. })) => match self.data(&mut content, &mut entry)? {
                    Ok(()) => {}
                    Err(problem) => return self.left_out(problem),
                },
                Err(problem) => return self.left_out(problem),
            }
        }
        let mut fingerprint = settled.then_some(found.fingerprint);
        if let Some(problem) = content.finish() {
            fingerprint = None;
            if problem.kind != ProblemKind::Changed {
                return self.left_out(problem);
            }
            self.put(Item::Problem(problem))?;
        }
        self.put(Item::Entry(Box::new(entry), fingerprint))?;
        Ok(true)
    }

    /// A file that could not be read.
    fn left_out(&self, problem: Problem) -> Result<bool, Gone> {
        self.put(Item::Problem(problem))?;
        self.put(Item::Discard)?;
        Ok(false)
    }

    /// Adds what was read to the entry, and passes it on when it is much.
    fn extend(&self, entry: &mut Entry, extent: Extent) -> Result<(), Gone> {
        entry.size += length_of(&extent);
        entry.content.push(extent);
        if entry.content.len() == MAX_RUNS {
            self.put(Item::Content(std::mem::take(&mut entry.content)))?;
        }
        Ok(())
    }

    fn data(
        &mut self,
        content: &mut Content,
        entry: &mut Entry,
    ) -> Result<Result<(), Problem>, Gone> {
        let is_device = content.is_device();
        let mut source = Source {
            content,
            problem: None,
        };
        self.chunker.restart();
        loop {
            let chunk = match self.chunker.next(&mut source) {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return Ok(Ok(())),
                Err(error) => {
                    let problem = source.problem.take();
                    return Ok(Err(
                        problem.unwrap_or_else(|| unreadable(&entry.path, &error))
                    ));
                }
            };
            let length = chunk.len();
            self.counters.done.fetch_add(length as u64, Relaxed);
            let extent = if is_device && chunking::is_zero(chunk) {
                let length = length as u64;
                Extent::Hole { length }
            } else {
                let digest = self.keys.data(chunk);
                let item = Item::Chunk(digest, chunk.to_vec());
                self.put(item)?;
                let length = length as u32;
                Extent::Data { digest, length }
            };
            self.extend(entry, extent)?;
        }
    }
}

/// Bytes of content without its holes, which cost nobody any time.
pub(super) fn data_of(content: &[Extent]) -> u64 {
    content.iter().map(format::extents::data_of).sum()
}

fn unreadable(path: &[u8], error: &std::io::Error) -> Problem {
    Problem {
        path: path.to_vec(),
        kind: ProblemKind::Unreadable,
        sentence: format!("cannot be read ({error}); back up again"),
    }
}

/// A data segment as a stream, its problem kept aside.
struct Source<'a> {
    content: &'a mut Content,
    problem: Option<Problem>,
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.content.read(buffer).map_err(|problem| {
            let error = std::io::Error::other(problem.sentence.clone());
            self.problem = Some(problem);
            error
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[tokio::test]
    async fn of_long_files_that_are_unchanged_no_more_are_under_way_than_memory_allows() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        for name in ["a", "b"] {
            fs::write(tree.join(name), name).unwrap();
        }
        let walk = || Walk::new(std::slice::from_ref(&tree), Default::default()).unwrap();
        let remembered = dir.path().join("remembered");
        let mut memory = cache::Writer::create(&remembered, [1; 32]).unwrap();
        let long = vec![Extent::Hole { length: 1 }; cache::MAX_RUNS];
        for found in walk().filter_map(Result::ok).filter(Found::is_file) {
            let entry = Entry {
                content: long.clone(),
                ..found.entry
            };
            memory.add(&entry, &found.fingerprint);
        }
        memory.finish(0);
        let terms = Terms {
            digest_key: [1; 32],
            cut_seed: 1,
        };
        let (items, mut queue) = mpsc::channel(128);
        let now = SystemTime::now();
        let reader = Reader::new(&terms, items, Arc::default(), Arc::default(), now);
        let room = reader.room.clone();
        let (walk, cache) = (walk(), cache::Reader::open(&remembered, [1; 32]));
        tokio::task::spawn_blocking(move || reader.all(walk, cache));
        for name in [b"a", b"b"] {
            let (found, held) = loop {
                match queue.recv().await.unwrap() {
                    Item::Unchanged(found, _, held) => break (found, held),
                    Item::Entry(entry, _) => assert_eq!(entry.path, b""),
                    _ => panic!("{name:?} is not remembered"),
                }
            };
            assert_eq!(
                (&found.entry.path[..], room.available_permits()),
                (&name[..], 0)
            );
            drop(held);
        }
    }
}
