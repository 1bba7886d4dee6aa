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
/// what is damaged.
pub(super) struct Patient {
    pub(super) file: Arc<dyn File>,
    pub(super) name: String,
    pub(super) unread: Unread,
}

impl File for Patient {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if let Ok(count) = self.file.read_at(buffer, offset) {
            return Ok(count);
        }
        // the second try, of each by itself
        let (mut count, length) = (0, buffer.len());
        while count < length {
            let at = offset + count as u64;
            let sector = (SECTOR - at % SECTOR) as usize;
            let part = &mut buffer[count..length.min(count + sector)];
            count += match self.file.read_at(part, at) {
                Ok(0) => break,
                Ok(read) => read,
                Err(_) => {
                    let mut unread = locked(&self.unread);
                    let first = unread.entry(self.name.clone()).or_insert(at);
                    *first = at.min(*first);
                    part.fill(0);
                    part.len()
                }
            };
        }
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}
