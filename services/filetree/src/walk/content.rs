//! A file's content as data and holes.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, LazyLock};

use rustix::fs::{CWD, FileType, Mode, OFlags, SeekFrom, fstat, openat, seek};
use rustix::io::{self, Errno, pread, retry_on_intr};
use rustix::process::{Uid, geteuid};

use super::found::{Fingerprint, occupied};
use crate::problem::{Problem, ProblemKind};

/// Bytes of a file that is read at once.
const SMALL: u64 = 64 << 10;

/// A run of a file, in order of offset and without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Bytes to [`read`](Content::read) until it answers 0.
    Data {
        /// How many to expect; fewer come when the file is cut meanwhile.
        length: u64,
    },
    /// Zeros that occupy no space.
    Hole {
        /// How many.
        length: u64,
    },
}

/// An open file, read from its beginning to the size it had when it was found: what is appended
/// meanwhile is left for the next backup.
pub struct Content {
    file: Arc<OwnedFd>,
    found: Fingerprint,
    source: Vec<u8>,
    /// Next byte to read.
    at: u64,
    /// End of the present data segment.
    data_end: u64,
    /// End of the file.
    end: u64,
    /// The file system tells data from holes.
    tells_holes: bool,
}

impl Content {
    pub(super) fn open(
        dir: Option<&OwnedFd>,
        name: &[u8],
        found: Fingerprint,
        source: &[u8],
    ) -> Result<Self, Problem> {
        let not_a_file = || {
            let sentence = "is not a regular file (any more), so it has no content to read";
            Problem::new(source, ProblemKind::Unreadable, sentence)
        };
        let dir = dir.ok_or_else(not_a_file)?;
        let failed = |errno| Problem::reading(source, "cannot be opened", errno);
        let file = open_file(dir, name, found.uid).map_err(failed)?;
        let stat = fstat(&file).map_err(failed)?;
        // a device that was named itself was found as a file
        if FileType::from_raw_mode(stat.st_mode) != FileType::from_raw_mode(found.mode) {
            return Err(not_a_file());
        }
        Ok(Self {
            file: Arc::new(file),
            found,
            source: source.to_vec(),
            at: 0,
            data_end: 0,
            end: found.size,
            // of a small one that takes all its room the holes are not worth two calls
            tells_holes: found.size > SMALL || occupied(&stat) < found.size,
        })
    }

    /// Whether it is a device, which tells no holes: zeros on it are as good.
    pub fn is_device(&self) -> bool {
        FileType::from_raw_mode(self.found.mode) == FileType::BlockDevice
    }

    /// The file.
    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Splits off what comes next, for another thread to read: to the next multiple of `length`
    /// bytes, or, through a hole, to the last one before data. None when there is no more; this
    /// content is then to be [`finish`](Self::finish)ed, the parts are not.
    pub fn part(&mut self, length: u64) -> Option<Self> {
        if self.at >= self.end {
            return None;
        }
        let mut end = (self.at / length + 1).saturating_mul(length);
        match seek(&self.file, SeekFrom::Data(self.at)) {
            Ok(data) => end = end.max(data / length * length),
            Err(Errno::NXIO) => end = self.end,
            // it tells no holes
            Err(_) => {}
        }
        let part = Self {
            file: self.file.clone(),
            found: self.found,
            source: self.source.clone(),
            at: self.at,
            data_end: self.at,
            end: end.min(self.end),
            tells_holes: self.tells_holes,
        };
        (self.at, self.data_end) = (part.end, part.end);
        Some(part)
    }

    /// Bytes from here to the end.
    pub fn left(&self) -> u64 {
        self.end.saturating_sub(self.at)
    }

    /// The next run, None at the end. What is unread of a data segment is passed over.
    ///
    /// # Errors
    /// The file cannot be read further.
    pub fn segment(&mut self) -> Result<Option<Segment>, Problem> {
        self.at = self.at.max(self.data_end);
        if self.at >= self.end {
            return Ok(None);
        }
        if self.tells_holes {
            match seek(&self.file, SeekFrom::Data(self.at)) {
                Ok(data) if data > self.at => return Ok(Some(self.hole(data))),
                Ok(_) => match seek(&self.file, SeekFrom::Hole(self.at)) {
                    Ok(hole) if hole > self.at => {
                        self.data_end = hole.min(self.end);
                        let length = self.data_end - self.at;
                        return Ok(Some(Segment::Data { length }));
                    }
                    _ => self.tells_holes = false,
                },
                // no data from here on: a hole to the end, or the file was cut
                Err(Errno::NXIO) => {
                    let size = fstat(&self.file).map_err(|e| self.failed(e))?.st_size;
                    self.end = self.end.min(size.cast_unsigned());
                    return Ok((self.at < self.end).then(|| self.hole(self.end)));
                }
                Err(_) => self.tells_holes = false,
            }
        }
        self.data_end = self.end;
        let length = self.end - self.at;
        Ok(Some(Segment::Data { length }))
    }

