//! Datastores on a simulated disk, and backups of made-up files, for the tests beside this.

#![allow(dead_code, reason = "each test uses a part")]

use engine::storage::Storage;
use engine::storage::simulated::Simulated;
use engine::{Options, Piece, Progress, SnapshotMeta, SnapshotWriter, Store};
use format::entry::{Entry, Extent, Kind, Timestamp};
use format::snapshot::Details;
use format::superblock::Profile;
use format::{Digest, Keyset, SnapshotId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Small packs and runs, so that a small datastore has several.
pub(crate) fn options() -> Options {
    Options {
        threads: 2,
        pack_size: 32 << 10,
        index_batch: 40,
        ..Options::default()
    }
}

pub(crate) fn made(storage: &Simulated, keys: &Keyset) -> Store {
    let superblock = Store::superblock_for(keys, Profile::Site);
    let store = Store::init(Arc::new(storage.clone()), superblock, options()).unwrap();
    store.unlock(keys).unwrap();
    store
}

pub(crate) fn opened<S: Storage + Clone>(storage: &S, keys: &Keyset) -> Store {
    let store = Store::open(Arc::new(storage.clone()), options()).unwrap();
    store.unlock(keys).unwrap();
    store
}

/// Files by name, each one chunk of noise by its number.
pub(crate) type Tree = BTreeMap<String, u64>;

/// A tree of so many files with the noise of numbers from `first` on.
pub(crate) fn tree(first: u64, count: u64) -> Tree {
    (first..first + count)
        .map(|number| (format!("f{number:06}"), number))
        .collect()
}

/// Bytes that do not compress, the same for the same number.
pub(crate) fn noise(number: u64) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..1000 + number % 1500).map(|_| next()).collect()
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
            seconds: 5,
            nanos: 7,
        },
        xattrs: Vec::new(),
        size: 0,
        content: Vec::new(),
    }
}

pub(crate) fn begun(store: &Store) -> engine::Result<SnapshotWriter> {
    let meta = SnapshotMeta {
        details: Details {
            group: "g".into(),
            ..Details::default()
        },
        ..SnapshotMeta::default()
    };
    store.begin(meta, Arc::new(Progress::default()))
}

pub(crate) fn add(writer: &mut SnapshotWriter, name: &str, number: u64) -> engine::Result<()> {
    let bytes = noise(number);
    let mut file = entry(name, Kind::File);
    file.size = bytes.len() as u64;
    file.content.push(Extent::Data {
        digest: writer.put_chunk(&bytes)?,
        length: bytes.len() as u32,
    });
    writer.add_entry(&file).map(drop)
}

pub(crate) fn back_up(store: &Store, tree: &Tree) -> engine::Result<SnapshotId> {
    let mut writer = begun(store)?;
    writer.add_entry(&entry("", Kind::Directory))?;
    for (name, number) in tree {
        add(&mut writer, name, *number)?;
    }
    writer.commit(None).map(|info| info.clear.id)
}

/// Reads a snapshot back; it is this tree, byte for byte.
pub(crate) fn restores(store: &Store, id: SnapshotId, tree: &Tree) -> engine::Result<()> {
    let mut left = tree.iter();
    for item in store.entries(id, b"")? {
        let (entry, content) = item?;
        if entry.kind == Kind::Directory {
            continue;
        }
        let (name, number) = left.next().expect("no more files than were backed up");
        assert_eq!(entry.path, name.as_bytes());
        let pieces: Vec<Piece> = store.pieces(&entry, &content)?.collect::<Result<_, _>>()?;
        assert_eq!(pieces, [Piece::Data(noise(*number))], "{name}");
    }
    assert_eq!(left.next(), None);
    Ok(())
}

/// Everything that the snapshots need, found by walking them: what a collection must keep, and all it
/// may keep.
pub(crate) fn reachable(store: &Store) -> BTreeSet<Digest> {
    let mut found = BTreeSet::new();
    let (snapshots, unreadable) = store.snapshots().unwrap();
    assert!(unreadable.is_empty(), "{unreadable:?}");
    let mut stack: Vec<Digest> = snapshots.iter().map(|s| s.clear.root).collect();
    while let Some(digest) = stack.pop() {
        if found.insert(digest) {
            stack.extend(store.refs_of(&digest).unwrap().1);
        }
    }
    found
}

/// Bytes of all packs.
pub(crate) fn pack_bytes(storage: &Simulated) -> u64 {
    let packs = storage.list("packs").unwrap();
    let length = |name: &String| storage.bytes(&format!("packs/{name}")).unwrap().len() as u64;
    packs.iter().map(length).sum()
}

pub(crate) fn is_clean(store: &Store) {
    let report = store.verify(&Progress::default()).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
}
