//! A datastore: making, opening and unlocking one.

use crate::core::{Core, Keys, Options, PACKS, SNAPSHOTS, TEMPORARY, locked, random, write_whole};
use crate::error::{Error, Result, format_error, io_error};
use crate::index::{INDEX, Index, IndexSize, RUNS, Setting, Totals};
use crate::ingest::Ingest;
use crate::progress::Progress;
use crate::read::{Entries, Pieces, SnapshotInfo};
use crate::recover::usable_index;
use crate::storage::{Guard, Storage};
use crate::writer::{SnapshotMeta, SnapshotWriter};
use format::entry::Entry;
use format::leaf::Content;
use format::superblock::{Profile, SUPERBLOCK_LEN, Superblock};
use format::{DatastoreId, DigestKeys, Keyset, SnapshotId};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use zeroize::Zeroizing;

/// The file that makes a directory a datastore.
pub(crate) const SUPERBLOCK: &str = "datastore";

/// Snapshots that cannot be read, with why.
pub type Unreadable = Vec<(SnapshotId, Error)>;

/// Sums over a datastore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Number of snapshots.
    pub snapshots: u64,
    /// Bytes of content of all snapshots, as their sources had it.
    pub logical: u64,
    /// Sums over all chunks.
    pub totals: Totals,
    /// Bytes of all frames in packs: those too that nothing needs, or that lie elsewhere as well.
    pub packed: u64,
}

/// An open datastore. One process holds it; any number of threads use it.
pub struct Store {
    pub(crate) core: Arc<Core>,
    superblock: Superblock,
    ingest: Mutex<Option<Arc<Ingest>>>,
    /// Held by whoever gives packs up for new ones.
    pub(crate) collecting: Mutex<()>,
    _guard: Box<dyn Guard>,
}

impl Store {
    /// A new key set with one epoch, for a new datastore of a new name.
    ///
    /// # Errors
    /// [`Error::Random`].
    pub fn new_keyset() -> Result<Keyset> {
        Ok(Keyset {
            datastore_id: DatastoreId(random()?),
            dedup: Zeroizing::new(random()?),
            epochs: BTreeMap::from([(1, Zeroizing::new(random()?))]),
        })
    }

    /// What the datastore file of a new datastore with these keys says.
    pub fn superblock_for(keyset: &Keyset, profile: Profile) -> Superblock {
        let datastore = keyset.datastore_id;
        let key_check = Some(DigestKeys::new(&keyset.dedup).key_check(&datastore.0));
        Superblock {
            datastore,
            profile,
            key_check,
        }
    }

    /// Makes an empty datastore in an empty storage, locked. For a copy of another datastore take
    /// that one's superblock, with the profile of this end.
    ///
    /// # Errors
    /// [`Error::Occupied`], or an I/O failure.
    pub fn init(
        storage: Arc<dyn Storage>,
        superblock: Superblock,
        options: Options,
    ) -> Result<Self> {
        let place = storage.place();
        // before the lock's file is made in what is somebody else's
        refuse_occupied(&*storage)?;
        let guard = lock(&*storage)?;
        refuse_occupied(&*storage)?;
        for dir in [PACKS, SNAPSHOTS, TEMPORARY, RUNS] {
            storage
                .make_dir(dir)
                .map_err(io_error(&place, "make", dir))?;
        }
        storage
            .create(INDEX)
            .map_err(io_error(&place, "create", INDEX))?;
        storage
            .sync_dir("")
            .map_err(io_error(&place, "sync", "the directory"))?;
        // last: a directory without it is no datastore
        write_whole(&*storage, "", SUPERBLOCK, &superblock.encode())?;
        Self::with(storage, guard, superblock, options, usable_index)
    }

    /// Opens a datastore, locked. What a power cut left half done is removed or completed; an
    /// index that cannot be used is made anew from the packs.
    ///
    /// # Errors
    /// [`Error::NoDatastore`], [`Error::Headless`], [`Error::Busy`], a newer format, or an I/O failure; cancelled, and the
    /// next opening makes the index.
    pub fn open(storage: Arc<dyn Storage>, options: Options) -> Result<Self> {
        Self::open_by(storage, options, usable_index)
    }

