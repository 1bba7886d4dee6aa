//! Where each chunk is: digest to pack, offset and length, in redb, in one file of the storage.
//!
//! Nothing outside this module knows how. The index holds nothing that the packs do not say;
//! [`crate::Store::recover`] makes it anew from them.
//!
//! Invariant: what is in the index and not marked broken refers only to what is in the index and
//! not marked broken (packs are added in an order that keeps it, see [`crate::ingest`]).

use crate::contained::Contained;
use crate::error::{Error, Result};
use crate::storage::{File, Storage};
use format::frame::{Kind, MAX_FRAME};
use format::pack::Record;
use format::{Digest, PackId};
use redb::{
    Database, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Name of the index's file.
pub(crate) const INDEX: &str = "index";

type Key = &'static [u8; 32];
type Value = &'static [u8; 17];

const CHUNKS: TableDefinition<'static, Key, Value> = TableDefinition::new("chunks");
const PACKS: TableDefinition<'static, u32, &'static [u8; 16]> = TableDefinition::new("packs");
const TOTALS: TableDefinition<'static, u8, u64> = TableDefinition::new("totals");

/// Set beside the kind of what must not be deduplicated against: damaged, or referring to what is.
const BROKEN: u8 = 0x80;

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

struct Opened {
    // before the database, which its destructor needs
    chunks: ReadOnlyTable<Key, Value>,
    database: Contained,
    packs: HashMap<u32, PackId>,
}

/// The index of one datastore.
pub(crate) struct Index {
    storage: Arc<dyn Storage>,
    name: &'static str,
    cache: usize,
    /// `None` after a failure, until it is opened again.
    opened: RwLock<Option<Opened>>,
    /// Held from the beginning of a transaction until its outcome is in `opened`.
    writing: Mutex<()>,
}

impl Index {
    /// Opens the index in this file, making an empty one in an empty file.
    pub(crate) fn open(
        storage: Arc<dyn Storage>,
        name: &'static str,
        cache: usize,
    ) -> Result<Self> {
        let this = Self {
            storage,
            name,
            cache,
            opened: RwLock::new(None),
            writing: Mutex::new(()),
        };
        this.reopen()?;
        Ok(this)
    }

    fn failed(&self) -> impl Fn(redb::Error) -> Error + use<> {
        let place = self.storage.place();
        move |error| match error {
            redb::Error::Io(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                ) =>
            {
                Error::Full {
                    place: place.clone(),
                }
            }
            other => Error::Index {
                place: place.clone(),
                reason: other.to_string(),
            },
        }
    }

    /// Opens the file if a failure left it closed.
    pub(crate) fn reopen(&self) -> Result<()> {
        let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        if opened.is_some() {
            return Ok(());
        }
        let file = self.storage.open(self.name).map_err(|e| Error::Index {
            place: self.storage.place(),
            reason: e.to_string(),
        })?;
        *opened = Some(Self::open_file(file, self.cache).map_err(self.failed())?);
        Ok(())
    }

    fn open_file(file: Arc<dyn File>, cache: usize) -> Result<Opened, redb::Error> {
        let database = Contained::open(Backend(file), cache)?;
        let (chunks, packs) = database.run(|database| {
            let transaction = database.begin_write()?;
            transaction.open_table(CHUNKS)?;
            transaction.open_table(TOTALS)?;
            let mut packs = HashMap::new();
            for row in transaction.open_table(PACKS)?.iter()? {
                let (number, id) = row?;
                packs.insert(number.value(), PackId(*id.value()));
            }
            transaction.commit()?;
            Ok((database.begin_read()?.open_table(CHUNKS)?, packs))
        })?;
        Ok(Opened {
            chunks,
            database,
            packs,
        })
    }

    fn with<T>(
        &self,
        read: impl FnOnce(&Opened, &Database) -> Result<T, redb::Error>,
    ) -> Result<T> {
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        match &*opened {
            Some(opened) => opened
                .database
                .run(|database| read(opened, database))
                .map_err(self.failed()),
            None => Err(Error::Index {
                place: self.storage.place(),
                reason: "it failed before and was not opened again".into(),
            }),
        }
    }

    /// Where this chunk is.
    pub(crate) fn find(&self, digest: &Digest) -> Result<Option<Location>> {
        self.with(|opened, _| {
            let Some(value) = opened.chunks.get(&digest.0)? else {
                return Ok(None);
            };
            Ok(decode(value.value(), &opened.packs))
        })
    }

    /// Whether this chunk is there and may be referred to.
    pub(crate) fn usable(&self, digest: &Digest) -> Result<bool> {
        self.with(|opened, _| {
            let value = opened.chunks.get(&digest.0)?;
            let location = value.and_then(|v| decode(v.value(), &opened.packs));
            Ok(location.is_some_and(|location| !location.broken))
        })
    }

    /// The packs whose frames are in the index.
    pub(crate) fn packs(&self) -> Result<Vec<PackId>> {
        self.with(|opened, _| Ok(opened.packs.values().copied().collect()))
    }

    /// The chunks that a pack holds, in order of their place.
    pub(crate) fn frames_of(&self, pack: PackId) -> Result<Vec<(Digest, Location)>> {
        self.with(|opened, _| {
            let mut found = Vec::new();
            for row in opened.chunks.iter()? {
                let (digest, value) = row?;
                if let Some(location) = decode(value.value(), &opened.packs)
                    && location.pack == pack
                {
                    found.push((Digest(*digest.value()), location));
                }
            }
            found.sort_unstable_by_key(|(_, location)| location.offset);
            Ok(found)
        })
    }

    /// Sums over all chunks.
    pub(crate) fn totals(&self) -> Result<Totals> {
        self.with(|_, database| {
            let table = database.begin_read()?.open_table(TOTALS)?;
            let sum = |key: u8| Ok::<_, redb::Error>(table.get(key)?.map_or(0, |v| v.value()));
            Ok(Totals {
                chunks: sum(0)?,
                unique: sum(1)?,
                stored: sum(2)?,
            })
        })
    }

    /// Adds packs that are durable; when this returns, the index is.
    pub(crate) fn add_packs(&self, packs: &[(PackId, Vec<Record>)]) -> Result<()> {
        self.write(|opened, transaction| {
            let mut added = Vec::new();
            let mut sums = Totals::default();
            {
                let mut pack_table = transaction.open_table(PACKS)?;
                let mut chunk_table = transaction.open_table(CHUNKS)?;
                let first = match opened.packs.keys().max() {
                    None => 0,
                    Some(last) => last.checked_add(1).ok_or_else(|| {
                        redb::Error::Corrupted("it has a pack of the last number".into())
                    })?,
                };
                let mut rows = Vec::new();
                for (number, (id, records)) in (first..).zip(packs) {
                    pack_table.insert(number, &id.0)?;
                    added.push((number, *id));
                    rows.extend(records.iter().map(|r| (r.digest, encode(number, r))));
                }
                // neighbours in the tree are written together
                rows.sort_unstable_by_key(|(digest, _)| *digest);
                for (digest, value) in rows {
                    let earlier = chunk_table
                        .get(&digest.0)?
                        .map(|v| decode(v.value(), &opened.packs));
                    match earlier {
                        Some(Some(location)) if !location.broken => continue,
                        // broken, of no pack, or brought twice by these
                        Some(_) => {}
                        None => {
                            sums.chunks += 1;
                            sums.unique += number_at(&value, 12);
                            sums.stored += number_at(&value, 8);
                        }
                    }
                    chunk_table.insert(&digest.0, &value)?;
                }
                let mut totals = transaction.open_table(TOTALS)?;
                for (key, more) in [(0, sums.chunks), (1, sums.unique), (2, sums.stored)] {
                    let before = totals.get(key)?.map_or(0, |v| v.value());
                    totals.insert(key, before.saturating_add(more))?;
                }
            }
            Ok(added)
        })
    }

    /// Keeps these from being deduplicated against; the next backup then stores them anew.
    pub(crate) fn mark_broken(&self, digests: &[Digest]) -> Result<()> {
        if digests.is_empty() {
            return Ok(());
        }
        self.write(|_, transaction| {
            let mut table = transaction.open_table(CHUNKS)?;
            for digest in digests {
                let value = table.get(&digest.0)?.map(|v| *v.value());
                if let Some(mut value) = value {
                    value[16] |= BROKEN;
                    table.insert(&digest.0, &value)?;
                }
            }
            Ok(Vec::new())
        })
    }

    /// Runs a transaction; it returns the packs it added. After a failure the index is closed
    /// until [`Index::reopen`].
    fn write(
        &self,
        change: impl FnOnce(&Opened, &WriteTransaction) -> Result<Vec<(u32, PackId)>, redb::Error>,
    ) -> Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let result = self.with(|opened, database| {
            let transaction = database.begin_write()?;
            let added = change(opened, &transaction)?;
            transaction.commit()?;
            Ok((added, database.begin_read()?.open_table(CHUNKS)?))
        });
        let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok((added, chunks)) => {
                if let Some(opened) = &mut *opened {
                    opened.packs.extend(added);
                    opened.chunks = chunks;
                }
                Ok(())
            }
            Err(error) => {
                *opened = None;
                Err(error)
            }
        }
    }
}

