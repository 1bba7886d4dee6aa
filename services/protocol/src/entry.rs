//! Entries of a tree as they travel; what arrives is held to the bounds of docs/format.md before
//! anybody uses it.

use crate::bounded::{bytes, list};
use crate::frame::WireError;
use format::Digest;
use format::entry::{self, Extent, MAX_PATH, Timestamp, Xattr};
use format::leaf::{MAX_NAME, MAX_XATTR};
use serde::{Deserialize, Serialize};

/// Most extended attributes of an entry.
const MAX_XATTRS: usize = 4096;
/// Most bytes of a file: no file system's offsets go further.
const MAX_SIZE: u64 = i64::MAX as u64;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Bytes<const N: usize>(
    #[serde(
        serialize_with = "bytes::serialize",
        deserialize_with = "bytes::deserialize::<N, _>"
    )]
    Vec<u8>,
);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    File,
    Directory,
    Symlink(Bytes<MAX_PATH>),
    HardLink(Bytes<MAX_PATH>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
    Socket,
}

/// An entry without its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    path: Bytes<MAX_PATH>,
    kind: Kind,
    mode: u32,
    uid: u32,
    gid: u32,
    user: Bytes<MAX_NAME>,
    group: Bytes<MAX_NAME>,
    seconds: i64,
    nanos: u32,
    #[serde(deserialize_with = "list::<MAX_XATTRS, _, _>")]
    xattrs: Vec<(Bytes<255>, Bytes<MAX_XATTR>)>,
    size: u64,
}

impl From<&entry::Entry> for Entry {
    fn from(from: &entry::Entry) -> Self {
        Self {
            path: Bytes(from.path.clone()),
            kind: match &from.kind {
                entry::Kind::File => Kind::File,
                entry::Kind::Directory => Kind::Directory,
                entry::Kind::Symlink(to) => Kind::Symlink(Bytes(to.clone())),
                entry::Kind::HardLink(to) => Kind::HardLink(Bytes(to.clone())),
                entry::Kind::CharDevice(major, minor) => Kind::CharDevice(*major, *minor),
                entry::Kind::BlockDevice(major, minor) => Kind::BlockDevice(*major, *minor),
                entry::Kind::Fifo => Kind::Fifo,
                entry::Kind::Socket => Kind::Socket,
            },
            mode: from.mode,
            uid: from.uid,
            gid: from.gid,
            user: Bytes(from.user.clone()),
            group: Bytes(from.group.clone()),
            seconds: from.modified.seconds,
            nanos: from.modified.nanos,
            xattrs: from
                .xattrs
                .iter()
                .map(|x| (Bytes(x.name.clone()), Bytes(x.value.clone())))
                .collect(),
            size: from.size,
        }
    }
}

impl Entry {
    /// The entry, with empty content; only a file has a size.
    ///
    /// # Errors
    /// [`WireError::Unexpected`] when no snapshot may hold it.
    pub fn check(self) -> Result<entry::Entry, WireError> {
        let wrong = |what| Err(WireError::Unexpected(what));
        if !entry::Entry::path_is_valid(&self.path.0) {
            return wrong("an entry's path");
        }
        if self.nanos >= 1_000_000_000 || self.mode > 0o7777 {
            return wrong("an entry's time or mode");
        }
        let kind = match self.kind {
            Kind::File => entry::Kind::File,
            Kind::Directory => entry::Kind::Directory,
            Kind::Symlink(to) => entry::Kind::Symlink(to.0),
            Kind::HardLink(to) if entry::Entry::path_is_valid(&to.0) => entry::Kind::HardLink(to.0),
            Kind::HardLink(_) => return wrong("a link's target"),
            Kind::CharDevice(major, minor) => entry::Kind::CharDevice(major, minor),
            Kind::BlockDevice(major, minor) => entry::Kind::BlockDevice(major, minor),
            Kind::Fifo => entry::Kind::Fifo,
            Kind::Socket => entry::Kind::Socket,
        };
        if self.size > MAX_SIZE || (self.size > 0 && kind != entry::Kind::File) {
            return wrong("an entry's size");
        }
        let xattrs: Vec<Xattr> = self
            .xattrs
            .into_iter()
            .map(|(name, value)| Xattr {
                name: name.0,
                value: value.0,
            })
            .collect();
        if !xattrs.is_sorted_by(|a, b| a.name < b.name) || xattrs.iter().any(|x| x.name.is_empty())
        {
            return wrong("an entry's extended attributes");
        }
        Ok(entry::Entry {
            path: self.path.0,
            kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            user: self.user.0,
            group: self.group.0,
            modified: Timestamp {
                seconds: self.seconds,
                nanos: self.nanos,
            },
            xattrs,
            size: self.size,
            content: Vec::new(),
        })
    }
}

