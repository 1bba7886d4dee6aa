//! Reading a restored tree again: is every file there, with the bytes the snapshot names?
//!
//! Digests are computed from what the disk gives back, not from what was written: the kernel is
//! asked to forget its copy of each file first, which it does for what has reached the disk.

use anyhow::Result;
use engine::{Progress, Store};
use format::SnapshotId;
use format::entry::{Entry, Extent, Kind};
use format::leaf::Content;
use rustix::fs::{Advice, Mode, OFlags, fadvise, open, openat};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::Path;

/// What was read again.
#[derive(Default)]
pub(super) struct Reread {
    pub(super) files: u64,
    /// Of data, without the holes.
    pub(super) bytes: u64,
    /// Files that are not as the snapshot has them.
    pub(super) different: u64,
    /// A sentence for each of the first 10,000 of these.
    pub(super) differences: Vec<String>,
}

/// Compares the files below `target` with the snapshot's.
pub(super) fn compare(
    store: &Store,
    id: SnapshotId,
    below: &[u8],
    target: &Path,
    progress: &Progress,
) -> Result<Reread> {
    let target = open(target, DIRECTORY, Mode::empty()).map_err(io::Error::from)?;
    let mut done = Reread::default();
    let mut buffer = vec![0; format::frame::MAX_PLAIN];
    for item in store.entries(id, below)? {
        // told by the restore itself
        let Ok((entry, content)) = item else { break };
        progress.check()?;
        if entry.kind != Kind::File {
            continue;
        }
        done.files += 1;
        let same = file_at(&target, &entry.path)
            .map_err(|e| format!("cannot be read again ({e}); restore it again"))
            .and_then(|file| matches(store, &entry, &content, file, &mut buffer, progress));
        match same {
            Ok(bytes) => done.bytes += bytes,
            Err(_) if progress.check().is_err() => break,
            Err(sentence) => {
                done.different += 1;
                if done.differences.len() < filetree::write::MAX_PROBLEMS {
                    let path = filetree::shown(&entry.path);
                    done.differences.push(format!("{path}: {sentence}"));
                }
            }
        }
    }
    progress.check()?;
    Ok(done)
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// Opens a file step by step, through no symbolic link.
fn file_at(target: &OwnedFd, path: &[u8]) -> io::Result<File> {
    let mut dir = target.try_clone()?;
    let (above, name) = match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&b""[..], path),
    };
    for step in above.split(|b| *b == b'/').filter(|s| !s.is_empty()) {
        dir = openat(&dir, step, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(&dir, name, flags, Mode::empty())?);
    // advice: a file system that does not take it serves the read from memory
    let _ = fadvise(&file, 0, None, Advice::DontNeed);
    Ok(file)
}

/// Holds a file against its entry; answers its bytes of data.
fn matches(
    store: &Store,
    entry: &Entry,
    content: &Content,
    mut file: File,
    buffer: &mut [u8],
    progress: &Progress,
) -> Result<u64, String> {
    let length = file.metadata().map_err(|e| e.to_string())?.len();
    if length != entry.size {
        return Err(format!(
            "has {length} bytes on the disk, {} in the snapshot; restore it again",
            entry.size
        ));
    }
    let mut extents = store.pieces(entry, content).map_err(|e| e.to_string())?;
    let (mut at, mut bytes) = (0, 0);
    while let Some(extent) = extents.next_extent().map_err(|e| e.to_string())? {
        progress.check().map_err(|e| e.to_string())?;
        let data = format::extents::data_of(&extent);
        let (same, length) = match extent {
            Extent::Data { digest, length } => {
                let piece = &mut buffer[..length as usize];
                file.read_exact(piece).map_err(|e| e.to_string())?;
                let found = store.digest_of(piece).map_err(|e| e.to_string())?;
                (found == digest, u64::from(length))
            }
            Extent::Hole { length } => (
                hole(&mut file, at, length, buffer).map_err(|e| e.to_string())?,
                length,
            ),
        };
        if !same {
            return Err(format!(
                "has other bytes on the disk than in the snapshot, from byte {at} on; restore it again, \
                 and check the disk if it happens again"
            ));
        }
        at += length;
        bytes += data;
        progress.add_bytes(data);
    }
    Ok(bytes)
}

/// Whether a stretch reads as zeros; what the file system says is a hole is taken at its word.
fn hole(file: &mut File, mut at: u64, length: u64, buffer: &mut [u8]) -> io::Result<bool> {
    let end = at + length;
    while at < end {
        at = match rustix::fs::seek(&*file, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => data.min(end),
            Err(rustix::io::Errno::NXIO) => end,
            Err(_) => at,
        };
        file.seek(SeekFrom::Start(at))?;
        let room = buffer.len().min((end - at) as usize);
        file.read_exact(&mut buffer[..room])?;
        if !chunking::is_zero(&buffer[..room]) {
            return Ok(false);
        }
        at += room as u64;
    }
    Ok(true)
}
