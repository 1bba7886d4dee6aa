//! Frames and snapshots between copies of one datastore, without a key. A copy only grows by this:
//! nothing here deletes, replaces or shortens.

use crate::Store;
use crate::core::SNAPSHOTS;
use crate::error::{Error, Result, format_error};
use crate::holds::Hold;
use crate::read::snapshot_name;
use format::frame::Kind;
use format::snapshot::Snapshot;
use format::{Digest, SnapshotId};

impl Store {
    /// Which of these chunks are here and whole with all they refer to.
    ///
    /// # Errors
    /// The index failed.
    pub fn has(&self, digests: &[Digest]) -> Result<Vec<bool>> {
        digests.iter().map(|d| self.core.index.usable(d)).collect()
    }

    /// What a frame refers to, and its kind.
    ///
    /// # Errors
    /// [`Error::NoChunk`], or the frame is damaged.
    pub fn refs_of(&self, digest: &Digest) -> Result<(Kind, Vec<Digest>)> {
        self.core.read_refs(digest)
    }

    /// A frame as it lies in its pack, its check tested.
    ///
    /// # Errors
    /// [`Error::NoChunk`], or the frame is damaged.
    pub fn read_frame(&self, digest: &Digest) -> Result<Vec<u8>> {
        self.core.read_sound(digest, &self.core.locate(digest)?)
    }

    /// Keeps what is here while the answer is held, so that what [`Store::has`] said stays true.
    ///
    /// # Errors
    /// The index failed.
    pub fn hold(&self) -> Result<Hold> {
        self.core.hold()
    }

    /// Stores a frame of another copy of this datastore; all it refers to must be here. Answers
    /// whether it was new. Durable with [`Store::flush`] or [`Store::put_snapshot`].
    ///
    /// # Errors
    /// A damaged or foreign frame; [`Error::Incomplete`]; a full disk.
    pub fn put_frame(&self, raw: &[u8]) -> Result<bool> {
        let _hold = self.hold()?;
        self.ingest()?.put_frame(raw)
    }

    /// Makes all frames put so far durable.
    ///
    /// # Errors
    /// A full disk or an I/O failure.
    pub fn flush(&self) -> Result<()> {
        self.ingest()?.flush()
    }

    /// The ids of all snapshots, sorted.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn snapshot_ids(&self) -> Result<Vec<SnapshotId>> {
        self.core.snapshot_ids()
    }

    /// A snapshot's file, to be sent to another copy.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`], or it cannot be read.
    pub fn snapshot_bytes(&self, id: SnapshotId) -> Result<Vec<u8>> {
        Ok(self.core.snapshot(id)?.bytes().to_vec())
    }

    /// Takes a snapshot of another copy of this datastore, durable on return. Everything it
    /// reaches is here: the index holds nothing that refers to what is not. Answers whether it
    /// was new; the same again is no error. Who may sign is for the caller, by the answer of
    /// [`Snapshot::parse`].
    ///
    /// # Errors
    /// [`Error::Foreign`], [`Error::Conflict`], [`Error::Incomplete`]; damage; a full disk. After a
    /// failure to write it may be there, and whole; the same again then makes it durable.
    pub fn put_snapshot(&self, bytes: Vec<u8>) -> Result<bool> {
        let snapshot = Snapshot::parse(bytes).map_err(format_error("the snapshot"))?;
        let (id, name) = (snapshot.clear.id, format!("snapshot {}", snapshot.clear.id));
        if snapshot.clear.datastore != self.core.datastore {
            let found = snapshot.clear.datastore;
            return Err(Error::Foreign {
                name,
                found,
                datastore: self.core.datastore,
            });
        }
        if self.core.snapshot_ids()?.contains(&id) {
            if self.core.snapshot(id)?.bytes() != snapshot.bytes() {
                return Err(Error::Conflict { id });
            }
            // who brought it may have failed before its name was durable
            let synced = self.core.storage.sync_dir(SNAPSHOTS);
            synced.map_err(self.core.io("sync", SNAPSHOTS))?;
            return Ok(false);
        }
        let _hold = self.hold()?;
        self.flush()?;
        if !self.core.index.usable(&snapshot.clear.root)? {
            return Err(Error::Incomplete {
                name,
                missing: snapshot.clear.root,
            });
        }
        self.core
            .write_whole(SNAPSHOTS, &snapshot_name(id), snapshot.bytes())?;
        Ok(true)
    }
}
