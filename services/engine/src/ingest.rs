//! The way in: chunks to frames to packs to the index, shared by all backups of a datastore that
//! run at the same time.
//!
//! ```text
//! put_data → digest, look up → bounded queue → N workers: compress, encrypt ─→ data pack
//! put_data_here → digest, look up → compress, encrypt ───────────────────────→ data pack
//! put_metadata → digest, look up, test references → compress, encrypt ───────→ metadata pack
//! put_frame → test check and references ─────────────────────────────────────→ either
//! ```
//!
//! What keeps the index closed under references at every moment and after every crash:
//! metadata goes to packs of its own, and such a pack is only written out when every data pack
//! begun before is durable and in the index; a metadata frame is only taken when all it refers to
//! is already there; metadata packs are written out one after the other. So whatever of it a
//! power cut leaves, no frame in a pack refers to a frame that is lost.
//!
//! Locks are taken in this order: the metadata lane, the data lane, the flow. The metadata lane is
//! held from the claim of a metadata frame until it is in its pack, and from before the data is
//! flushed until the metadata pack is sealed: nothing may join that pack in between, for its own
//! data would not have been waited for.

use crate::compress::Packer;
use crate::core::{Core, Keys, frame_error, frame_name, locked, random};
use crate::error::{Error, Result, format_error};
use crate::pack::OpenPack;
use crate::progress::Progress;
use crate::queue::Queue;
use format::Digest;
use format::frame::{Draft, Frame, Header, Kind};
use parking_lot::Condvar;
use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// What workers do.
enum Job {
    Chunk(Chunk),
    /// A full data pack and its number among the seals.
    Seal(u64, OpenPack),
}

struct Chunk {
    number: u64,
    digest: Digest,
    content: Vec<u8>,
    keys: Arc<Keys>,
    progress: Arc<Progress>,
}

/// One thread's compressor and room for a frame.
pub(crate) struct Tools {
    packer: Packer,
    frame: Vec<u8>,
}

impl Tools {
    pub(crate) fn new(core: &Core) -> Result<Self> {
        let packer = Packer::new(core.options.level).map_err(core.io("compress for", "packs"))?;
        Ok(Self {
            packer,
            frame: Vec::new(),
        })
    }
}

#[derive(Default)]
struct Flow {
    next_job: u64,
    jobs: BTreeSet<u64>,
    next_seal: u64,
    seals: BTreeSet<u64>,
    /// Digests on their way that the index does not have yet. They are in here because no digest
    /// may become known before its job has the number that a flush waits for.
    pending: HashSet<Digest>,
    failed: Option<Arc<Error>>,
}

struct Shared {
    core: Arc<Core>,
    queue: Queue<Job>,
    data: Mutex<Option<OpenPack>>,
    metadata: Mutex<Option<OpenPack>>,
    flow: parking_lot::Mutex<Flow>,
    changed: Condvar,
    /// Frames that refer to others, so far.
    taken: AtomicU64,
    broken: AtomicBool,
    spare: Mutex<Vec<Vec<u8>>>,
}

/// The pipeline; dropping it ends its threads and keeps what was stored so far.
pub(crate) struct Ingest {
    shared: Arc<Shared>,
    workers: Mutex<Vec<JoinHandle<()>>>,
}

