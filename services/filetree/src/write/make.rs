//! Makes one object, new, in the innermost directory.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use format::entry::{Entry, Kind};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, chmod, fstat, linkat, makedev, mkdirat, mknodat, openat,
    statat, symlinkat, unlinkat,
};
use rustix::io::{self, Errno};
use rustix::process::geteuid;

use super::filling::Filling;
use super::report::Failure;
use super::{MAX_OPEN, MAX_PENDING, Open, Pending, Writer, held, without_content};
use crate::dirs::DIRECTORY;
use crate::path;
use crate::problem::{Problem, ProblemKind};

/// To hold an object without reading or writing it.
const HOLD: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Writer {
    pub(super) fn make(&mut self, entry: &Entry, name: &[u8]) -> Result<(), Failure> {
        match &entry.kind {
            Kind::Directory => self.enter(&entry.path, name, Some(without_content(entry))),
            Kind::File => self.make_file(entry, name),
            Kind::HardLink(first) => self.make_link(entry, name, first),
            Kind::Symlink(to) => self.make_other(entry, name, FileType::Symlink, |dir| {
                symlinkat(&to[..], dir, name)
            }),
            Kind::Fifo => self.make_node(entry, name, FileType::Fifo, 0, 0),
            Kind::Socket => self.make_node(entry, name, FileType::Socket, 0, 0),
            Kind::CharDevice(major, minor) => {
                self.make_node(entry, name, FileType::CharacterDevice, *major, *minor)
            }
            Kind::BlockDevice(major, minor) => {
                self.make_node(entry, name, FileType::BlockDevice, *major, *minor)
            }
        }
    }

    /// Goes into a directory of the innermost one, which is made when it is not there.
    pub(super) fn enter(
        &mut self,
        path: &[u8],
        name: &[u8],
        entry: Option<Entry>,
    ) -> Result<(), Failure> {
        let dir = self.dir(path)?;
        let failed = |errno| {
            self.shared
                .failure(path, "cannot be made a directory", errno)
        };
        // one with an entry gets its mode when it is left
        let mode = match entry {
            Some(_) => Mode::RWXU,
            None => Mode::from_raw_mode(0o755),
        };
        let fd = match mkdirat(&dir, name, mode) {
            Ok(()) => openat(&dir, name, DIRECTORY, Mode::empty()),
            Err(Errno::EXIST) => match open_existing(&dir, name, entry.is_some()) {
                Err(Errno::NOTDIR | Errno::LOOP) if self.options.overwrite && entry.is_some() => {
                    unlinkat(&dir, name, AtFlags::empty())
                        .and_then(|()| mkdirat(&dir, name, mode))
                        .and_then(|()| openat(&dir, name, DIRECTORY, Mode::empty()))
                }
                opened => opened,
            },
            Err(errno) => Err(errno),
        };
        let fd = fd.map_err(failed)?;
        let stat = fstat(&fd).map_err(failed)?;
        let above = self.path.len();
        let entry = self.wait(entry);
        self.dirs.enter(fd.into(), &stat, Pending { above, entry });
        self.path.clear();
        self.path.extend_from_slice(path);
        Ok(())
    }

    /// Keeps a directory's entry until it is left, unless too much is kept already.
    fn wait(&mut self, entry: Option<Entry>) -> Option<Entry> {
        let entry = entry?;
        if self.pending + held(&entry) > MAX_PENDING {
            let sentence = "is below so many directories with so many attributes that its own are not set; \
                            restore it by itself";
            let problem = Problem::new(&entry.path, ProblemKind::Attributes, sentence);
            self.shared.tell(problem);
            return None;
        }
        self.pending += held(&entry);
        Some(entry)
    }

    fn make_file(&mut self, entry: &Entry, name: &[u8]) -> Result<(), Failure> {
        let few = self.shared.wait_until(|state| state.open() < MAX_OPEN);
        few.map_err(Failure::All)?;
        let dir = self.dir(&entry.path)?;
        let create = |name: &[u8]| {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(&dir, name, flags, Mode::RUSR | Mode::WUSR)
        };
        let mut temporary = None;
        let mut created = create(name);
        if matches!(created, Err(Errno::EXIST)) && self.options.overwrite && !is_dir(&dir, name) {
            // what is there stays until its successor is complete
            for attempt in 0..1000u32 {
                let other = format!(".strongroom-{}-{attempt}", std::process::id()).into_bytes();
                created = create(&other);
                if !matches!(created, Err(Errno::EXIST)) {
                    temporary = Some(other);
                    break;
                }
            }
        }
        let fd = created.map_err(|e| self.shared.failure(&entry.path, "cannot be made", e))?;
        self.shared.open_file(self.files, &entry.path);
        let filling = Filling {
            shared: self.shared.clone(),
            dir,
            fd,
            entry: without_content(entry),
            temporary,
            number: self.files,
            progress: Default::default(),
        };
        self.files += 1;
        self.file = Some(Open { filling, at: 0 });
        Ok(())
    }

    fn make_link(&mut self, entry: &Entry, name: &[u8], first: &[u8]) -> Result<(), Failure> {
        let refused = |sentence| {
            let sentence = format!("links to a path that {sentence}");
            Failure::One(Problem::new(&entry.path, ProblemKind::Refused, sentence))
        };
        path::check(first).map_err(refused)?;
        if first.is_empty() || Entry::cmp_path(first, &entry.path).is_ge() {
            return Err(refused(
                "does not come before it; it is left out, verify the snapshot",
            ));
        }
        // under no name is there a part of a file
        let complete = self.shared.wait_until(|state| !state.is_open(first));
        complete.map_err(Failure::All)?;
        let dir = self.dir(&entry.path)?;
        let link = |root: &OwnedFd| {
            let (parent, first) = path::split(first);
            let parent = descend(root, parent)?;
            self.replacing(&dir, name, || {
                linkat(&parent, first, &dir, name, AtFlags::empty())
            })
        };
        let lost = self.shared.is(|state| state.is_lost(first));
        let linked = match self.dirs.root() {
            Some(root) if !lost => link(root),
            _ => Err(Errno::NOENT),
        };
        linked.map_err(|errno| match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => {
                let next = match lost {
                    true => "could not be restored",
                    false => "was not restored; restore that with it",
                };
                let sentence = format!("is another name of {}, which {next}", crate::shown(first));
                Failure::One(Problem::new(&entry.path, ProblemKind::Unwritten, sentence))
            }
            errno => self
                .shared
                .failure(&entry.path, "cannot be linked to its first name", errno),
        })
    }

    fn make_node(
        &mut self,
        entry: &Entry,
        name: &[u8],
        kind: FileType,
        major: u32,
        minor: u32,
    ) -> Result<(), Failure> {
        // the kernel's numbers have 12 and 20 bits; more would be another device
        if major >= 1 << 12 || minor >= 1 << 20 {
            let sentence = format!("has device number {major}:{minor}, which Linux does not have");
            return Err(Failure::One(Problem::new(
                &entry.path,
                ProblemKind::Refused,
                sentence,
            )));
        }
        self.make_other(entry, name, kind, |dir| {
            mknodat(dir, name, kind, Mode::empty(), makedev(major, minor))
        })
    }

    /// Makes what has no content, and holds it for its attributes.
    fn make_other(
        &mut self,
        entry: &Entry,
        name: &[u8],
        kind: FileType,
        make: impl Fn(&OwnedFd) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let dir = self.dir(&entry.path)?;
        let held = self
            .replacing(&dir, name, || make(&dir))
            .and_then(|()| openat(&dir, name, HOLD, Mode::empty()));
        let held = held.map_err(|e| self.shared.failure(&entry.path, "cannot be made", e))?;
        let stat =
            fstat(&held).map_err(|e| self.shared.failure(&entry.path, "cannot be made", e))?;
        if FileType::from_raw_mode(stat.st_mode) != kind || stat.st_nlink != 1 {
            let sentence = "was replaced by another program while it was restored";
            return Err(Failure::One(Problem::new(
                &entry.path,
                ProblemKind::Unwritten,
                sentence,
            )));
        }
        self.shared.apply(held.as_fd(), entry).map_err(Failure::All)
    }

    /// Makes something where nothing is, or nothing any more when that is asked for.
    fn replacing(
        &self,
        dir: &OwnedFd,
        name: &[u8],
        make: impl Fn() -> io::Result<()>,
    ) -> io::Result<()> {
        match make() {
            Err(Errno::EXIST) if self.options.overwrite => {
                unlinkat(dir, name, AtFlags::empty())?;
                make()
            }
            made => made,
        }
    }
}

