//! One datastore on the pool: the engine's, with what engined keeps beside it.
//!
//! `POOL/datastores/ID` is the engine's (docs/format.md); `POOL/datastores/side/ID` holds what can
//! be lost: what agents have brought ([`crate::known`]). poold makes `datastores` ours.

use crate::known::KnownOfAll;
use crate::turn::Turns;
use contract::Error;
use engine::storage::directory::Directory;
use engine::{LongContent, Memory, Options, SnapshotMeta, SnapshotWriter, Store};
use format::entry::{Entry, Extent, Timestamp};
use format::snapshot::{Clear, Details, Snapshot};
use format::superblock::{Profile, Superblock};
use format::{DatastoreId, Digest, DigestKeys, GroupId, Keyset, SnapshotId};
use protocol::intake::Terms;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use zeroize::Zeroizing;

/// Whose datastore it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// This site's own.
    Own,
    /// The copy of a site's, at a centre.
    Replica,
}

/// A datastore that is open.
pub(crate) struct Datastore {
    pub(crate) id: DatastoreId,
    pub(crate) role: Role,
    pub(crate) known: KnownOfAll,
    /// For the session of the site it is a copy of.
    pub(crate) turns: Turns,
    store: Store,
    dir: PathBuf,
    /// The dedup key, for what is derived from it for agents and groups; a site's own only.
    dedup: Option<Zeroizing<[u8; 32]>>,
}

/// Sums over a datastore.
pub(crate) struct Totals {
    pub(crate) snapshots: u32,
    pub(crate) logical: u64,
    pub(crate) unique: u64,
    pub(crate) stored: u64,
    /// Bytes free on the pool.
    pub(crate) free: u64,
}

/// What a verification found.
pub(crate) struct Verified {
    pub(crate) frames: u64,
    pub(crate) damaged: u64,
    /// Snapshots that cannot be restored whole.
    pub(crate) snapshots: Vec<String>,
}

/// What a restore reads.
pub(crate) enum Piece<'a> {
    Entry(&'a Entry),
    Data(&'a [u8]),
    Hole(u64),
    Lost(String),
}

fn datastores(pool: &Path) -> PathBuf {
    pool.join("datastores")
}

/// An engine's failure as the bus names it; the text has all its causes.
pub(crate) fn told(error: engine::Error) -> Error {
    as_told(&error)
}

fn as_told(error: &engine::Error) -> Error {
    use engine::Error as E;
    let text = contract::told(error);
    match error {
        E::Stopped(first) => as_told(first),
        E::Full { .. } => crate::session::full(),
        E::NoSnapshot { .. } | E::NoDatastore { .. } => Error::NotFound(text),
        E::Locked { .. } => Error::NotReady(text),
        E::Format { .. } | E::NoChunk { .. } | E::Content { .. } | E::Index { .. } => {
            Error::Damaged(text)
        }
        E::Signer { .. } | E::Foreign { .. } => Error::NotAuthorised(text),
        E::Cancelled => Error::Cancelled(text),
        _ => Error::Failed(text),
    }
}

fn failed(action: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let text = format!("{} cannot be {action}", path.display());
    move |error| match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            crate::session::full()
        }
        _ => Error::Failed(format!(
            "{text} ({error}); look at the pool's health and permissions"
        )),
    }
}

/// The datastores that are on the pool.
pub(crate) fn ids(pool: &Path) -> Result<Vec<DatastoreId>, Error> {
    let dir = datastores(pool);
    let listed = match std::fs::read_dir(&dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(failed("listed", &dir))?,
    };
    let mut ids = Vec::new();
    for entry in listed {
        let name = entry.map_err(failed("listed", &dir))?.file_name();
        ids.extend(name.to_str().and_then(|n| n.parse::<DatastoreId>().ok()));
    }
    ids.sort_unstable();
    Ok(ids)
}

/// Makes a datastore unless it is there: under another name first, so that it is there whole or
/// not at all.
fn make(pool: &Path, superblock: Superblock) -> Result<(), Error> {
    let dir = datastores(pool);
    let place = dir.join(superblock.datastore.to_string());
    if place.exists() {
        return Ok(());
    }
    let begun = dir.join(format!(".{}.new", superblock.datastore));
    match std::fs::remove_dir_all(&begun) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(failed("removed", &begun)(error));
        }
        _ => {}
    }
    let storage = Directory::create(&begun).map_err(failed("made", &begun))?;
    drop(Store::init(Arc::new(storage), superblock, Options::default()).map_err(told)?);
    std::fs::rename(&begun, &place)
        .and_then(|()| std::fs::File::open(&dir)?.sync_all())
        .map_err(failed("made", &place))
}

