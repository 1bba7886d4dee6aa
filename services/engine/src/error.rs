//! What fails, in words for the operator.

use format::{DatastoreId, Digest, FormatError, SnapshotId};
use std::io;
use std::sync::Arc;

/// Why the engine refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no datastore at this place.
    #[error("{place} is no datastore; make one with `strongroom store init`")]
    NoDatastore {
        /// Where it was looked for.
        place: String,
    },
    /// The datastore file is lost, and packs are there.
    #[error(
        "{place} holds packs, but its file `datastore` is lost; `strongroom store repair {place} --from DIR2` brings it from a copy of the datastore"
    )]
    Headless {
        /// Where the datastore is.
        place: String,
    },
    /// A datastore, or something else, is already there.
    #[error("{place} already holds {what}; choose an empty directory")]
    Occupied {
        /// Where it was to be.
        place: String,
        /// What is there.
        what: String,
    },
    /// Another process has the datastore.
    #[error(
        "the datastore at {place} is in use by {holder}; wait for that to end, or end it if it is a mount or a daemon"
    )]
    Busy {
        /// Where the datastore is.
        place: String,
        /// Who has it.
        holder: String,
    },
    /// The disk is full.
    #[error(
        "the disk of {place} is full; the snapshots that are there are whole: make room on that disk, or forget some and collect, then run this again"
    )]
    Full {
        /// Where the datastore is.
        place: String,
    },
    /// The datastore may take no more.
    #[error(
        "datastore {datastore} has no room left in its quota of {} MiB; its snapshots are whole: forget some and collect, or raise the quota, then run this again",
        quota >> 20
    )]
    Quota {
        /// Which one.
        datastore: DatastoreId,
        /// Bytes.
        quota: u64,
    },
    /// The file system failed.
    #[error("cannot {action} {name} of the datastore at {place}; {}", next(source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        name: String,
        /// Where the datastore is.
        place: String,
        /// How it failed.
        source: io::Error,
    },
    /// Bytes were not what they should be.
    #[error(
        "{name} cannot be used; another copy may have it whole, and repair takes it from there"
    )]
    Format {
        /// Which file or frame.
        name: String,
        /// Why.
        source: FormatError,
    },
    /// A later release wrote it.
    #[error("{name} has format version {found}; a newer Strongroom wrote it, update this one")]
    Newer {
        /// Which file or frame.
        name: String,
        /// Its version.
        found: u32,
    },
    /// The index is unusable.
    #[error(
        "the index of the datastore at {place} cannot be used ({reason}); rebuild it with `strongroom store recover`"
    )]
    Index {
        /// Where the datastore is.
        place: String,
        /// What it failed with.
        reason: String,
    },
    /// The operation needs keys.
    #[error("the datastore {datastore} is locked; unlock it with its key set")]
    Locked {
        /// Which one.
        datastore: DatastoreId,
    },
    /// The keys are not this datastore's.
    #[error("these are not the keys of datastore {datastore}; bring the right key set")]
    WrongKeys {
        /// Which one.
        datastore: DatastoreId,
    },
    /// No frame of this digest is there.
    #[error(
        "chunk {digest} is not in the datastore; another copy may have it, and repair takes it from there"
    )]
    NoChunk {
        /// Its digest.
        digest: Digest,
    },
    /// No snapshot of this name is there.
    #[error("there is no snapshot {id} in the datastore; list the snapshots for those that are")]
    NoSnapshot {
        /// Its name.
        id: SnapshotId,
    },
    /// A snapshot is locked.
    #[error("snapshot {id} is locked until {}; nothing removes it before that", jiff::Timestamp::from_second(*until).unwrap_or(jiff::Timestamp::MAX))]
    LockedSnapshot {
        /// Its name.
        id: SnapshotId,
        /// Seconds since the Unix epoch.
        until: i64,
    },
    /// Nobody can tell until when a snapshot is locked.
    #[error(
        "the lock of snapshot {id} is damaged, so it holds for ever; lock the snapshot again, and it holds until then"
    )]
    DamagedLock {
        /// Its name.
        id: SnapshotId,
    },
    /// A snapshot of which all could be garbage.
    #[error(
        "snapshot {id} has lost chunk {root}, which leads to all others of it, so nothing is collected lest they go: repair \
         from a copy, or forget the snapshot"
    )]
    Rootless {
        /// Its name.
        id: SnapshotId,
        /// The root of its tree.
        root: Digest,
    },
    /// A snapshot that needs nobody knows what.
    #[error(
        "snapshot {id} cannot be read, so nobody knows what it needs and nothing is collected; repair from a copy, \
         or forget the snapshot"
    )]
    Unknown {
        /// Its name.
        id: SnapshotId,
        /// Why.
        source: Box<Error>,
    },
    /// What packs hold is not all known.
    #[error(
        "{place}: packs that its disk did not read when the index was made may hold what the index lacks, so nothing is removed; `recover` again if the disk reads them now, else replace it and `repair` from another copy"
    )]
    Unread {
        /// Where the datastore is.
        place: String,
    },
    /// A lock only moves later.
    #[error("snapshot {id} cannot be locked until then: name a time later than {}, and within 100 years", jiff::Timestamp::from_second(*before).unwrap_or(jiff::Timestamp::MAX))]
    NotLater {
        /// Its name.
        id: SnapshotId,
        /// Until when it is locked, or what the datastore's clock says.
        before: i64,
    },
    /// A snapshot of this name with other content is there.
    #[error("snapshot {id} is already there with other content; a snapshot is never replaced")]
    Conflict {
        /// Its name.
        id: SnapshotId,
    },
    /// It belongs to another datastore.
    #[error("{name} belongs to datastore {found}, not to {datastore}; take it there")]
    Foreign {
        /// What.
        name: String,
        /// Where it belongs.
        found: DatastoreId,
        /// Where it was to go.
        datastore: DatastoreId,
    },
    /// It refers to what is not there.
    #[error("{name} refers to {missing}, which is not in the datastore; send that first")]
    Incomplete {
        /// What refers.
        name: String,
        /// What is missing.
        missing: Digest,
    },
    /// A snapshot is signed by another key, or by none.
    #[error(
        "snapshot {id} is not signed by its site's key and was not accepted; copy it again, and treat the site as taken over if that ends so too"
    )]
    Signer {
        /// Its name.
        id: SnapshotId,
    },
    /// The signer failed.
    #[error("the snapshot could not be signed ({reason}); put that right and back up again")]
    Sign {
        /// Why.
        reason: String,
    },
    /// An entry cannot be stored.
    #[error("the entry \"{path}\" cannot be stored; leave it out of the backup")]
    Entry {
        /// Its path.
        path: String,
        /// Why.
        source: FormatError,
    },
    /// Decrypted content does not have the digest it is stored under.
    #[error(
        "chunk {digest} holds other content than its name says; another copy may have it whole, and repair takes it from there"
    )]
    Content {
        /// Its digest.
        digest: Digest,
    },
    /// The system gave no random numbers.
    #[error("the system gave no random numbers; try again")]
    Random,
    /// The caller asked for it.
    #[error("cancelled; run it again to go on")]
    Cancelled,
    /// The index failed under it and was opened again.
    #[error(
        "the index of the datastore at {place} failed and was opened again meanwhile; run this again"
    )]
    Reopened {
        /// Where the datastore is.
        place: String,
    },
    /// This backup stopped because of an earlier failure.
    #[error(transparent)]
    Stopped(Arc<Error>),
}