/// redb's file, through our storage, so that crash tests reach it.
struct Backend(Arc<dyn File>);

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("index file")
    }
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let count = self.0.read_at(out, offset)?;
        if count == out.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(data, offset)
    }
}

fn number_at(value: &[u8; 17], at: usize) -> u64 {
    u64::from(u32::from_le_bytes(std::array::from_fn(|i| value[at + i])))
}

fn encode(pack: u32, record: &Record) -> [u8; 17] {
    let mut value = [0; 17];
    value[..4].copy_from_slice(&pack.to_le_bytes());
    value[4..8].copy_from_slice(&record.offset.to_le_bytes());
    value[8..12].copy_from_slice(&record.length.to_le_bytes());
    value[12..16].copy_from_slice(&record.plain_len.to_le_bytes());
    value[16] = record.kind as u8;
    value
}

/// Where a row says; `None` for one that nobody wrote.
fn decode(value: &[u8; 17], packs: &HashMap<u32, PackId>) -> Option<Location> {
    if number_at(value, 8) > MAX_FRAME as u64 {
        return None;
    }
    Some(Location {
        pack: *packs.get(&(number_at(value, 0) as u32))?,
        offset: number_at(value, 4) as u32,
        length: number_at(value, 8) as u32,
        plain_len: number_at(value, 12) as u32,
        kind: Kind::from_number(value[16] & !BROKEN)?,
        broken: value[16] & BROKEN != 0,
    })
}
