//! A storage that is only read: for a datastore on a disk that is full, write-protected or somebody
//! else's. What an opening makes of its index is kept in memory, and gone with it.

use super::{File, Guard, Storage};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

/// Most bytes that are kept: with an index made anew of some ten million chunks.
const MOST: usize = 1 << 30;

/// What is there of another storage. Packs and snapshots nobody changes; what else is written is kept.
pub struct ReadOnly {
    storage: Arc<dyn Storage>,
    /// By name what was made or opened; `None` for what was removed.
    files: Mutex<BTreeMap<String, Option<Arc<Copy>>>>,
    /// Bytes that are kept.
    kept: Arc<AtomicUsize>,
}

struct Copy {
    bytes: RwLock<Bytes>,
    kept: Arc<AtomicUsize>,
}

enum Bytes {
    /// As they are there.
    There(Arc<dyn File>),
    /// All of them, once any was written.
    Kept(Vec<u8>),
}

/// Refuses to change what the datastore is for.
fn check(name: &str) -> io::Result<()> {
    match name.starts_with("packs/") || name.starts_with("snapshots/") {
        true => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        false => Ok(()),
    }
}

impl ReadOnly {
    /// What is there of another storage.
    pub fn new(storage: impl Storage) -> Self {
        Self {
            storage: Arc::new(storage),
            files: Mutex::default(),
            kept: Arc::default(),
        }
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Option<Arc<Copy>>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a file under a name.
    fn put(&self, name: &str, bytes: Bytes) -> Arc<Copy> {
        let copy = Arc::new(Copy {
            bytes: RwLock::new(bytes),
            kept: self.kept.clone(),
        });
        self.files().insert(name.into(), Some(copy.clone()));
        copy
    }

    fn find(&self, name: &str) -> io::Result<Arc<Copy>> {
        let known = self.files().get(name).cloned();
        match known {
            Some(copy) => copy.ok_or_else(|| io::ErrorKind::NotFound.into()),
            None => Ok(self.put(name, Bytes::There(self.storage.open(name)?))),
        }
    }
}

impl Storage for ReadOnly {
    fn place(&self) -> String {
        self.storage.place()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        check(name)?;
        match self.find(name) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => Ok(self.put(name, Bytes::Kept(Vec::new()))),
        }
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        match check(name) {
            Ok(()) => Ok(self.find(name)?),
            Err(_) => self.storage.open(name),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check(from).and_then(|()| check(to))?;
        let copy = self.find(from)?;
        let mut files = self.files();
        files.insert(from.into(), None);
        files.insert(to.into(), Some(copy));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        check(name)?;
        self.find(name)?;
        self.files().insert(name.into(), None);
        Ok(())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut names = self.storage.list(dir)?;
        for (name, copy) in &*self.files() {
            let (within, name) = name.rsplit_once('/').unwrap_or(("", name));
            if within == dir {
                names.retain(|other| other != name);
                names.extend(copy.as_ref().map(|_| name.into()));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn make_dir(&self, _dir: &str) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _dir: &str) -> io::Result<()> {
        Ok(())
    }

    fn keeps(&self) -> bool {
        false
    }

    fn lock(&self) -> io::Result<Box<dyn Guard>> {
        self.storage.lock()
    }
}

impl Copy {
    fn bytes(&self) -> RwLockReadGuard<'_, Bytes> {
        self.bytes.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the bytes, after adding zeros up to a length.
    fn change(&self, least: u64, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        let full = || io::Error::other("there is no memory for what would have to be written");
        let (length, before) = match &*bytes {
            Bytes::There(file) => (file.len()?, 0),
            Bytes::Kept(kept) => (kept.len() as u64, kept.len()),
        };
        let more = usize::try_from(length.max(least)).map_err(|_| full())? - before;
        if self.kept.load(Relaxed).saturating_add(more) > MOST {
            return Err(full());
        }
        if let Bytes::There(file) = &*bytes {
            *bytes = Bytes::Kept(super::read_exact(&**file, 0, length as usize)?);
        }
        if let Bytes::Kept(kept) = &mut *bytes {
            kept.resize(before + more, 0);
            change(kept);
            self.kept.fetch_add(kept.len(), Relaxed);
            self.kept.fetch_sub(before, Relaxed);
        }
        Ok(())
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Bytes::Kept(kept) = &*self.bytes() {
            self.kept.fetch_sub(kept.len(), Relaxed);
        }
    }
}

impl File for Copy {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match &*self.bytes() {
            Bytes::There(file) => file.read_at(buffer, offset),
            Bytes::Kept(kept) => {
                let at = usize::try_from(offset).unwrap_or(usize::MAX);
                let rest = kept.get(at..).unwrap_or_default();
                let count = rest.len().min(buffer.len());
                buffer[..count].copy_from_slice(&rest[..count]);
                Ok(count)
            }
        }
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(offset.saturating_add(bytes.len() as u64), |kept| {
            kept[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        })
    }

    fn len(&self) -> io::Result<u64> {
        match &*self.bytes() {
            Bytes::There(file) => file.len(),
            Bytes::Kept(kept) => Ok(kept.len() as u64),
        }
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.change(length, |kept| kept.truncate(length as usize))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
