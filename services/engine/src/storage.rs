//! The lowest seam: named files in a few directories, and when what was written to them is
//! durable. [`directory`] is a directory of a file system, [`simulated`] a file system in memory
//! that loses power; [`read_only`] changes nothing of another one, [`hooked`] tells of the calls to any.

pub mod directory;
pub mod hooked;
pub mod read_only;
pub mod simulated;

use std::io;
use std::sync::Arc;

/// An open file. Reads and writes name their place, so threads share one.
pub trait File: Send + Sync {
    /// Reads up to `buffer.len()` bytes at `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// What the file system fails with.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`, lengthening the file if need be.
    ///
    /// # Errors
    /// What the file system fails with; part may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Length of the file, bytes.
    ///
    /// # Errors
    /// What the file system fails with.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file holds nothing.
    ///
    /// # Errors
    /// As [`File::len`].
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|length| length == 0)
    }

    /// Cuts the file off or lengthens it by zeros.
    ///
    /// # Errors
    /// What the file system fails with.
    fn set_len(&self, length: u64) -> io::Result<()>;

    /// Returns when the file's bytes and length survive a power cut. Its name is another matter:
    /// [`Storage::sync_dir`].
    ///
    /// # Errors
    /// What the file system fails with; then nothing is known of what is durable.
    fn sync(&self) -> io::Result<()>;
}

/// Holds a datastore for one process until dropped.
pub trait Guard: Send + Sync {}

/// Files by name. Names are made by the engine: `directory/file` or `file`, of plain ASCII.
pub trait Storage: Send + Sync + 'static {
    /// What to call this place in sentences.
    fn place(&self) -> String;

    /// Makes a new file for reading and writing.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`], or what the file system fails with.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Opens a file that exists, for reading and writing.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], or what the file system fails with.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Gives a file another name, replacing the file of that name, atomically.
    ///
    /// # Errors
    /// What the file system fails with.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// What the file system fails with.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Names of what is in a directory (without the directory's), sorted; none when it is absent.
    ///
    /// # Errors
    /// What the file system fails with.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// Makes a directory unless it is there.
    ///
    /// # Errors
    /// What the file system fails with.
    fn make_dir(&self, dir: &str) -> io::Result<()>;

    /// Returns when every name made, changed or removed in this directory (`""` for the topmost)
    /// survives a power cut.
    ///
    /// # Errors
    /// What the file system fails with.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// Whether what is written is there for the next process.
    fn keeps(&self) -> bool {
        true
    }

    /// Takes the datastore for this process.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] with a text saying who has it, or what the file system fails
    /// with.
    fn lock(&self) -> io::Result<Box<dyn Guard>>;
}

/// Reads exactly `length` bytes.
pub(crate) fn read_exact(file: &dyn File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; length];
    let count = file.read_at(&mut buffer, offset)?;
    if count == length {
        Ok(buffer)
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}
