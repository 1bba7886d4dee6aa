//! What makes files an index: which runs and packs there are, which digests are broken, the sums. In
//! redb, in one small file of the storage; one transaction for each run that is added.

use crate::contained::Contained;
use crate::index::Totals;
use crate::storage::File;
use format::{Digest, PackId};
use redb::{ReadableTable, TableDefinition, WriteTransaction};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;

const RUNS: TableDefinition<'static, u64, ()> = TableDefinition::new("runs");
const PACKS: TableDefinition<'static, u32, &'static [u8; 16]> =
    TableDefinition::new("packs by number");
/// True for broken, false for stored anew since.
const BROKEN: TableDefinition<'static, &'static [u8; 32], bool> = TableDefinition::new("broken");
const SUMS: TableDefinition<'static, u8, u64> = TableDefinition::new("sums");
/// Bytes. It is read when it is opened, and then only written.
const CACHE: usize = 256 << 10;

/// The key in SUMS of what is no sum: the version of the index.
const VERSION: (u8, u64) = (255, 2);

/// What it says when it is opened.
#[derive(Default)]
pub(super) struct Contents {
    /// Numbers of runs, rising: a later one is newer.
    pub(super) runs: Vec<u64>,
    pub(super) packs: Vec<(u32, PackId)>,
    /// Digests that were found broken: whether they still are, or were stored anew.
    pub(super) broken: HashMap<Digest, bool>,
    pub(super) totals: Totals,
}

/// What is to be written; all of it or nothing.
#[derive(Default)]
pub(super) struct Change<'a> {
    pub(super) run: Option<u64>,
    pub(super) runs_gone: &'a [u64],
    pub(super) packs: &'a [(u32, PackId)],
    pub(super) broken: &'a [(Digest, bool)],
    pub(super) totals: Option<Totals>,
}

pub(super) struct Catalogue(Contained);

impl Catalogue {
    /// Opens the file, making an empty catalogue in an empty one.
    pub(super) fn open(file: Arc<dyn File>) -> Result<(Self, Contents), redb::Error> {
        let database = Contained::open(Backend(file), CACHE)?;
        let contents = database.run(|database| {
            let transaction = database.begin_write()?;
            let contents = read(&transaction)?;
            transaction.commit()?;
            Ok(contents)
        })?;
        Ok((Self(database), contents))
    }

    /// Writes a change; when this returns, it is durable.
    pub(super) fn write(&self, change: &Change<'_>) -> Result<(), redb::Error> {
        self.0.run(|database| {
            let transaction = database.begin_write()?;
            {
                let mut runs = transaction.open_table(RUNS)?;
                for gone in change.runs_gone {
                    runs.remove(gone)?;
                }
                if let Some(run) = change.run {
                    runs.insert(run, ())?;
                }
                let mut packs = transaction.open_table(PACKS)?;
                for (number, id) in change.packs {
                    packs.insert(number, &id.0)?;
                }
                let mut broken = transaction.open_table(BROKEN)?;
                for (digest, still) in change.broken {
                    broken.insert(&digest.0, still)?;
                }
                if let Some(totals) = change.totals {
                    let mut sums = transaction.open_table(SUMS)?;
                    let Totals {
                        chunks,
                        unique,
                        stored,
                    } = totals;
                    for (key, sum) in [(0, chunks), (1, unique), (2, stored)] {
                        sums.insert(key, sum)?;
                    }
                }
            }
            transaction.commit()?;
            Ok(())
        })
    }
}

fn read(transaction: &WriteTransaction) -> Result<Contents, redb::Error> {
    let mut sums = transaction.open_table(SUMS)?;
    if transaction.list_tables()?.count() > 1 {
        let version = sums.get(VERSION.0)?.map(|v| v.value());
        if version != Some(VERSION.1) {
            return Err(redb::Error::Corrupted("it is of another release".into()));
        }
    }
    sums.insert(VERSION.0, VERSION.1)?;
    let mut contents = Contents::default();
    let sum = |key: u8| Ok::<_, redb::Error>(sums.get(key)?.map_or(0, |v| v.value()));
    contents.totals = Totals {
        chunks: sum(0)?,
        unique: sum(1)?,
        stored: sum(2)?,
    };
    for row in transaction.open_table(RUNS)?.iter()? {
        contents.runs.push(row?.0.value());
    }
    for row in transaction.open_table(PACKS)?.iter()? {
        let (number, id) = row?;
        contents.packs.push((number.value(), PackId(*id.value())));
    }
    for row in transaction.open_table(BROKEN)?.iter()? {
        let (digest, still) = row?;
        contents
            .broken
            .insert(Digest(*digest.value()), still.value());
    }
    Ok(contents)
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
