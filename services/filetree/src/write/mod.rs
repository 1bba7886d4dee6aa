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
mod make;
mod report;

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use format::entry::{Entry, Kind};
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, fstat, ftruncate, openat, renameat, syncfs, unlinkat,
};
use rustix::io::{Errno, pwrite, retry_on_intr};

use crate::dirs::{DIRECTORY, Dirs};
use crate::path;
use crate::problem::{Problem, ProblemKind};

pub use report::{MAX_PROBLEMS, Report, WriteError};

use report::Failure;

/// How to treat what is there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The target may hold something: directories are merged, anything else is replaced. Otherwise
    /// it must not exist or be empty (but for `lost+found`).
    pub overwrite: bool,
}

/// Writes entries below a target directory.
pub struct Writer {
    target: PathBuf,
    options: Options,
    dirs: Dirs<Pending>,
    /// Path of the innermost directory below the target.
    path: Vec<u8>,
    /// Path of the entry before.
    last: Option<Vec<u8>>,
    file: Option<OpenFile>,
    report: Report,
    /// What is reported once, not for every entry it befalls.
    told: HashSet<String>,
    /// Bytes of the problems in the report.
    told_bytes: usize,
    /// Bytes of the entries that wait in `dirs`.
    pending: usize,
    /// New objects may get attributes from their directory that their entries do not have.
    inherits: bool,
    xattrs: crate::xattrs::Xattrs,
}

/// Most bytes of entries of directories that wait for their attributes at the same time. A snapshot
/// made to harm could have tens of thousands below each other, each with megabytes.
const MAX_PENDING: usize = 64 << 20;

/// A directory that waits for its attributes until it is left.
struct Pending {
    /// Length of the path of the directory above.
    above: usize,
    entry: Option<Entry>,
}

struct OpenFile {
    fd: OwnedFd,
    entry: Entry,
    at: u64,
    /// Its name until it replaces what has its own.
    temporary: Option<Vec<u8>>,
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
        dirs.enter(fd.into(), &stat, pending);
        Ok(Self {
            target: target.to_path_buf(),
            options,
            dirs,
            path: Vec::new(),
            last: None,
            file: None,
            report: Report::default(),
            told: HashSet::new(),
            told_bytes: 0,
            pending: 0,
            inherits,
            xattrs,
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
        self.settle(made)
    }

    /// Appends bytes to the open file.
    ///
    /// # Errors
    /// What stops the restore.
    pub fn data(&mut self, mut bytes: &[u8]) -> Result<(), WriteError> {
        while let Some(file) = self.file.as_mut().filter(|_| !bytes.is_empty()) {
            match retry_on_intr(|| pwrite(&file.fd, bytes, file.at)) {
                Ok(written) => {
                    file.at += written as u64;
                    self.report.bytes += written as u64;
                    bytes = &bytes[written..];
                }
                Err(errno) => return self.drop_file(errno),
            }
        }
        Ok(())
    }

    /// Appends `length` zeros that take no space to the open file.
    ///
    /// # Errors
    /// What stops the restore.
    pub fn hole(&mut self, length: u64) -> Result<(), WriteError> {
        let Some(file) = self.file.as_mut() else {
            return Ok(());
        };
        match file
            .at
            .checked_add(length)
            .filter(|at| i64::try_from(*at).is_ok())
        {
            Some(at) => {
                file.at = at;
                Ok(())
            }
            None => self.drop_file(Errno::FBIG),
        }
    }

    /// Completes the open file, if any: its length, attributes and place.
    ///
    /// # Errors
    /// What stops the restore.
    pub fn end(&mut self) -> Result<(), WriteError> {
        let Some(file) = self.file.take() else {
            return Ok(());
        };
        let ended = self.end_file(&file);
        match ended {
            Ok(()) => self.report.entries += 1,
            Err(_) => self.remove_file(&file),
        }
        self.settle(ended)
    }

    /// Gives the open file up, because its content cannot be had; nothing of it stays.
    pub fn abandon(&mut self, sentence: &str) {
        if let Some(file) = self.file.take() {
            self.remove_file(&file);
            self.tell(Problem::new(
                &file.entry.path,
                ProblemKind::Unwritten,
                sentence,
            ));
        }
    }

    /// Gives the directories their attributes, and waits until all is on disk.
    ///
    /// # Errors
    /// What stops the restore.
    pub fn finish(mut self) -> Result<Report, WriteError> {
        self.end()?;
        self.go_to(b"")
            .or_else(|failure| self.settle(Err(failure)))?;
        if let Some(root) = self.dirs.top().and_then(|(root, _)| root.cloned()) {
            self.leave()?;
            let synced = syncfs(&root);
            let synced = synced.map_err(|e| self.failure(b"", "cannot be written to disk", e));
            self.settle(synced)?;
        }
        Ok(std::mem::take(&mut self.report))
    }

    /// What was done until now.
    pub fn report(&self) -> &Report {
        &self.report
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
        self.report.entries += u64::from(self.file.is_none());
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

    /// Leaves the innermost directory and gives it its attributes.
    fn leave(&mut self) -> Result<(), WriteError> {
        let Some((fd, pending)) = self.dirs.top() else {
            return Ok(());
        };
        let (fd, above) = (fd.cloned(), pending.above);
        if let Some(entry) = pending.entry.take() {
            self.pending -= held(&entry);
            match fd {
                Some(fd) => self.apply(fd.as_fd(), &entry)?,
                None => self.tell(Problem::new(
                    &entry.path,
                    ProblemKind::Attributes,
                    "was moved while it was restored, so its mode and times are not set; restore it again",
                )),
            }
        }
        self.dirs.leave();
        self.path.truncate(above);
        Ok(())
    }

    fn end_file(&mut self, file: &OpenFile) -> Result<(), Failure> {
        let path = &file.entry.path;
        ftruncate(&file.fd, file.at)
            .map_err(|e| self.failure(path, "cannot be given its length", e))?;
        if file.at != file.entry.size {
            let sentence = format!(
                "has {} bytes where its entry says {}; verify the snapshot",
                file.at, file.entry.size
            );
            self.tell(Problem::new(path, ProblemKind::Unwritten, sentence));
        }
        self.apply(file.fd.as_fd(), &file.entry)
            .map_err(Failure::All)?;
        if let Some(temporary) = &file.temporary {
            let dir = self.dir(path)?;
            let name = path::split(path).1;
            renameat(&dir, &temporary[..], &dir, name)
                .map_err(|e| self.failure(path, "cannot take the place of what is there", e))?;
        }
        Ok(())
    }

    /// The open file cannot be written further.
    fn drop_file(&mut self, errno: Errno) -> Result<(), WriteError> {
        let Some(file) = self.file.take() else {
            return Ok(());
        };
        self.remove_file(&file);
        let failure = self.failure(&file.entry.path, "cannot be written", errno);
        self.settle(Err(failure))
    }

    fn remove_file(&mut self, file: &OpenFile) {
        let own = path::split(&file.entry.path).1;
        let name = file.temporary.as_deref().unwrap_or(own);
        if let Ok(dir) = self.dir(&file.entry.path) {
            // the failure that led here is the one to report
            let _ = unlinkat(&dir, name, AtFlags::empty());
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            self.remove_file(&file);
        }
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
