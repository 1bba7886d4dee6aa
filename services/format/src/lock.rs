//! Locks, and the clock they go by (docs/format.md, "Locks").

use crate::wire::{Reader, check_of, checked};
use crate::{DatastoreId, Digest, FormatError, Result, SnapshotId};

/// Length of a lock's file, bytes.
pub const LOCK_LEN: usize = 112;

/// Nothing removes a snapshot, nor what it needs, before a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Datastore it is of.
    pub datastore: DatastoreId,
    /// Which snapshot.
    pub snapshot: SnapshotId,
    /// By the datastore's clock, seconds since the Unix epoch.
    pub until: i64,
    /// What that clock was when the lock was made.
    pub made: i64,
    /// The snapshot's root.
    pub root: Digest,
}

/// The datastore's clock as it was when it was last read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Datastore it is of.
    pub datastore: DatastoreId,
    /// The machine's boot by then (the kernel's `boot_id`).
    pub boot: [u8; 16],
    /// What the clock was, seconds since the Unix epoch.
    pub time: i64,
    /// Seconds since that boot.
    pub up: i64,
}

impl Lock {
    const MAGIC: &[u8; 8] = b"SRLOCK\x1a\n";

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let Self {
            datastore,
            snapshot,
            until,
            made,
            root,
        } = self;
        let (until, made) = (until.to_le_bytes(), made.to_le_bytes());
        whole(
            Self::MAGIC,
            &[&datastore.0, &snapshot.0, &until, &made, &root.0],
        )
    }

    /// Reads the file's bytes.
    ///
    /// # Errors
    /// When it is no lock of version 1, whole and right.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut reader = body(bytes, Self::MAGIC, "lock")?;
        let lock = Self {
            datastore: DatastoreId(reader.array()?),
            snapshot: SnapshotId(reader.array()?),
            until: reader.i64()?,
            made: reader.i64()?,
            root: Digest(reader.array()?),
        };
        reader.finish()?;
        Ok(lock)
    }
}

impl Clock {
    const MAGIC: &[u8; 8] = b"SRCLOCK\n";

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let Self {
            datastore,
            boot,
            time,
            up,
        } = self;
        let (time, up) = (time.to_le_bytes(), up.to_le_bytes());
        whole(Self::MAGIC, &[&datastore.0, boot, &time, &up])
    }

    /// Reads the file's bytes.
    ///
    /// # Errors
    /// When it is no clock of version 1, whole and right.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut reader = body(bytes, Self::MAGIC, "clock")?;
        let clock = Self {
            datastore: DatastoreId(reader.array()?),
            boot: reader.array()?,
            time: reader.i64()?,
            up: reader.i64()?,
        };
        reader.finish()?;
        Ok(clock)
    }
}

/// A small file: magic, version, zeros, fields, check.
fn whole(magic: &[u8; 8], fields: &[&[u8]]) -> Vec<u8> {
    let mut out = [magic, &[1, 0, 0, 0, 0, 0, 0, 0][..]].concat();
    fields.iter().for_each(|field| out.extend_from_slice(field));
    let check = check_of(&[&out]);
    out.extend_from_slice(&check);
    out
}

/// The fields of one.
fn body<'a>(bytes: &'a [u8], magic: &[u8; 8], what: &'static str) -> Result<Reader<'a>> {
    if !bytes.starts_with(magic) {
        return Err(FormatError::Magic { what });
    }
    match Reader::new(&bytes[8..], what).u32()? {
        1 => {}
        found => return Err(FormatError::version(what, found)),
    }
    let body = checked(bytes, &[], what)?;
    let mut reader = Reader::new(body.get(12..).unwrap_or_default(), what);
    match reader.u32()? {
        0 => Ok(reader),
        _ => Err(reader.wrong("reserved field")),
    }
}
