//! Makes a tree of entries again, and never writes outside its target.
//!
//! ```no_run
//! # use filetree::write::{Options, Writer};
//! # fn entries() -> Vec<format::entry::Entry> { vec![] }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut writer = Writer::new("/restore".as_ref(), Options::default())?;
//! for entry in entries() {
//!     writer.begin(&entry)?;
//!     writer.data(b"for files only, as often as needed")?;
//!     writer.hole(1 << 20)?;
//!     writer.end()?;
//! }
//! let report = writer.finish()?;
//! for problem in &report.problems { eprintln!("{problem}") }
//! # Ok(()) }
//! ```
//!
//! An entry that cannot be written is a [`Problem`] in the [`Report`] and the rest goes on: its
//! data is then taken and dropped. Only what stops everything (a full disk, a device that fails)
//! is an error, after which the writer is of no more use. A file left open when the writer is
//! dropped is removed: under its name there is all of a file, or nothing.
//!
//! Files can be handed out to be filled by other threads ([`Writer::hand_out`]) while the next entries
//! are made. A directory gets its attributes when all that was begun in it is complete, a hard link is
//! made when its first name is. The disk works on what is written all the while, not only at the end.
//!
//! # Order
//!
//! Entries come in [`Entry::cmp_path`] order, each path once; others are refused. Directories that
//! have no entry of their own (a part of a tree is restored) are made with mode 0755. A hard
//! link's first name must have been written by this writer or be there already.
//!
//! # What keeps it inside
//!
//! Every call is relative to an open directory and takes one step from there, never through a
//! symbolic link, whoever made it. Paths that are absolute, or hold `..`, `.`, an empty part or a
//! NUL, are refused. Files are made new, never opened: with [`Options::overwrite`] a file takes
//! the place of what was there when it is complete.
//!
//! # Attributes
//!
//! Owner, then extended attributes with ACLs, then mode, then time; a directory's when it is left.
//! Owners are numeric. Where the owner cannot be set the set-id bits are not either.

mod attributes;
mod filling;
mod make;
mod report;
mod shared;

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use format::entry::{Entry, Kind};
use rustix::fs::{CWD, Mode, OFlags, fstat, openat, syncfs};
use rustix::io::Errno;

use crate::dirs::{DIRECTORY, Dirs};
use crate::path;
use crate::problem::{Problem, ProblemKind};

pub use filling::Filling;
pub use report::{MAX_PROBLEMS, Report, WriteError};

use report::Failure;
use shared::Shared;

/// How to treat what is there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The target may hold something: directories are merged, anything else is replaced. Otherwise
    /// it must not exist or be empty (but for `lost+found`).
    pub overwrite: bool,
}

/// Writes entries below a target directory.
pub struct Writer {
    options: Options,
    dirs: Dirs<Pending>,
    /// Path of the innermost directory below the target.
    path: Vec<u8>,
    /// Path of the entry before.
    last: Option<Vec<u8>>,
    file: Option<Open>,
    /// How many files were begun.
    files: u64,
    /// Directories that were left and wait for files to be complete, in that order.
    left: VecDeque<Left>,
    /// Bytes of the entries that wait in `dirs` and `left`.
    pending: usize,
    shared: Arc<Shared>,
}

/// Most files that are not complete, and most directories that wait for them. Each takes two
/// descriptors at most, of the 1024 that a process may have.
const MAX_OPEN: usize = 128;

/// Most bytes of entries of directories that wait for their attributes at the same time. A snapshot
/// made to harm could have tens of thousands below each other, each with megabytes.
const MAX_PENDING: usize = 64 << 20;

/// A directory that waits for its attributes until it is left.
struct Pending {
    /// Length of the path of the directory above.
    above: usize,
    entry: Option<Entry>,
}

/// A directory that was left.
struct Left {
    fd: Arc<OwnedFd>,
    entry: Entry,
    /// It waits for the files before this one.
    files: u64,
}

/// The file that is written here.
struct Open {
    filling: Filling,
    at: u64,
}

