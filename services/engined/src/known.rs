//! What one agent has brought: its own digests, and the store's for the same chunks.
//!
//! Agents ask with digests under a key of their own; this says which they may be told are known:
//! what they themselves have sent. One redb file for each agent, beside its datastore on the pool.
//! It can be lost: the agent then sends again what the store has, and nothing is stored twice.
//! What it says is held against the store before it is believed.

use engine::Contained;
use format::Digest;
use redb::backends::FileBackend;
use redb::{Durability, ReadableDatabase, TableDefinition};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// Agent's digest → store's digest and the chunk's length (u32, little-endian).
const CHUNKS: TableDefinition<&[u8; 32], &[u8; 36]> = TableDefinition::new("chunks");
/// Memory for a file's cache, bytes.
const CACHE: usize = 16 << 20;
/// Chunks held in memory before they are written.
const BATCH: usize = 16 << 10;

/// A chunk in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// The store's digest.
    pub(crate) digest: Digest,
    /// Bytes in it.
    pub(crate) length: u32,
}

impl Chunk {
    fn to_bytes(self) -> [u8; 36] {
        let mut out = [0; 36];
        out[..32].copy_from_slice(&self.digest.0);
        out[32..].copy_from_slice(&self.length.to_le_bytes());
        out
    }

    fn from_bytes(bytes: &[u8; 36]) -> Self {
        let (digest, length) = bytes.split_at(32);
        Self {
            digest: Digest(std::array::from_fn(|i| digest[i])),
            length: u32::from_le_bytes(std::array::from_fn(|i| length[i])),
        }
    }
}

/// What one agent has brought. Several backups of it may run at once.
pub(crate) struct Known {
    path: PathBuf,
    database: Contained,
    /// The file was found damaged; it goes when it is closed.
    damaged: AtomicBool,
    fresh: Mutex<HashMap<Digest, Chunk>>,
}

