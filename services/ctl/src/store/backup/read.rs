//! Reading what the walk found, in batches, by several threads.

use chunking::{Chunker, Cutter, Sizes};
use engine::{Chunks, SnapshotWriter};
use filetree::walk::{Attributes, Content, Found, Segment, Walk};
use filetree::{Problem, ProblemKind};
use format::entry::{Entry, Extent};
use std::io::Read;
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// Something found that was not looked into, a file open where that had to be tried at once.
pub(super) struct Unread {
    pub(super) found: Found,
    pub(super) content: Option<Content>,
}

/// An object that was read.
pub(super) struct Object {
    /// Its entry; its path when there is none, as it could not be read.
    pub(super) entry: Result<Entry, Vec<u8>>,
    /// Empty when a later change might not show in it.
    pub(super) state: Vec<u8>,
    pub(super) problems: Vec<Problem>,
}

/// Objects to read and where to say what came of them.
pub(super) type Job = (Vec<Unread>, SyncSender<engine::Result<Vec<Object>>>);

/// One thread's tools.
pub(super) struct Reader {
    chunks: Chunks,
    chunker: Chunker,
    attributes: Attributes,
    began: SystemTime,
}

impl Reader {
    /// For a backup that begins now.
    pub(super) fn new(writer: &SnapshotWriter, walk: &Walk, began: SystemTime) -> Self {
        let cutter = Cutter::new(Sizes::default(), writer.cut_seed());
        Self {
            chunks: writer.chunks(),
            chunker: Chunker::new(cutter),
            attributes: walk.attributes(),
            began,
        }
    }

    /// Does jobs until there are no more.
    pub(super) fn all(mut self, jobs: &Mutex<Receiver<Job>>) {
        loop {
            let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok((batch, answer)) = job else {
                return;
            };
            let read = batch.into_iter().map(|unread| self.object(unread));
            // nobody waits any more when the backup has failed
            let _ = answer.send(read.collect());
        }
    }

    fn object(&mut self, unread: Unread) -> engine::Result<Object> {
        let Unread { mut found, content } = unread;
        let mut problems = Vec::from_iter(self.attributes.complete(&mut found));
        let mut kept = true;
        if found.is_file() {
            let content = content.map_or_else(|| found.open(), Ok);
            let read = match content {
                Ok(content) => self.content(&mut found.entry, content)?,
                Err(problem) => Err(problem),
            };
            if let Err(problem) = read {
                // what changed while it was read is kept all the same, and told
                kept = problem.kind == ProblemKind::Changed;
                problems.push(problem);
            }
        }
        // one with a problem is looked at again the next time
        let settled = problems.is_empty() && found.fingerprint.settled(self.began);
        Ok(Object {
            state: match settled {
                true => found.fingerprint.state(&found.entry),
                false => Vec::new(),
            },
            entry: match kept {
                true => Ok(found.entry),
                false => Err(found.entry.path),
            },
            problems,
        })
    }

    /// Reads, cuts and stores a file.
    fn content(
        &mut self,
        entry: &mut Entry,
        mut content: Content,
    ) -> engine::Result<Result<(), Problem>> {
        entry.size = 0;
        loop {
            match content.segment() {
                Ok(None) => return Ok(content.finish().map_or(Ok(()), Err)),
                Ok(Some(Segment::Hole { length })) => {
                    entry.content.push(Extent::Hole { length });
                    entry.size += length;
                }
                Ok(Some(Segment::Data { .. })) => {
                    if let Err(problem) = self.data(entry, &mut content)? {
                        return Ok(Err(problem));
                    }
                }
                Err(problem) => return Ok(Err(problem)),
            }
        }
    }

    /// Cuts and stores one run of data.
    fn data(
        &mut self,
        entry: &mut Entry,
        content: &mut Content,
    ) -> engine::Result<Result<(), Problem>> {
        let mut source = Source {
            content,
            problem: None,
        };
        self.chunker.restart();
        loop {
            match self.chunker.next(&mut source) {
                Ok(Some(chunk)) => {
                    let digest = self.chunks.put(chunk)?;
                    let length = chunk.len() as u32;
                    entry.content.push(Extent::Data { digest, length });
                    entry.size += u64::from(length);
                    self.chunks.add_bytes(length.into());
                }
                Ok(None) => return Ok(Ok(())),
                Err(error) => {
                    return Ok(Err(source.problem.unwrap_or_else(|| Problem {
                        path: entry.path.clone(),
                        kind: ProblemKind::Unreadable,
                        sentence: format!("cannot be read ({error}); back up again"),
                    })));
                }
            }
        }
    }
}

/// A run of data as a stream, its problem kept aside.
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
