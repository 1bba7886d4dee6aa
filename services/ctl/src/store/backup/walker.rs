//! The end that walks: holds what it finds against the memory of the last backup, and gives out what is
//! to be read.

use super::memory::{Kept, Remembered};
use super::read::{Job, Object, Run, Unread};
use filetree::Problem;
use filetree::walk::{Found, Walk};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Objects, and bytes likely to be read for them, that a reader gets at a time. Each object may keep
/// two descriptors open, and a process has 1024.
const BATCH: usize = 48;
const BATCH_BYTES: u64 = 1 << 20;
/// Of a longer file so many bytes are read by one thread; what comes next begins a chunk.
const PART: u64 = 64 << 20;

/// Something of the walk, in its order.
pub(super) enum Slot {
    Kept(Kept),
    /// Of the file whose object follows, so many bytes.
    Part(u64, Receiver<engine::Result<Run>>),
    Read(Receiver<engine::Result<Vec<Object>>>),
    Problem(Problem),
}

/// The end that walks.
pub(super) struct Walker<'a> {
    walk: Walk,
    remembered: Option<Remembered>,
    put: &'a SyncSender<Slot>,
    give: &'a SyncSender<Job>,
    batch: Vec<Unread>,
    weight: u64,
}

/// The other end is gone; what is found is of no use any more.
struct Gone;

impl<'a> Walker<'a> {
    /// Puts what it finds here in its order, and gives to readers there what they are to look into.
    pub(super) fn new(
        walk: Walk,
        remembered: Option<Remembered>,
        put: &'a SyncSender<Slot>,
        give: &'a SyncSender<Job>,
    ) -> Self {
        Self {
            walk,
            remembered,
            put,
            give,
            batch: Vec::new(),
            weight: 0,
        }
    }

    pub(super) fn all(mut self) -> engine::Result<()> {
        while let Some(found) = self.walk.step() {
            let passed = match found {
                Err(problem) => self.put(Slot::Problem(problem)),
                Ok(found) if self.unchanged(&found)? => Ok(()),
                Ok(found) => self.take(found),
            };
            if passed.is_err() {
                return Ok(());
            }
        }
        let mut kept = Vec::new();
        if let Some(remembered) = &mut self.remembered {
            remembered.end(|k| kept.push(k));
        }
        // nobody waits any more when the backup has failed
        let _ = self.pass_on(kept);
        let _ = self.hand_over();
        Ok(())
    }

    /// Whether this object is as it was in the last backup; what is known to be is passed on.
    fn unchanged(&mut self, found: &Found) -> engine::Result<bool> {
        let Some(remembered) = &mut self.remembered else {
            return Ok(false);
        };
        let mut kept = Vec::new();
        let unchanged = remembered.unchanged(found, |k| kept.push(k))?;
        // who is gone is met at the next object that is not
        let _ = self.pass_on(kept);
        Ok(unchanged)
    }

    fn pass_on(&mut self, kept: Vec<Kept>) -> Result<(), Gone> {
        if !kept.is_empty() {
            self.hand_over()?;
        }
        kept.into_iter().try_for_each(|k| self.put(Slot::Kept(k)))
    }

    fn take(&mut self, found: Found) -> Result<(), Gone> {
        let mut content = None;
        let long = found.occupied > PART;
        // opened at once: whether its other names may refer to it has to be known when they come
        if found.is_file() && (long || found.has_other_names) {
            match found.open() {
                Ok(open) => content = Some(open),
                Err(problem) => {
                    self.walk.forget(&found);
                    return self.put(Slot::Problem(problem));
                }
            }
        }
        if let Some(content) = content.as_mut().filter(|_| long) {
            self.hand_over()?;
            while let Some(part) = content.part(PART) {
                let (tell, answer) = sync_channel(1);
                let length = part.left();
                let given = self.give.send(Job::Part(part, tell));
                given.map_err(|_| Gone)?;
                self.put(Slot::Part(length, answer))?;
            }
        }
        self.weight += found.occupied;
        self.batch.push(Unread { found, content });
        // the parts of a long file are of the object that follows
        if long || self.batch.len() >= BATCH || self.weight >= BATCH_BYTES {
            self.hand_over()?;
        }
        Ok(())
    }

    /// Gives the batch to a reader.
    fn hand_over(&mut self) -> Result<(), Gone> {
        self.weight = 0;
        if self.batch.is_empty() {
            return Ok(());
        }
        let (tell, answer) = sync_channel(1);
        let batch = std::mem::take(&mut self.batch);
        let given = self.give.send(Job::Batch(batch, tell));
        given.map_err(|_| Gone)?;
        self.put(Slot::Read(answer))
    }

    fn put(&self, slot: Slot) -> Result<(), Gone> {
        self.put.send(slot).map_err(|_| Gone)
    }
}
