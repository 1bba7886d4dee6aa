//! What all parts of an open datastore share: its storage, its index, its keys.

use crate::clock;
use crate::error::{Error, Result, format_error, io_error};
use crate::holds::{Hold, Holds};
use crate::index::{Index, Location};
use crate::memory::Memory;
use crate::progress::Progress;
use crate::storage::{File, Storage, read_exact};
use format::frame::{Frame, FrameKeys, Kind};
use format::{DatastoreId, Digest, DigestKeys, FormatError, Keyset, PackId};
use ring::rand::{SecureRandom, SystemRandom};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Directory of packs.
pub(crate) const PACKS: &str = "packs";
/// Directory of snapshots.
pub(crate) const SNAPSHOTS: &str = "snapshots";
/// Directory of files being written; what a crash leaves there is worth nothing.
pub(crate) const TEMPORARY: &str = "tmp";
/// Most packs kept open for reading.
const OPEN_PACKS: usize = 64;

/// How an open datastore works; the defaults suit a site.
#[derive(Clone)]
pub struct Options {
    /// Threads that compress and encrypt, and that verify.
    pub threads: usize,
    /// Level of zstd.
    pub level: i32,
    /// Memory for the index; one for all datastores of a process.
    pub memory: Arc<Memory>,
    /// Chunks whose places are held in memory before they are written out together.
    pub index_batch: usize,
    /// What the locks of snapshots go by.
    pub clock: Arc<dyn clock::Source>,
    /// Most bytes that packs may take together; any number where there is none.
    pub quota: Option<u64>,
    /// Counts what an opening reads of packs because its index is to be made anew, and cancels that; also
    /// where a failure has it opened again later, for which all who begin something wait.
    pub opening: Arc<Progress>,
    /// Length at which a pack is closed, bytes; at most 512 MiB.
    pub pack_size: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(2, Into::into),
            level: 3,
            memory: Memory::new(128 << 20),
            index_batch: 16 << 10,
            clock: Arc::new(clock::System),
            quota: None,
            opening: Arc::default(),
            pack_size: 64 << 20,
        }
    }
}

/// Keys in the form work needs them.
pub(crate) struct Keys {
    pub(crate) digests: DigestKeys,
    pub(crate) frames: FrameKeys,
    pub(crate) epoch: u32,
}

impl Keys {
    pub(crate) fn new(keyset: &Keyset) -> Result<Self> {
        let frames = FrameKeys::new(Arc::new(keyset.clone()));
        let epoch = frames.epoch().map_err(format_error("the key set"))?;
        Ok(Self {
            digests: DigestKeys::new(&keyset.dedup),
            frames,
            epoch,
        })
    }
}

pub(crate) struct Core {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) datastore: DatastoreId,
    pub(crate) options: Options,
    pub(crate) index: Index,
    pub(crate) keys: RwLock<Option<Arc<Keys>>>,
    pub(crate) holds: Arc<Holds>,
    /// Held while the datastore's clock moves.
    pub(crate) locking: Mutex<()>,
    open_packs: Mutex<OpenPacks>,
}

#[derive(Default)]
struct OpenPacks {
    files: HashMap<PackId, (Arc<dyn File>, u64)>,
    clock: u64,
}

pub(crate) fn pack_name(id: PackId) -> String {
    format!("{PACKS}/{id}.pack")
}

/// A mutex's content, whoever panicked while holding it.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Random bytes from the system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::Random)?;
    Ok(bytes)
}

