//! Where each chunk is: digest to pack, offset and length.
//!
//! Rows of packs that were sealed of late are held in memory; when they are many they become a
//! sorted [`run`], a file that never changes. A few runs at a time are merged into one in the
//! background, so that there are few and each is several times as long as the next newer one (a
//! log-structured merge tree, O'Neil et al. 1996). The [`catalogue`] says which runs and packs
//! count. A lookup asks the rows in memory, then [`near`], then the runs, newest first; a row whose
//! pack is gone is none.
//!
//! Nothing outside this module knows how. The index holds nothing that the packs do not say:
//! [`crate::Store::recover`] makes it anew from them, and what was only in memory when power failed
//! comes back likewise, from the packs that the catalogue does not have ([`crate::recover`]).
//!
//! Invariant: what is in the index and not broken refers only to what is in the index and not broken
//! (packs are added in an order that keeps it, see [`crate::ingest`]).

mod catalogue;
#[cfg(test)]
mod measure;
mod merge;
mod near;
mod row;
mod run;
#[cfg(test)]
mod tests;

use crate::core::locked;
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::storage::Storage;
use catalogue::{Catalogue, Change};
use format::frame::Kind;
use format::pack::Record;
use format::{DatastoreId, Digest, PackId};
use near::Near;
use row::Row;
use run::{Builder, Run};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Name of the catalogue's file.
pub(crate) const INDEX: &str = "index";
/// Directory of runs.
pub(crate) const RUNS: &str = "runs";

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
}

struct Opened {
    catalogue: Catalogue,
    /// By number.
    packs: BTreeMap<u32, PackId>,
    /// Newest first.
    runs: Vec<(u64, Arc<Run>)>,
    next_run: u64,
    /// Of `runs`, those that are being merged.
    merging: Vec<u64>,
    broken: HashMap<Digest, bool>,
    totals: Totals,
    recent: Recent,
}

/// What no run has yet.
#[derive(Default)]
struct Recent {
    rows: HashMap<Digest, Row>,
    packs: Vec<(u32, PackId)>,
    /// Stored anew.
    mended: Vec<(Digest, bool)>,
}

struct Shared {
    setting: Setting,
    near: Near,
    /// `None` after a failure, until it is opened again.
    opened: RwLock<Option<Opened>>,
    /// Held while what is in the catalogue changes.
    writing: Mutex<()>,
}

/// The index of one datastore.
pub(crate) struct Index {
    shared: Arc<Shared>,
    mergers: merge::Mergers,
}

fn run_name(number: u64) -> String {
    format!("{RUNS}/{number:016x}.run")
}

impl Opened {
    fn location(&self, row: Row) -> Option<Location> {
        Some(Location {
            pack: *self.packs.get(&row.pack)?,
            offset: row.offset,
            length: row.length,
            plain_len: row.plain_len,
            kind: row.kind,
            broken: self.broken.get(&row.digest) == Some(&true),
        })
    }

    /// About how many bytes it is, the shared pages left out.
    fn memory(&self) -> usize {
        self.recent.rows.capacity() * (size_of::<(Digest, Row)>() + 1)
            + self.packs.len() * size_of::<(u32, PackId)>()
            + self.broken.capacity() * (size_of::<(Digest, bool)>() + 1)
    }

