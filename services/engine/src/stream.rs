//! A snapshot's entries and their bytes in order, chunks read ahead by several threads.

use crate::core::{Core, Keys};
use crate::error::{Error, Result};
use crate::queue::Queue;
use crate::read::{Entries, Piece, Pieces};
use format::entry::{Entry, Extent, Kind};
use format::{Digest, SnapshotId};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Items and bytes read ahead.
const ITEMS: usize = 512;
const BYTES: usize = 16 << 20;

/// What comes next of a snapshot.
#[derive(Debug)]
pub enum Item {
    /// An entry; if it is a file, its pieces follow.
    Entry(Box<Entry>),
    /// The next piece of the file.
    Piece(Piece),
    /// The rest of the file cannot be read; the next entry follows.
    Lost(Error),
}

/// Where an item is while those before it are taken.
enum Place {
    Here(Result<Item>),
    Read(Receiver<Result<Vec<u8>>>),
}

/// An item read ahead.
struct Ahead {
    /// Number of the entry it is of.
    file: u64,
    /// Bytes it holds, or will.
    bytes: usize,
    place: Place,
}

/// Bytes that tell an entry from others.
fn weight(item: &Result<Item>) -> usize {
    match item {
        Ok(Item::Entry(entry)) => {
            let xattrs = entry
                .xattrs
                .iter()
                .map(|x| x.name.len() + x.value.len() + 48);
            entry.path.len() + xattrs.sum::<usize>()
        }
        _ => 0,
    }
}

struct Job {
    digest: Digest,
    length: usize,
    answer: SyncSender<Result<Vec<u8>>>,
}

/// The entries of a snapshot in order, each file followed by its bytes. After an error it ends.
pub struct Contents {
    core: Arc<Core>,
    entries: Entries,
    pieces: Option<Pieces>,
    /// Number of the entry last begun.
    begun: u64,
    ahead: VecDeque<Ahead>,
    bytes: usize,
    /// The file that is given up.
    lost: u64,
    ended: bool,
    queue: Arc<Queue<Job>>,
    workers: Vec<JoinHandle<()>>,
}

impl Contents {
    pub(crate) fn new(core: Arc<Core>, id: SnapshotId, below: &[u8]) -> Result<Self> {
        let keys = core.keys()?;
        let entries = Entries::new(core.clone(), id, below)?;
        let mut this = Self {
            entries,
            pieces: None,
            begun: 0,
            ahead: VecDeque::new(),
            bytes: 0,
            lost: 0,
            ended: false,
            queue: Arc::new(Queue::new(ITEMS)),
            workers: Vec::new(),
            core,
        };
        for _ in 0..this.core.options.threads.max(1) {
            let (core, keys, queue) = (this.core.clone(), keys.clone(), this.queue.clone());
            let worker = std::thread::Builder::new()
                .name("engine-read".into())
                .spawn(move || read_all(&core, &keys, &queue))
                .map_err(this.core.io("start a thread for", "packs"))?;
            this.workers.push(worker);
        }
        Ok(this)
    }

    /// Reads ahead as far as there is room; the index and metadata are read here and now.
    fn fill(&mut self) {
        while !self.ended && self.ahead.len() < ITEMS && self.bytes < BYTES {
            let item = match &mut self.pieces {
                Some(pieces) => match pieces.next_extent() {
                    Ok(Some(Extent::Data { digest, length })) => {
                        self.order(digest, length as usize);
                        continue;
                    }
                    Ok(Some(Extent::Hole { length })) => Ok(Some(Item::Piece(Piece::Hole(length)))),
                    Ok(None) => {
                        self.pieces = None;
                        continue;
                    }
                    Err(error) => {
                        self.pieces = None;
                        Ok(Some(Item::Lost(error)))
                    }
                },
                None => self.next_entry(),
            };
            self.ended = !matches!(item, Ok(Some(_)));
            if let Some(item) = item.transpose() {
                self.push(weight(&item), Place::Here(item));
            }
        }
    }

    fn push(&mut self, bytes: usize, place: Place) {
        self.bytes += bytes;
        self.ahead.push_back(Ahead {
            file: self.begun,
            bytes,
            place,
        });
    }

    fn next_entry(&mut self) -> Result<Option<Item>> {
        let Some((entry, content)) = self.entries.next().transpose()? else {
            return Ok(None);
        };
        self.begun += 1;
        if entry.kind == Kind::File {
            self.pieces = Some(Pieces::new(self.core.clone(), &entry, &content)?);
        }
        Ok(Some(Item::Entry(Box::new(entry))))
    }

    fn order(&mut self, digest: Digest, length: usize) {
        let (answer, read) = sync_channel(1);
        let job = Job {
            digest,
            length,
            answer,
        };
        // there is room for as many as are read ahead, and it closes when this is dropped
        if self.queue.push(job).is_ok() {
            self.push(length, Place::Read(read));
        }
    }
}

fn read_all(core: &Core, keys: &Keys, queue: &Queue<Job>) {
    while let Some(job) = queue.pop() {
        let read = || match core.read_data(keys, &job.digest)? {
            bytes if bytes.len() == job.length => Ok(bytes),
            _ => Err(Error::Content { digest: job.digest }),
        };
        // a panic takes the answer along, and whoever waits for it is told
        let Ok(read) = catch_unwind(AssertUnwindSafe(read)) else {
            continue;
        };
        // nobody waits for it when the reader was dropped
        let _ = job.answer.send(read);
    }
}

impl Iterator for Contents {
    type Item = Result<Item>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.fill();
            let Ahead { file, bytes, place } = self.ahead.pop_front()?;
            self.bytes -= bytes;
            let item = match place {
                Place::Here(item) => item,
                Place::Read(read) => {
                    let read = read.recv().unwrap_or(Err(Error::Cancelled));
                    Ok(match read {
                        Ok(bytes) => Item::Piece(Piece::Data(bytes)),
                        Err(error) => Item::Lost(error),
                    })
                }
            };
            match &item {
                Ok(Item::Piece(_) | Item::Lost(_)) if self.lost == file => continue,
                Ok(Item::Lost(_)) => self.lost = file,
                _ => {}
            }
            return Some(item);
        }
    }
}

impl Drop for Contents {
    fn drop(&mut self) {
        self.queue.close();
        self.ahead.clear();
        for worker in self.workers.drain(..) {
            // its panic is no worse than an unreadable chunk, which was told
            let _ = worker.join();
        }
    }
}
