//! A directory of a file system.

use super::{File, Guard, Storage};
use nix::fcntl::{Flock, FlockArg};
use std::fs;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A datastore's directory. Nobody but its owner gets to read what is made in it.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    reads: bool,
}

impl Directory {
    /// A directory that exists.
    ///
    /// # Errors
    /// When it does not, or is no directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::open_as(path, false)
    }

    /// A directory of which files are opened for reading only, as one has them that cannot be written.
    ///
    /// # Errors
    /// As [`Directory::open`].
    pub fn open_to_read(path: &Path) -> io::Result<Self> {
        Self::open_as(path, true)
    }

    fn open_as(path: &Path, reads: bool) -> io::Result<Self> {
        if fs::metadata(path)?.is_dir() {
            Ok(Self {
                path: path.to_owned(),
                reads,
            })
        } else {
            Err(io::ErrorKind::NotADirectory.into())
        }
    }

    /// A directory, made if need be together with those above it.
    ///
    /// # Errors
    /// What the file system fails with.
    pub fn create(path: &Path) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)?;
        let this = Self::open(path)?;
        if let Some(parent) = fs::canonicalize(path)?.parent() {
            fs::File::open(parent)?.sync_all()?;
        }
        Ok(this)
    }

    fn at(&self, name: &str) -> PathBuf {
        if name.is_empty() {
            self.path.clone()
        } else {
            self.path.join(name)
        }
    }
}

impl Storage for Directory {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        Ok(Arc::new(options.open(self.at(name))?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(!self.reads);
        Ok(Arc::new(options.open(self.at(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.at(from), self.at(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.at(name))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.at(dir)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        // names that are not text are not ours
        let name =
            |entry: io::Result<fs::DirEntry>| entry.map(|e| e.file_name().into_string().ok());
        let mut names: Vec<String> = entries
            .filter_map(|e| name(e).transpose())
            .collect::<Result<_, _>>()?;
        names.sort_unstable();
        Ok(names)
    }

    fn make_dir(&self, dir: &str) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(self.at(dir))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        fs::File::open(self.at(dir))?.sync_all()
    }

    fn lock(&self) -> io::Result<Box<dyn Guard>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(!self.reads).create(!self.reads);
        options.truncate(false).mode(0o600);
        let file = match options.open(self.at("lock")) {
            // whoever wrote in it would have made one
            Err(error) if self.reads && error.kind() == io::ErrorKind::NotFound => {
                return Ok(Box::new(Unheld));
            }
            file => file?,
        };
        let how = match self.reads {
            true => FlockArg::LockSharedNonblock,
            false => FlockArg::LockExclusiveNonblock,
        };
        match Flock::lock(file, how) {
            Ok(held) if self.reads => Ok(Box::new(Held(held))),
            Ok(mut held) => {
                let name = held.set_len(0).and_then(|()| held.rewind());
                // best effort: a full disk has no room for it
                let _ = name.and_then(|()| write!(held, "{}", std::process::id()));
                Ok(Box::new(Held(held)))
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                // who only reads leaves no name, and the one that is there is of an earlier process
                if Flock::lock(file.try_clone()?, FlockArg::LockSharedNonblock).is_ok() {
                    let holder = "another process, which reads it";
                    return Err(io::Error::new(io::ErrorKind::WouldBlock, holder));
                }
                let mut text = String::new();
                (&mut file).take(20).read_to_string(&mut text)?;
                let holder = text.parse().map_or("another process".into(), process);
                Err(io::Error::new(io::ErrorKind::WouldBlock, holder))
            }
            Err((_, errno)) => Err(errno.into()),
        }
    }
}

/// A process by its number, and by the name of what runs in it as far as that is known.
fn process(number: u32) -> String {
    match fs::read_to_string(format!("/proc/{number}/comm")) {
        Ok(name) => format!("process {number} ({})", name.trim_end().escape_debug()),
        Err(_) => format!("process {number}"),
    }
}

struct Held(#[expect(dead_code, reason = "holds the lock until dropped")] Flock<fs::File>);

impl Guard for Held {}

struct Unheld;

impl Guard for Unheld {}

impl File for fs::File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match FileExt::read_at(self, &mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.metadata().map(|m| m.len())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        fs::File::set_len(self, length)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