    /// The row of a digest; and whether the disk was asked, or might have been.
    fn find(&self, near: &Near, digest: &Digest) -> io::Result<Option<(Row, bool)>> {
        let counts = |row: &Row| self.packs.contains_key(&row.pack);
        if let Some(row) = self.recent.rows.get(digest).copied().filter(counts) {
            return Ok(Some((row, false)));
        }
        // the neighbours of what is stored anew have its old place
        let mut asked = self.broken.contains_key(digest);
        for (_, run) in &self.runs {
            if !run.may_hold(digest)? {
                continue;
            }
            if !asked && let Some(row) = near.find(digest).filter(counts) {
                return Ok(Some((row, false)));
            }
            asked = true;
            if let Some(row) = run.find(digest)?.filter(counts) {
                return Ok(Some((row, true)));
            }
        }
        Ok(None)
    }
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
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full {
                place: self.setting.storage.place(),
            },
            _ => self.damaged(error),
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
        match &*opened {
            Some(opened) => read(opened),
            None => Err(self.damaged("it failed before and was not opened again")),
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Opened) -> Result<T>) -> Result<T> {
        let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        match &mut *opened {
            Some(opened) => change(opened),
            None => Err(self.damaged("it failed before and was not opened again")),
        }
    }

    /// Writes to the catalogue. After a failure nothing is known of what it says, so the index is
    /// closed.
    fn write(&self, change: &Change<'_>) -> Result<()> {
        let written = self.with(|opened| {
            let written = opened.catalogue.write(change);
            written.map_err(|e| self.failed(e))
        });
        if written.is_err() {
            *self.opened.write().unwrap_or_else(PoisonError::into_inner) = None;
        }
        written
    }

    fn open(&self) -> Result<Opened> {
        let Setting {
            storage,
            datastore,
            memory,
            ..
        } = &self.setting;
        let file = storage.open(INDEX).map_err(|e| self.damaged(e))?;
        let (catalogue, contents) = Catalogue::open(file).map_err(|e| self.failed(e))?;
        let name = |number: &u64| run_name(*number);
        let wanted: Vec<String> = contents.runs.iter().map(name).collect();
        // what a merge or a power cut left
        for file in storage.list(RUNS).map_err(|e| self.damaged(e))? {
            let file = format!("{RUNS}/{file}");
            if !wanted.contains(&file) {
                storage.remove(&file).map_err(|e| self.damaged(e))?;
            }
        }
        let mut runs = Vec::new();
        for number in contents.runs.iter().rev() {
            let run = storage
                .open(&run_name(*number))
                .and_then(|file| Run::open(file, *datastore, memory.clone()));
            runs.push((*number, Arc::new(run.map_err(|e| self.damaged(e))?)));
        }
        Ok(Opened {
            catalogue,
            packs: contents.packs.into_iter().collect(),
            next_run: runs.first().map_or(0, |(newest, _)| newest + 1),
            runs,
            merging: Vec::new(),
            broken: contents.broken,
            totals: contents.totals,
            recent: Recent::default(),
        })
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

    /// Makes a run of the rows in memory, if any pack is only there. Who calls it holds `writing`.
    fn flush(&self) -> Result<()> {
        let (number, mut rows, packs, mended, totals) = self.change(|opened| {
            let Recent {
                rows,
                packs,
                mended,
            } = &opened.recent;
            let number = opened.next_run;
            opened.next_run += 1;
            let rows: Vec<Row> = rows.values().copied().collect();
            Ok((number, rows, packs.clone(), mended.clone(), opened.totals))
        })?;
        if packs.is_empty() {
            return Ok(());
        }
        rows.sort_unstable_by_key(|row| row.digest);
        let most = rows.len() as u64;
        let run = self
            .write_run(number, most, rows.into_iter().map(Ok))
            .map_err(|e| self.io(e))?;
        self.write(&Change {
            run: Some(number),
            packs: &packs,
            broken: &mended,
            totals: Some(totals),
            ..Change::default()
        })?;
        self.change(|opened| {
            opened.runs.insert(0, (number, run));
            opened.recent = Recent::default();
            Ok(())
        })
    }
}

impl Index {
    /// Opens the index, making an empty one of an empty catalogue's file.
    pub(crate) fn open(setting: Setting) -> Result<Self> {
        let shared = Arc::new(Shared {
            near: Near::new(setting.memory.clone()),
            setting,
            opened: RwLock::new(None),
            writing: Mutex::default(),
        });
        *shared
            .opened
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(shared.open()?);
        Ok(Self {
            mergers: merge::Mergers::default(),
            shared,
        })
    }

    /// Opens it again if a failure left it closed; says whether it was. Packs that are not in it may
    /// then be there.
    pub(crate) fn reopen(&self) -> Result<bool> {
        if self.shared.with(|_| Ok(())).is_ok() {
            return Ok(false);
        }
        // whose files are about to be taken for left over
        self.mergers.stop();
        let mut opened = self
            .shared
            .opened
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *opened = Some(self.shared.open()?);
        Ok(true)
    }

