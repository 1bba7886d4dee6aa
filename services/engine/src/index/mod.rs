//! Where each chunk is: digest to pack, offset and length.
//!
//! Rows of packs that were sealed of late are held in memory; when they are many they become a
//! sorted [`run`], a file that never changes. A few runs at a time are merged into one in the
//! background, so that there are few and each is several times as long as the next newer one (a
//! log-structured merge tree, O'Neil et al. 1996). The [`catalogue`] says which runs and packs
//! count. A lookup asks the rows in memory, then [`near`], then the runs, newest first; a place in a
//! pack that is gone is none.
//!
//! Rows also say how many frames and snapshots refer to a digest, each row by how much more or less
//! than the older ones: [`crate::collect`] sums them up for what lost a reference, and touches nothing
//! else. A frame refers to another from when its pack is in the index until it is dead.
//!
//! Nothing outside this module knows how. The index holds nothing that the packs do not say:
//! [`crate::Store::recover`] makes it anew from them, and what was only in memory when power failed
//! comes back likewise, from the packs that the catalogue does not have ([`crate::recover`]).
//!
//! Invariant: what is in the index and not broken refers only to what is in the index and not broken
//! (packs are added in an order that keeps it, see [`crate::ingest`]).

mod catalogue;
mod garbage;
#[cfg(test)]
mod measure;
mod merge;
mod near;
mod opened;
mod row;
mod run;
#[cfg(test)]
mod tests;

pub(crate) use garbage::{Burial, Move};

use crate::core::{locked, pack_name};
use crate::error::{Error, Result, format_error, io_error, unless_full};
use crate::memory::Memory;
use crate::progress::Progress;
use crate::recover::{Unread, open_pack};
use crate::storage::{Storage, read_exact};
use catalogue::{Catalogue, Change};
use format::frame::{Frame, Kind};
use format::pack::Record;
use format::{DatastoreId, Digest, PackId};
use near::Near;
use opened::Opened;
use row::{Row, State};
use run::{Builder, Run};
use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};

/// Name of the catalogue's file.
pub(crate) const INDEX: &str = "index";
/// Its name while it is made anew: what is not whole yet is not to be taken for the index.
pub(crate) const UNFINISHED: &str = "tmp/index";
/// Directory of runs.
pub(crate) const RUNS: &str = "runs";

const INCOMPLETE: &str = "packs are still to be added to it";

/// After some 10^17 bytes.
const NO_NUMBER: &str = "it has a pack of the last number";

/// Where a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) pack: PackId,
    pub(crate) offset: u32,
    pub(crate) length: u32,
    pub(crate) plain_len: u32,
    pub(crate) kind: Kind,
    /// Known to be damaged, or to refer to what is.
    pub(crate) broken: bool,
}

/// Where a frame is, its pack by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) pack: u32,
    pub(crate) offset: u32,
    pub(crate) length: u32,
    pub(crate) plain_len: u32,
    pub(crate) kind: Kind,
}

impl Place {
    fn of(pack: u32, record: &Record) -> Self {
        Self {
            pack,
            offset: record.offset,
            length: record.length,
            plain_len: record.plain_len,
            kind: record.kind,
        }
    }
}

/// What is known of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pack {
    pub(crate) id: PackId,
    /// Bytes of its frames.
    pub(crate) bytes: u32,
    /// Bytes of those that nothing needs any more, or that are elsewhere as well.
    pub(crate) dead: u32,
    /// Whether frames were looked for in it to which nothing ever referred.
    pub(crate) settled: bool,
}

/// Sums over all chunks, each counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Number of chunks, metadata included.
    pub chunks: u64,
    /// Bytes of their content.
    pub unique: u64,
    /// Bytes of their frames.
    pub stored: u64,
}

impl Totals {
    fn add(&mut self, place: &Place) {
        self.chunks += 1;
        self.unique += u64::from(place.plain_len);
        self.stored += u64::from(place.length);
    }

    fn subtract(&mut self, place: &Place) {
        self.chunks = self.chunks.saturating_sub(1);
        self.unique = self.unique.saturating_sub(place.plain_len.into());
        self.stored = self.stored.saturating_sub(place.length.into());
    }
}

