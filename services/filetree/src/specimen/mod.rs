//! Makes a tree with everything real servers have, for tests and the main job.
//!
//! It is the same for the same seed and scale, to the byte and the nanosecond, but for what the
//! system does not permit ([`Made::skipped`] says why) and what its file system rounds. It is made
//! by plain calls of the system, not by [`write`](crate::write), which it serves to test.

mod mutate;
mod parts;
pub mod random;

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chownat,
    fchmod, ftruncate, lsetxattr, mkdirat, mknodat, openat, symlinkat, utimensat,
};
use rustix::io::{self, Errno, pwrite};

pub use mutate::mutate;
use random::Random;

/// How large a tree to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Small files, of 0 to 8 KiB each.
    pub small_files: u32,
    /// Bytes of the one large file that does not compress; a text of half as many lies beside it.
    pub large_file: u64,
    /// Bytes of data and holes of each sparse file.
    pub sparse_file: u64,
}

impl Default for Scale {
    /// About 16 MiB in about 900 entries.
    fn default() -> Self {
        Self {
            small_files: 400,
            large_file: 6 << 20,
            sparse_file: 64 << 20,
        }
    }
}

/// What was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// Objects, the root not counted.
    pub entries: u64,
    /// Bytes of content, holes not counted.
    pub bytes: u64,
    /// What the system does not permit here, and why.
    pub skipped: Vec<String>,
}

/// Makes the tree in `root`, an existing empty directory.
///
/// # Errors
/// What the system refuses, privileges aside.
pub fn create(root: &Path, seed: u64, scale: Scale) -> std::io::Result<Made> {
    let root = openat(CWD, root, DIRECTORY, Mode::empty())?;
    let mut maker = Maker {
        random: Random::new(seed),
        made: Made::default(),
        privileged: rustix::process::geteuid().is_root(),
    };
    parts::all(&mut maker, &root, scale)?;
    maker.touch(&root, b".")?;
    Ok(maker.made)
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// Makes objects one by one, each with a time of its own.
struct Maker {
    random: Random,
    made: Made,
    privileged: bool,
}

impl Maker {
    /// Makes a directory and what `fill` puts into it.
    fn dir(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        fill: impl FnOnce(&mut Self, &OwnedFd) -> io::Result<()>,
    ) -> io::Result<()> {
        mkdirat(parent, name, Mode::RWXU)?;
        let dir = openat(parent, name, DIRECTORY, Mode::empty())?;
        fchmod(&dir, Mode::from_raw_mode(0o755))?;
        fill(self, &dir)?;
        self.made.entries += 1;
        self.touch(parent, name)
    }

    fn file(&mut self, dir: &OwnedFd, name: &[u8], content: &[u8]) -> io::Result<()> {
        self.sparse(dir, name, content.len() as u64, &[(0, content)])
    }

    /// Makes a file of `size` bytes with data at some offsets and holes elsewhere.
    fn sparse(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        size: u64,
        data: &[(u64, &[u8])],
    ) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?;
        ftruncate(&file, size)?;
        for (offset, bytes) in data {
            let mut done = 0;
            while done < bytes.len() {
                done += pwrite(&file, &bytes[done..], offset + done as u64)?;
            }
            self.made.bytes += bytes.len() as u64;
        }
        fchmod(&file, Mode::from_raw_mode(0o644))?;
        self.made.entries += 1;
        self.touch(dir, name)
    }

    fn symlink(&mut self, dir: &OwnedFd, name: &[u8], to: &[u8]) -> io::Result<()> {
        symlinkat(to, dir, name)?;
        self.made.entries += 1;
        self.touch(dir, name)
    }

    fn link(&mut self, dir: &OwnedFd, first: &[u8], to: &OwnedFd, name: &[u8]) -> io::Result<()> {
        rustix::fs::linkat(dir, first, to, name, AtFlags::empty())?;
        self.made.entries += 1;
        Ok(())
    }

    /// Makes a device, pipe or socket; told as skipped when that is not permitted.
    fn node(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        kind: rustix::fs::FileType,
        (major, minor): (u32, u32),
    ) -> io::Result<()> {
        let dev = rustix::fs::makedev(major, minor);
        let made = mknodat(dir, name, kind, Mode::from_raw_mode(0o640), dev);
        if self.permitted(name, made)? {
            self.made.entries += 1;
            self.touch(dir, name)?;
        }
        Ok(())
    }

    fn mode(&mut self, dir: &OwnedFd, name: &[u8], mode: u32) -> io::Result<()> {
        rustix::fs::chmodat(dir, name, Mode::from_raw_mode(mode), AtFlags::empty())
    }

    fn own(&mut self, dir: &OwnedFd, name: &[u8], uid: u32, gid: u32) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let owned = chownat(dir, name, Some(uid), Some(gid), flags);
        self.permitted(name, owned).map(drop)
    }

    fn xattr(&mut self, dir: &OwnedFd, name: &[u8], key: &[u8], value: &[u8]) -> io::Result<()> {
        let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        let set = lsetxattr(&path, key, value, XattrFlags::empty());
        self.permitted(name, set).map(drop)
    }

    /// Sets a time that follows from the seed, between 1990 and 2025.
    fn touch(&mut self, dir: &OwnedFd, name: &[u8]) -> io::Result<()> {
        let seconds = 631_152_000 + self.random.below(1_104_537_600);
        let nanos = self.random.below(1_000_000_000);
        self.time(dir, name, seconds.cast_signed(), nanos.cast_signed())
    }

    fn time(&mut self, dir: &OwnedFd, name: &[u8], seconds: i64, nanos: i64) -> io::Result<()> {
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: seconds,
                tv_nsec: nanos,
            },
        };
        utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// False, and a reason kept, for what needs privileges or a file system that can.
    fn permitted(&mut self, name: &[u8], done: io::Result<()>) -> io::Result<bool> {
        match done {
            Ok(()) => Ok(true),
            Err(errno @ (Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::INVAL)) => {
                let (name, why) = (crate::shown(name), crate::problem::errno_text(errno));
                self.made.skipped.push(format!("{name}: {why}"));
                Ok(false)
            }
            Err(errno) => Err(errno),
        }
    }
}
