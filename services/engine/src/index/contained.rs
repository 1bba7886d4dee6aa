//! redb, whose panics at a damaged file stay here.

use crate::storage::File;
use redb::Database;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// redb holds its file for right but for what it finds wrong in passing, and panics at much of
/// what a flipped bit makes of it. That is damage of a disk, not a fault of ours, and no reason to
/// end the process: the index is then unusable, as with any error of redb's, and is made anew.
pub(super) struct Contained {
    database: Option<Database>,
    panicked: AtomicBool,
}

impl Contained {
    pub(super) fn open(file: Arc<dyn File>, cache: usize) -> Result<Self, redb::Error> {
        let mut builder = Database::builder();
        builder.set_cache_size(cache);
        let opened = caught(|| Ok(builder.create_with_backend(Backend(file))?));
        Ok(Self {
            database: Some(opened.unwrap_or_else(|| Err(damaged()))?),
            panicked: AtomicBool::new(false),
        })
    }

    pub(super) fn run<T>(
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

/// redb's file, through our storage, so that crash tests reach it.
struct Backend(Arc<dyn File>);

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("index file")
    }
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let count = self.0.read_at(out, offset)?;
        if count == out.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(data, offset)
    }
}