/// What an index takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexSize {
    /// Bytes of memory, with the pages of all indexes that share [`crate::Options::memory`].
    pub memory: u64,
    /// Bytes of its files.
    pub disk: u64,
}

/// What index and storage are of, and how much is kept in memory.
#[derive(Clone)]
pub(crate) struct Setting {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) datastore: DatastoreId,
    pub(crate) memory: Arc<Memory>,
    /// Rows at which those in memory become a run.
    pub(crate) batch: usize,
    /// Counts what is read of packs to make it anew.
    pub(crate) progress: Arc<Progress>,
    /// Where places of packs that cannot be read are noted, if they are to be taken for damaged.
    pub(crate) unread: Option<Unread>,
}

/// What a lookup comes to.
#[derive(Clone, Copy)]
struct Found {
    place: Place,
    location: Location,
    /// About to be buried.
    condemned: bool,
}

impl Found {
    fn usable(&self) -> bool {
        !self.location.broken && !self.condemned
    }
}

struct Shared {
    setting: Setting,
    /// `None` until it is opened.
    opened: RwLock<Option<Opened>>,
    /// Held while what is in the catalogue changes.
    writing: Mutex<()>,
    /// How often something came to lean on what is condemned, or one of it was stored anew.
    rescues: AtomicU64,
    /// How often it was opened again.
    openings: AtomicU64,
}

/// The index of one datastore.
pub(crate) struct Index {
    shared: Arc<Shared>,
    mergers: merge::Mergers,
}

fn run_name(number: u64) -> String {
    format!("{RUNS}/{number:016x}.run")
}

impl Shared {
    fn damaged(&self, reason: impl ToString) -> Error {
        Error::Index {
            place: self.setting.storage.place(),
            reason: reason.to_string(),
        }
    }

