//! What the indexes of all datastores of a process may keep in memory, together.

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a page is about, and which of it.
type Key = (u64, u64);

#[derive(Clone)]
struct Weight;

impl Weighter<Key, Arc<[u8]>> for Weight {
    fn weight(&self, _: &Key, page: &Arc<[u8]>) -> u64 {
        // with what the cache itself needs for it
        page.len() as u64 + 128
    }
}

/// A bounded cache of pages of index files, shared by every datastore that is opened with it; what
/// was not used for long goes first, whosever it is. So the number of open datastores does not
/// matter, and an idle one costs next to nothing.
pub struct Memory {
    pages: Cache<Key, Arc<[u8]>, Weight>,
    /// Numbers given out to files.
    files: AtomicU64,
}

impl Memory {
    /// With room for so many bytes. Full speed takes about 1.5 bytes for each chunk that is stored.
    pub fn new(bytes: u64) -> Arc<Self> {
        let pages = usize::try_from(bytes / 4096).unwrap_or(usize::MAX);
        Arc::new(Self {
            pages: Cache::with_weighter(pages, bytes, Weight),
            files: AtomicU64::new(0),
        })
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.pages.weight()
    }

    /// A number by which pages of one more file are told from others'.
    pub(crate) fn number(&self) -> u64 {
        self.files.fetch_add(1, Relaxed)
    }

    /// A page, read if it is not here; by one of those who want it at the same time.
    pub(crate) fn page<E>(
        &self,
        key: Key,
        read: impl FnOnce() -> Result<Arc<[u8]>, E>,
    ) -> Result<Arc<[u8]>, E> {
        self.pages.get_or_insert_with(&key, read)
    }

    /// A page if it is here.
    pub(crate) fn peek(&self, key: Key) -> Option<Arc<[u8]>> {
        self.pages.get(&key)
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} bytes", self.used(), self.pages.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_much_is_looked_at_it_keeps_within_its_bound() {
        let memory = Memory::new(1 << 20);
        for file in 0..500 {
            let number = memory.number();
            for page in 0..20 {
                let read = || Ok::<_, ()>(vec![file as u8; 4096].into());
                assert_eq!(memory.page((number, page), read).unwrap()[0], file as u8);
                assert!(memory.used() <= 1 << 20);
            }
        }
        assert!(memory.used() > 1 << 19);
    }
}
