//! Gives an object its owner, extended attributes, mode and time.

use std::os::fd::{AsRawFd, BorrowedFd};

use format::entry::{Entry, Kind};
use rustix::fs::{
    AtFlags, CWD, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, chmod, chownat, fchmod, fstat,
    futimens, utimensat,
};
use rustix::io::{self, Errno};

use super::report::{Failure, WriteError};
use super::shared::Shared;
use crate::problem::{Problem, ProblemKind, errno_text};
use crate::xattrs::{self, Place};

/// Set-user-id and set-group-id.
const SET_ID: u32 = 0o6000;

impl Shared {
    /// Applies an entry's attributes to the object that is open, or held by O_PATH. What cannot be
    /// set is told, once where the reason befalls many.
    pub(super) fn apply(&self, fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), WriteError> {
        let owned = self.own(fd, entry)?;
        self.set_xattrs(fd, entry)?;
        let mode = match owned {
            true => entry.mode & 0o7777,
            false => entry.mode & 0o7777 & !SET_ID,
        };
        if !matches!(entry.kind, Kind::Symlink(_)) {
            let set = set_mode(fd, entry, Mode::from_raw_mode(mode));
            self.check(entry, "cannot be given its mode", set)?;
        }
        let set = set_time(fd, entry);
        self.check(entry, "cannot be given its time", set)
    }

    /// Tells of an attribute that could not be set; passes on what stops all.
    fn check(&self, entry: &Entry, what: &str, set: io::Result<()>) -> Result<(), WriteError> {
        let Err(errno) = set else {
            return Ok(());
        };
        match self.failure(&entry.path, what, errno) {
            Failure::All(error) => Err(error),
            Failure::One(mut problem) => {
                problem.kind = ProblemKind::Attributes;
                self.tell(problem);
                Ok(())
            }
        }
    }

    /// Sets owner and group. False: one of them is not what it should be.
    fn own(&self, fd: BorrowedFd<'_>, entry: &Entry) -> Result<bool, WriteError> {
        let what = "cannot be given its owner";
        let stat = match fstat(fd) {
            Ok(stat) => stat,
            Err(errno) => return self.check(entry, what, Err(errno)).map(|()| false),
        };
        if (stat.st_uid, stat.st_gid) == (entry.uid, entry.gid) {
            return Ok(true);
        }
        // -1 means "leave as it is" to the kernel and is nobody's number
        let set = |uid: Option<u32>, gid: Option<u32>| {
            if entry.uid == u32::MAX || entry.gid == u32::MAX {
                return Err(Errno::INVAL);
            }
            let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
            chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH)
        };
        match set(Some(entry.uid), Some(entry.gid)) {
            Ok(()) => Ok(true),
            Err(Errno::PERM | Errno::INVAL) => {
                // a user may still give files to groups they are in
                let grouped = set(None, Some(entry.gid)).is_ok();
                self.tell_once(
                    entry,
                    "owner",
                    "cannot be given its owner, nor set-id bits; this and others belong to the \
                     user of the restore, run it as root to keep owners",
                );
                Ok(grouped && stat.st_uid == entry.uid)
            }
            Err(errno) => self.check(entry, what, Err(errno)).map(|()| false),
        }
    }

    fn set_xattrs(&self, fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), WriteError> {
        if self.inherits {
            self.drop_inherited(fd, entry);
        }
        for xattr in &entry.xattrs {
            match xattrs::set(fd, xattr) {
                Ok(()) => {}
                Err(errno @ (Errno::IO | Errno::ROFS)) => {
                    self.check(entry, "cannot be given its attributes", Err(errno))?;
                }
                // also "no space": ext4 says that of a value larger than it keeps for one file
                Err(errno) => self.tell_xattr(entry, &xattr.name, errno),
            }
        }
        Ok(())
    }

    /// Removes what the object has from its directory's default ACL, or from before.
    fn drop_inherited(&self, fd: BorrowedFd<'_>, entry: &Entry) {
        let there = self.xattrs.lock().read(Place::Open(fd));
        for there in there.unwrap_or_default() {
            let kept = entry.xattrs.iter().any(|x| x.name == there.name);
            // security.* is the system's to give, as a label is
            if !kept
                && !there.name.starts_with(b"security.")
                && let Err(errno) = xattrs::remove(fd, &there.name)
            {
                self.tell_xattr(entry, &there.name, errno);
            }
        }
    }

    fn tell_xattr(&self, entry: &Entry, name: &[u8], errno: Errno) {
        let family = match name.iter().position(|b| *b == b'.') {
            Some(end) => match &name[..end] {
                b"user" => "user",
                b"trusted" => "trusted",
                b"security" => "security",
                b"system" => "system",
                _ => "other",
            },
            None => "other",
        };
        let next = match errno {
            Errno::PERM | Errno::ACCESS => "run the restore as root to keep them",
            Errno::NOSPC | Errno::DQUOT => "the file system has no more room for them on one file",
            _ => "restore to a file system that has them",
        };
        let sentence = format!(
            "cannot be given the attribute {} ({}); this and others like it are missing, {next}",
            crate::shown(name),
            errno_text(errno)
        );
        self.tell_once(
            entry,
            &format!("{family} {}", errno.raw_os_error()),
            &sentence,
        );
    }

    fn tell_once(&self, entry: &Entry, what: &str, sentence: &str) {
        if self.is_new(what) {
            self.tell(Problem::new(&entry.path, ProblemKind::Attributes, sentence));
        }
    }
}

/// O_PATH descriptors are not taken by the calls for descriptors; their path below /proc is.
fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn is_open(entry: &Entry) -> bool {
    matches!(entry.kind, Kind::File | Kind::Directory)
}

fn set_mode(fd: BorrowedFd<'_>, entry: &Entry, mode: Mode) -> io::Result<()> {
    if is_open(entry) {
        fchmod(fd, mode)
    } else {
        chmod(proc_path(fd).as_str(), mode)
    }
}

fn set_time(fd: BorrowedFd<'_>, entry: &Entry) -> io::Result<()> {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: entry.modified.seconds,
            // larger values are commands to the kernel
            tv_nsec: entry.modified.nanos.min(999_999_999).into(),
        },
    };
    if is_open(entry) {
        futimens(fd, &times)
    } else {
        utimensat(CWD, proc_path(fd).as_str(), &times, AtFlags::empty())
    }
}
