//! A snapshot's entries in order, and the bytes of its files by several threads, whichever is read
//! first. Who needs bytes in order reads [`crate::Pieces`].

use crate::Store;
use crate::core::{Core, Keys};
use crate::error::Error;
use crate::progress::Progress;
use crate::queue::Queue;
use crate::read::Pieces;
use format::entry::{Entry, Extent};
use format::extents::length_of;
use format::leaf::Content;
use format::{Digest, SnapshotId};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Bytes that one thread reads at a time, of neighbours.
const STRETCH: u64 = 1 << 20;
/// Extents of them.
const EXTENTS: usize = 1024;
/// Stretches that wait.
const WAITING: usize = 64;

/// Takes a snapshot's entries.
pub trait Target {
    /// What takes the bytes of one file.
    type File: TargetFile;
    /// What stops the restore.
    type Error: From<Error>;

    /// Takes the next entry; what its bytes are for, where it has any and they are wanted.
    ///
    /// # Errors
    /// What stops the restore.
    fn entry(&mut self, entry: &Entry) -> Result<Option<Self::File>, Self::Error>;
}

/// Takes the bytes of one file, from any threads.
pub trait TargetFile: Send + Sync {
    /// Takes bytes that belong there.
    fn write(&self, bytes: &[u8], at: u64);
    /// So many bytes there cannot be had; says whether the others are wanted nevertheless.
    fn lost(&self, at: u64, length: u64, error: Error) -> bool;
    /// All of it was given, or lost; it is so many bytes long with its holes. A panic of it comes out of
    /// [`Store::restore`].
    fn done(self, length: u64);
}

/// A file until all of it is given; whoever lets go of it last says that it is.
struct Open<F> {
    file: F,
    length: AtomicU64,
    unwanted: AtomicBool,
}

impl<F: TargetFile> Open<F> {
    fn lose(&self, at: u64, length: u64, error: Error) {
        if !self.file.lost(at, length, error) {
            self.unwanted.store(true, Ordering::Release);
        }
    }

    fn is_wanted(&self) -> bool {
        !self.unwanted.load(Ordering::Acquire)
    }
}

/// Bytes of a file that lie one after the other.
struct Stretch<F> {
    open: Arc<Open<F>>,
    at: u64,
    extents: Vec<Extent>,
}

struct Work<'a, F> {
    core: &'a Arc<Core>,
    keys: Arc<Keys>,
    progress: &'a Progress,
    queue: Queue<Stretch<F>>,
    /// What is left in the queue is of no use.
    stopped: AtomicBool,
}

/// Lets the threads end, whatever becomes of the entries.
struct Ending<'a, F>(&'a Work<'a, F>);

impl<F> Drop for Ending<'_, F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stopped.store(true, Ordering::Release);
        }
        self.0.queue.close();
    }
}

impl Store {
    /// Gives a target the entries of a snapshot in order, those at or below a path (empty for all), and
    /// their bytes by [`crate::Options::threads`] threads. `progress` counts bytes, and entries as files.
    ///
    /// # Errors
    /// What the target says; [`Error::Locked`], [`Error::NoSnapshot`], or the tree of the snapshot
    /// cannot be read on. What only one file lacks is none, but told to that.
    pub fn restore<T: Target>(
        &self,
        id: SnapshotId,
        below: &[u8],
        target: &mut T,
        progress: &Progress,
    ) -> Result<(), T::Error> {
        let work = Work {
            core: &self.core,
            keys: self.core.keys()?,
            progress,
            queue: Queue::new(WAITING),
            stopped: AtomicBool::new(false),
        };
        let mut entries = self.entries(id, below)?;
        std::thread::scope(|scope| {
            // this thread makes the entries, and reads as well where these come faster
            for _ in 1..self.core.options.threads.max(2) {
                scope.spawn(|| work.read_all());
            }
            let _ending = Ending(&work);
            let stop = |_: &T::Error| work.stopped.store(true, Ordering::Release);
            entries.try_for_each(|entry| {
                progress.check().map_err(T::Error::from).inspect_err(stop)?;
                // what was begun before a tree that cannot be read on is still given
                let (entry, content) = entry?;
                let file = target.entry(&entry).inspect_err(stop)?;
                progress.add_file();
                if let Some(file) = file {
                    work.give(&entry, &content, file);
                }
                Ok(())
            })
        })
        // what was still to be read when it was cancelled is lost
        .and_then(|()| Ok(progress.check()?))
    }
}