/// A full disk stays to be told from a damaged file.
fn failed(error: redb::Error) -> io::Error {
    match error {
        redb::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

/// Whether the file is at fault, and not the disk or another user of it.
fn is_damage(error: &redb::Error) -> bool {
    use redb::Error as E;
    match error {
        E::Io(io) => matches!(
            io.kind(),
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
        ),
        E::Corrupted(_)
        | E::UpgradeRequired(_)
        | E::RepairAborted
        | E::TableTypeMismatch { .. }
        | E::TableIsMultimap(_)
        | E::TypeDefinitionChanged { .. } => true,
        _ => false,
    }
}

impl Known {
    /// Opens the file, or begins anew when there is none or it is damaged.
    fn open(path: &Path) -> io::Result<Self> {
        let opened = Self::try_open(path);
        match opened {
            Err(error) if is_damage(&error) => {
                tracing::warn!("{} begins anew: {error}", path.display());
                std::fs::remove_file(path)?;
                Self::try_open(path)
            }
            opened => opened,
        }
        .map_err(failed)
    }

    fn try_open(path: &Path) -> Result<Self, redb::Error> {
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false);
        let backend = FileBackend::new(file.open(path)?)?;
        let database = Contained::open(backend, CACHE)?;
        write(&database, &HashMap::new(), Durability::None)?;
        Ok(Self {
            path: path.into(),
            database,
            damaged: AtomicBool::new(false),
            fresh: Mutex::default(),
        })
    }

    /// Notes what is wrong with the file for when it is closed.
    fn told(&self, error: redb::Error) -> io::Error {
        self.damaged.fetch_or(is_damage(&error), Relaxed);
        failed(error)
    }

    /// What it says was wrong, though it can be read: it goes when it is closed.
    pub(crate) fn distrust(&self) {
        self.damaged.store(true, Relaxed);
    }

    /// The chunk of this agent's digest.
    pub(crate) fn find(&self, digest: &Digest) -> io::Result<Option<Chunk>> {
        if let Some(chunk) = self.fresh().get(digest) {
            return Ok(Some(*chunk));
        }
        let found = self.database.run(|database| {
            let table = database.begin_read()?.open_table(CHUNKS)?;
            let found = table.get(&digest.0)?;
            Ok(found.map(|bytes| Chunk::from_bytes(bytes.value())))
        });
        found.map_err(|error| self.told(error))
    }

    /// Notes a chunk the agent has brought.
    pub(crate) fn add(&self, digest: Digest, chunk: Chunk) -> io::Result<()> {
        let full = {
            let mut fresh = self.fresh();
            fresh.insert(digest, chunk);
            (fresh.len() >= BATCH).then(|| fresh.clone())
        };
        match full {
            Some(batch) => self.write_out(&batch),
            None => Ok(()),
        }
    }

    /// Writes out what was noted.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let batch = self.fresh().clone();
        self.write_out(&batch)
    }

    fn write_out(&self, batch: &HashMap<Digest, Chunk>) -> io::Result<()> {
        // it may be lost, so it need not wait for the disk
        write(&self.database, batch, Durability::None).map_err(|error| self.told(error))?;
        self.fresh().retain(|digest, _| !batch.contains_key(digest));
        Ok(())
    }

    fn fresh(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Chunk>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write(
    database: &Contained,
    batch: &HashMap<Digest, Chunk>,
    durability: Durability,
) -> Result<(), redb::Error> {
    database.run(|database| {
        let mut write = database.begin_write()?;
        write.set_durability(durability)?;
        {
            let mut table = write.open_table(CHUNKS)?;
            for (digest, chunk) in batch {
                table.insert(&digest.0, &chunk.to_bytes())?;
            }
        }
        Ok(write.commit()?)
    })
}

impl Drop for Known {
    fn drop(&mut self) {
        // what was brought and not committed need not be brought again either
        let kept = if *self.damaged.get_mut() {
            std::fs::remove_file(&self.path)
        } else {
            let batch = self.fresh().clone();
            write(&self.database, &batch, Durability::Immediate).map_err(failed)
        };
        if let Err(error) = kept {
            tracing::warn!(
                "what an agent brought could not be noted, it sends that again: {error}"
            );
        }
    }
}

type Open = HashMap<String, (Arc<Known>, usize)>;

/// The files of all agents of one datastore, each open once.
pub(crate) struct KnownOfAll {
    dir: PathBuf,
    open: Arc<Mutex<Open>>,
}

/// One session's use of an agent's file, which is closed with the last of them.
pub(crate) struct InUse {
    known: Option<Arc<Known>>,
    agent: String,
    open: Arc<Mutex<Open>>,
}

impl KnownOfAll {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            open: Arc::default(),
        }
    }

    /// That of an agent, whose id keyd made.
    pub(crate) fn of(&self, agent: &str) -> io::Result<InUse> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if !open.contains_key(agent) {
            std::fs::create_dir_all(&self.dir)?;
            // an id is what a peer says it is: nothing of it becomes a path
            let name = blake3::hash(agent.as_bytes()).to_hex();
            let known = Known::open(&self.dir.join(format!("{name}.redb")))?;
            open.insert(agent.to_owned(), (Arc::new(known), 0));
        }
        let known = open.get_mut(agent).map(|(known, users)| {
            *users += 1;
            known.clone()
        });
        Ok(InUse {
            known,
            agent: agent.to_owned(),
            open: self.open.clone(),
        })
    }
}

impl std::ops::Deref for InUse {
    type Target = Known;

