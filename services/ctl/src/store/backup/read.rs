//! Reading what the walk found, in batches, by several threads.

use chunking::{Chunker, Cutter, Sizes};
use engine::{Chunks, SnapshotWriter};
use filetree::walk::{Attributes, Content, Found, Segment, Walk};
use filetree::{Problem, ProblemKind};
use format::entry::{Entry, Extent};
use format::extents::length_of;
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

/// What was read of a file.
#[derive(Default)]
pub(super) struct Run {
    pub(super) extents: Vec<Extent>,
    pub(super) size: u64,
    pub(super) problem: Option<Problem>,
}

impl Run {
    fn push(&mut self, extent: Extent) {
        self.size += length_of(&extent);
        match (self.extents.last_mut(), extent) {
            (Some(Extent::Hole { length }), Extent::Hole { length: more }) => *length += more,
            _ => self.extents.push(extent),
        }
    }
}

/// What to read and where to say what came of it.
pub(super) enum Job {
    Batch(Vec<Unread>, SyncSender<engine::Result<Vec<Object>>>),
    Part(Content, SyncSender<engine::Result<Run>>),
}

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
            // nobody waits for the answer any more when the backup has failed
            match job {
                Ok(Job::Batch(batch, answer)) => {
                    let read = batch.into_iter().map(|unread| self.object(unread));
                    let _ = answer.send(read.collect());
                }
                Ok(Job::Part(mut content, answer)) => {
                    let mut run = Run::default();
                    let read = self.content(&mut run, &mut content);
                    let _ = answer.send(read.map(|()| run));
                }
                Err(_) => return,
            }
        }
    }

    fn object(&mut self, unread: Unread) -> engine::Result<Object> {
        let Unread { mut found, content } = unread;
        let mut problems = Vec::new();
        let mut run = Run::default();
        if found.is_file() {
            match content.map_or_else(|| found.open(), Ok) {
                Err(problem) => run.problem = Some(problem),
                Ok(mut content) => {
                    problems.extend(self.attributes.complete(&mut found, Some(&content)));
                    self.content(&mut run, &mut content)?;
                    run.problem = run.problem.take().or_else(|| content.finish());
                }
            }
        } else {
            problems.extend(self.attributes.complete(&mut found, None));
        }
        let entry = &mut found.entry;
        (entry.content, entry.size) = (run.extents, run.size);
        // what changed while it was read is kept all the same, and told
        let kept = run.problem.as_ref();
        let kept = kept.is_none_or(|p| p.kind == ProblemKind::Changed);
        problems.extend(run.problem);
        // one with a problem is looked at again the next time
        let settled = problems.is_empty() && found.fingerprint.settled(self.began);
        Ok(Object {
            state: match settled {
                true => found.fingerprint.state(entry),
                false => Vec::new(),
            },
            entry: match kept {
                true => Ok(found.entry),
                false => Err(found.entry.path),
            },
            problems,
        })
    }

    /// Reads, cuts and stores what is left of a content.
    fn content(&mut self, run: &mut Run, content: &mut Content) -> engine::Result<()> {
        loop {
            match content.segment() {
                Ok(None) => return Ok(()),
                Ok(Some(Segment::Hole { length })) => run.push(Extent::Hole { length }),
                Ok(Some(Segment::Data { .. })) => self.data(run, content)?,
                Err(problem) => run.problem = Some(problem),
            }
            if run.problem.is_some() {
                return Ok(());
            }
        }
    }

    /// Cuts and stores one run of data.
    fn data(&mut self, run: &mut Run, content: &mut Content) -> engine::Result<()> {
        let is_device = content.is_device();
        let mut source = Source {
            content,
            problem: None,
        };
        self.chunker.restart();
        // it fails with what the source does, and that only
        while let Ok(Some(chunk)) = self.chunker.next(&mut source) {
            let length = chunk.len() as u32;
            self.chunks.add_bytes(length.into());
            if is_device && chunking::is_zero(chunk) {
                let length = length.into();
                run.push(Extent::Hole { length });
                continue;
            }
            let digest = self.chunks.put(chunk)?;
            run.push(Extent::Data { digest, length });
        }
        run.problem = source.problem;
        Ok(())
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
