//! Small trees of files, backed up and restored, and a datastore of many small packs and runs.

use crate::taken::Taken;
use engine::storage::simulated::Simulated;
use engine::{Options, Piece, Progress, SnapshotMeta, Store};
use format::entry::{Entry, Extent, Kind, Timestamp};
use format::snapshot::Details;
use format::superblock::Profile;
use format::{Keyset, SnapshotId};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// So small that few files fill packs, and few packs a run.
pub(crate) fn options() -> Options {
    Options {
        threads: 2,
        pack_size: 32 << 10,
        index_batch: 12,
        ..Options::default()
    }
}

pub(crate) fn fresh(storage: &Simulated, keys: &Keyset) -> Store {
    let superblock = Store::superblock_for(keys, Profile::Site);
    let store = Store::init(Arc::new(storage.clone()), superblock, options()).unwrap();
    store.unlock(keys).unwrap();
    store
}

pub(crate) fn try_open(storage: &Simulated, keys: &Keyset) -> engine::Result<Store> {
    let store = Store::open(Arc::new(storage.clone()), options())?;
    store.unlock(keys)?;
    Ok(store)
}

pub(crate) fn opened(storage: &Simulated, keys: &Keyset) -> Store {
    try_open(storage, keys).unwrap()
}

/// Files and the chunks they are made of.
pub(crate) type Files = Vec<(String, Vec<Vec<u8>>)>;

/// Bytes that do not compress, the same for the same seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// So many files of one chunk, and one of more than fit into its entry.
pub(crate) fn files(count: u64, seed: u64) -> Files {
    let small = (0..count).map(|i| (format!("f{i:05}"), vec![noise(seed + i, 3000)]));
    let large = (0..70).map(|i| noise(seed << 32 | i, 90)).collect();
    small.chain([("long".to_owned(), large)]).collect()
}

pub(crate) fn entry(path: &str, kind: Kind) -> Entry {
    Entry {
        path: path.into(),
        kind,
        mode: 0o644,
        uid: 1,
        gid: 2,
        user: Vec::new(),
        group: Vec::new(),
        modified: Timestamp::default(),
        xattrs: Vec::new(),
        size: 0,
        content: Vec::new(),
    }
}

pub(crate) fn back_up(store: &Store, files: &Files) -> engine::Result<SnapshotId> {
    let meta = SnapshotMeta {
        details: Details {
            group: "g".into(),
            ..Details::default()
        },
        ..SnapshotMeta::default()
    };
    let mut writer = store.begin(meta, Arc::new(Progress::default()))?;
    writer.add_entry(&entry("", Kind::Directory))?;
    for (path, chunks) in files {
        let mut file = entry(path, Kind::File);
        for chunk in chunks {
            let length = chunk.len() as u32;
            let digest = writer.put_chunk(chunk)?;
            file.content.push(Extent::Data { digest, length });
            file.size += u64::from(length);
        }
        writer.add_entry(&file)?;
    }
    writer.commit(None).map(|info| info.clear.id)
}

/// What a snapshot holds, read one by one.
pub(crate) fn restored(store: &Store, id: SnapshotId) -> engine::Result<Files> {
    let mut files = Files::new();
    for item in store.entries(id, b"")? {
        let (entry, content) = item?;
        let pieces = store.pieces(&entry, &content)?;
        let pieces = pieces.map(|piece| piece.map(bytes));
        let chunks = pieces.collect::<engine::Result<_>>()?;
        if entry.kind == Kind::File {
            files.push((String::from_utf8(entry.path).unwrap(), chunks));
        }
    }
    Ok(files)
}

/// The same, by several threads as a restore does.
pub(crate) fn taken(store: &Store, id: SnapshotId) -> engine::Result<Files> {
    let mut taken = Taken::default();
    taken.take(store, id, b"")?;
    taken.files(1)
}

fn bytes(piece: Piece) -> Vec<u8> {
    match piece {
        Piece::Data(bytes) => bytes,
        Piece::Hole(length) => panic!("a hole of {length}"),
    }
}

/// All snapshots are whole, and the next backup of these files is.
pub(crate) fn in_order(store: &Store, whole: &[(SnapshotId, &Files)], next: &Files) -> SnapshotId {
    let report = store.verify(&Progress::default()).unwrap();
    assert_eq!(report.findings, [] as [String; 0]);
    let (listed, unreadable) = store.snapshots().unwrap();
    assert!(unreadable.is_empty() && listed.len() >= whole.len());
    for (id, files) in whole {
        assert_eq!(&restored(store, *id).unwrap(), *files);
    }
    let id = back_up(store, next).unwrap();
    assert_eq!(&taken(store, id).unwrap(), next);
    id
}

/// Runs this with a number that rises, in two threads, until it answers that it was one too many.
pub(crate) fn for_every_call(run: impl Fn(u64) -> bool + Sync) -> u64 {
    let (next, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let work = || {
        while !done.load(Relaxed) {
            done.fetch_or(!run(next.fetch_add(1, Relaxed)), Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let threads = [scope.spawn(work), scope.spawn(work)];
        for thread in threads {
            thread.join().unwrap();
        }
    });
    next.into_inner()
}