    /// What it was opened with.
    pub(crate) fn setting(&self) -> &Setting {
        &self.shared.setting
    }

    /// Where this chunk is.
    pub(crate) fn find(&self, digest: &Digest) -> Result<Option<Location>> {
        let Shared { setting, near, .. } = &*self.shared;
        let found = self.shared.with(|opened| {
            let found = opened.find(near, digest).map_err(|e| self.shared.io(e))?;
            Ok(found.and_then(|(row, far)| Some((opened.location(row)?, far.then_some(row.pack)))))
        })?;
        if let Some((location, Some(number))) = found {
            near.touch(&*setting.storage, setting.datastore, number, location.pack);
        }
        Ok(found.map(|(location, _)| location))
    }

    /// Whether this chunk is there and may be referred to.
    pub(crate) fn usable(&self, digest: &Digest) -> Result<bool> {
        Ok(self.find(digest)?.is_some_and(|location| !location.broken))
    }

    /// The packs whose frames are in the index.
    pub(crate) fn packs(&self) -> Result<Vec<PackId>> {
        self.shared
            .with(|opened| Ok(opened.packs.values().copied().collect()))
    }

    /// The chunks that a pack holds, in order of their place.
    pub(crate) fn frames_of(&self, pack: PackId) -> Result<Vec<(Digest, Location)>> {
        let (runs, mut rows) = self.shared.with(|opened| {
            let rows: Vec<Row> = opened.recent.rows.values().copied().collect();
            Ok((opened.runs.clone(), rows))
        })?;
        let number = self.shared.with(|opened| {
            let mut packs = opened.packs.iter();
            Ok(packs
                .find(|(_, id)| **id == pack)
                .map(|(number, _)| *number))
        })?;
        let of_it = |row: &Row| Some(row.pack) == number;
        rows.retain(of_it);
        for (_, run) in &runs {
            for row in run.rows() {
                rows.extend(Some(row.map_err(|e| self.shared.io(e))?).filter(of_it));
            }
        }
        let mut found: Vec<_> = self.shared.with(|opened| {
            let located = rows
                .into_iter()
                .map(|row| (row.digest, opened.location(row)));
            Ok(located
                .filter_map(|(digest, l)| Some((digest, l?)))
                .collect())
        })?;
        found.sort_unstable_by_key(|(_, location)| location.offset);
        Ok(found)
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

    /// Adds a pack that is durable.
    pub(crate) fn add_pack(&self, id: PackId, records: &[Record]) -> Result<()> {
        let shared = &self.shared;
        let writing = locked(&shared.writing);
        // without the lock that readers wait for: the disk may be asked
        let mut new = Vec::new();
        for record in records {
            if !self.usable(&record.digest)? {
                new.push(record);
            }
        }
        let full = shared.change(|opened| {
            let number = match opened.packs.last_key_value() {
                None => 0,
                Some((last, _)) => last
                    .checked_add(1)
                    .ok_or_else(|| shared.damaged("it has a pack of the last number"))?,
            };
            opened.packs.insert(number, id);
            opened.recent.packs.push((number, id));
            for record in new {
                let row = Row::of(number, record);
                let known_broken = opened.broken.get_mut(&record.digest);
                let twice = opened.recent.rows.insert(record.digest, row).is_some();
                if let Some(broken) = known_broken {
                    *broken = false;
                    opened.recent.mended.push((record.digest, false));
                } else if !twice {
                    let totals = &mut opened.totals;
                    totals.chunks += 1;
                    totals.unique += u64::from(record.plain_len);
                    totals.stored += u64::from(record.length);
                }
            }
            Ok(opened.recent.rows.len() >= shared.setting.batch)
        })?;
        if full {
            shared.flush()?;
            drop(writing);
            self.mergers.start(shared);
        }
        Ok(())
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
                broken.push((*digest, true));
            }
        }
        if broken.is_empty() {
            return Ok(());
        }
        shared.write(&Change {
            broken: &broken,
            ..Change::default()
        })?;
        shared.change(|opened| {
            opened.broken.extend(broken);
            Ok(())
        })
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
