//! Snapshots from one datastore into another copy of it, both in this process, without a key.
//!
//! The order is that of `protocol::replication`: looked for from the top, so that what the target has
//! is not looked into; stored from the bottom, so that whatever arrived stays of use. Answers are here
//! at once, so no questions are under way, and one frame for each level is all that is held.

use crate::Store;
use crate::core::frame_error;
use crate::error::{Error, Result};
use crate::ingest::Ingest;
use crate::progress::Progress;
use crate::sources::Sources;
use format::frame::{Frame, Kind};
use format::pack::Record;
use format::{Digest, PackId, SnapshotId};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::vec;

/// Most frames above each other: nodes, a leaf, extent lists, a chunk and its base. What is deeper leads
/// back to itself.
const DEPTH: usize = format::node::MAX_LEVEL as usize + format::extents::MAX_LEVEL as usize + 4;
/// Bytes of frames, and snapshots, after which what was copied is made durable.
const BATCH: (u64, usize) = (256 << 20, 64);

/// What a copy did.
#[derive(Debug, Default)]
pub struct Copied {
    /// Snapshots that were copied and are durable.
    pub snapshots: Vec<SnapshotId>,
    /// Number of snapshots that were there already.
    pub present: u64,
    /// Frames that were copied.
    pub frames: u64,
    /// Bytes of them and of the snapshots' files.
    pub bytes: u64,
    /// Snapshots that were left out, and why.
    pub left_out: Vec<(SnapshotId, Error)>,
}

/// What another copy of a datastore lacked at a time, see [`Store::lacking`].
pub struct Lacking<'a> {
    from: &'a Store,
    into: &'a Store,
    /// What the copy had then.
    packs: HashSet<PackId>,
}

impl Lacking<'_> {
    /// Bytes of frames, as the progress of a copy counts them, which may run meanwhile. What no snapshot
    /// needs any more counts too until it is collected, and packs whose footer cannot be read do not.
    /// `None` once `wanted` says no, which is asked for each frame: of a large datastore all are looked up.
    ///
    /// # Errors
    /// The index of one of the two failed.
    pub fn bytes(&self, wanted: impl Fn() -> bool) -> Result<Option<u64>> {
        let (from, into) = (&self.from.core.index, &self.into.core.index);
        if self.packs.is_empty() {
            return Ok(Some(from.totals()?.stored));
        }
        let mut sum = 0;
        for pack in from.packs()? {
            if !wanted() {
                return Ok(None);
            }
            // to look for what is damaged takes long, and what comes of it is told by the copy
            let Ok(Some(records)) = self.from.listed(pack) else {
                continue;
            };
            for Record {
                digest,
                offset,
                length,
                ..
            } in records
            {
                if !wanted() {
                    return Ok(None);
                }
                let there = into.find(&digest)?;
                if there.is_some_and(|there| !there.broken && self.packs.contains(&there.pack)) {
                    continue;
                }
                // one that lies here twice is copied once
                let found = from.find(&digest)?;
                let here = found.is_some_and(|f| (f.pack, f.offset) == (pack, offset));
                sum += if here { u64::from(length) } else { 0 };
            }
        }
        Ok(Some(sum))
    }
}

/// What a failure ends.
pub(crate) enum Stop {
    /// This snapshot: something of it is damaged or missing.
    Snapshot(Error),
    /// All.
    Copy(Error),
}

pub(crate) type Step<T> = std::result::Result<T, Stop>;

/// A failure to read where it is copied from.
fn unread(error: Error) -> Stop {
    match error {
        Error::Index { .. } | Error::Cancelled => Stop::Copy(error),
        _ => Stop::Snapshot(error),
    }
}

/// A metadata frame that the target lacks, until it has all that it refers to.
struct Open {
    raw: Vec<u8>,
    rest: vec::IntoIter<Digest>,
}

/// Brings frames, with all that is below them, to where they are lacking.
pub(crate) struct Copier<'a> {
    from: Sources<'a>,
    pub(crate) into: Arc<Ingest>,
    threads: usize,
    progress: &'a Progress,
    pub(crate) frames: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

impl Store {
    /// What a copy to another datastore would bring, as it is now.
    ///
    /// # Errors
    /// The index of the other one failed.
    pub fn lacking<'a>(&'a self, target: &'a Store) -> Result<Lacking<'a>> {
        Ok(Lacking {
            from: self,
            into: target,
            packs: target.core.index.packs()?.into_iter().collect(),
        })
    }