    fn io(&self, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => self.damaged(error),
            _ => io_error(&self.setting.storage.place(), "use", "the index")(error),
        }
    }

    fn failed(&self, error: redb::Error) -> Error {
        match error {
            redb::Error::Io(error) => self.io(error),
            other => self.damaged(other),
        }
    }

    fn with<T>(&self, read: impl FnOnce(&Opened) -> Result<T>) -> Result<T> {
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        let opened = opened.as_ref();
        read(opened.ok_or_else(|| self.damaged("it is not open"))?)
    }

    fn opened_mut(&self) -> RwLockWriteGuard<'_, Option<Opened>> {
        self.opened.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Opened) -> Result<T>) -> Result<T> {
        let mut opened = self.opened_mut();
        let opened = opened.as_mut();
        change(opened.ok_or_else(|| self.damaged("it is not open"))?)
    }

    /// Writes to the catalogue.
    fn write(&self, change: impl FnOnce(&Opened) -> Change<'_>) -> Result<()> {
        let written = self.with(|opened| match &opened.catalogue {
            Ok(catalogue) => Ok(catalogue.write(&change(opened)).map_err(|e| self.failed(e))),
            Err(earlier) => Err(Error::Stopped(earlier.clone())),
        })?;
        written.or_else(|error| {
            let error = Arc::new(error);
            self.change(|opened| {
                opened.catalogue = Err(error.clone());
                Err(Error::Stopped(error))
            })
        })
    }

    /// Opens it by the catalogue of this name.
    fn open(&self, catalogue: &str) -> Result<Opened> {
        let Setting {
            storage,
            datastore,
            memory,
            ..
        } = &self.setting;
        let file = storage.open(catalogue).map_err(|e| self.io(e))?;
        let (catalogue, contents) = Catalogue::open(file).map_err(|e| self.failed(e))?;
        let name = |number: &u64| run_name(*number);
        let wanted: Vec<String> = contents.runs.iter().map(name).collect();
        // what a merge or a power cut left
        for file in storage.list(RUNS).map_err(|e| self.io(e))? {
            let file = format!("{RUNS}/{file}");
            if !wanted.contains(&file) {
                storage.remove(&file).map_err(|e| self.io(e))?;
            }
        }
        let mut runs = Vec::new();
        for number in contents.runs.iter().rev() {
            let run = storage
                .open(&run_name(*number))
                .and_then(|file| Run::open(file, *datastore, memory.clone()));
            runs.push((*number, Arc::new(run.map_err(|e| self.io(e))?)));
        }
        let near = Near::new(memory.clone());
        Ok(Opened::new(catalogue, contents, runs, near))
    }

    /// What a frame of a pack refers to.
    fn referred(&self, pack: PackId, record: &Record) -> Result<Vec<Digest>> {
        let (setting, name) = (&self.setting, pack_name(pack));
        let file = open_pack(setting, pack)?;
        let raw = read_exact(&*file, record.offset.into(), record.length as usize)
            .map_err(io_error(&setting.storage.place(), "read", &name))?;
        let frame = Frame::parse(&raw, setting.datastore).map_err(format_error(&name))?;
        Ok(frame.refs().collect())
    }

    /// Makes a run of rows in order, durable with its name.
    fn write_run(
        &self,
        number: u64,
        most: u64,
        rows: impl Iterator<Item = io::Result<Row>>,
    ) -> io::Result<Arc<Run>> {
        let Setting {
            storage,
            datastore,
            memory,
            ..
        } = &self.setting;
        let name = run_name(number);
        let file = storage.create(&name)?;
        let write = || {
            let mut builder = Builder::new(&*file, *datastore, most);
            for row in rows {
                builder.push(&row?)?;
            }
            builder.finish()?;
            storage.sync_dir(RUNS)?;
            Run::open(file.clone(), *datastore, memory.clone())
        };
        write().map(Arc::new).inspect_err(|_| {
            // best effort: what stays is removed when the index is next opened
            let _ = storage.remove(&name);
        })
    }

    /// Makes a run of the rows in memory, and the catalogue say what it does not say yet. Who calls
    /// it holds `writing`.
    fn flush(&self) -> Result<()> {
        let flushed = self.change(|opened| {
            if opened.incomplete {
                return Err(self.damaged(INCOMPLETE));
            }
            if opened.recent.is_empty() {
                return Ok(None);
            }
            let number = opened.next_run;
            opened.next_run += 1;
            let rows: Vec<Row> = opened.recent.rows.values().copied().collect();
            Ok(Some((number, rows)))
        })?;
        let Some((number, mut rows)) = flushed else {
            return Ok(());
        };
        rows.sort_unstable_by_key(|row| row.digest);
        let most = rows.len() as u64;
        let run = match most {
            0 => None,
            _ => {
                let made = self.write_run(number, most, rows.into_iter().map(Ok));
                Some((number, made.map_err(|e| self.io(e))?))
            }
        };
        self.write(|opened| {
            let recent = &opened.recent;
            let packs = recent.packs.iter();
            let roots = recent.roots.iter();
            let broken = recent.broken.iter();
            Change {
                run: run.as_ref().map(|(number, _)| *number),
                packs: packs.map(|n| (*n, opened.packs.get(n).copied())).collect(),
                roots: roots
                    .map(|id| (*id, opened.roots.get(id).copied()))
                    .collect(),
                broken: broken.map(|d| (*d, opened.broken.contains(d))).collect(),
                candidates: recent.candidates.then_some(&opened.candidates),
                sums: Some((opened.totals, opened.next_pack)),
                ..Change::default()
            }
        })?;
        self.change(|opened| {
            opened.runs.splice(0..0, run);
            opened.recent = opened::Recent::default();
            Ok(())
        })
    }
}

impl Index {
    /// Opens the index, making an empty one of an empty catalogue's file.
    pub(crate) fn open(setting: Setting) -> Result<Self> {
        Self::by(setting, INDEX)
    }

    /// Begins an index of an empty catalogue's file that is not to be found before
    /// [`Index::finish`].
    pub(crate) fn make(setting: Setting) -> Result<Self> {
        Self::by(setting, UNFINISHED)
    }

    /// Makes what [`Index::make`] began the index; durable on return.
    pub(crate) fn finish(&self) -> Result<()> {
        let _writing = locked(&self.shared.writing);
        self.shared.flush()?;
        let storage = &self.shared.setting.storage;
        let finish = || {
            storage.rename(UNFINISHED, INDEX)?;
            storage.sync_dir("")
        };
        finish().map_err(|e| self.shared.io(e))
    }