/// A run of a file: of the chunk of this digest, or a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Run {
    /// The whole chunk: digest, and bytes in it.
    Data([u8; 32], u32),
    /// Zeros that take no space: how many.
    Hole(u64),
}

impl From<&Extent> for Run {
    fn from(extent: &Extent) -> Self {
        match extent {
            Extent::Data { digest, length } => Run::Data(digest.0, *length),
            Extent::Hole { length } => Run::Hole(*length),
        }
    }
}

impl Run {
    /// The extent.
    ///
    /// # Errors
    /// [`WireError::Unexpected`] when it is empty.
    pub fn check(self) -> Result<Extent, WireError> {
        match self {
            Run::Data(_, 0) | Run::Hole(0) => Err(WireError::Unexpected("an empty run")),
            Run::Data(digest, length) => Ok(Extent::Data {
                digest: Digest(digest),
                length,
            }),
            Run::Hole(length) => Ok(Extent::Hole { length }),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::frame::{decode, encode};
    use crate::fuzz::again;

    pub(crate) fn file(path: &str, size: u64) -> entry::Entry {
        entry::Entry {
            path: path.into(),
            kind: entry::Kind::File,
            mode: 0o644,
            uid: 1,
            gid: 2,
            user: b"u".to_vec(),
            group: b"g".to_vec(),
            modified: Timestamp {
                seconds: -3,
                nanos: 5,
            },
            xattrs: vec![Xattr {
                name: b"user.x".to_vec(),
                value: vec![0, 1],
            }],
            size,
            content: vec![],
        }
    }

    #[test]
    fn every_kind_returns_as_it_left() {
        for kind in [
            entry::Kind::File,
            entry::Kind::Directory,
            entry::Kind::Symlink(b"../\xff".to_vec()),
            entry::Kind::HardLink(b"a/b".to_vec()),
            entry::Kind::CharDevice(1, 2),
            entry::Kind::BlockDevice(3, 4),
            entry::Kind::Fifo,
            entry::Kind::Socket,
        ] {
            let entry = entry::Entry {
                kind,
                ..file("a/\u{fc}", 0)
            };
            let wire: Entry = decode(&encode(&Entry::from(&entry)).unwrap()[4..]).unwrap();
            assert_eq!(wire.check().unwrap(), entry);
        }
        let longest = file("a", MAX_SIZE);
        assert_eq!(Entry::from(&longest).check().unwrap(), longest);
    }

    #[test]
    fn what_no_snapshot_may_hold_is_refused() {
        let refused = |change: fn(&mut entry::Entry)| {
            let mut entry = file("a", 0);
            change(&mut entry);
            assert!(Entry::from(&entry).check().is_err(), "{entry:?}");
        };
        refused(|e| e.path = b"../etc/passwd".to_vec());
        refused(|e| e.path = b"/etc/passwd".to_vec());
        refused(|e| e.mode = 0o10000);
        refused(|e| e.modified.nanos = 1_000_000_000);
        refused(|e| e.kind = entry::Kind::HardLink(b"../x".to_vec()));
        refused(|e| (e.kind, e.size) = (entry::Kind::Fifo, 1));
        refused(|e| e.size = MAX_SIZE + 1);
        refused(|e| {
            e.xattrs.push(Xattr {
                name: b"user.a".to_vec(),
                value: vec![],
            })
        });
    }

    /// A whole entry with some bytes changed, since few bytes at random are one.
    #[test]
    fn any_bytes_are_understood_or_refused() {
        let whole = encode(&Entry::from(&file("a/b", 7))).unwrap().split_off(4);
        bolero::check!()
            .with_type::<(Option<u8>, Vec<(u8, u8)>, Vec<u8>)>()
            .for_each(|(keep, changes, more)| {
                let mut bytes = whole.clone();
                bytes.truncate(keep.map_or(whole.len(), usize::from));
                for (at, byte) in changes {
                    if let Some(old) = bytes.get_mut(usize::from(*at)) {
                        *old = *byte;
                    }
                }
                bytes.extend_from_slice(more);
                if let Some(Ok(entry)) = again::<Entry>(&bytes).map(Entry::check) {
                    assert_eq!(Entry::from(&entry).check().unwrap(), entry);
                }
            });
    }
}