impl Error {
    /// Whether a disk had no room.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            Self::Full { .. } => true,
            Self::Stopped(first) => first.is_full(),
            _ => false,
        }
    }

    /// Whether it is that nothing can be written where the datastore is: what is there may still be read,
    /// by [`ReadOnly`](crate::storage::read_only::ReadOnly).
    pub fn is_read_only(&self) -> bool {
        match self {
            Self::Io { source, .. } => may_read(source.kind()),
            Self::Stopped(first) => first.is_read_only(),
            full => full.is_full(),
        }
    }
}

fn may_read(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    matches!(kind, PermissionDenied | ReadOnlyFilesystem)
}

/// Passes over that a disk is full, where what is not written now is later.
pub(crate) fn unless_full<T>(done: Result<T>) -> Result<Option<T>> {
    match done {
        Err(error) if error.is_full() => Ok(None),
        done => done.map(Some),
    }
}

/// What to do about a failure of the file system.
fn next(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => "run this as its owner or as root",
        io::ErrorKind::ReadOnlyFilesystem => {
            "mount its file system for writing; if the kernel took that back, look at the disk's health"
        }
        _ => "look at the disk's health",
    }
}

/// Result of the engine's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Wraps an I/O failure with what was done to which file.
pub(crate) fn io_error(
    place: &str,
    action: &'static str,
    name: &str,
) -> impl FnOnce(io::Error) -> Error {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full {
            place: place.to_owned(),
        },
        _ => Error::Io {
            action,
            name: name.to_owned(),
            place: place.to_owned(),
            source,
        },
    }
}

/// Wraps a failure to understand bytes with their name.
pub(crate) fn format_error(name: impl Into<String>) -> impl FnOnce(FormatError) -> Error {
    move |source| match source {
        FormatError::Version { found, .. } => Error::Newer {
            name: name.into(),
            found,
        },
        source => Error::Format {
            name: name.into(),
            source,
        },
    }
}