    fn by(setting: Setting, catalogue: &str) -> Result<Self> {
        let shared = Arc::new(Shared {
            setting,
            opened: RwLock::new(None),
            writing: Mutex::default(),
            rescues: AtomicU64::new(0),
            openings: AtomicU64::new(0),
        });
        let opened = shared.open(catalogue)?;
        *shared.opened_mut() = Some(opened);
        Ok(Self {
            mergers: merge::Mergers::default(),
            shared,
        })
    }

    /// Whether it can be written to; if not, why.
    pub(crate) fn writable(&self) -> Result<()> {
        self.shared.with(|opened| match &opened.catalogue {
            Ok(_) if opened.incomplete => Err(self.shared.damaged(INCOMPLETE)),
            Ok(_) => Ok(()),
            Err(earlier) => Err(Error::Stopped(earlier.clone())),
        })
    }

    /// Writes what is only in memory; durable on return.
    pub(crate) fn flush(&self) -> Result<()> {
        let _writing = locked(&self.shared.writing);
        self.shared.flush()
    }

    /// Has nothing written before `add` has added all, which it says. If it does not, the index can only
    /// be read until it is opened again, and then has nothing of it.
    pub(crate) fn at_once(&self, add: impl FnOnce() -> Result<bool>) -> Result<bool> {
        let incomplete = |is| {
            self.shared.change(|opened| {
                opened.incomplete = is;
                Ok(())
            })
        };
        incomplete(true)?;
        if !add()? {
            return Ok(false);
        }
        let _writing = locked(&self.shared.writing);
        incomplete(false)?;
        // who only reads needs no room on the disk
        unless_full(self.shared.flush())?;
        Ok(true)
    }

    /// Rows that no run has yet.
    pub(crate) fn waiting(&self) -> Result<usize> {
        self.shared.with(|opened| Ok(opened.recent.rows.len()))
    }