impl Writer {
    /// Opens the target, and makes it when it does not exist. A target that is named through
    /// symbolic links is taken where they lead.
    ///
    /// # Errors
    /// [`WriteError::NotEmpty`], or the target cannot be made or opened.
    pub fn new(target: &Path, options: Options) -> Result<Self, WriteError> {
        let failed = |source| WriteError::Target {
            path: target.to_path_buf(),
            source,
        };
        std::fs::create_dir_all(target).map_err(failed)?;
        let flags = DIRECTORY.difference(OFlags::NOFOLLOW);
        let fd = openat(CWD, target, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
        if !options.overwrite {
            for name in std::fs::read_dir(target).map_err(failed)? {
                if name.map_err(failed)?.file_name() != "lost+found" {
                    return Err(WriteError::NotEmpty(target.to_path_buf()));
                }
            }
        }
        let mut xattrs = crate::xattrs::Xattrs::new();
        let inherits = options.overwrite
            || xattrs
                .read(crate::xattrs::Place::Open(fd.as_fd()))
                .is_ok_and(|all| all.iter().any(|x| x.name == b"system.posix_acl_default"));
        let mut dirs = Dirs::new();
        let pending = Pending {
            above: 0,
            entry: None,
        };
        let stat = fstat(&fd).map_err(|e| failed(e.into()))?;
        let shared = Shared::new(target.to_path_buf(), &fd, inherits, xattrs);
        let shared = shared.map_err(|e| failed(e.into()))?;
        dirs.enter(fd.into(), &stat, pending);
        Ok(Self {
            options,
            dirs,
            path: Vec::new(),
            last: None,
            file: None,
            files: 0,
            left: VecDeque::new(),
            pending: 0,
            shared: Arc::new(shared),
        })
    }

    /// Makes the entry; a file is then open for [`data`](Self::data) and [`hole`](Self::hole)
    /// until [`end`](Self::end). A file left open is ended first.
    ///
    /// # Errors
    /// What stops the restore.
    pub fn begin(&mut self, entry: &Entry) -> Result<(), WriteError> {
        self.end()?;
        let made = self.begin_entry(entry);
        if made.is_err() {
            self.shared.lose(&entry.path);
        }
        self.shared.settle(made)
    }

    /// The file that was just begun, to be filled elsewhere while the next entries are begun; none where
    /// the entry is none, or could not be made. What befalls it is told by this writer.
    pub fn hand_out(&mut self) -> Option<Filling> {
        self.file.take().map(|file| file.filling)
    }

    /// Appends bytes to the open file.
    ///
    /// # Errors
    /// What stops the restore.
    pub fn data(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        if let Some(Open { filling, at }) = &mut self.file {
            filling.write(bytes, *at);
            *at += bytes.len() as u64;
            return self.drop_failed();
        }
        Ok(())
    }

    /// Appends `length` zeros that take no space to the open file.
    ///
    /// # Errors
    /// What stops the restore.
    pub fn hole(&mut self, length: u64) -> Result<(), WriteError> {
        let Some(Open { filling, at }) = &mut self.file else {
            return Ok(());
        };
        let end = at.checked_add(length);
        match end.filter(|at| i64::try_from(*at).is_ok()) {
            Some(end) => *at = end,
            None => filling.fail("cannot be written", Errno::FBIG),
        }
        self.drop_failed()
    }

    /// Completes the open file, if any: its length, attributes and place.
    ///
    /// # Errors
    /// What stops the restore.
    pub fn end(&mut self) -> Result<(), WriteError> {
        if let Some(Open { filling, at }) = self.file.take() {
            filling.complete(at);
        }
        self.shared.go_on()
    }

    /// Gives the open file up, because its content cannot be had; nothing of it stays.
    pub fn abandon(&mut self, sentence: &str) {
        if let Some(file) = self.file.take() {
            file.filling.abandon(sentence);
        }
    }

    /// Waits for the files that were handed out, gives the directories their attributes, and waits until
    /// all is on disk.
    ///
    /// # Errors
    /// What stops the restore.
    pub fn finish(mut self) -> Result<Report, WriteError> {
        self.end()?;
        let left = self.go_to(b"");
        self.shared.settle(left)?;
        if let Some(root) = self.dirs.top().and_then(|(root, _)| root.cloned()) {
            self.leave()?;
            while !self.left.is_empty() {
                self.wait_for_left()?;
            }
            self.shared.wait_until(|state| state.open() == 0)?;
            self.shared.end_sync();
            let synced = syncfs(&root);
            let synced =
                synced.map_err(|e| self.shared.failure(b"", "cannot be written to disk", e));
            self.shared.settle(synced)?;
        }
        Ok(self.shared.report())
    }

    fn begin_entry(&mut self, entry: &Entry) -> Result<(), Failure> {
        let refused = |sentence: &str| {
            Failure::One(Problem::new(&entry.path, ProblemKind::Refused, sentence))
        };
        path::check(&entry.path).map_err(refused)?;
        if let Some(last) = &self.last
            && Entry::cmp_path(last, &entry.path).is_ge()
        {
            return Err(refused(
                "comes out of order or twice, as in no snapshot; it is left out, verify the snapshot",
            ));
        }
        self.last = Some(entry.path.clone());
        let (parent, name) = path::split(&entry.path);
        self.go_to(parent)?;
        if name.is_empty() {
            if entry.kind != Kind::Directory {
                return Err(refused(
                    "is the snapshot's root but no directory; it is left out",
                ));
            }
            self.pending += held(entry);
            if let Some((_, pending)) = self.dirs.top() {
                pending.entry = Some(without_content(entry));
            }
        } else {
            self.make(entry, name)?;
        }
        // a file counts when it is complete
        if self.file.is_none() {
            self.shared.count_entry();
        }
        Ok(())
    }

    /// Goes to a directory below the target: out of those it is not in, into those it is in.
    fn go_to(&mut self, parent: &[u8]) -> Result<(), Failure> {
        while !path::is_at_or_below(parent, &self.path) {
            self.leave().map_err(Failure::All)?;
        }
        while self.path.len() < parent.len() {
            let at = self.path.len() + usize::from(!self.path.is_empty());
            let end = parent[at..].iter().position(|b| *b == b'/');
            let end = end.map_or(parent.len(), |length| at + length);
            self.enter(&parent[..end], &parent[at..end], None)?;
        }
        Ok(())
    }

    /// The innermost directory.
    fn dir(&mut self, path: &[u8]) -> Result<Arc<OwnedFd>, Failure> {
        match self.dirs.top() {
            Some((Some(fd), _)) => Ok(Arc::clone(fd)),
            _ => {
                let sentence = "its directory was moved while it was restored; restore it again";
                Err(Failure::One(Problem::new(
                    path,
                    ProblemKind::Unwritten,
                    sentence,
                )))
            }
        }
    }

    /// Leaves the innermost directory, which gets its attributes as soon as it may.
    fn leave(&mut self) -> Result<(), WriteError> {
        let Some((fd, pending)) = self.dirs.top() else {
            return Ok(());
        };
        let (fd, above) = (fd.cloned(), pending.above);
        if let Some(entry) = pending.entry.take() {
            let files = self.files;
            match fd {
                Some(fd) => self.left.push_back(Left { fd, entry, files }),
                None => {
                    self.pending -= held(&entry);
                    self.shared.tell(Problem::new(
                        &entry.path,
                        ProblemKind::Attributes,
                        "was moved while it was restored, so its mode and times are not set; restore it again",
                    ));
                }
            }
        }
        self.dirs.leave();
        self.path.truncate(above);
        while self.left.front().is_some_and(|left| {
            self.left.len() > MAX_OPEN || self.shared.is(|state| state.complete(left.files))
        }) {
            self.wait_for_left()?;
        }
        Ok(())
    }

    /// Gives the first directory that waits its attributes.
    fn wait_for_left(&mut self) -> Result<(), WriteError> {
        let Some(Left { fd, entry, files }) = self.left.pop_front() else {
            return Ok(());
        };
        self.pending -= held(&entry);
        self.shared.wait_until(|state| state.complete(files))?;
        self.shared.apply(fd.as_fd(), &entry)
    }

    /// The open file is of no more use when it could not be written.
    fn drop_failed(&mut self) -> Result<(), WriteError> {
        if self
            .file
            .as_ref()
            .is_some_and(|file| file.filling.has_failed())
        {
            self.file = None;
        }
        self.shared.go_on()
    }
}

/// Bytes in memory for an entry that is kept.
fn held(entry: &Entry) -> usize {
    let xattrs = entry
        .xattrs
        .iter()
        .map(|x| x.name.len() + x.value.len() + 48);
    size_of::<Entry>() + entry.path.len() + xattrs.sum::<usize>()
}

fn without_content(entry: &Entry) -> Entry {
    Entry {
        content: Vec::new(),
        ..entry.clone()
    }
}
