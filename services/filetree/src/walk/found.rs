//! What a walk found, and how its file is told from a changed one.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use format::entry::{Entry, Kind, Timestamp};
use rustix::fs::{FileType, Stat};

use super::content::Content;
use crate::problem::Problem;
use crate::xattrs::Place;

/// An object of the live tree. It can go to another thread; it keeps its directory open.
pub struct Found {
    /// What a snapshot says of it; content empty, size as found. Extended attributes are there when
    /// the walk was asked as an iterator, or after [`Attributes::complete`](super::Attributes::complete).
    pub entry: Entry,
    /// What tells it from a changed one.
    pub fingerprint: Fingerprint,
    /// Bytes it is likely to have to be read for: its size, or less where it is sparse.
    pub occupied: u64,
    /// Whether it is no directory and has further names, here or elsewhere.
    pub has_other_names: bool,
    at: At,
    source: Vec<u8>,
}

/// By what an object is reached.
pub(super) enum At {
    /// A directory that was opened.
    Open(Arc<OwnedFd>),
    /// The last part of its path, in this directory.
    In(Arc<OwnedFd>),
}

impl Found {
    pub(super) fn new(entry: Entry, stat: &Stat, at: At, source: Vec<u8>) -> Self {
        Self {
            entry,
            fingerprint: Fingerprint::of(stat),
            occupied: occupied(stat),
            has_other_names: has_other_names(stat),
            at,
            source,
        }
    }

    /// Whether it has content to [`open`](Self::open).
    pub fn is_file(&self) -> bool {
        self.entry.kind == Kind::File
    }

    /// Its absolute path at the source, for people.
    pub fn source(&self) -> &[u8] {
        &self.source
    }

    /// Opens its content.
    ///
    /// # Errors
    /// It is not a regular file (any more), vanished, or may not be read: leave its entry out, and
    /// tell the walk by [`Walk::forget`](super::Walk::forget).
    pub fn open(&self) -> Result<Content, Problem> {
        let dir = match &self.at {
            At::In(dir) if self.is_file() => Some(&**dir),
            _ => None,
        };
        Content::open(dir, self.name(), self.fingerprint, &self.source)
    }

    /// Where its extended attributes are read.
    pub(super) fn place(&self) -> Place<'_> {
        match &self.at {
            At::Open(directory) => Place::Open(directory.as_fd()),
            At::In(dir) => Place::Named(dir.as_fd(), self.name()),
        }
    }

    fn name(&self) -> &[u8] {
        crate::path::split(&self.source).1
    }
}

/// What the kernel says of a file that no change of its content leaves as it was. Where it equals
/// the one of an earlier read, and that one was [`settled`](Self::settled), neither
/// the file nor its extended attributes need be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    /// Device of the file system.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// Type and permissions (`st_mode`).
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Last change of content.
    pub modified: Timestamp,
    /// Last change of content or attributes, which no program can set back.
    pub changed: Timestamp,
}

impl Fingerprint {
    /// Length of [`to_bytes`](Self::to_bytes).
    pub const BYTES: usize = 60;

    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
            size: stat.st_size.cast_unsigned(),
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            modified: modified(stat),
            changed: timestamp(stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// Whether the last change is old enough, seen from before the walk began, that a later one must
    /// show: clocks of file systems tick as coarsely as two seconds, and the walk has every file system
    /// write its dirty pages first.
    pub fn settled(&self, read_began: SystemTime) -> bool {
        // what is on a device changes without a trace; one that is not read has no size
        if self.size > 0 && FileType::from_raw_mode(self.mode) == FileType::BlockDevice {
            return false;
        }
        let Some(before) = read_began.checked_sub(Duration::from_secs(2)) else {
            return false;
        };
        let Ok(before) = before.duration_since(SystemTime::UNIX_EPOCH) else {
            return false;
        };
        let last = self.changed.max(self.modified);
        i64::try_from(before.as_secs()).is_ok_and(|before| last.seconds < before)
    }

    /// What has to be as it was for the whole entry, which was found with this fingerprint, to be as
    /// it was: also the names of its owners, and the file it is another name of.
    pub fn state(&self, entry: &Entry) -> Vec<u8> {
        let first = match &entry.kind {
            Kind::HardLink(first) => &first[..],
            _ => b"",
        };
        // none of them can hold a NUL
        [&self.to_bytes()[..], &entry.user, &entry.group, first].join(&0)
    }

    /// A fixed encoding for a cache: little-endian, in the order of the fields, not a format that
    /// is kept across versions.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&self.dev.to_le_bytes());
        put(&self.ino.to_le_bytes());
        put(&self.size.to_le_bytes());
        put(&self.mode.to_le_bytes());
        put(&self.uid.to_le_bytes());
        put(&self.gid.to_le_bytes());
        for time in [self.modified, self.changed] {
            put(&time.seconds.to_le_bytes());
            put(&time.nanos.to_le_bytes());
        }
        out
    }
}

pub(super) fn has_other_names(stat: &Stat) -> bool {
    stat.st_nlink > 1 && FileType::from_raw_mode(stat.st_mode) != FileType::Directory
}

/// `st_blocks` counts 512 bytes, whatever the file system's block (stat(3type)).
pub(super) fn occupied(stat: &Stat) -> u64 {
    let blocks = stat.st_blocks.cast_unsigned().saturating_mul(512);
    stat.st_size.cast_unsigned().min(blocks)
}

pub(super) fn modified(stat: &Stat) -> Timestamp {
    timestamp(stat.st_mtime, stat.st_mtime_nsec)
}

fn timestamp(seconds: i64, nanos: u64) -> Timestamp {
    Timestamp {
        seconds,
        nanos: u32::try_from(nanos).unwrap_or(0).min(999_999_999),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(changed: i64) -> Fingerprint {
        let changed = Timestamp {
            seconds: changed,
            nanos: 5,
        };
        Fingerprint {
            dev: 1,
            ino: 2,
            size: 3,
            mode: 4,
            uid: 5,
            gid: 6,
            modified: Timestamp::default(),
            changed,
        }
    }

    #[test]
    fn only_a_change_long_past_is_settled() {
        let began = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        assert!(fingerprint(900).settled(began));
        assert!(fingerprint(997).settled(began));
        assert!(!fingerprint(998).settled(began));
        assert!(!fingerprint(1000).settled(began));
        assert!(!fingerprint(2000).settled(began), "a clock that went back");
        assert!(!fingerprint(0).settled(SystemTime::UNIX_EPOCH));
    }

    #[test]
    fn every_field_shows_in_the_bytes() {
        let one = fingerprint(7);
        let others = [
            Fingerprint { dev: 9, ..one },
            Fingerprint { ino: 9, ..one },
            Fingerprint { size: 9, ..one },
            Fingerprint { mode: 9, ..one },
            Fingerprint { uid: 9, ..one },
            Fingerprint { gid: 9, ..one },
            Fingerprint {
                modified: one.changed,
                ..one
            },
            Fingerprint {
                changed: one.modified,
                ..one
            },
        ];
        for other in others {
            assert_ne!(one.to_bytes(), other.to_bytes());
        }
        assert_ne!(
            one.to_bytes()[Fingerprint::BYTES - 4..],
            [0; 4],
            "all bytes are used"
        );
    }

    #[test]
    fn walk_and_finds_may_go_to_other_threads() {
        fn sent<T: Send>() {}
        sent::<Found>();
        sent::<Content>();
        sent::<super::super::Walk>();
        sent::<crate::write::Writer>();
    }
}
