//! The few things a save does to a disk; a seam, so that tests can die between any two of them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

pub(crate) trait Disk {
    /// Writes a file whole, readable by its owner only, and makes its content durable.
    fn write_synced(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Gives `from` the second name `to` in place of what `to` was. Nothing when `from` is absent.
    fn link_over(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames, and makes the folder durable.
    fn rename_synced(&self, from: &Path, to: &Path) -> io::Result<()>;
}

pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn write_synced(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        absent_is_fine(fs::remove_file(path))?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn link_over(&self, from: &Path, to: &Path) -> io::Result<()> {
        absent_is_fine(fs::remove_file(to))?;
        absent_is_fine(fs::hard_link(from, to))
    }

    fn rename_synced(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)?;
        let folder = to.parent().filter(|p| !p.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })
}

/// A file's bytes, at most one more than `limit`.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