impl Datastore {
    fn open(pool: &Path, id: DatastoreId, role: Role, memory: Arc<Memory>) -> Result<Self, Error> {
        let dir = datastores(pool).join(id.to_string());
        let storage = match Directory::open(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NotFound(format!(
                    "there is no datastore {id} here (yet); a centre has it from a site's first copy on"
                )));
            }
            storage => storage.map_err(failed("opened", &dir))?,
        };
        let options = Options {
            memory,
            ..Options::default()
        };
        let store = Store::open(Arc::new(storage), options).map_err(told)?;
        if store.datastore() != id {
            return Err(Error::Damaged(format!(
                "{} holds datastore {}; move it to a directory of that name",
                dir.display(),
                store.datastore()
            )));
        }
        let known = KnownOfAll::new(datastores(pool).join("side").join(id.to_string()));
        Ok(Self {
            id,
            role,
            known,
            turns: Turns::default(),
            store,
            dir,
            dedup: None,
        })
    }

    /// A site's own, made when it is not there, and unlocked.
    pub(crate) fn open_own(
        pool: &Path,
        id: DatastoreId,
        keyset: Keyset,
        memory: Arc<Memory>,
    ) -> Result<Self, Error> {
        make(pool, Store::superblock_for(&keyset, Profile::Site))?;
        let mut own = Self::open(pool, id, Role::Own, memory)?;
        own.store.unlock(&keyset).map_err(told)?;
        own.dedup = Some(keyset.dedup.clone());
        Ok(own)
    }

    /// A replica that is there, locked.
    pub(crate) fn open_replica(
        pool: &Path,
        id: DatastoreId,
        memory: Arc<Memory>,
    ) -> Result<Self, Error> {
        Self::open(pool, id, Role::Replica, memory)
    }

    /// Makes a replica unless it is there, from its site's datastore file.
    pub(crate) fn make_replica(pool: &Path, id: DatastoreId, file: &[u8]) -> Result<(), Error> {
        let superblock = Superblock::parse(file).map_err(|e| {
            Error::InvalidArgument(format!(
                "the datastore file that the site sent for datastore {id} cannot be read ({e}); \
                 update the older of the two ends"
            ))
        })?;
        if superblock.datastore != id {
            return Err(Error::NotAuthorised(format!(
                "the datastore file that the site sent for datastore {id} is of datastore {}; put \
                 back at the site the datastore it was enrolled with, or enrol it again",
                superblock.datastore
            )));
        }
        make(
            pool,
            Superblock {
                profile: Profile::Centre,
                ..superblock
            },
        )
    }

    pub(crate) fn unlock(&self, keyset: &Keyset) -> Result<(), Error> {
        self.store.unlock(keyset).map_err(told)
    }

    pub(crate) fn lock(&self) {
        self.store.lock();
    }

    fn dedup(&self) -> Result<&[u8; 32], Error> {
        self.dedup.as_deref().ok_or_else(|| {
            Error::WrongRole("this datastore is a copy; its site takes the backups".into())
        })
    }

    /// What an agent is given to work with (docs/protocol.md, "Intake").
    pub(crate) fn terms(&self, agent: &str) -> Result<Terms, Error> {
        let dedup = self.dedup()?;
        let name = [b"strongroom 1 agent\0", agent.as_bytes()].concat();
        Ok(Terms {
            digest_key: *blake3::keyed_hash(dedup, &name).as_bytes(),
            cut_seed: DigestKeys::new(dedup).cut_seed(),
        })
    }

    /// The id of the group of this name.
    pub(crate) fn group(&self, name: &str) -> Result<GroupId, Error> {
        Ok(DigestKeys::new(self.dedup()?).group(name.as_bytes()))
    }

    /// All snapshots; those that cannot be read are left to verify, and told in the journal.
    pub(crate) fn snapshots(&self) -> Result<Vec<Clear>, Error> {
        Ok(self.infos()?.into_iter().map(|(clear, _)| clear).collect())
    }

    /// All snapshots, with what the key opens while it is here.
    pub(crate) fn infos(&self) -> Result<Vec<(Clear, Option<Details>)>, Error> {
        let (good, bad) = self.store.snapshots().map_err(told)?;
        for (id, error) in bad {
            tracing::warn!(snapshot = %id, "cannot be read: {error}");
        }
        Ok(good
            .into_iter()
            .map(|info| (info.clear, info.details))
            .collect())
    }

    /// One snapshot.
    pub(crate) fn info(&self, id: SnapshotId) -> Result<(Clear, Option<Details>), Error> {
        let info = self.store.snapshot(id).map_err(told)?;
        Ok((info.clear, info.details))
    }

    /// Begins a backup of a group.
    pub(crate) fn begin(&self, group: &str, details: Details) -> Result<Draft, Error> {
        let group_id = self.group(group)?;
        let parent = self
            .snapshots()?
            .into_iter()
            .find(|s| s.group == group_id)
            .map(|s| s.id);
        let meta = SnapshotMeta {
            time: now(),
            parent,
            details: Details {
                group: group.to_owned(),
                ..details
            },
        };
        let writer = self.store.begin(meta, Arc::default()).map_err(told)?;
        Ok(Draft(writer))
    }

    /// Reads a snapshot in order: what is at a path and below it, or all for an empty one.
    pub(crate) fn read<E: From<Error>>(
        &self,
        id: SnapshotId,
        path: &[u8],
        mut put: impl FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut empty = true;
        for entry in self.store.entries(id, path).map_err(told)? {
            let (entry, content) = entry.map_err(told)?;
            empty = false;
            put(Piece::Entry(&entry))?;
            if entry.size == 0 {
                continue;
            }
            for piece in self.store.pieces(&entry, &content).map_err(told)? {
                match piece {
                    Ok(engine::Piece::Data(bytes)) => put(Piece::Data(&bytes))?,
                    Ok(engine::Piece::Hole(length)) => put(Piece::Hole(length))?,
                    Err(error) => {
                        put(Piece::Lost(told(error).text()))?;
                        break;
                    }
                }
            }
        }
        if empty && !path.is_empty() {
            let path = String::from_utf8_lossy(path);
            return Err(Error::NotFound(format!(
                "there is no \"{path}\" in snapshot {id}; restore a folder above it, or another \
                 snapshot"
            ))
            .into());
        }
        Ok(())
    }

    pub(crate) fn has(&self, digests: &[Digest]) -> engine::Result<Vec<bool>> {
        self.store.has(digests)
    }

    pub(crate) fn put_frame(&self, raw: &[u8]) -> engine::Result<()> {
        self.store.put_frame(raw).map(drop)
    }

    /// Keeps what is here from being collected while the answer is held.
    pub(crate) fn hold(&self) -> Result<engine::Hold, Error> {
        self.store.hold().map_err(told)
    }

    /// Makes what came so far durable.
    pub(crate) fn flush(&self) -> engine::Result<()> {
        self.store.flush()
    }

    /// Takes a snapshot signed by this key; it is durable on return.
    pub(crate) fn put_snapshot(&self, file: Vec<u8>, signer: &[u8; 32]) -> engine::Result<Clear> {
        let snapshot = Snapshot::parse(file.clone()).map_err(|source| engine::Error::Format {
            name: "the snapshot".into(),
            source,
        })?;
        if snapshot.clear.signer != Some(*signer) {
            return Err(engine::Error::Signer {
                id: snapshot.clear.id,
            });
        }
        self.store.put_snapshot(file)?;
        Ok(snapshot.clear)
    }

    /// The datastore file.
    pub(crate) fn superblock(&self) -> Vec<u8> {
        self.store.superblock().encode().to_vec()
    }

    pub(crate) fn refs(&self, digest: &Digest) -> engine::Result<Vec<Digest>> {
        self.store.refs_of(digest).map(|(_, refs)| refs)
    }

    pub(crate) fn frame(&self, digest: &Digest) -> engine::Result<Vec<u8>> {
        self.store.read_frame(digest)
    }

    /// A snapshot's file and its root.
    pub(crate) fn snapshot_file(&self, id: SnapshotId) -> Result<(Vec<u8>, Digest), Error> {
        let file = self.store.snapshot_bytes(id).map_err(told)?;
        let snapshot = Snapshot::parse(file).map_err(|e| Error::Damaged(e.to_string()))?;
        Ok((snapshot.bytes().to_vec(), snapshot.clear.root))
    }

    pub(crate) fn totals(&self) -> Result<Totals, Error> {
        let stats = self.store.stats().map_err(told)?;
        let free = nix::sys::statvfs::statvfs(&self.dir)
            .map_err(|e| failed("looked at", &self.dir)(e.into()))?;
        Ok(Totals {
            snapshots: u32::try_from(stats.snapshots).unwrap_or(u32::MAX),
            logical: stats.logical,
            unique: stats.totals.unique,
            stored: stats.totals.stored,
            free: free.blocks_available() * free.fragment_size(),
        })
    }

    /// Reads and checks everything; `progress` counts bytes.
    pub(crate) fn verify(&self, progress: &engine::Progress) -> Result<Verified, Error> {
        let report = self.store.verify(progress).map_err(told)?;
        for finding in &report.findings {
            tracing::error!(datastore = %self.id, "{finding}");
        }
        Ok(Verified {
            frames: report.frames,
            damaged: (report.damaged.len() + report.missing.len()) as u64,
            snapshots: report.snapshots.iter().map(ToString::to_string).collect(),
        })
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    Timestamp {
        seconds,
        nanos: since.subsec_nanos(),
    }
}

