//! What makes files an index: which runs and packs there are, which snapshots and digests are in what
//! state, the sums. In redb, in one small file of the storage; one transaction for each run that is
//! added.

use super::Pack;
use crate::contained::Contained;
use crate::index::Totals;
use crate::storage::File;
use format::{Digest, PackId, SnapshotId};
use redb::{ReadableTable, TableDefinition, WriteTransaction};
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

const RUNS: TableDefinition<'static, u64, ()> = TableDefinition::new("runs");
/// By number: id, bytes of frames, of these dead, and 1 once what nothing refers to was looked for.
const PACKS: TableDefinition<'static, u32, (&'static [u8; 16], u32, u32, bool)> =
    TableDefinition::new("packs");
const BROKEN: TableDefinition<'static, &'static [u8; 32], ()> = TableDefinition::new("broken");
const ROOTS: TableDefinition<'static, &'static [u8; 16], &'static [u8; 32]> =
    TableDefinition::new("roots");
const CANDIDATES: TableDefinition<'static, &'static [u8; 32], ()> =
    TableDefinition::new("candidates");
const SUMS: TableDefinition<'static, u8, u64> = TableDefinition::new("sums");
/// Bytes. It is read when it is opened, and then only written.
const CACHE: usize = 256 << 10;

/// The key in SUMS of what is no sum: the version of the index.
const VERSION: (u8, u64) = (255, 3);

/// What it says when it is opened.
#[derive(Default)]
pub(super) struct Contents {
    /// Numbers of runs, rising: a later one is newer.
    pub(super) runs: Vec<u64>,
    pub(super) packs: Vec<(u32, Pack)>,
    pub(super) next_pack: u32,
    pub(super) broken: HashSet<Digest>,
    pub(super) roots: HashMap<SnapshotId, Digest>,
    pub(super) candidates: Vec<Digest>,
    pub(super) totals: Totals,
}

/// What is to be written; all of it or nothing. What has become `None` or false is removed.
#[derive(Default)]
pub(super) struct Change<'a> {
    pub(super) run: Option<u64>,
    pub(super) runs_gone: Vec<u64>,
    pub(super) packs: Vec<(u32, Option<Pack>)>,
    pub(super) broken: Vec<(Digest, bool)>,
    pub(super) roots: Vec<(SnapshotId, Option<Digest>)>,
    /// All of them.
    pub(super) candidates: Option<&'a Vec<Digest>>,
    /// With the number of the next pack: one is never given twice.
    pub(super) sums: Option<(Totals, u32)>,
}

pub(super) struct Catalogue(Contained);

impl Catalogue {
    /// Opens the file, making an empty catalogue in an empty one.
    pub(super) fn open(file: Arc<dyn File>) -> Result<(Self, Contents), redb::Error> {
        let database = Contained::open(Backend(file), CACHE)?;
        let contents = database.run(|database| {
            let transaction = database.begin_write()?;
            let (contents, is_new) = read(&transaction)?;
            // who only looks needs no room on the disk
            match is_new {
                true => transaction.commit()?,
                false => transaction.abort()?,
            }
            Ok(contents)
        })?;
        Ok((Self(database), contents))
    }

    /// Writes a change; when this returns, it is durable.
    pub(super) fn write(&self, change: &Change<'_>) -> Result<(), redb::Error> {
        self.0.run(|database| {
            let transaction = database.begin_write()?;
            write(&transaction, change)?;
            transaction.commit()?;
            Ok(())
        })
    }
}

fn write(transaction: &WriteTransaction, change: &Change<'_>) -> Result<(), redb::Error> {
    let mut runs = transaction.open_table(RUNS)?;
    for gone in &change.runs_gone {
        runs.remove(gone)?;
    }
    if let Some(run) = change.run {
        runs.insert(run, ())?;
    }
    let mut packs = transaction.open_table(PACKS)?;
    for (number, pack) in &change.packs {
        match pack {
            Some(Pack {
                id,
                bytes,
                dead,
                settled,
            }) => packs.insert(number, (&id.0, *bytes, *dead, *settled))?,
            None => packs.remove(number)?,
        };
    }
    let mut broken = transaction.open_table(BROKEN)?;
    for (digest, is) in &change.broken {
        if *is {
            broken.insert(&digest.0, ())?;
        } else {
            broken.remove(&digest.0)?;
        }
    }
    let mut roots = transaction.open_table(ROOTS)?;
    for (id, root) in &change.roots {
        match root {
            Some(root) => roots.insert(&id.0, &root.0)?,
            None => roots.remove(&id.0)?,
        };
    }
    if let Some(all) = change.candidates {
        transaction.delete_table(CANDIDATES)?;
        let mut candidates = transaction.open_table(CANDIDATES)?;
        for digest in all {
            candidates.insert(&digest.0, ())?;
        }
    }
    if let Some((totals, next_pack)) = change.sums {
        let mut sums = transaction.open_table(SUMS)?;
        let Totals {
            chunks,
            unique,
            stored,
        } = totals;
        for (key, sum) in [(0, chunks), (1, unique), (2, stored), (3, next_pack.into())] {
            sums.insert(key, sum)?;
        }
    }
    Ok(())
}

/// Also whether it was just made.
fn read(transaction: &WriteTransaction) -> Result<(Contents, bool), redb::Error> {
    let mut sums = transaction.open_table(SUMS)?;
    let is_new = transaction.list_tables()?.count() == 1;
    let version = sums.get(VERSION.0)?.map(|v| v.value());
    if is_new {
        sums.insert(VERSION.0, VERSION.1)?;
    } else if version != Some(VERSION.1) {
        return Err(redb::Error::Corrupted("it is of another release".into()));
    }
    let mut contents = Contents::default();
    let sum = |key: u8| Ok::<_, redb::Error>(sums.get(key)?.map_or(0, |v| v.value()));
    contents.totals = Totals {
        chunks: sum(0)?,
        unique: sum(1)?,
        stored: sum(2)?,
    };
    let damaged = |_| redb::Error::Corrupted("the number of its next pack is none".into());
    contents.next_pack = sum(3)?.try_into().map_err(damaged)?;
    for row in transaction.open_table(RUNS)?.iter()? {
        contents.runs.push(row?.0.value());
    }
    for row in transaction.open_table(PACKS)?.iter()? {
        let (number, pack) = row?;
        let (id, bytes, dead, settled) = pack.value();
        let pack = Pack {
            id: PackId(*id),
            bytes,
            dead,
            settled,
        };
        contents.packs.push((number.value(), pack));
    }
    for row in transaction.open_table(BROKEN)?.iter()? {
        contents.broken.insert(Digest(*row?.0.value()));
    }
    for row in transaction.open_table(ROOTS)?.iter()? {
        let (id, root) = row?;
        let (id, root) = (SnapshotId(*id.value()), Digest(*root.value()));
        contents.roots.insert(id, root);
    }
    for row in transaction.open_table(CANDIDATES)?.iter()? {
        contents.candidates.push(Digest(*row?.0.value()));
    }
    Ok((contents, is_new))
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
