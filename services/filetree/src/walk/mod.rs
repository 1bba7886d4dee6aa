//! Yields a live tree's entries in snapshot order, in bounded memory.
//!
//! ```no_run
//! # use filetree::walk::{Options, Segment, Walk};
//! # fn keep(_: &format::entry::Entry) {}
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut buffer = vec![0; 1 << 20];
//! for found in Walk::new(&["/srv".into()], Options::default())? {
//!     let found = match found {
//!         Ok(found) => found,
//!         Err(problem) => { eprintln!("{problem}"); continue }
//!     };
//!     if found.is_file() {
//!         let mut content = match found.open() {
//!             Ok(content) => content,
//!             Err(problem) => { eprintln!("{problem}"); continue } // the entry is left out
//!         };
//!         while let Some(segment) = content.segment()? {
//!             match segment {
//!                 Segment::Hole { length } => println!("{length} bytes of hole"),
//!                 Segment::Data { .. } => loop {
//!                     let read = content.read(&mut buffer)?;
//!                     if read == 0 { break }
//!                 },
//!             }
//!         }
//!         if let Some(problem) = content.finish() { eprintln!("{problem}") }
//!     }
//!     keep(&found.entry);
//! }
//! # Ok(()) }
//! ```
//!
//! # How roots become snapshot paths
//!
//! Roots are resolved first: a symbolic link that is named as a root is followed, none below is.
//! *One root that is a directory* is the snapshot's root: it is the entry with the empty path, and
//! what it holds is named from there. *Several roots, or one that is a file*, are placed under
//! their absolute paths without the leading slash; the entry with the empty path is then `/`, and
//! the directories on the way are entries with their attributes but nothing else of their content.
//! A root below another root is part of that one. A *block device* that is named itself is a file with
//! what is on it; one that is met below a directory is a device.
//!
//! # What a walk holds in memory
//!
//! The sorted names of the directories it stands in, one buffer each, and one path per file with
//! several names until the last of them was seen.

mod content;
mod entry;
mod found;
mod listing;
mod owners;
mod pseudo;
mod roots;

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use format::entry::{Kind, MAX_PATH};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, openat, statat, syncfs};

use crate::dirs::{DIRECTORY, Dirs};
use crate::exclude::Pattern;
use crate::problem::{Problem, ProblemKind};

pub use content::{Content, Segment};
pub use entry::Attributes;
pub use found::{Fingerprint, Found};
pub use roots::RootError;

use content::open_quietly;
use entry::Links;
use found::At;
use listing::Names;
use roots::Roots;

/// What a walk takes and leaves.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Objects left out, with all that is below them.
    pub excludes: Vec<Pattern>,
    /// Also go into pseudo file systems (/proc, /sys, devtmpfs and their like) met below a root.
    /// Otherwise their mount points are entries without content.
    pub pseudo: bool,
    /// Stay on the file system of each root; mount points are entries without content.
    pub one_file_system: bool,
}

/// A walk over live trees: an iterator of what it finds and of problems on the way.
///
/// Entries come in exactly [`format::entry::Entry::cmp_path`] order. A directory's problem (it cannot be listed)
/// follows its entry. After a problem the walk goes on.
pub struct Walk {
    roots: Roots,
    options: Options,
    pseudo: pseudo::Devices,
    started: bool,
    dirs: Dirs<Level>,
    /// Path of the innermost directory below the snapshot's root.
    path: Vec<u8>,
    queued: VecDeque<Problem>,
    links: HashMap<(u64, u64), Links>,
    owners: owners::Owners,
    has_proc: bool,
    /// File systems that were synced.
    synced: HashSet<u64>,
    attributes: Attributes,
    listing: listing::Lister,
}

/// A directory the walk stands in.
struct Level {
    names: Names,
    /// Length of the path of the directory above.
    above: usize,
    dev: u64,
    /// On the way to several roots: only what leads to them is visited.
    way: bool,
}