/// A backup on its way in.
pub(crate) struct Draft(SnapshotWriter);

/// keyd's signature, asked for when the manifest is there.
struct Signer<F> {
    public: [u8; 32],
    sign: F,
}

impl<F: Fn(&[u8]) -> Result<[u8; 64], Error>> engine::Signer for Signer<F> {
    fn public(&self) -> [u8; 32] {
        self.public
    }

    fn sign(&self, hash: &[u8; 32]) -> Result<[u8; 64], String> {
        (self.sign)(hash).map_err(|e| e.text())
    }
}

impl Draft {
    /// Stores a chunk; its digest in this datastore.
    pub(crate) fn put_chunk(&self, bytes: &[u8]) -> Result<Digest, Error> {
        self.0.put_chunk(bytes).map_err(told)
    }

    /// Whether an entry may refer to this chunk.
    pub(crate) fn has(&self, digest: &Digest) -> Result<bool, Error> {
        self.0.known(digest).map_err(told)
    }

    /// Where the next bytes of a file are.
    pub(crate) fn extend(
        &mut self,
        content: &mut LongContent,
        extents: Vec<Extent>,
    ) -> Result<(), Error> {
        self.0.extend(content, extents).map_err(told)
    }

    /// The next entry in the order of paths.
    pub(crate) fn add_entry(
        &mut self,
        entry: &mut Entry,
        content: LongContent,
    ) -> Result<(), Error> {
        self.0.add_long(entry, content).map(|_| ()).map_err(told)
    }