    /// Takes the place of itself with one that `open` opens, for a failure left it to be read only. If that
    /// fails it stays so.
    pub(crate) fn reopen(&self, open: impl FnOnce(Setting) -> Result<Self>) -> Result<()> {
        let shared = &self.shared;
        // whose files are about to be taken for left over
        self.mergers.stop();
        // a run that is being written is none of the index that is opened now
        let _writing = locked(&shared.writing);
        shared.change(|opened| {
            // it may write to its file when it is closed
            if opened.catalogue.is_ok() {
                opened.catalogue = Err(Arc::new(shared.damaged(INCOMPLETE)));
            }
            Ok(())
        })?;
        let fresh = open(shared.setting.clone())?;
        fresh.mergers.stop();
        let fresh = fresh.shared.opened_mut().take();
        let mut opened = shared.opened_mut();
        *opened = fresh;
        // nothing is condemned any more
        shared.rescues.fetch_add(1, Relaxed);
        shared.openings.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Which opening this is.
    pub(crate) fn opening(&self) -> u64 {
        self.shared.openings.load(Relaxed)
    }

    /// What is known to be damaged.
    pub(crate) fn broken(&self) -> Result<Vec<Digest>> {
        let broken = |opened: &Opened| Ok(opened.broken.iter().copied().collect());
        self.shared.with(broken)
    }

    /// Ends what is merged, which gives back the room that it takes.
    pub(crate) fn stop_merging(&self) {
        self.mergers.stop();
    }

    /// What it was opened with.
    pub(crate) fn setting(&self) -> &Setting {
        &self.shared.setting
    }

    fn look_up(&self, digest: &Digest) -> Result<Option<Found>> {
        self.look_up_and(digest, |_| {})
    }

    /// Has something done before anything else changes.
    fn look_up_and(&self, digest: &Digest, then: impl FnOnce(&Found)) -> Result<Option<Found>> {
        let setting = &self.shared.setting;
        let found = self.shared.with(|opened| {
            let found = opened.find(digest).map_err(|e| self.shared.io(e))?;
            let Some((place, far)) = found else {
                return Ok(None);
            };
            let condemned = opened.condemned.contains(digest);
            let found = opened.location(digest, place).map(|location| Found {
                place,
                location,
                condemned,
            });
            let found = found.inspect(then);
            Ok(found.map(|found| (found, far.then(|| opened.near.clone()))))
        })?;
        if let Some((found, Some(near))) = &found {
            let (number, id) = (found.place.pack, found.location.pack);
            near.touch(&*setting.storage, setting.datastore, number, id);
        }
        Ok(found.map(|(found, _)| found))
    }

    /// Where this chunk is.
    pub(crate) fn find(&self, digest: &Digest) -> Result<Option<Location>> {
        Ok(self.look_up(digest)?.map(|found| found.location))
    }

    /// Whether this chunk is there and may be leaned on from now on.
    pub(crate) fn usable(&self, digest: &Digest) -> Result<bool> {
        Ok(self.look_up(digest)?.is_some_and(|found| found.usable()))
    }

    /// The packs whose frames are in the index.
    pub(crate) fn packs(&self) -> Result<Vec<PackId>> {
        self.shared
            .with(|opened| Ok(opened.packs.values().map(|pack| pack.id).collect()))
    }

    /// The chunks that are found in a pack, in order of their place. Slow: all rows are read.
    pub(crate) fn frames_of(&self, pack: PackId) -> Result<Vec<(Digest, Location)>> {
        let (runs, mut rows, number) = self.shared.with(|opened| {
            let rows: Vec<Row> = opened.recent.rows.values().copied().collect();
            let mut packs = opened.packs.iter();
            let number = packs.find(|(_, p)| p.id == pack).map(|(number, _)| *number);
            Ok((opened.runs.clone(), rows, number))
        })?;
        let of_it = |row: &Row| matches!(row.state, State::At(p) if Some(p.pack) == number);
        rows.retain(of_it);
        for (_, run) in &runs {
            for row in run.rows() {
                rows.extend(Some(row.map_err(|e| self.shared.io(e))?).filter(of_it));
            }
        }
        let mut found = Vec::new();
        for row in rows {
            // a newer row may say otherwise
            let location = self.find(&row.digest)?;
            found.extend(
                location
                    .map(|l| (row.digest, l))
                    .filter(|(_, l)| l.pack == pack),
            );
        }
        found.sort_unstable_by_key(|(_, location)| location.offset);
        found.dedup();
        Ok(found)
    }

    /// Bytes that packs take together.
    pub(crate) fn taken(&self) -> Result<u64> {
        self.shared.with(|opened| {
            let bytes = opened.packs.values().map(|pack| u64::from(pack.bytes));
            Ok(bytes.sum())
        })
    }

    /// Sums over all chunks.
    pub(crate) fn totals(&self) -> Result<Totals> {
        self.shared.with(|opened| Ok(opened.totals))
    }

    /// Reads all of its runs, for what is damaged in them.
    pub(crate) fn check(&self) -> Result<()> {
        let runs = self.shared.with(|opened| Ok(opened.runs.clone()))?;
        let mut checked = runs.iter().map(|(_, run)| run.check());
        checked.try_for_each(|checked| checked.map_err(|e| self.shared.io(e)))
    }

    /// What it takes now.
    pub(crate) fn size(&self) -> Result<IndexSize> {
        let Setting {
            storage, memory, ..
        } = self.setting();
        self.shared.with(|opened| {
            let mut size = IndexSize {
                memory: memory.used() + opened.memory() as u64,
                disk: 0,
            };
            let runs = opened.runs.iter().map(|(number, _)| run_name(*number));
            for name in runs.chain([INDEX.to_owned()]) {
                let length = storage.open(&name).and_then(|file| file.len());
                size.disk += length.map_err(|e| self.shared.io(e))?;
            }
            Ok(size)
        })
    }

    /// Adds a pack that is durable, unless it is in already: one that a failing pipeline brings may
    /// have been found meanwhile. It also has `useless` bytes of frames that are not to be found.
    pub(crate) fn add_pack(&self, id: PackId, records: &[Record], useless: u32) -> Result<()> {
        let shared = &self.shared;
        let writing = locked(&shared.writing);
        // without the lock that readers wait for: the disk may be asked
        let mut seen = HashSet::new();
        let (mut new, mut referred) = (Vec::new(), Vec::new());
        let mut dead = useless;
        for record in records {
            let found = self.look_up(&record.digest)?;
            if found.is_some_and(|found| found.usable()) || !seen.insert(record.digest) {
                dead += record.length;
                continue;
            }
            // what a frame that is stored anew refers to is counted already
            if record.kind.has_refs() && found.is_none() {
                referred.extend(shared.referred(id, record)?);
            }
            new.push((record, found.map(|found| found.place)));
        }
        let full = shared.change(|opened| {
            // one that a failing pipeline brings may have been found meanwhile
            if opened.ids.contains(&id) {
                return Ok(false);
            }
            let number = opened
                .take_number()
                .ok_or_else(|| shared.damaged(NO_NUMBER))?;
            let bytes = useless + records.iter().map(|r| r.length).sum::<u32>();
            let pack = Pack {
                id,
                bytes,
                dead,
                settled: false,
            };
            opened.enter(number, pack);
            for (record, old) in new {
                let place = Place::of(number, record);
                opened.recent.note(record.digest, State::At(place), 0);
                opened.totals.add(&place);
                if let Some(old) = old {
                    opened.totals.subtract(&old);
                    opened.waste(old.pack, old.length);
                    if opened.broken.remove(&record.digest) {
                        opened.recent.broken.insert(record.digest);
                    }
                    if opened.condemned.remove(&record.digest) {
                        shared.rescues.fetch_add(1, Relaxed);
                    }
                }
            }
            for digest in referred {
                if opened.condemned.contains(&digest) {
                    shared.rescues.fetch_add(1, Relaxed);
                }
                opened.recent.note(digest, State::Older, 1);
            }
            Ok(opened.is_full(shared.setting.batch))
        })?;
        self.write_if(full, writing)
    }

    fn write_if(&self, full: bool, writing: MutexGuard<'_, ()>) -> Result<()> {
        if full {
            self.shared.flush()?;
            drop(writing);
            self.mergers.start(&self.shared);
        }
        Ok(())
    }

    /// Has a frame that refers to these not be found any more.
    pub(crate) fn leave_out(&self, digest: &Digest, refs: &[Digest]) -> Result<()> {
        let shared = &self.shared;
        let writing = locked(&shared.writing);
        let Some(Found { place, .. }) = self.look_up(digest)? else {
            return Ok(());
        };
        let full = shared.change(|opened| {
            for needed in refs {
                opened.recent.note(*needed, State::Older, -1);
            }
            opened.recent.note(*digest, State::Dead, 0);
            opened.broken.remove(digest);
            opened.recent.broken.insert(*digest);
            opened.totals.subtract(&place);
            opened.waste(place.pack, place.length);
            Ok(opened.is_full(shared.setting.batch))
        })?;
        self.write_if(full, writing)
    }

    /// As [`Index::mark_broken`] of one that is there, durable with all else that is added.
    pub(crate) fn mark(&self, digest: &Digest) -> Result<()> {
        self.shared.change(|opened| {
            opened.broken.insert(*digest);
            opened.recent.broken.insert(*digest);
            Ok(())
        })
    }

    /// Keeps these from being deduplicated against; the next backup then stores them anew.
    pub(crate) fn mark_broken(&self, digests: &[Digest]) -> Result<()> {
        let shared = &self.shared;
        let _writing = locked(&shared.writing);
        // a pack that comes back from its footer after a power cut would count as stored anew
        shared.flush()?;
        let mut broken = Vec::new();
        for digest in digests {
            if self.find(digest)?.is_some() {
                broken.push(*digest);
            }
        }
        shared.change(|opened| {
            opened.recent.broken.extend(&broken);
            opened.broken.extend(broken);
            Ok(())
        })?;
        shared.flush()
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        self.mergers.stop();
        let shared = &self.shared;
        let _writing = locked(&shared.writing);
        // best effort: it comes back from the packs
        let _ = shared.flush();
    }
}
