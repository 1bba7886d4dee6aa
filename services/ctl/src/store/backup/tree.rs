//! The end that builds the tree, of what was read and of what is as it was, in the order of the walk.

use super::memory::{Block, Cursor, Kept, Remembered, Remembering};
use super::read::{Job, Object, Reader, Run};
use super::walker::{Slot, Walker};
use engine::{LongContent, SnapshotInfo, SnapshotWriter};
use filetree::walk::Walk;
use filetree::{Problem, ProblemKind};
use format::entry::{Entry, Kind};
use format::extents::data_of;
use format::leaf::Content;
use std::collections::HashSet;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;
use std::vec;

/// Batches ready for readers, and what is walked ahead of the tree.
const READY: usize = 4;
const AHEAD: usize = 64;

/// What a backup came to.
pub(super) struct Done {
    pub(super) snapshot: SnapshotInfo,
    pub(super) problems: Vec<String>,
    pub(super) problem_count: u64,
}

/// Threads that read, cut, compress and encrypt.
fn readers() -> usize {
    std::thread::available_parallelism().map_or(2, Into::into)
}

/// The tree that is built and what is remembered of it.
pub(super) struct Tree {
    writer: SnapshotWriter,
    memory: Option<Remembering>,
    open: Option<OpenLeaf>,
    /// What was read of a file before its object comes.
    parts: Parts,
    problems: Problems,
}

/// The parts so far of a file that is read in several.
#[derive(Default)]
struct Parts {
    content: LongContent,
    /// One of them was shorter than it should have been: what follows is not of the file any more.
    cut: bool,
    problem: Option<Problem>,
}

/// A leaf of the last backup of whose objects not all are as they were.
struct OpenLeaf {
    block: Arc<Block>,
    /// At the record of the entry that is next.
    cursor: Cursor,
    entries: vec::IntoIter<(Entry, Content)>,
}

impl Tree {
    /// An empty one.
    pub(super) fn new(writer: SnapshotWriter, memory: Option<Remembering>) -> Self {
        Self {
            writer,
            memory,
            open: None,
            parts: Parts::default(),
            problems: Problems::default(),
        }
    }

    /// Stores everything the walk finds and commits.
    pub(super) fn build(
        mut self,
        walk: Walk,
        remembered: Option<Remembered>,
    ) -> engine::Result<Done> {
        let (put, slots) = sync_channel(AHEAD);
        let (give, jobs) = sync_channel::<Job>(READY);
        let jobs = Mutex::new(jobs);
        let began = SystemTime::now();
        std::thread::scope(|scope| -> engine::Result<()> {
            // moved in, so that a failure here ends the walk, and the walk's end the readers
            let slots = slots;
            for _ in 0..readers() {
                let reader = Reader::new(&self.writer, &walk, began);
                scope.spawn(|| reader.all(&jobs));
            }
            let walker = scope.spawn(move || Walker::new(walk, remembered, &put, &give).all());
            for slot in slots {
                match slot {
                    Slot::Kept(kept) => self.kept(&kept)?,
                    Slot::Problem(problem) => self.problems.note(&mut self.writer, &problem),
                    Slot::Part(length, answer) => {
                        let part = answer.recv().map_err(|_| engine::Error::Cancelled)??;
                        self.part(length, part)?;
                    }
                    Slot::Read(answer) => {
                        let objects = answer.recv().map_err(|_| engine::Error::Cancelled)??;
                        objects.into_iter().try_for_each(|o| self.object(o))?;
                    }
                }
            }
            walker.join().map_err(|_| engine::Error::Cancelled)?
        })?;
        let last = self.writer.end()?;
        if let (Some(memory), Some(leaf)) = (&mut self.memory, last) {
            memory.end_leaf(&leaf);
        }
        let snapshot = self.writer.commit(None)?;
        if let Some(memory) = self.memory {
            memory.finish(snapshot.clear.logical);
        }
        Ok(Done {
            snapshot,
            problems: self.problems.list,
            problem_count: self.problems.count,
        })
    }

