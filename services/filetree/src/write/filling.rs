//! A file that is being filled, by any threads, until it is complete.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use format::entry::Entry;
use rustix::fs::{AtFlags, ftruncate, renameat, unlinkat};
use rustix::io::{Errno, pwrite, retry_on_intr};

use super::report::Failure;
use super::shared::Shared;
use crate::path;
use crate::problem::{Problem, ProblemKind};

/// A new file, see [`Writer::hand_out`](super::Writer::hand_out). One that is dropped before it is
/// complete is removed.
pub struct Filling {
    pub(super) shared: Arc<Shared>,
    pub(super) dir: Arc<OwnedFd>,
    pub(super) fd: OwnedFd,
    pub(super) entry: Entry,
    /// Its name until it replaces what has its own.
    pub(super) temporary: Option<Vec<u8>>,
    /// In the order files are begun.
    pub(super) number: u64,
    pub(super) progress: Progress,
}

#[derive(Default)]
pub(super) struct Progress {
    /// Where its data ends.
    end: AtomicU64,
    failed: AtomicBool,
    complete: bool,
}

impl Filling {
    /// Writes bytes that belong there. A failure is told by the writer.
    pub fn write(&self, mut bytes: &[u8], mut at: u64) {
        while !bytes.is_empty() && !self.has_failed() {
            match retry_on_intr(|| pwrite(&self.fd, bytes, at)) {
                Ok(written) => {
                    at += written as u64;
                    self.progress.end.fetch_max(at, Ordering::Relaxed);
                    self.shared.count_bytes(written as u64);
                    bytes = &bytes[written..];
                }
                Err(errno) => self.fail("cannot be written", errno),
            }
        }
    }

    /// Gives it up, because its content cannot be had; nothing of it stays.
    pub fn abandon(&self, sentence: &str) {
        if !self.progress.failed.swap(true, Ordering::Relaxed) {
            let problem = Problem::new(&self.entry.path, ProblemKind::Unwritten, sentence);
            self.shared.tell(problem);
        }
    }

    /// Keeps it with zeros where so many bytes cannot be had.
    pub fn lose(&self, at: u64, length: u64, why: &str) {
        let sentence = match length {
            0 => format!("its end is lost: {why}"),
            _ => format!(
                "bytes {at} to {} are lost, zeros stand there: {why}",
                at.saturating_add(length - 1)
            ),
        };
        let problem = Problem::new(&self.entry.path, ProblemKind::Damaged, sentence);
        self.shared.tell(problem);
    }

    /// Whether it was given up, or could not be written.
    pub(super) fn has_failed(&self) -> bool {
        self.progress.failed.load(Ordering::Relaxed)
    }

    pub(super) fn fail(&self, what: &str, errno: Errno) {
        if !self.progress.failed.swap(true, Ordering::Relaxed) {
            let failure = self.shared.failure(&self.entry.path, what, errno);
            self.shared.settle_later(Err(failure));
        }
    }

    /// All was written, `length` bytes with the holes: gives it its length, attributes and place.
    pub fn complete(mut self, length: u64) {
        if self.has_failed() {
            return;
        }
        let completed = self.completed(length);
        self.progress.complete = completed.is_ok();
        if self.progress.complete {
            self.shared.count_entry();
        }
        self.shared.settle_later(completed);
    }

    fn completed(&self, length: u64) -> Result<(), Failure> {
        let (path, shared) = (&self.entry.path, &self.shared);
        if length != self.progress.end.load(Ordering::Relaxed) {
            ftruncate(&self.fd, length)
                .map_err(|e| shared.failure(path, "cannot be given its length", e))?;
        }
        if length != self.entry.size {
            let sentence = format!(
                "has {length} bytes where its entry says {}; verify the snapshot",
                self.entry.size
            );
            shared.tell(Problem::new(path, ProblemKind::Unwritten, sentence));
        }
        shared
            .apply(self.fd.as_fd(), &self.entry)
            .map_err(Failure::All)?;
        if let Some(temporary) = &self.temporary {
            let name = path::split(path).1;
            renameat(&self.dir, &temporary[..], &self.dir, name)
                .map_err(|e| shared.failure(path, "cannot take the place of what is there", e))?;
        }
        Ok(())
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        if !self.progress.complete {
            let own = path::split(&self.entry.path).1;
            let name = self.temporary.as_deref().unwrap_or(own);
            // the failure that led here is the one to report
            let _ = unlinkat(&self.dir, name, AtFlags::empty());
            self.shared.lose(&self.entry.path);
        }
        self.shared.close_file(self.number);
    }
}