impl Ingest {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        let queue = Queue::new(core.options.threads * 8);
        let shared = Shared {
            core,
            queue,
            data: Mutex::default(),
            metadata: Mutex::default(),
            flow: Default::default(),
            changed: Condvar::new(),
            taken: AtomicU64::new(0),
            broken: AtomicBool::new(false),
            spare: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
            workers: Mutex::default(),
        }
    }

    /// Whether it has failed and takes nothing any more.
    pub(crate) fn is_broken(&self) -> bool {
        self.shared.broken.load(Ordering::Acquire)
    }

    /// Ends it for all who use it.
    pub(crate) fn fail(&self, error: Error) {
        // they are told by their next step
        let _ = self.shared.guarded(|| Err::<(), _>(error));
    }

    /// Waits, after it has failed, until no pack of metadata of it can come into the index any more.
    pub(crate) fn end(&self) {
        locked(&self.shared.metadata).take();
    }

    /// Whether this chunk may be referred to by what is put next.
    pub(crate) fn known(&self, digest: &Digest) -> Result<bool> {
        self.shared.known(digest)
    }

    /// Stores a data chunk unless it is there; it becomes durable with the next flush.
    pub(crate) fn put_data(
        &self,
        keys: &Arc<Keys>,
        progress: &Arc<Progress>,
        content: &[u8],
    ) -> Result<Digest> {
        self.shared.alive()?;
        let digest = keys.digests.data(content);
        let Some(number) = self.shared.claim(&digest)? else {
            return Ok(digest);
        };
        progress.add_unique(content.len() as u64);
        let mut buffer = locked(&self.shared.spare).pop().unwrap_or_default();
        buffer.extend_from_slice(content);
        let chunk = Chunk {
            number,
            digest,
            content: buffer,
            keys: keys.clone(),
            progress: progress.clone(),
        };
        self.give(Job::Chunk(chunk)).map(|()| digest)
    }

    /// As [`Ingest::put_data`], the work done by the caller. Of callers as many as there are
    /// processors this takes less than handing each chunk to another thread.
    pub(crate) fn put_data_here(
        &self,
        keys: &Keys,
        progress: &Progress,
        tools: &mut Tools,
        content: &[u8],
    ) -> Result<Digest> {
        self.shared.alive()?;
        let digest = keys.digests.data(content);
        let Some(number) = self.shared.claim(&digest)? else {
            return Ok(digest);
        };
        progress.add_unique(content.len() as u64);
        let store = || {
            self.shared
                .store(number, digest, content, keys, progress, tools)
        };
        // waiting for the disk is for a worker
        if let Some((number, pack)) = self.shared.guarded(store)? {
            self.give(Job::Seal(number, pack))?;
        }
        Ok(digest)
    }

    fn give(&self, job: Job) -> Result<()> {
        self.shared.guarded(|| self.start_workers())?;
        let given = self.shared.queue.push(job);
        given.map_err(|_| self.shared.failure())
    }

    /// Stores a metadata frame unless it is there. Compressed here and now: there is little of
    /// it, and order matters.
    pub(crate) fn put_metadata(
        &self,
        keys: &Arc<Keys>,
        progress: &Progress,
        packer: &mut Packer,
        kind: Kind,
        refs: &[Digest],
        content: &[u8],
    ) -> Result<Digest> {
        self.shared.alive()?;
        let digest = keys.digests.metadata(kind, refs, content);
        let shared = &self.shared;
        shared.in_metadata_lane(|lane| {
            if shared.known(&digest)? {
                return Ok(digest);
            }
            shared.require(&digest, refs)?;
            progress.add_unique(content.len() as u64);
            let mut raw = Vec::new();
            let header = seal(keys, packer, kind, digest, refs, content, &mut raw)?;
            progress.add_stored(raw.len() as u64);
            shared.guarded(|| shared.append_metadata(lane, &header, &raw))?;
            Ok(digest)
        })
    }

    /// Stores a frame as it came from another copy of this datastore; says whether it was new.
    pub(crate) fn put_frame(&self, raw: &[u8]) -> Result<bool> {
        let datastore = self.shared.core.datastore;
        let frame = Frame::parse(raw, datastore).map_err(format_error("the frame"))?;
        self.put_parsed(&frame, raw)
    }

    /// As [`Ingest::put_frame`], of a frame whose check was tested.
    pub(crate) fn put_parsed(&self, frame: &Frame<'_>, raw: &[u8]) -> Result<bool> {
        self.shared.alive()?;
        let digest = frame.header.digest;
        let refs: Vec<Digest> = frame.refs().collect();
        let shared = &self.shared;
        if frame.header.kind.has_refs() {
            return shared.in_metadata_lane(|lane| {
                if shared.known(&digest)? {
                    return Ok(false);
                }
                shared.require(&digest, &refs)?;
                shared.guarded(|| shared.append_metadata(lane, &frame.header, raw))?;
                Ok(true)
            });
        }
        let Some(number) = shared.claim(&digest)? else {
            return Ok(false);
        };
        shared.guarded(|| {
            let full = shared.append_data(number, &frame.header, raw)?;
            full.map_or(Ok(()), |(number, pack)| shared.seal_data(number, pack))
        })?;
        Ok(true)
    }

    /// How many frames that refer to others it took so far.
    pub(crate) fn taken(&self) -> u64 {
        self.shared.taken.load(Ordering::Acquire)
    }

    /// Returns when everything put before is durable and in the index.
    pub(crate) fn flush(&self) -> Result<()> {
        self.at_rest(|| Ok(()))
    }

    /// Does something while no metadata is on its way and none can come.
    pub(crate) fn at_rest<T>(&self, then: impl FnOnce() -> Result<T>) -> Result<T> {
        let shared = &self.shared;
        shared.in_metadata_lane(|lane| {
            let pack = lane.take();
            shared.flush_data()?;
            if let Some(pack) = pack {
                shared.guarded(|| shared.seal(pack))?;
            }
            then()
        })
    }

    fn start_workers(&self) -> Result<()> {
        let mut workers = locked(&self.workers);
        while workers.len() < self.shared.core.options.threads.max(1) {
            let shared = self.shared.clone();
            let worker = std::thread::Builder::new()
                .name("engine-pack".into())
                .spawn(move || shared.work())
                .map_err(self.shared.core.io("start a thread for", "packs"))?;
            workers.push(worker);
        }
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        // what an abandoned backup stored is kept, so that its next run need not send it again
        if !self.is_broken() && self.flush().is_err() {
            self.shared.broken.store(true, Ordering::Release);
        }
        self.shared.queue.close();
        for worker in locked(&self.workers).drain(..) {
            // a worker's panic was already reported as this pipeline's failure
            let _ = worker.join();
        }
    }
}

