//! One entry of a protected tree: what a backup says of a file, besides its bytes.
//!
//! Encoded in entry leaves, docs/format.md section "Entries". The order of entries in a snapshot
//! is [`Entry::cmp_path`]: component by component, bytewise, a directory before what it holds.

use std::cmp::Ordering;

/// Length in bytes of the longest path an entry may carry (Linux PATH_MAX allows deeper trees by
/// relative calls, so this is ours).
pub const MAX_PATH: usize = 64 * 1024;

/// A point in time: seconds since the Unix epoch (negative before it) and nanoseconds, 0..10^9.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Whole seconds since 1970-01-01T00:00:00Z.
    pub seconds: i64,
    /// Nanoseconds past `seconds`, always below 1,000,000,000.
    pub nanos: u32,
}

/// What sort of object an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file; its bytes are in [`Entry::content`].
    File,
    /// A directory.
    Directory,
    /// A symbolic link and the bytes it points to, dangling or not.
    Symlink(Vec<u8>),
    /// Another name of the file at this earlier path of the same snapshot.
    HardLink(Vec<u8>),
    /// A character device: major, minor.
    CharDevice(u32, u32),
    /// A block device node (not its content): major, minor.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
    /// A Unix socket's name.
    Socket,
}

/// A run of a file's bytes, in order of offset, without gaps: data found under a digest, or a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// `length` bytes (1 to 2^32-1) that are the chunk named `digest`, whole.
    Data {
        /// The chunk's digest: the store's in a store, the agent's own on the agent's wire.
        digest: crate::Digest,
        /// Plaintext bytes in the chunk.
        length: u32,
    },
    /// `length` bytes of zeros that occupy no space in the source.
    Hole {
        /// Bytes in the hole.
        length: u64,
    },
}

/// An extended attribute: name with its namespace (`user.`, `security.`, `system.posix_acl_access`
/// and so on) and value, as the kernel gives them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// Full name, at most 255 bytes.
    pub name: Vec<u8>,
    /// Value, at most 64 KiB.
    pub value: Vec<u8>,
}

/// Everything a snapshot keeps of one object of the source tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path below the snapshot's root, components separated by `/`, no leading or trailing slash,
    /// no empty, `.` or `..` component, no NUL. The root itself is the empty path.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission, set-id and sticky bits (`st_mode & 0o7777`).
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Owner's name at the source, empty when unknown.
    pub user: Vec<u8>,
    /// Group's name at the source, empty when unknown.
    pub group: Vec<u8>,
    /// Last change of content.
    pub modified: Timestamp,
    /// Extended attributes, sorted by name. POSIX ACLs are the `system.posix_acl_*` ones.
    pub xattrs: Vec<Xattr>,
    /// Bytes of content (files only, else 0): the sum of the extents' lengths.
    pub size: u64,
    /// Where the content is.
    pub content: Vec<Extent>,
}

impl Entry {
    /// The order of entries in a snapshot.
    pub fn cmp_path(a: &[u8], b: &[u8]) -> Ordering {
        // '/' sorts below every other byte, so a directory's content follows it at once
        let key = |c: &u8| if *c == b'/' { 0u16 } else { u16::from(*c) + 1 };
        a.iter().map(key).cmp(b.iter().map(key))
    }

    /// Whether a path is another one, or below it.
    pub fn is_at_or_below(path: &[u8], above: &[u8]) -> bool {
        match path.strip_prefix(above) {
            Some(rest) => above.is_empty() || rest.is_empty() || rest[0] == b'/',
            None => false,
        }
    }

    /// Whether a path may stand in a snapshot: bounded, relative, without empty, `.` or `..`
    /// components and without NUL. The empty path is the root. Every parser asks this, so that
    /// no snapshot can name anything outside the place it is restored to.
    pub fn path_is_valid(path: &[u8]) -> bool {
        let component = |c: &[u8]| !matches!(c, b"" | b"." | b"..");
        path.is_empty()
            || path.len() <= MAX_PATH
                && !path.contains(&0)
                && path.split(|b| *b == b'/').all(component)
    }
}