    /// Opens it with an index that is had in this way.
    pub(crate) fn open_by(
        storage: Arc<dyn Storage>,
        options: Options,
        index: impl FnOnce(Setting) -> Result<Index>,
    ) -> Result<Self> {
        let place = storage.place();
        let file = storage
            .open(SUPERBLOCK)
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => none(&*storage),
                _ => io_error(&place, "open", SUPERBLOCK)(error),
            })?;
        let bytes = crate::storage::read_exact(&*file, 0, SUPERBLOCK_LEN)
            .map_err(io_error(&place, "read", SUPERBLOCK))?;
        let superblock =
            Superblock::parse(&bytes).map_err(format_error(format!("{place}/{SUPERBLOCK}")))?;
        let guard = lock(&*storage)?;
        Self::with(storage, guard, superblock, options, index)
    }

    fn with(
        storage: Arc<dyn Storage>,
        guard: Box<dyn Guard>,
        superblock: Superblock,
        options: Options,
        index: impl FnOnce(Setting) -> Result<Index>,
    ) -> Result<Self> {
        let place = storage.place();
        // names that a process gave which was killed then may not be durable, and are built upon now
        for dir in ["", SNAPSHOTS] {
            storage
                .sync_dir(dir)
                .map_err(io_error(&place, "sync", dir_name(dir)))?;
        }
        storage
            .make_dir(TEMPORARY)
            .map_err(io_error(&place, "make", TEMPORARY))?;
        for name in storage
            .list(TEMPORARY)
            .map_err(io_error(&place, "list", TEMPORARY))?
        {
            let name = format!("{TEMPORARY}/{name}");
            storage
                .remove(&name)
                .map_err(io_error(&place, "remove", &name))?;
        }
        storage
            .make_dir(RUNS)
            .map_err(io_error(&place, "make", RUNS))?;
        let setting = Setting {
            storage: storage.clone(),
            datastore: superblock.datastore,
            memory: options.memory.clone(),
            batch: options.index_batch,
            progress: options.opening.clone(),
            unread: None,
        };
        let index = index(setting)?;
        let core = Arc::new(Core::new(storage, superblock.datastore, options, index));
        Ok(Self {
            core,
            superblock,
            ingest: Mutex::new(None),
            collecting: Mutex::default(),
            _guard: guard,
        })
    }

    /// Its name.
    pub fn datastore(&self) -> DatastoreId {
        self.core.datastore
    }

    /// What its datastore file says.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Brings the keys, so that backups and restores can be made.
    ///
    /// # Errors
    /// [`Error::WrongKeys`].
    pub fn unlock(&self, keyset: &Keyset) -> Result<()> {
        let wrong = Error::WrongKeys {
            datastore: self.core.datastore,
        };
        if keyset.datastore_id != self.core.datastore {
            return Err(wrong);
        }
        let keys = Keys::new(keyset)?;
        if self
            .superblock
            .key_check
            .is_some_and(|c| c != keys.digests.key_check(&self.core.datastore.0))
        {
            return Err(wrong);
        }
        *self
            .core
            .keys
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(keys));
        Ok(())
    }

    /// Forgets the keys; operations that run keep theirs until they end.
    pub fn lock(&self) {
        *self
            .core
            .keys
            .write()
            .unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether it has keys.
    pub fn is_unlocked(&self) -> bool {
        self.core.keys().is_ok()
    }

    /// The pipeline all backups share; after a failure the next backup gets a new one.
    pub(crate) fn ingest(&self) -> Result<Arc<Ingest>> {
        let mut ingest = locked(&self.ingest);
        self.settle(&mut ingest)?;
        let fresh = || Arc::new(Ingest::new(self.core.clone()));
        Ok(ingest.get_or_insert_with(fresh).clone())
    }

    /// Makes the index writable again after a failure.
    pub(crate) fn reopen_index(&self) -> Result<()> {
        self.settle(&mut locked(&self.ingest))
    }

    /// Ends a pipeline that has failed, or whose index has, and opens the index again.
    fn settle(&self, ingest: &mut Option<Arc<Ingest>>) -> Result<()> {
        let failed = match (&*ingest, self.core.index.writable()) {
            (Some(running), Ok(())) => running.is_broken(),
            (Some(running), Err(error)) => {
                running.fail(error);
                true
            }
            (None, writable) => writable.is_err(),
        };
        if failed {
            ingest.take().into_iter().for_each(|failed| failed.end());
            crate::recover::reopen(&self.core.index)?;
        }
        Ok(())
    }

    /// Begins a backup, whose counters are `progress`.
    ///
    /// # Errors
    /// [`Error::Locked`], or the index cannot be opened again after a failure.
    pub fn begin(&self, meta: SnapshotMeta, progress: Arc<Progress>) -> Result<SnapshotWriter> {
        SnapshotWriter::begin(self.core.clone(), self.ingest()?, meta, progress)
    }

    /// All snapshots, newest first; with the encrypted part where the datastore is unlocked.
    /// Snapshots that cannot be read are the second list, with why.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn snapshots(&self) -> Result<(Vec<SnapshotInfo>, Unreadable)> {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for id in self.core.snapshot_ids()? {
            match self.core.info(id) {
                Ok(info) => good.push(info),
                // forgotten since
                Err(Error::NoSnapshot { .. }) => {}
                Err(error) => bad.push((id, error)),
            }
        }
        good.sort_by_key(|info| std::cmp::Reverse((info.clear.time, info.clear.id)));
        Ok((good, bad))
    }

    /// One snapshot.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`], or it cannot be read.
    pub fn snapshot(&self, id: SnapshotId) -> Result<SnapshotInfo> {
        self.core.info(id)
    }

    /// The entries of a snapshot in order, those at or below a path (empty for all).
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::NoSnapshot`], or it cannot be read.
    pub fn entries(&self, id: SnapshotId, below: &[u8]) -> Result<Entries> {
        Entries::new(self.core.clone(), id, below)
    }

    /// The digest this datastore has for a data chunk, stored or not.
    ///
    /// # Errors
    /// [`Error::Locked`].
    pub fn digest_of(&self, content: &[u8]) -> Result<format::Digest> {
        Ok(self.core.keys()?.digests.data(content))
    }

    /// The bytes of a file of [`Store::entries`].
    ///
    /// # Errors
    /// [`Error::Locked`].
    pub fn pieces(&self, entry: &Entry, content: &Content) -> Result<Pieces> {
        let keys = self.core.keys()?;
        Ok(Pieces::new(self.core.clone(), keys, entry, content))
    }

    /// Sums over the datastore.
    ///
    /// # Errors
    /// The index or the directory cannot be read.
    pub fn stats(&self) -> Result<Stats> {
        let (snapshots, _) = self.snapshots()?;
        Ok(Stats {
            snapshots: snapshots.len() as u64,
            // what snapshots say of themselves may be anything
            logical: (snapshots.iter()).fold(0, |sum, s| s.clear.logical.saturating_add(sum)),
            totals: self.core.index.totals()?,
            packed: self.core.index.taken()?,
        })
    }

    /// What the index takes now, in memory and on disk.
    ///
    /// # Errors
    /// The index failed.
    pub fn index_size(&self) -> Result<IndexSize> {
        self.core.index.size()
    }
}

/// What there is where no datastore file is.
fn none(storage: &dyn Storage) -> Error {
    let place = storage.place();
    match storage.list(PACKS) {
        Ok(packs) if !packs.is_empty() => Error::Headless { place },
        _ => Error::NoDatastore { place },
    }
}

fn refuse_occupied(storage: &dyn Storage) -> Result<()> {
    let place = storage.place();
    let there = storage
        .list("")
        .map_err(io_error(&place, "list", "the directory"))?;
    // the lock's own file and a file system's lost+found are no content
    let mut content = there
        .into_iter()
        .filter(|name| !["lock", "lost+found"].contains(&name.as_str()));
    match content.next() {
        None => Ok(()),
        Some(name) => Err(Error::Occupied {
            place,
            what: match name.as_str() {
                SUPERBLOCK => "a datastore".into(),
                _ => name,
            },
        }),
    }
}

fn dir_name(dir: &str) -> &str {
    if dir.is_empty() { "the directory" } else { dir }
}

pub(crate) fn lock(storage: &dyn Storage) -> Result<Box<dyn Guard>> {
    let place = storage.place();
    storage.lock().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => Error::Busy {
            place: place.clone(),
            holder: error.to_string(),
        },
        _ => io_error(&place, "lock", "the directory")(error),
    })
}
