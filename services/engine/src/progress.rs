//! Counters that a running operation moves and anybody may look at.

use crate::error::{Error, Result};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// How far an operation is; cheap to read at any time from any thread.
#[derive(Debug, Default)]
pub struct Progress {
    bytes: AtomicU64,
    files: AtomicU64,
    unique: AtomicU64,
    stored: AtomicU64,
    expected: AtomicU64,
    cancelled: AtomicBool,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes gone through.
    pub bytes: u64,
    /// Entries (backup, restore) or packs (verify) gone through.
    pub files: u64,
    /// Bytes of content that the datastore did not have.
    pub unique: u64,
    /// Bytes of frames written.
    pub stored: u64,
    /// Bytes to go through in all, about; 0 where the operation does not know them.
    pub expected: u64,
}

impl Progress {
    /// The counters now.
    pub fn counts(&self) -> Counts {
        Counts {
            bytes: self.bytes.load(Relaxed),
            files: self.files.load(Relaxed),
            unique: self.unique.load(Relaxed),
            stored: self.stored.load(Relaxed),
            expected: self.expected.load(Relaxed),
        }
    }

    /// Makes the operation end with [`Error::Cancelled`] soon.
    pub fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
    }

    /// Whether to go on.
    ///
    /// # Errors
    /// [`Error::Cancelled`] from when it was.
    pub fn check(&self) -> Result<()> {
        if self.cancelled.load(Relaxed) {
            Err(Error::Cancelled)
        } else {
            Ok(())
        }
    }

    /// Adds bytes gone through.
    pub fn add_bytes(&self, count: u64) {
        self.bytes.fetch_add(count, Relaxed);
    }

    /// Adds one entry or pack gone through.
    pub fn add_file(&self) {
        self.add_files(1);
    }

    pub(crate) fn add_files(&self, count: u64) {
        self.files.fetch_add(count, Relaxed);
    }

    pub(crate) fn add_unique(&self, count: u64) {
        self.unique.fetch_add(count, Relaxed);
    }

    pub(crate) fn expect(&self, bytes: u64) {
        self.expected.store(bytes, Relaxed);
    }

    pub(crate) fn add_stored(&self, count: u64) {
        self.stored.fetch_add(count, Relaxed);
    }
}
