//! The sorted names of a directory.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::RawDir;
use rustix::io::{self, Errno};

/// Names in order, in one buffer: a directory of millions costs little more than their bytes.
#[derive(Default)]
pub(super) struct Names {
    bytes: Vec<u8>,
    /// Where each name begins and how long it is, in the order of the names.
    index: Vec<(u64, u16)>,
    next: usize,
}

impl Names {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Adds a name; longer than the kernel's names cannot be.
    pub(super) fn push(&mut self, name: &[u8]) {
        if let Ok(length) = u16::try_from(name.len()) {
            self.index.push((self.bytes.len() as u64, length));
            self.bytes.extend_from_slice(name);
        }
    }

    pub(super) fn sort(&mut self) {
        let bytes = &self.bytes;
        self.index.sort_unstable_by_key(|at| slice(bytes, *at));
        self.index.dedup_by_key(|at| slice(bytes, *at));
    }

    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        let at = *self.index.get(self.next)?;
        self.next += 1;
        Some(slice(&self.bytes, at).to_vec())
    }
}

fn slice(bytes: &[u8], (start, length): (u64, u16)) -> &[u8] {
    let start = start as usize;
    &bytes[start..start + usize::from(length)]
}

/// Lists directories with a buffer it keeps.
pub(super) struct Lister {
    buffer: Vec<MaybeUninit<u8>>,
}

impl Lister {
    pub(super) fn new() -> Self {
        Self {
            buffer: vec![MaybeUninit::uninit(); 64 * 1024],
        }
    }

    /// All names of the directory but `.` and `..`, sorted bytewise.
    pub(super) fn list(&mut self, dir: &OwnedFd) -> io::Result<Names> {
        let mut names = Names::new();
        let mut reader = RawDir::new(dir, &mut self.buffer);
        while let Some(entry) = reader.next() {
            match entry {
                Ok(entry) => match entry.file_name().to_bytes() {
                    b"." | b".." => {}
                    name => names.push(name),
                },
                Err(Errno::INTR) => {}
                // removed since it was opened: what it held is gone
                Err(Errno::NOENT) => break,
                Err(errno) => return Err(errno),
            }
        }
        names.sort();
        Ok(names)
    }
}
