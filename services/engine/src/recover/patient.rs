//! Packs on a disk with places that cannot be read.

use crate::core::locked;
use crate::storage::File;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

/// What a disk reads at a time, bytes.
const SECTOR: u64 = 4096;

/// The first place of each pack that could not be read.
pub(crate) type Unread = Arc<Mutex<BTreeMap<String, u64>>>;

/// A pack of which sectors that cannot be read at a second try read as zeros: then no check holds, as of
/// what is damaged. One that cannot be opened is empty.
pub(super) struct Patient {
    file: Option<Arc<dyn File>>,
    /// By `file` when it was opened.
    length: u64,
    name: String,
    unread: Unread,
}

impl Patient {
    pub(super) fn new(
        open: impl Fn() -> io::Result<Arc<dyn File>>,
        name: String,
        unread: Unread,
    ) -> Self {
        let once = || open().and_then(|file| Ok((file.len()?, file)));
        let (length, file) = match once().or_else(|_| once()) {
            Ok((length, file)) => (length, Some(file)),
            Err(_) => (0, None),
        };
        let this = Self {
            file,
            length,
            name,
            unread,
        };
        if this.file.is_none() {
            this.note(0);
        }
        this
    }

    fn note(&self, at: u64) {
        let mut unread = locked(&self.unread);
        let first = unread.entry(self.name.clone()).or_insert(at);
        *first = at.min(*first);
    }
}

impl File for Patient {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let Some(file) = &self.file else {
            return Ok(0);
        };
        if let Ok(count) = file.read_at(buffer, offset) {
            return Ok(count);
        }
        // the second try, of each by itself
        let left = self.length.saturating_sub(offset);
        let (mut count, length) = (0, buffer.len().min(left as usize));
        while count < length {
            let at = offset + count as u64;
            let sector = (SECTOR - at % SECTOR) as usize;
            let part = &mut buffer[count..length.min(count + sector)];
            count += match file.read_at(part, at) {
                Ok(0) => break,
                Ok(read) => read,
                Err(_) => {
                    self.note(at);
                    part.fill(0);
                    part.len()
                }
            };
        }
        Ok(count)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.length)
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