fn seal(
    keys: &Keys,
    packer: &mut Packer,
    kind: Kind,
    digest: Digest,
    refs: &[Digest],
    content: &[u8],
    out: &mut Vec<u8>,
) -> Result<Header> {
    let length = content.len() as u32;
    let mut draft = Draft::begin(out, kind, digest, length, refs, keys.epoch, random()?);
    let compression = packer.pack(content, draft.payload());
    draft
        .seal(compression, &keys.frames)
        .map_err(frame_error(digest))
}

impl Shared {
    fn alive(&self) -> Result<()> {
        if self.broken.load(Ordering::Acquire) {
            Err(self.failure())
        } else {
            Ok(())
        }
    }

    fn known(&self, digest: &Digest) -> Result<bool> {
        Ok(self.flow.lock().pending.contains(digest) || self.core.index.usable(digest)?)
    }

    /// Takes on storing this data chunk, unless it is stored or on its way; gives the number of
    /// the job that brings it, which from now on every flush waits for.
    fn claim(&self, digest: &Digest) -> Result<Option<u64>> {
        if self.known(digest)? {
            return Ok(None);
        }
        let mut flow = self.flow.lock();
        if !flow.pending.insert(*digest) {
            return Ok(None);
        }
        let number = flow.next_job;
        flow.next_job += 1;
        flow.jobs.insert(number);
        Ok(Some(number))
    }

    /// Refuses a metadata frame that refers to what is not there.
    fn require(&self, digest: &Digest, refs: &[Digest]) -> Result<()> {
        for missing in refs {
            let there = self.flow.lock().pending.contains(missing);
            if !there && !self.core.index.lean_on(missing)? {
                return Err(Error::Incomplete {
                    name: frame_name(digest),
                    missing: *missing,
                });
            }
        }
        Ok(())
    }

    fn failure(&self) -> Error {
        match &self.flow.lock().failed {
            Some(error) => Error::Stopped(error.clone()),
            None => Error::Cancelled,
        }
    }

    /// Runs a step; when it fails, the whole pipeline has failed.
    fn guarded<T>(&self, step: impl FnOnce() -> Result<T>) -> Result<T> {
        step().map_err(|error| {
            let error = match error {
                Error::Stopped(earlier) => earlier,
                other => Arc::new(other),
            };
            // the reason first: whoever sees that it is broken asks for it
            let first = self.flow.lock().failed.get_or_insert(error).clone();
            self.broken.store(true, Ordering::Release);
            self.queue.close();
            self.changed.notify_all();
            // what is unfinished goes now, not when the last of this pipeline's users has ended;
            // that of a metadata lane that is held when it is left
            locked(&self.data).take();
            if let Ok(mut lane) = self.metadata.try_lock() {
                lane.take();
            }
            Error::Stopped(first)
        })
    }

    /// Works with the metadata lane, and leaves nothing unfinished there after a failure.
    fn in_metadata_lane<T>(
        &self,
        work: impl FnOnce(&mut Option<OpenPack>) -> Result<T>,
    ) -> Result<T> {
        let worked = work(&mut locked(&self.metadata));
        if self.broken.load(Ordering::Acquire) {
            locked(&self.metadata).take();
        }
        worked
    }