impl<F: TargetFile> Work<'_, F> {
    /// Has the bytes of a file read.
    fn give(&self, entry: &Entry, content: &Content, file: F) {
        let open = Arc::new(Open {
            file,
            length: AtomicU64::new(0),
            unwanted: AtomicBool::new(false),
        });
        let rest = |at: u64| entry.size.saturating_sub(at);
        let mut pieces = Pieces::new(self.core.clone(), self.keys.clone(), entry, content);
        let (mut at, mut ends) = (0u64, false);
        while !ends && open.is_wanted() {
            if self.progress.check().is_err() {
                open.lose(at, rest(at), Error::Cancelled);
                break;
            }
            let (from, mut extents, mut unknown) = (at, Vec::new(), 0);
            while at - from < STRETCH && extents.len() < EXTENTS && !ends {
                match pieces.next_extent() {
                    Ok(Some(extent)) => {
                        at = at.saturating_add(length_of(&extent));
                        extents.push(extent);
                    }
                    Ok(None) => ends = true,
                    Err(error) => {
                        unknown = rest(at);
                        open.lose(at, unknown, error);
                        ends = true;
                    }
                }
            }
            open.length
                .store(at.saturating_add(unknown), Ordering::Release);
            let stretch = Stretch {
                open: open.clone(),
                at: from,
                extents,
            };
            if stretch.extents.is_empty() {
                break;
            }
            match self.queue.push_or_pop(stretch) {
                Ok(None) => {}
                Ok(Some(other)) => self.read_one(other),
                Err(_) => break,
            }
        }
        release(open);
    }

    fn read_all(&self) {
        let mut panic = None;
        while let Some(stretch) = self.queue.pop() {
            // the others still need a thread: a target that waits for files to end would do so for ever
            let read = catch_unwind(AssertUnwindSafe(|| self.read_one(stretch)));
            panic = panic.or(read.err());
        }
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    fn read_one(&self, Stretch { open, at, extents }: Stretch<F>) {
        let read = catch_unwind(AssertUnwindSafe(|| self.read(&open, at, &extents)));
        // a panic is no worse than chunks that cannot be read
        if read.is_err() {
            let length = |sum: u64, extent| sum.saturating_add(length_of(extent));
            open.lose(at, extents.iter().fold(0, length), Error::Cancelled);
        }
        release(open);
    }

    fn read(&self, open: &Open<F>, mut at: u64, extents: &[Extent]) {
        for extent in extents {
            let end = at.saturating_add(length_of(extent));
            if let Extent::Data { digest, length } = extent
                && open.is_wanted()
            {
                match self.piece(digest, *length) {
                    Ok(bytes) => {
                        open.file.write(&bytes, at);
                        self.progress.add_bytes(bytes.len() as u64);
                    }
                    Err(error) => open.lose(at, end - at, error),
                }
            }
            at = end;
        }
    }

    fn piece(&self, digest: &Digest, length: u32) -> Result<Vec<u8>, Error> {
        self.progress.check()?;
        if self.stopped.load(Ordering::Acquire) {
            return Err(Error::Cancelled);
        }
        let bytes = self.core.read_data(&self.keys, digest)?;
        match bytes.len() == length as usize {
            true => Ok(bytes),
            false => Err(Error::Content { digest: *digest }),
        }
    }
}

fn release<F: TargetFile>(open: Arc<Open<F>>) {
    if let Some(Open { file, length, .. }) = Arc::into_inner(open) {
        file.done(length.into_inner());
    }
}