    /// A file that was skipped or changed while it was read.
    pub(crate) fn problem(&mut self, path: &[u8], text: &str) {
        self.0.problem(path, text);
    }

    /// Makes the snapshot durable, signed for this key by `sign`.
    pub(crate) fn commit(
        self,
        public: [u8; 32],
        sign: impl Fn(&[u8]) -> Result<[u8; 64], Error>,
    ) -> Result<(Clear, Details), Error> {
        let info = self
            .0
            .commit(Some(&Signer { public, sign }))
            .map_err(told)?;
        Ok((info.clear, info.details.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_site_with_a_wrong_datastore_file_is_told_the_next_step() {
        let keyset = Keyset {
            datastore_id: DatastoreId([1; 16]),
            dedup: Zeroizing::new([2; 32]),
            epochs: BTreeMap::from([(1, Zeroizing::new([3; 32]))]),
        };
        let file = Store::superblock_for(&keyset, Profile::Site).encode();
        let pool = tempfile::tempdir().unwrap();
        let told = |id, file: &[u8]| {
            let made = Datastore::make_replica(pool.path(), id, file);
            made.unwrap_err().text()
        };
        let other = told(DatastoreId([9; 16]), &file);
        assert!(other.contains("or enrol it again"), "{other}");
        let unread = told(keyset.datastore_id, &file[1..]);
        assert!(unread.contains("update the older"), "{unread}");
        assert_eq!(ids(pool.path()).unwrap(), []);
    }
}