    fn work(&self) {
        // a panic here must not leave a backup waiting for ever
        struct Alarm<'a>(&'a Shared);
        impl Drop for Alarm<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    let _ = self.0.guarded(|| Err::<(), _>(Error::Cancelled));
                }
            }
        }
        let _alarm = Alarm(self);
        let Ok(mut tools) = self.guarded(|| Tools::new(&self.core)) else {
            return;
        };
        while let Some(job) = self.queue.pop() {
            let done = self.guarded(|| {
                self.alive()?;
                let full = match job {
                    Job::Seal(number, pack) => Some((number, pack)),
                    Job::Chunk(chunk) => {
                        let (number, digest, content) = (chunk.number, chunk.digest, chunk.content);
                        let (keys, progress) = (&chunk.keys, &chunk.progress);
                        let full =
                            self.store(number, digest, &content, keys, progress, &mut tools)?;
                        self.spare(content);
                        full
                    }
                };
                full.map_or(Ok(()), |(number, pack)| self.seal_data(number, pack))
            });
            if done.is_err() {
                return;
            }
        }
    }

    /// Keeps a buffer for the next chunk.
    fn spare(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        locked(&self.spare).push(buffer);
    }

    /// Compresses, encrypts and appends a chunk that was claimed; a pack that is full comes back.
    fn store(
        &self,
        number: u64,
        digest: Digest,
        content: &[u8],
        keys: &Keys,
        progress: &Progress,
        tools: &mut Tools,
    ) -> Result<Option<(u64, OpenPack)>> {
        let Tools { packer, frame } = tools;
        frame.clear();
        let header = seal(keys, packer, Kind::Data, digest, &[], content, frame)?;
        progress.add_stored(frame.len() as u64);
        self.append_data(number, &header, frame)
    }

    fn append_data(
        &self,
        job: u64,
        header: &Header,
        raw: &[u8],
    ) -> Result<Option<(u64, OpenPack)>> {
        let full = {
            let mut lane = locked(&self.data);
            // numbered under the lock, so that a flush meets either the pack or its sealing
            self.append_to(&mut lane, header, raw)?
                .map(|pack| (self.begin_seal(), pack))
        };
        self.flow.lock().jobs.remove(&job);
        self.changed.notify_all();
        Ok(full)
    }

    /// A full metadata pack is sealed here, under its lane's lock, so that these go out in order.
    fn append_metadata(
        &self,
        lane: &mut Option<OpenPack>,
        header: &Header,
        raw: &[u8],
    ) -> Result<()> {
        self.taken.fetch_add(1, Ordering::AcqRel);
        let full = self.append_to(lane, header, raw)?;
        self.flow.lock().pending.insert(header.digest);
        let Some(pack) = full else { return Ok(()) };
        self.flush_data()?;
        self.seal(pack)
    }

    /// Appends a frame to a lane's pack, which comes back when it is full.
    fn append_to(
        &self,
        lane: &mut Option<OpenPack>,
        header: &Header,
        raw: &[u8],
    ) -> Result<Option<OpenPack>> {
        // whoever failed has emptied the lane, or waits for it to do so
        self.alive()?;
        let mut pack = match lane.take() {
            Some(pack) => pack,
            None => {
                self.core.check_quota()?;
                OpenPack::begin(&self.core)?
            }
        };
        pack.append(header, raw)?;
        if pack.is_full() {
            return Ok(Some(pack));
        }
        *lane = Some(pack);
        Ok(None)
    }

    fn begin_seal(&self) -> u64 {
        let mut flow = self.flow.lock();
        let number = flow.next_seal;
        flow.next_seal += 1;
        flow.seals.insert(number);
        number
    }

    fn seal_data(&self, number: u64, pack: OpenPack) -> Result<()> {
        self.seal(pack)?;
        self.flow.lock().seals.remove(&number);
        self.changed.notify_all();
        Ok(())
    }

    /// Makes a pack durable under its name, and then enters it into the index.
    fn seal(&self, pack: OpenPack) -> Result<()> {
        let (id, records) = pack.seal()?;
        self.core.index.add_pack(id, &records, 0)?;
        let mut flow = self.flow.lock();
        records.iter().for_each(|record| {
            flow.pending.remove(&record.digest);
        });
        Ok(())
    }

    /// Returns when all data put before is durable and in the index.
    fn flush_data(&self) -> Result<()> {
        self.alive()?;
        let jobs_before = self.flow.lock().next_job;
        self.wait(|flow| flow.jobs.first().is_none_or(|first| *first >= jobs_before))?;
        let last = locked(&self.data)
            .take()
            .map(|pack| (self.begin_seal(), pack));
        if let Some((number, pack)) = last {
            self.guarded(|| self.seal_data(number, pack))?;
        }
        let seals_before = self.flow.lock().next_seal;
        self.wait(|flow| {
            flow.seals
                .first()
                .is_none_or(|first| *first >= seals_before)
        })
    }

    fn wait(&self, done: impl Fn(&Flow) -> bool) -> Result<()> {
        let mut flow = self.flow.lock();
        self.changed
            .wait_while(&mut flow, |flow| flow.failed.is_none() && !done(flow));
        match &flow.failed {
            Some(error) => Err(Error::Stopped(error.clone())),
            None => Ok(()),
        }
    }
}