    /// Copies to another copy of this datastore the snapshots that it lacks, oldest first, and of
    /// their frames those that it lacks. Each frame's check is tested; a snapshot that needs one that
    /// is damaged is left out. What was copied when this fails or is cancelled stays. `progress` counts
    /// bytes of frames, and snapshots as files.
    ///
    /// # Errors
    /// [`Error::Foreign`]; the target cannot be written, or one of the two cannot be listed.
    pub fn copy_to(&self, target: &Store, progress: &Progress) -> Result<Copied> {
        if target.datastore() != self.datastore() {
            return Err(Error::Foreign {
                name: format!("the datastore at {}", target.core.storage.place()),
                found: target.datastore(),
                datastore: self.datastore(),
            });
        }
        let _holds = (self.hold()?, target.hold()?);
        let held = target.snapshot_ids()?;
        let lacks = |id: &SnapshotId| held.binary_search(id).is_err();
        let (good, left_out) = self.snapshots()?;
        let mut copied = Copied {
            present: good.iter().filter(|s| !lacks(&s.clear.id)).count() as u64,
            left_out: left_out.into_iter().filter(|(id, _)| lacks(id)).collect(),
            ..Copied::default()
        };
        let copier = Copier::new(Sources::of(&self.core), target, progress)?;
        let (mut ready, mut durable) = (Vec::new(), 0);
        for snapshot in good.iter().rev().filter(|s| lacks(&s.clear.id)) {
            let id = snapshot.clear.id;
            match copier.tree(snapshot.clear.root) {
                Ok(()) => ready.push(id),
                Err(Stop::Snapshot(error)) => copied.left_out.push((id, error)),
                Err(Stop::Copy(error)) => return Err(error),
            }
            let bytes = copier.bytes.load(Relaxed);
            if bytes - durable >= BATCH.0 || ready.len() >= BATCH.1 {
                self.hand_over(&mut ready, target, &mut copied, &copier)?;
                durable = bytes;
            }
        }
        self.hand_over(&mut ready, target, &mut copied, &copier)?;
        (copied.frames, copied.bytes) = (copier.frames.into_inner(), copier.bytes.into_inner());
        Ok(copied)
    }

    /// Brings the files of snapshots whose trees were copied.
    fn hand_over(
        &self,
        ready: &mut Vec<SnapshotId>,
        target: &Store,
        copied: &mut Copied,
        copier: &Copier<'_>,
    ) -> Result<()> {
        // a pipeline that failed is told here: the next one knows nothing of it
        copier.into.flush()?;
        for id in ready.drain(..) {
            let bytes = self.snapshot_bytes(id)?;
            copier.bytes.fetch_add(bytes.len() as u64, Relaxed);
            target.put_snapshot(bytes)?;
            copier.progress.add_file();
            copied.snapshots.push(id);
        }
        Ok(())
    }
}

impl<'a> Copier<'a> {
    pub(crate) fn new(from: Sources<'a>, into: &Store, progress: &'a Progress) -> Result<Self> {
        Ok(Self {
            from,
            into: into.ingest()?,
            threads: into.core.options.threads.max(1),
            progress,
            frames: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        })
    }

    /// Copies a frame and all below it, unless the target has it.
    pub(crate) fn tree(&self, root: Digest) -> Step<()> {
        let mut next = Some(root);
        if self.has(&root)? {
            next = None;
        }
        let mut open: Vec<Open> = Vec::new();
        loop {
            if let Some(digest) = next {
                if open.len() == DEPTH {
                    return Err(Stop::Snapshot(Error::Content { digest }));
                }
                open.push(self.open(&digest)?);
            }
            let Some(top) = open.last_mut() else {
                return Ok(());
            };
            next = top.rest.next();
            match next {
                // it was below another one too
                Some(digest) if self.has(&digest)? => next = None,
                Some(_) => {}
                None => {
                    self.put(&top.raw)?;
                    open.pop();
                }
            }
        }
    }

    /// Reads a frame, and copies the chunks that it refers to and that refer to nothing.
    fn open(&self, digest: &Digest) -> Step<Open> {
        let raw = self.fetch(digest)?;
        let frame = Frame::parse_unchecked(&raw).map_err(frame_error(*digest));
        let (mut metadata, mut data) = (Vec::new(), Vec::new());
        for needed in frame.map_err(unread)?.refs() {
            if self.has(&needed)? {
                continue;
            }
            match self.from.kind(&needed).map_err(unread)? {
                Kind::Data => data.push(needed),
                _ => metadata.push(needed),
            }
        }
        self.copy_data(&data)?;
        Ok(Open {
            raw,
            rest: metadata.into_iter(),
        })
    }

    fn has(&self, digest: &Digest) -> Step<bool> {
        self.into.known(digest).map_err(Stop::Copy)
    }

    fn copy_data(&self, chunks: &[Digest]) -> Step<()> {
        let next = AtomicUsize::new(0);
        let work = || -> Step<()> {
            while let Some(digest) = chunks.get(next.fetch_add(1, Relaxed)) {
                self.put(&self.fetch(digest)?)?;
            }
            Ok(())
        };
        // a few are copied faster than a thread starts
        let others = (self.threads - 1).min(chunks.len() / 8);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..others).map(|_| scope.spawn(work)).collect();
            let mut end = work();
            // all are waited for before the first failure is told
            for thread in threads {
                let other = thread.join();
                end = end.and(other.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            end
        })
    }

    /// A frame, its check tested.
    pub(crate) fn fetch(&self, digest: &Digest) -> Step<Vec<u8>> {
        self.progress.check().map_err(Stop::Copy)?;
        self.from.fetch(digest).map_err(unread)
    }

    /// Stores a frame whose check was tested.
    pub(crate) fn put(&self, raw: &[u8]) -> Step<()> {
        let frame = Frame::parse_unchecked(raw).map_err(crate::error::format_error("the frame"));
        let new = frame.and_then(|frame| self.into.put_parsed(&frame, raw));
        if new.map_err(Stop::Copy)? {
            self.frames.fetch_add(1, Relaxed);
            self.bytes.fetch_add(raw.len() as u64, Relaxed);
            self.progress.add_bytes(raw.len() as u64);
        }
        Ok(())
    }
}
