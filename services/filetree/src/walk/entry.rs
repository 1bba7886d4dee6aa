//! From what the kernel says of an object to its entry.

use std::os::fd::OwnedFd;

use format::entry::{Entry, Kind};
use rustix::fs::{FileType, Stat, readlinkat};

use super::{Content, Found, Walk, found};
use crate::problem::{Problem, ProblemKind, errno_text};
use crate::xattrs::{Place, Xattrs};

/// A file with several names, the first of which was seen.
pub(super) struct Links {
    pub(super) first: Box<[u8]>,
    /// Names not yet seen, as the link count said.
    left: u64,
}

impl Walk {
    #[allow(
        clippy::useless_conversion,
        reason = "link counts have 32 bits on some machines"
    )]
    pub(super) fn kind(
        &mut self,
        path: &[u8],
        dir: &OwnedFd,
        name: &[u8],
        stat: &Stat,
        source: &[u8],
    ) -> Result<Kind, Problem> {
        if u64::from(stat.st_nlink) > 1 {
            let id = (stat.st_dev, stat.st_ino);
            if let Some(links) = self.links.get_mut(&id) {
                let first = links.first.to_vec();
                links.left = links.left.saturating_sub(1);
                if links.left == 0 {
                    self.links.remove(&id);
                }
                return Ok(Kind::HardLink(first));
            }
            self.links.insert(
                id,
                Links {
                    first: path.into(),
                    left: u64::from(stat.st_nlink) - 1,
                },
            );
        }
        let device = || {
            (
                rustix::fs::major(stat.st_rdev),
                rustix::fs::minor(stat.st_rdev),
            )
        };
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Symlink => {
                let to = readlinkat(dir, name, Vec::new()).map_err(|errno| {
                    Problem::reading(source, "is a symbolic link that cannot be read", errno)
                })?;
                Kind::Symlink(to.into_bytes())
            }
            FileType::CharacterDevice => Kind::CharDevice(device().0, device().1),
            FileType::BlockDevice => Kind::BlockDevice(device().0, device().1),
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::Directory | FileType::Unknown => {
                return Err(Problem::new(
                    source,
                    ProblemKind::Unreadable,
                    "is of a kind this agent does not know; report it with the output of stat",
                ));
            }
        })
    }

    pub(super) fn entry(&mut self, path: Vec<u8>, kind: Kind, stat: &Stat) -> Entry {
        Entry {
            path,
            size: match kind {
                Kind::File => stat.st_size.cast_unsigned(),
                _ => 0,
            },
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            user: self.owners.user(stat.st_uid),
            group: self.owners.group(stat.st_gid),
            modified: found::modified(stat),
            xattrs: Vec::new(),
            content: Vec::new(),
        }
    }
}

/// Reads what one look at an object does not say, with buffers it keeps.
pub struct Attributes {
    /// None without /proc.
    xattrs: Option<Xattrs>,
}

impl Attributes {
    pub(super) fn new(has_proc: bool) -> Self {
        Self {
            xattrs: has_proc.then(Xattrs::new),
        }
    }

    /// Reads the extended attributes into the entry, by its content where that is open, which takes
    /// less; says why it lacks them.
    pub fn complete(&mut self, found: &mut Found, open: Option<&Content>) -> Option<Problem> {
        // a second name's attributes are those of the first
        if matches!(found.entry.kind, Kind::HardLink(_)) {
            return None;
        }
        let place = open.map_or_else(|| found.place(), |content| Place::File(content.file()));
        match self.xattrs.as_mut()?.read(place) {
            Ok(xattrs) => {
                found.entry.xattrs = xattrs;
                None
            }
            Err(errno) => {
                let sentence = format!(
                    "its extended attributes cannot be read ({}); run the backup as root, or check the file system",
                    errno_text(errno)
                );
                Some(Problem::new(
                    found.source(),
                    ProblemKind::Attributes,
                    sentence,
                ))
            }
        }
    }
}