fn is_dir(dir: &OwnedFd, name: &[u8]) -> bool {
    statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// Opens a directory that is there. One whose mode is to be set anyway is made usable first, as a
/// user may have directories they themselves may not write.
fn open_existing(dir: &OwnedFd, name: &[u8], usable: bool) -> io::Result<OwnedFd> {
    if usable && !geteuid().is_root() {
        let held = openat(dir, name, HOLD | OFlags::DIRECTORY, Mode::empty())?;
        let stat = fstat(&held)?;
        if stat.st_uid == geteuid().as_raw() && stat.st_mode & 0o700 != 0o700 {
            chmod(
                format!("/proc/self/fd/{}", held.as_raw_fd()).as_str(),
                Mode::from_raw_mode(stat.st_mode | 0o700),
            )?;
        }
    }
    openat(dir, name, DIRECTORY, Mode::empty())
}

/// Holds a directory below the root, without a step through a symbolic link.
fn descend(root: &OwnedFd, path: &[u8]) -> io::Result<OwnedFd> {
    let step =
        |dir: &OwnedFd, name: &[u8]| openat(dir, name, HOLD | OFlags::DIRECTORY, Mode::empty());
    let mut dir = step(root, b".")?;
    for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
        dir = step(&dir, name)?;
    }
    Ok(dir)
}