impl Core {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        datastore: DatastoreId,
        options: Options,
        index: Index,
    ) -> Self {
        Self {
            storage,
            datastore,
            options,
            index,
            keys: RwLock::new(None),
            holds: Arc::default(),
            locking: Mutex::default(),
            open_packs: Mutex::default(),
        }
    }

    pub(crate) fn keys(&self) -> Result<Arc<Keys>> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.clone().ok_or(Error::Locked {
            datastore: self.datastore,
        })
    }

    /// Wraps an I/O failure with what was done to which file.
    pub(crate) fn io(
        &self,
        action: &'static str,
        name: &str,
    ) -> impl FnOnce(std::io::Error) -> Error + use<> {
        let (place, name) = (self.storage.place(), name.to_owned());
        move |source| io_error(&place, action, &name)(source)
    }

    /// Refuses where another pack would be more than the datastore may take.
    pub(crate) fn check_quota(&self) -> Result<()> {
        let Some(quota) = self.options.quota else {
            return Ok(());
        };
        let next = u64::from(self.options.pack_size);
        match self.index.taken()?.saturating_add(next) {
            taken if taken > quota => Err(Error::Quota {
                datastore: self.datastore,
                quota,
            }),
            _ => Ok(()),
        }
    }

    /// What is found from now on stays while the answer is held.
    pub(crate) fn hold(&self) -> Result<Hold> {
        Ok(self.holds.take(self.index.next_pack()?))
    }

    /// Lets go of a pack's file, so that its space is free once it is removed.
    pub(crate) fn close_pack(&self, id: PackId) {
        locked(&self.open_packs).files.remove(&id);
    }

    fn pack_file(&self, id: PackId) -> Result<Arc<dyn File>> {
        let mut packs = locked(&self.open_packs);
        packs.clock += 1;
        let now = packs.clock;
        if let Some((file, used)) = packs.files.get_mut(&id) {
            *used = now;
            return Ok(file.clone());
        }
        let name = pack_name(id);
        let file = self.storage.open(&name).map_err(self.io("open", &name))?;
        if packs.files.len() >= OPEN_PACKS {
            let oldest = packs
                .files
                .iter()
                .min_by_key(|(_, (_, used))| *used)
                .map(|(id, _)| *id);
            oldest.and_then(|id| packs.files.remove(&id));
        }
        packs.files.insert(id, (file.clone(), now));
        Ok(file)
    }

    pub(crate) fn locate(&self, digest: &Digest) -> Result<Location> {
        self.index
            .find(digest)?
            .ok_or(Error::NoChunk { digest: *digest })
    }

    /// The whole frame of a chunk, not looked at.
    pub(crate) fn read_frame(&self, digest: &Digest) -> Result<Vec<u8>> {
        self.read_found(digest, self.locate(digest)?)
    }

    /// The frame of a chunk that was found there, or where it was moved since.
    fn read_found(&self, digest: &Digest, mut location: Location) -> Result<Vec<u8>> {
        loop {
            let failed = match self.read_at(&location) {
                Err(error) => error,
                read => return read,
            };
            let now = self.locate(digest)?;
            if now.pack == location.pack {
                return Err(failed);
            }
            location = now;
        }
    }

    pub(crate) fn read_at(&self, location: &Location) -> Result<Vec<u8>> {
        let file = self.pack_file(location.pack)?;
        read_exact(&*file, location.offset.into(), location.length as usize)
            .map_err(|error| self.io("read", &pack_name(location.pack))(error))
    }

    /// The frame of a chunk, its check tested.
    pub(crate) fn read_sound(&self, digest: &Digest, location: &Location) -> Result<Vec<u8>> {
        let raw = self.read_found(digest, *location)?;
        let frame = Frame::parse(&raw, self.datastore).map_err(frame_error(*digest))?;
        // a footer may say of a frame what it likes
        if (frame.header.digest, frame.header.kind) != (*digest, location.kind) {
            return Err(Error::Content { digest: *digest });
        }
        Ok(raw)
    }

    /// Decrypted content of a chunk, whose digest was computed again.
    pub(crate) fn read_data(&self, keys: &Keys, digest: &Digest) -> Result<Vec<u8>> {
        let raw = self.read_frame(digest)?;
        let (_, content, _) = open_frame(keys, &raw, digest)?;
        Ok(content)
    }

    /// Kind, decrypted content and references of a metadata frame.
    pub(crate) fn read_metadata(
        &self,
        keys: &Keys,
        digest: &Digest,
    ) -> Result<(Kind, Vec<u8>, Vec<Digest>)> {
        let raw = self.read_frame(digest)?;
        open_frame(keys, &raw, digest)
    }

    /// Kind and references of a frame, for which no key is needed.
    pub(crate) fn read_refs(&self, digest: &Digest) -> Result<(Kind, Vec<Digest>)> {
        let location = self.locate(digest)?;
        if !location.kind.has_refs() {
            return Ok((location.kind, Vec::new()));
        }
        let raw = self.read_sound(digest, &location)?;
        let frame = Frame::parse_unchecked(&raw).map_err(frame_error(*digest))?;
        Ok((frame.header.kind, frame.refs().collect()))
    }

    /// Writes a small file so that it is either absent or whole, and durable on return.
    pub(crate) fn write_whole(&self, dir: &str, name: &str, bytes: &[u8]) -> Result<()> {
        write_whole(&*self.storage, dir, name, bytes)
    }
}

/// What to call a frame in sentences.
pub(crate) fn frame_name(digest: &Digest) -> String {
    format!("chunk {digest}")
}

/// Wraps a failure to understand a frame; its name is only made when it is needed.
pub(crate) fn frame_error(digest: Digest) -> impl FnOnce(FormatError) -> Error {
    move |source| format_error(frame_name(&digest))(source)
}

/// Opens a frame and tests that it is what this digest names.
pub(crate) fn open_frame(
    keys: &Keys,
    raw: &[u8],
    digest: &Digest,
) -> Result<(Kind, Vec<u8>, Vec<Digest>)> {
    let frame = Frame::parse_unchecked(raw).map_err(frame_error(*digest))?;
    let content = frame.open(&keys.frames).map_err(frame_error(*digest))?;
    let refs: Vec<Digest> = frame.refs().collect();
    let kind = frame.header.kind;
    if frame.header.digest != *digest || keys.digests.metadata(kind, &refs, &content) != *digest {
        return Err(Error::Content { digest: *digest });
    }
    Ok((kind, content, refs))
}

/// See [`Core::write_whole`].
pub(crate) fn write_whole(
    storage: &dyn Storage,
    dir: &str,
    name: &str,
    bytes: &[u8],
) -> Result<()> {
    let place = storage.place();
    let target = if dir.is_empty() {
        name.to_owned()
    } else {
        format!("{dir}/{name}")
    };
    let temporary = format!("{TEMPORARY}/{name}");
    let write = || -> std::io::Result<()> {
        let file = storage.create(&temporary)?;
        file.write_at(bytes, 0)?;
        file.sync()?;
        storage.rename(&temporary, &target)?;
        storage.sync_dir(dir)
    };
    write().map_err(|error| {
        // best effort: what stays is removed when the datastore is next opened
        let _ = storage.remove(&temporary);
        io_error(&place, "write", &target)(error)
    })
}