impl Walk {
    /// Opens the roots; nothing below is touched yet.
    ///
    /// # Errors
    /// No root, a root that does not exist or cannot be reached, or is of another kind.
    pub fn new(roots: &[PathBuf], options: Options) -> Result<Self, RootError> {
        let roots = Roots::new(roots)?;
        let mut queued = VecDeque::new();
        let has_proc = statat(CWD, c"/proc/self/fd", AtFlags::empty()).is_ok();
        if !has_proc {
            queued.push_back(Problem::new(
                b"/proc",
                ProblemKind::Attributes,
                "is not mounted, so no extended attribute or ACL is read; mount it and back up again",
            ));
        }
        Ok(Self {
            pseudo: pseudo::Devices::new(),
            roots,
            options,
            started: false,
            dirs: Dirs::new(),
            path: Vec::new(),
            queued,
            links: HashMap::new(),
            owners: owners::Owners::new(),
            has_proc,
            synced: HashSet::new(),
            attributes: Attributes::new(has_proc),
            listing: listing::Lister::new(),
        })
    }

    /// Takes back that a file's name was seen, when the caller does not keep its entry (it could
    /// not be read): the file's next name is then its first, not a link to one that is missing.
    pub fn forget(&mut self, found: &Found) {
        let id = (found.fingerprint.dev, found.fingerprint.ino);
        if self
            .links
            .get(&id)
            .is_some_and(|links| *links.first == *found.entry.path)
        {
            self.links.remove(&id);
        }
    }

    /// Reads what [`step`](Self::step) leaves out, in whatever thread.
    pub fn attributes(&self) -> Attributes {
        Attributes::new(self.has_proc)
    }

    /// What comes next, by one look at it: extended attributes are left out.
    pub fn step(&mut self) -> Option<Result<Found, Problem>> {
        if !self.started {
            self.started = true;
            return Some(self.start());
        }
        loop {
            if let Some(problem) = self.queued.pop_front() {
                return Some(Err(problem));
            }
            let (dir, level) = self.dirs.top()?;
            let (lost, above) = (dir.is_none(), level.above);
            match level.names.next() {
                Some(_) if lost => {
                    level.names = Names::default();
                    let source = self.roots.source(&self.path);
                    let sentence = "was moved while its tree was read, the rest of what it holds \
                                    is not in the backup; back up again";
                    return Some(Err(Problem::new(
                        &source,
                        ProblemKind::Unreadable,
                        sentence,
                    )));
                }
                Some(name) => {
                    if let Some(found) = self.visit(&name) {
                        return Some(found);
                    }
                }
                None => {
                    self.dirs.leave();
                    self.path.truncate(above);
                }
            }
        }
    }

    fn start(&mut self) -> Result<Found, Problem> {
        let source = self.roots.source(b"");
        let failed = |errno| Problem::reading(&source, "cannot be opened", errno);
        let flags = DIRECTORY.difference(OFlags::NOFOLLOW);
        let fd = openat(CWD, &source[..], flags, Mode::empty()).map_err(failed)?;
        let stat = fstat(&fd).map_err(failed)?;
        Ok(self.directory(Vec::new(), fd, stat, 0))
    }

    /// The entry for an opened directory, and the way into it.
    fn directory(&mut self, path: Vec<u8>, fd: OwnedFd, stat: Stat, above: usize) -> Found {
        // a store into mapped memory moves a file's clock only if the page is clean: from here on all are
        if self.synced.insert(stat.st_dev) {
            // one that cannot be synced has no pages
            let _ = syncfs(&fd);
        }
        let source = self.roots.source(&path);
        let way = self.roots.leads_on(&path);
        let entry = self.entry(path, Kind::Directory, &stat);
        let names = if way {
            Ok(self.roots.below(&entry.path))
        } else {
            self.listing.list(&fd)
        };
        let names = names.unwrap_or_else(|errno| {
            let what = "cannot be listed in full, what is missing is not in the backup";
            self.queued
                .push_back(Problem::reading(&source, what, errno));
            Names::default()
        });
        self.path.clear();
        self.path.extend_from_slice(&entry.path);
        let level = Level {
            names,
            above,
            dev: stat.st_dev,
            way,
        };
        let fd = Arc::new(fd);
        self.dirs.enter(fd.clone(), &stat, level);
        Found::new(entry, &stat, At::Open(fd), source)
    }

