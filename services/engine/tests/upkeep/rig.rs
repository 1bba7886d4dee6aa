//! A datastore on a disk in memory, and trees to put into it.

use engine::storage::hooked::Hooked;
use engine::storage::simulated::Simulated;
use engine::{Options, Piece, Progress, SnapshotInfo, SnapshotMeta, Store};
use format::entry::{Entry, Extent, Kind, Timestamp};
use format::superblock::Profile;
use format::{Keyset, SnapshotId};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Small packs, and few rows in memory.
pub(crate) fn options() -> Options {
    Options {
        threads: 2,
        pack_size: 64 << 10,
        index_batch: 20,
        ..Options::default()
    }
}

/// An empty datastore that has its keys.
pub(crate) fn fresh(storage: &Simulated, keys: &Keyset, profile: Profile) -> Store {
    let superblock = Store::superblock_for(keys, profile);
    let store = Store::init(Arc::new(storage.clone()), superblock, options()).unwrap();
    store.unlock(keys).unwrap();
    store
}

pub(crate) fn open(storage: &Simulated) -> Store {
    Store::open(Arc::new(storage.clone()), options()).unwrap()
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

pub(crate) fn entry(path: &str, kind: Kind) -> Entry {
    Entry {
        path: path.into(),
        kind,
        mode: 0o644,
        uid: 1,
        gid: 2,
        user: b"u".to_vec(),
        group: b"g".to_vec(),
        modified: Timestamp {
            seconds: -5,
            nanos: 7,
        },
        xattrs: Vec::new(),
        size: 0,
        content: Vec::new(),
    }
}

/// Files in order of path, each of chunks.
pub(crate) type Files = Vec<(String, Vec<Vec<u8>>)>;

/// So many of one chunk each, of about `length` bytes.
pub(crate) fn files(count: usize, seed: u64, length: usize) -> Files {
    let file = |i: usize| {
        (
            format!("f{i:05}"),
            vec![noise(seed + i as u64, length + i % 5)],
        )
    };
    (0..count).map(file).collect()
}

pub(crate) fn back_up(store: &Store, time: i64, files: &Files) -> engine::Result<SnapshotInfo> {
    let meta = SnapshotMeta {
        time: Timestamp {
            seconds: time,
            nanos: 0,
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
            file.size += u64::from(length);
            file.content.push(Extent::Data { digest, length });
        }
        writer.add_entry(&file)?;
    }
    writer.commit(None)
}

pub(crate) fn restored(store: &Store, id: SnapshotId) -> engine::Result<Files> {
    let mut files = Vec::new();
    for item in store.entries(id, b"")? {
        let (entry, content) = item?;
        let mut chunks = Vec::new();
        for piece in store.pieces(&entry, &content)? {
            match piece? {
                Piece::Data(bytes) => chunks.push(bytes),
                Piece::Hole(length) => panic!("a hole of {length}"),
            }
        }
        if entry.kind == Kind::File {
            files.push((String::from_utf8(entry.path).unwrap(), chunks));
        }
    }
    Ok(files)
}

/// Counts what is read of packs, and cancels an operation when that is more than so much.
pub(crate) fn watched(
    disk: &Simulated,
    cancel: Option<(u64, Arc<Progress>)>,
) -> (Hooked, Arc<AtomicU64>) {
    let read = Arc::new(AtomicU64::new(0));
    let count = read.clone();
    let hooked = Hooked::new(disk.clone(), move |call| {
        if call.method == "read_at" && call.name.starts_with("packs/") {
            let bytes = call.bytes.1 as u64;
            let now = count.fetch_add(bytes, Relaxed) + bytes;
            let reached = cancel.iter().filter(|(most, _)| now > *most);
            reached.for_each(|(_, progress)| progress.cancel());
        }
        Ok(())
    });
    (hooked, read)
}
