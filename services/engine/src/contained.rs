//! redb, whose panics at a damaged file stay here.

use redb::{Database, StorageBackend};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// A database of redb's that may be lost and made anew.
///
/// redb holds its file for right but for what it finds wrong in passing, and panics at much of
/// what a flipped bit makes of it. That is damage of a disk, not a fault of ours, and no reason to
/// end the process: it comes back as [`redb::Error::Corrupted`].
pub struct Contained {
    database: Option<Database>,
    panicked: AtomicBool,
}

impl Contained {
    /// Opens the file, making an empty database in an empty one. `cache` is in bytes.
    ///
    /// # Errors
    /// Those of redb; `Corrupted` also where it panics.
    pub fn open(file: impl StorageBackend, cache: usize) -> Result<Self, redb::Error> {
        let mut builder = Database::builder();
        builder.set_cache_size(cache);
        // its files are small; without this it takes at its word what somebody flipped a bit of
        builder.set_check_integrity_on_open(true);
        let opened = caught(|| Ok(builder.create_with_backend(file)?));
        Ok(Self {
            database: Some(opened.unwrap_or_else(|| Err(damaged()))?),
            panicked: AtomicBool::new(false),
        })
    }

    /// Works with the database.
    ///
    /// # Errors
    /// What `work` returns; `Corrupted` when it panicked.
    pub fn run<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        let database = self.database.as_ref().ok_or_else(damaged)?;
        caught(|| work(database)).unwrap_or_else(|| {
            self.panicked.store(true, Relaxed);
            Err(damaged())
        })
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        let database = self.database.take();
        if *self.panicked.get_mut() {
            // its destructor would find poisoned locks, and panic where nobody may
            std::mem::forget(database);
        } else {
            caught(|| drop(database));
        }
    }
}

/// `None` for a panic.
fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

fn damaged() -> redb::Error {
    redb::Error::Corrupted("its file is damaged".into())
}