    /// Takes the next part of a file, which should have so many bytes.
    fn part(&mut self, length: u64, part: Run) -> engine::Result<()> {
        let parts = &mut self.parts;
        if parts.problem.is_some() || parts.cut {
            return Ok(());
        }
        parts.cut = part.size < length;
        parts.problem = part.problem;
        self.writer.extend(&mut parts.content, part.extents)
    }

    /// Adds what was read.
    fn object(&mut self, mut object: Object) -> engine::Result<()> {
        let parts = std::mem::take(&mut self.parts);
        if let Some(problem) = parts.problem {
            object.problems.push(problem);
            object.entry = object.entry.and_then(|entry| Err(entry.path));
        }
        for problem in &object.problems {
            self.problems.note(&mut self.writer, problem);
        }
        let mut entry = match object.entry {
            Ok(entry) => entry,
            Err(path) => {
                self.problems.left_out.insert(path);
                return Ok(());
            }
        };
        if self.problems.leave_out(&mut self.writer, &entry) {
            return Ok(());
        }
        let (ended, bytes) = match parts.content.size() {
            0 => {
                let bytes = entry.content.iter().map(data_of).sum();
                (self.writer.add_entry(&entry)?, bytes)
            }
            _ => {
                let bytes = parts.content.bytes();
                (self.writer.add_long(&mut entry, parts.content)?, bytes)
            }
        };
        if let Some(memory) = &mut self.memory {
            memory.add(&entry.path, &object.state, bytes);
            ended.iter().for_each(|leaf| memory.end_leaf(leaf));
        }
        Ok(())
    }

    /// Adds what is as it was: the leaf itself where that can be, else its entries.
    fn kept(&mut self, kept: &Kept) -> engine::Result<()> {
        let (block, leaf) = (&kept.block, &kept.block.leaf);
        if kept.objects == (0..leaf.entries as usize) && self.writer.add_leaf(leaf)? {
            self.writer.progress().add_bytes(leaf.bytes);
            if let Some(memory) = &mut self.memory {
                memory.add_leaf(block);
            }
            return Ok(());
        }
        let wrong = || engine::Error::Content {
            digest: leaf.digest,
        };
        let mut open = match self.open.take() {
            Some(open) if Arc::ptr_eq(&open.block, block) => open,
            _ => OpenLeaf {
                block: block.clone(),
                cursor: block.cursor().ok_or_else(wrong)?,
                entries: self.writer.entries_of(&leaf.digest)?.into_iter(),
            },
        };
        while open.cursor.index < kept.objects.end {
            let (entry, content) = open.entries.next().ok_or_else(wrong)?;
            let cursor = &open.cursor;
            if entry.path != cursor.path {
                return Err(wrong());
            }
            if kept.objects.contains(&cursor.index) {
                self.writer.progress().add_bytes(cursor.bytes);
                let ended = self.writer.add_kept(&entry, &content, cursor.bytes)?;
                if let Some(memory) = &mut self.memory {
                    memory.add(&entry.path, cursor.state(block), cursor.bytes);
                    ended.iter().for_each(|leaf| memory.end_leaf(leaf));
                }
            }
            open.cursor.advance(block);
        }
        self.open = Some(open);
        Ok(())
    }
}

/// What went wrong so far.
#[derive(Default)]
struct Problems {
    list: Vec<String>,
    count: u64,
    /// Files whose reading failed after the walk went on.
    left_out: HashSet<Vec<u8>>,
}

impl Problems {
    fn note(&mut self, writer: &mut SnapshotWriter, problem: &Problem) {
        writer.problem(&problem.path, &problem.sentence);
        self.count += 1;
        if self.list.len() < format::snapshot::MAX_PROBLEMS {
            self.list.push(problem.to_string());
        }
    }

    /// Whether this is another name of a file that could not be read, which is then told.
    fn leave_out(&mut self, writer: &mut SnapshotWriter, entry: &Entry) -> bool {
        let Kind::HardLink(first) = &entry.kind else {
            return false;
        };
        if !self.left_out.contains(first) {
            return false;
        }
        let sentence = "is another name of a file that could not be read; back up again";
        let problem = Problem {
            path: entry.path.clone(),
            kind: ProblemKind::Unreadable,
            sentence: sentence.into(),
        };
        self.note(writer, &problem);
        true
    }
}