    fn hole(&mut self, end: u64) -> Segment {
        let end = end.min(self.end);
        let length = end - self.at;
        self.at = end;
        self.data_end = end;
        Segment::Hole { length }
    }

    /// The next bytes of the present data segment; 0 at its end.
    ///
    /// # Errors
    /// The file cannot be read further.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Problem> {
        let left = usize::try_from(self.data_end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        if length == 0 {
            return Ok(0);
        }
        let buffer = &mut buffer[..length];
        let read = retry_on_intr(|| pread(&self.file, &mut *buffer, self.at));
        let read = read.map_err(|errno| self.failed(errno))?;
        if read == 0 {
            // cut while it was read
            self.end = self.at;
            self.data_end = self.at;
        }
        self.at += read as u64;
        Ok(read)
    }

    /// Closes the file; a [`ProblemKind::Changed`] when it is not as it was found, and then its
    /// fingerprint is not to be trusted.
    pub fn finish(self) -> Option<Problem> {
        if self.is_device() {
            return self.in_use();
        }
        match fstat(&self.file) {
            Ok(stat) if Fingerprint::of(&stat) == self.found => None,
            Ok(_) => Some(Problem::new(
                &self.source,
                ProblemKind::Changed,
                "changed while it was read, so what was kept may mix old and new; \
                 it is read again in the next backup",
            )),
            Err(errno) => Some(self.failed(errno)),
        }
    }

    /// Of a device nothing tells whether it was written to, but who could have may hold it.
    fn in_use(&self) -> Option<Problem> {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        // open(2): of a block device this is refused while it is mounted or otherwise held
        let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC;
        match openat(CWD, path.as_str(), flags, Mode::empty()) {
            Err(Errno::BUSY) => Some(Problem::new(
                &self.source,
                ProblemKind::Changed,
                "is in use, so what was kept may mix old and new; unmount it, or name a snapshot of it",
            )),
            _ => None,
        }
    }

    fn failed(&self, errno: Errno) -> Problem {
        Problem::reading(&self.source, "cannot be read", errno)
    }
}

/// Bytes of a block device.
pub(super) fn device_length(dir: &OwnedFd, name: &[u8]) -> io::Result<u64> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let device = openat(dir, name, flags, Mode::empty())?;
    seek(&device, SeekFrom::End(0))
}

/// Opens a file that was found to be a regular one, without waiting should it be a pipe by now.
fn open_file(dir: &OwnedFd, name: &[u8], owner: u32) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY;
    match open_quietly(dir, name, flags | OFlags::NONBLOCK, owner) {
        // another program holds a lease, as file servers do, and is being asked to give way:
        // wait for it, once what would be waited for is known to be a file
        Err(Errno::AGAIN) => {
            let held = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let held = openat(dir, name, held, Mode::empty())?;
            if FileType::from_raw_mode(fstat(&held)?.st_mode) != FileType::RegularFile {
                return Err(Errno::LOOP);
            }
            let path = format!("/proc/self/fd/{}", held.as_raw_fd());
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
            openat(CWD, path.as_str(), flags, Mode::empty())
        }
        opened => opened,
    }
}

/// Opens without leaving an access time where the kernel permits that: to the owner and root.
pub(super) fn open_quietly(
    dir: &OwnedFd,
    name: &[u8],
    flags: OFlags,
    owner: u32,
) -> io::Result<OwnedFd> {
    static ME: LazyLock<Uid> = LazyLock::new(geteuid);
    if ME.is_root() || ME.as_raw() == owner {
        match openat(dir, name, flags | OFlags::NOATIME, Mode::empty()) {
            Err(Errno::PERM) => {}
            opened => return opened,
        }
    }
    openat(dir, name, flags, Mode::empty())
}
