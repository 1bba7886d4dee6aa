//! Index files with any damage: the datastore works, or says what failed; the index made anew
//! from the packs has everything. Never does the damage take the process with it.

use engine::storage::Storage;
use engine::storage::simulated::Simulated;
use engine::{Options, Piece, Progress, SnapshotMeta, Store};
use format::entry::{Entry, Extent, Kind, Timestamp};
use format::superblock::Profile;
use format::{Keyset, SnapshotId};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::Index;
use std::sync::{Arc, LazyLock};

const FILES: u32 = 150;
/// redb's.
const PAGE: usize = 4096;

fn options() -> Options {
    Options {
        threads: 1,
        pack_size: 16 << 10,
        index_batch: 50,
        ..Options::default()
    }
}

fn entry(path: String, kind: Kind) -> Entry {
    Entry {
        path: path.into(),
        kind,
        mode: 0o644,
        uid: 1,
        gid: 2,
        user: Vec::new(),
        group: Vec::new(),
        modified: Timestamp {
            seconds: 5,
            nanos: 7,
        },
        xattrs: Vec::new(),
        size: 0,
        content: Vec::new(),
    }
}

fn content(seed: u32, file: u32) -> Vec<u8> {
    [seed, file].map(u32::to_le_bytes).concat().repeat(20)
}

fn back_up(store: &Store, seed: u32) -> engine::Result<SnapshotId> {
    let mut writer = store.begin(SnapshotMeta::default(), Arc::new(Progress::default()))?;
    writer.add_entry(&entry(String::new(), Kind::Directory))?;
    for file in 0..FILES {
        let bytes = content(seed, file);
        let mut entry = entry(format!("{file:05}"), Kind::File);
        entry.size = bytes.len() as u64;
        entry.content.push(Extent::Data {
            digest: writer.put_chunk(&bytes)?,
            length: bytes.len() as u32,
        });
        writer.add_entry(&entry)?;
    }
    writer.commit(None).map(|info| info.clear.id)
}

/// Restores the whole snapshot; what comes is what was backed up.
fn restore(store: &Store, id: SnapshotId, seed: u32) -> engine::Result<()> {
    let mut files = 0;
    for item in store.entries(id, b"")? {
        let (entry, list) = item?;
        for piece in store.pieces(&entry, &list)? {
            assert_eq!(piece?, Piece::Data(content(seed, files)));
            files += 1;
        }
    }
    assert_eq!(files, FILES);
    Ok(())
}

static RIG: LazyLock<Rig> = LazyLock::new(Rig::new);

struct Rig {
    storage: Simulated,
    keys: Keyset,
    snapshot: SnapshotId,
    /// The catalogue, and one of the runs.
    files: Vec<IndexFile>,
}

struct IndexFile {
    name: String,
    bytes: Vec<u8>,
    /// Where it holds something.
    written: Vec<usize>,
}

impl Rig {
    fn new() -> Rig {
        let (storage, keys) = (Simulated::new(), Store::new_keyset().unwrap());
        let superblock = Store::superblock_for(&keys, Profile::Site);
        let store = Store::init(Arc::new(storage.clone()), superblock, options()).unwrap();
        store.unlock(&keys).unwrap();
        let snapshot = back_up(&store, 1).unwrap();
        drop(store);
        let mut runs = storage.list("runs").unwrap().into_iter();
        let run = runs.next().expect("more chunks than are held in memory");
        let names = ["index".to_owned(), format!("runs/{run}")];
        let file = |name: String| {
            let bytes = storage.bytes(&name).unwrap();
            let written = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
            IndexFile {
                name,
                bytes,
                written,
            }
        };
        Rig {
            files: names.map(file).into(),
            storage,
            keys,
            snapshot,
        }
    }

    /// Opens and uses the datastore with this file of the index.
    fn try_with(&self, name: &str, damaged: Vec<u8>) {
        // of its own: what a backup adds is not there for the next
        let storage = self.storage.after_power_cut(0);
        storage.tamper(name, |bytes| *bytes = damaged);
        if let Ok(store) = Store::open(Arc::new(storage.clone()), options()) {
            store.unlock(&self.keys).unwrap();
            let _ = restore(&store, self.snapshot, 1);
            let _ = back_up(&store, 2);
            let _ = store.stats();
            let _ = restore(&store, self.snapshot, 1);
        }
        let (store, _) = Store::recover(Arc::new(storage), options()).unwrap();
        store.unlock(&self.keys).unwrap();
        restore(&store, self.snapshot, 1).unwrap();
        let id = back_up(&store, 3).unwrap();
        restore(&store, id, 3).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn no_damage_of_the_index_ends_the_process_or_loses_anything(
        file in 0usize..2,
        flips in vec((0u8..4, any::<Index>(), 0u8..8), 1..6),
        cut in option::weighted(0.1, any::<Index>()),
    ) {
        let file = &RIG.files[file];
        let mut index = file.bytes.clone();
        for (place, at, bit) in flips {
            let at = match place {
                0 => at.index(512),
                1 => file.written[at.index(file.written.len())],
                // heads of pages, where redb believes most
                _ => at.index(file.bytes.len() / PAGE * 64) / 64 * PAGE + at.index(64),
            };
            index[at] ^= 1 << bit;
        }
        if let Some(cut) = cut {
            index.truncate(cut.index(index.len()));
        }
        RIG.try_with(&file.name, index);
    }
}