    /// One name of the innermost directory. None: it is left out.
    fn visit(&mut self, name: &[u8]) -> Option<Result<Found, Problem>> {
        let above = self.path.len();
        let mut path = Vec::with_capacity(above + 1 + name.len());
        path.extend_from_slice(&self.path);
        if above > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        let source = self.roots.source(&path);
        if self.options.excludes.iter().any(|p| p.matches(&source)) {
            return None;
        }
        if path.len() > MAX_PATH {
            let sentence = format!("its path is longer than {MAX_PATH} bytes; move the tree up");
            return Some(Err(Problem::new(
                &source,
                ProblemKind::Unreadable,
                sentence,
            )));
        }
        let (dir, level) = self.dirs.top()?;
        let dir = Arc::clone(dir?);
        let (dev, way) = (level.dev, level.way);
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let mut stat = match statat(&dir, name, flags) {
            Ok(stat) => stat,
            Err(errno) => {
                return Some(Err(Problem::reading(&source, "cannot be looked at", errno)));
            }
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let mounted = stat.st_dev != dev && !way;
            return Some(self.subdirectory(path, &dir, name, stat, above, mounted, source));
        }
        let kind = self.kind(&path, &dir, name, &stat, &source);
        let kind = kind.and_then(|kind| match kind {
            Kind::BlockDevice(..) if self.roots.is_named(&path) => {
                let length = content::device_length(&dir, name);
                let what = "is a device that cannot be opened";
                let length = length.map_err(|errno| Problem::reading(&source, what, errno))?;
                if length == 0 {
                    let sentence = "is a device of 0 bytes; attach or open what is to be behind it, and back up again";
                    return Err(Problem::new(&source, ProblemKind::Unreadable, sentence));
                }
                stat.st_size = length.cast_signed();
                // it does not tell what of it is in use
                stat.st_blocks = (length / 512).cast_signed();
                Ok(Kind::File)
            }
            kind => Ok(kind),
        });
        let kind = match kind {
            Ok(kind) => kind,
            Err(problem) => return Some(Err(problem)),
        };
        let entry = self.entry(path, kind, &stat);
        Some(Ok(Found::new(entry, &stat, At::In(dir), source)))
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one visit")]
    fn subdirectory(
        &mut self,
        path: Vec<u8>,
        dir: &Arc<OwnedFd>,
        name: &[u8],
        stat: Stat,
        above: usize,
        mounted: bool,
        source: Vec<u8>,
    ) -> Result<Found, Problem> {
        let bare = |walk: &mut Self, path| {
            let entry = walk.entry(path, Kind::Directory, &stat);
            let at = At::In(Arc::clone(dir));
            Ok(Found::new(entry, &stat, at, source.clone()))
        };
        if mounted
            && (self.options.one_file_system
                || (!self.options.pseudo && self.pseudo.holds(dir, name, stat.st_dev)))
        {
            return bare(self, path);
        }
        match open_quietly(dir, name, DIRECTORY, stat.st_uid) {
            Ok(fd) => {
                let stat = fstat(&fd)
                    .map_err(|errno| Problem::reading(&source, "cannot be looked at", errno))?;
                Ok(self.directory(path, fd, stat, above))
            }
            Err(errno) => {
                let what = "cannot be opened, what it holds is not in the backup";
                self.queued
                    .push_back(Problem::reading(&source, what, errno));
                bare(self, path)
            }
        }
    }
}

impl Iterator for Walk {
    type Item = Result<Found, Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut found = self.step()?;
        if let Ok(found) = &mut found {
            self.queued.extend(self.attributes.complete(found, None));
        }
        Some(found)
    }
}