    fn deref(&self) -> &Known {
        self.known
            .as_deref()
            .expect("it is there until it is dropped")
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        // closed under the lock: who opens the file next finds it closed
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        self.known = None;
        if let Some((_, users)) = open.get_mut(&self.agent) {
            *users -= 1;
            if *users == 0 {
                open.remove(&self.agent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use proptest::sample::Index;
    use std::sync::LazyLock;

    fn chunk(n: u32) -> Chunk {
        Chunk {
            digest: Digest([n as u8; 32]),
            length: n,
        }
    }

    fn name(n: u32) -> Digest {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_le_bytes());
        Digest(bytes)
    }

    #[test]
    fn each_agent_finds_what_it_brought_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let all = KnownOfAll::new(dir.path().join("side"));
        let count = BATCH as u32 + 5;
        let (a, again, b) = (
            all.of("a").unwrap(),
            all.of("a").unwrap(),
            all.of("../b").unwrap(),
        );
        for n in 0..count {
            a.add(name(n), chunk(n)).unwrap();
        }
        for n in [0, 1, BATCH as u32 - 1, count - 1] {
            assert_eq!(again.find(&name(n)).unwrap(), Some(chunk(n)), "{n}");
            assert_eq!(b.find(&name(n)).unwrap(), None);
        }
        assert_eq!(a.find(&name(count)).unwrap(), None);
        drop((a, again));
        assert_eq!(
            all.of("a").unwrap().find(&name(count - 1)).unwrap(),
            Some(chunk(count - 1))
        );
        assert_eq!(
            std::fs::read_dir(dir.path().join("side")).unwrap().count(),
            2
        );
    }

    #[test]
    fn sessions_that_come_and_go_never_meet_a_half_closed_file() {
        let dir = tempfile::tempdir().unwrap();
        let all = KnownOfAll::new(dir.path().into());
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let all = &all;
                scope.spawn(move || {
                    for n in 0..20 {
                        let known = all.of("a").unwrap();
                        known.add(name(thread * 100 + n), chunk(n)).unwrap();
                    }
                });
            }
        });
        let known = all.of("a").unwrap();
        for n in (0..4).flat_map(|thread| (0..20).map(move |n| thread * 100 + n)) {
            assert!(known.find(&name(n)).unwrap().is_some(), "{n}");
        }
    }

    fn only_file(dir: &Path) -> PathBuf {
        let mut files = std::fs::read_dir(dir).unwrap();
        files.next().unwrap().unwrap().path()
    }

    #[test]
    fn a_file_that_is_none_of_ours_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let all = KnownOfAll::new(dir.path().into());
        drop(all.of("a").unwrap());
        std::fs::write(only_file(dir.path()), b"no database").unwrap();
        let known = all.of("a").unwrap();
        known.add(name(1), chunk(1)).unwrap();
        assert_eq!(known.find(&name(1)).unwrap(), Some(chunk(1)));
    }

    /// A file of some chunks, as it lies there.
    static WRITTEN: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let dir = tempfile::tempdir().unwrap();
        let known = KnownOfAll::new(dir.path().into()).of("a").unwrap();
        (0..500).for_each(|n| known.add(name(n), chunk(n)).unwrap());
        drop(known);
        std::fs::read(only_file(dir.path())).unwrap()
    });

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn a_damaged_file_costs_one_session_at_most(
            flips in vec((any::<bool>(), any::<Index>(), 0u8..8), 1..6),
            cut in option::weighted(0.1, any::<Index>()),
        ) {
            let mut bytes = WRITTEN.clone();
            let written: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
            for (head, at, bit) in flips {
                let at = if head { at.index(512) } else { written[at.index(written.len())] };
                bytes[at] ^= 1 << bit;
            }
            bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
            let dir = tempfile::tempdir().unwrap();
            let all = KnownOfAll::new(dir.path().into());
            drop(all.of("a").unwrap());
            std::fs::write(only_file(dir.path()), bytes).unwrap();
            let use_it = || {
                let known = all.of("a")?;
                for n in 0..500 {
                    known.find(&name(n))?;
                }
                (1000..1100).try_for_each(|n| known.add(name(n), chunk(n)))?;
                known.flush()?;
                for n in 1000..1100 {
                    // as a session does that was told so by its agent
                    if known.find(&name(n))? != Some(chunk(n)) {
                        known.distrust();
                        return Ok(false);
                    }
                }
                Ok(true)
            };
            let first: io::Result<bool> = use_it();
            if !first.is_ok_and(|all| all) {
                prop_assert!(use_it().unwrap());
            }
        }
    }
}
