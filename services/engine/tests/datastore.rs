//! A datastore through its public face: in, back, again, damaged, copied, cut off.

use engine::storage::Storage;
use engine::storage::simulated::{Fault, Simulated};
use engine::{Error, Options, Piece, Progress, SnapshotInfo, SnapshotMeta, Store};
use format::entry::{Entry, Extent, Kind, Timestamp};
use format::snapshot::Details;
use format::superblock::Profile;
use format::{Keyset, SnapshotId};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use taken::Taken;

#[path = "rig/taken.rs"]
mod taken;

fn options() -> Options {
    Options {
        threads: 2,
        pack_size: 64 << 10,
        index_batch: 20,
        ..Options::default()
    }
}

fn keyset() -> Keyset {
    Store::new_keyset().unwrap()
}

fn fresh(storage: &Simulated, keys: &Keyset) -> Store {
    let superblock = Store::superblock_for(keys, Profile::Site);
    let store = Store::init(Arc::new(storage.clone()), superblock, options()).unwrap();
    store.unlock(keys).unwrap();
    store
}

fn opened(storage: &Simulated, keys: &Keyset) -> Store {
    let store = Store::open(Arc::new(storage.clone()), options()).unwrap();
    store.unlock(keys).unwrap();
    store
}

/// Bytes that do not compress, the same for the same seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

fn entry(path: &str, kind: Kind) -> Entry {
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

/// A file of chunks; an empty chunk stands for a hole of a million bytes.
type Files = Vec<(String, Vec<Vec<u8>>)>;

fn files(count: usize, seed: u64) -> Files {
    (0..count)
        .map(|i| {
            (
                format!("f{i:05}"),
                vec![noise(seed + i as u64, 3000 + i % 5)],
            )
        })
        .collect()
}

fn back_up(store: &Store, files: &Files) -> engine::Result<SnapshotInfo> {
    let details = Details {
        group: "g".into(),
        host: "h".into(),
        ..Details::default()
    };
    let meta = SnapshotMeta {
        details,
        ..SnapshotMeta::default()
    };
    let mut writer = store.begin(meta, Arc::new(Progress::default()))?;
    writer.add_entry(&entry("", Kind::Directory))?;
    // of the two ways in each takes half
    let mut here = writer.chunks();
    for (number, (path, chunks)) in files.iter().enumerate() {
        let mut file = entry(path, Kind::File);
        for chunk in chunks {
            let extent = match chunk.len() {
                0 => Extent::Hole { length: 1_000_000 },
                n => Extent::Data {
                    digest: match number % 2 {
                        0 => writer.put_chunk(chunk)?,
                        _ => here.put(chunk)?,
                    },
                    length: n as u32,
                },
            };
            file.size += format::extents::length_of(&extent);
            file.content.push(extent);
        }
        writer.add_entry(&file)?;
    }
    writer.commit(None)
}

fn restored(store: &Store, id: SnapshotId, below: &str) -> engine::Result<Files> {
    let mut files = Vec::new();
    for item in store.entries(id, below.as_bytes())? {
        let (entry, content) = item?;
        let mut chunks = Vec::new();
        for piece in store.pieces(&entry, &content)? {
            chunks.push(match piece? {
                Piece::Data(bytes) => bytes,
                Piece::Hole(1_000_000) => Vec::new(),
                Piece::Hole(other) => panic!("a hole of {other}"),
            });
        }
        if entry.kind == Kind::File {
            files.push((String::from_utf8(entry.path).unwrap(), chunks));
        }
    }
    Ok(files)
}

/// The same, by several threads as a restore does.
fn taken(store: &Store, id: SnapshotId, below: &str) -> engine::Result<Files> {
    let mut taken = Taken::default();
    taken.take(store, id, below.as_bytes())?;
    taken.files(1_000_000)
}

#[test]
fn what_goes_in_comes_back_and_the_same_again_adds_almost_nothing() {
    let (storage, keys) = (Simulated::new(), keyset());
    let mut tree = files(2000, 1);
    tree.push((
        "huge".into(),
        (0..3000)
            .map(|i| if i % 9 == 0 { vec![] } else { noise(i, 700) })
            .collect(),
    ));
    let first = {
        let store = fresh(&storage, &keys);
        let first = back_up(&store, &tree).unwrap();
        assert_eq!(
            (
                first.clear.entries,
                restored(&store, first.clear.id, "").unwrap()
            ),
            (2002, tree.clone())
        );
        first
    };
    let store = opened(&storage, &keys);
    assert_eq!(restored(&store, first.clear.id, "").unwrap(), tree);
    assert_eq!(taken(&store, first.clear.id, "").unwrap(), tree);
    assert_eq!(
        taken(&store, first.clear.id, "f00042").unwrap(),
        tree[42..43]
    );
    assert_eq!(
        restored(&store, first.clear.id, "f00042").unwrap(),
        tree[42..43]
    );
    assert_eq!(restored(&store, first.clear.id, "f0004").unwrap(), []);
    let same = back_up(&store, &tree).unwrap();
    assert_eq!((same.clear.unique, same.clear.root), (0, first.clear.root));
    tree[1000].1[0][5] ^= 1;
    let changed = back_up(&store, &tree).unwrap();
    assert!(changed.clear.unique < 400_000, "{}", changed.clear.unique);
    assert_eq!(restored(&store, changed.clear.id, "").unwrap(), tree);
    assert_eq!(store.snapshots().unwrap().0.len(), 3);
    assert!(store.verify(&Progress::default()).unwrap().is_clean());
}

#[test]
fn keys_are_asked_for_and_the_wrong_ones_refused() {
    let (storage, keys) = (Simulated::new(), keyset());
    let id = back_up(&fresh(&storage, &keys), &files(3, 1))
        .unwrap()
        .clear
        .id;
    let store = Store::open(Arc::new(storage.clone()), options()).unwrap();
    assert!(matches!(store.entries(id, b""), Err(Error::Locked { .. })));
    assert!(matches!(
        store.begin(SnapshotMeta::default(), Arc::default()),
        Err(Error::Locked { .. })
    ));
    assert!(matches!(
        store.unlock(&keyset()),
        Err(Error::WrongKeys { .. })
    ));
    let mut other = keys.clone();
    other.dedup[0] ^= 1;
    assert!(matches!(store.unlock(&other), Err(Error::WrongKeys { .. })));
    assert!(
        store.verify(&Progress::default()).unwrap().is_clean(),
        "needs no key"
    );
}

#[test]
fn every_flipped_bit_of_a_pack_is_found_without_a_key_and_the_snapshot_named() {
    let (storage, keys) = (Simulated::new(), keyset());
    let id = back_up(&fresh(&storage, &keys), &files(40, 1))
        .unwrap()
        .clear
        .id;
    let packs: Vec<_> = storage
        .names()
        .into_iter()
        .filter(|n| n.starts_with("packs/"))
        .collect();
    for pack in packs {
        let length = storage.bytes(&pack).unwrap().len();
        for at in (0..length).step_by(length / 97) {
            storage.tamper(&pack, |bytes| bytes[at] ^= 4);
            let store = Store::open(Arc::new(storage.clone()), options()).unwrap();
            let report = store.verify(&Progress::default()).unwrap();
            assert!(!report.is_clean(), "byte {at} of {pack}");
            assert!(
                report.damaged.is_empty() || report.snapshots == [id],
                "{report:?}"
            );
            drop(store);
            storage.tamper(&pack, |bytes| bytes[at] ^= 4);
        }
    }
    // what was marked broken meanwhile is stored anew, and all is whole again
    let (store, _) = Store::recover(Arc::new(storage.clone()), options()).unwrap();
    store.unlock(&keys).unwrap();
    back_up(&store, &files(40, 1)).unwrap();
    assert!(store.verify(&Progress::default()).unwrap().is_clean());
}

#[test]
fn what_is_damaged_is_lost_alone_and_a_target_may_stop_anywhere() {
    let (storage, keys) = (Simulated::new(), keyset());
    let store = fresh(&storage, &keys);
    let mut tree = files(300, 1);
    tree[100].1 = (0..50).map(|i| noise(i + 7000, 900)).collect();
    let id = back_up(&store, &tree).unwrap().clear.id;
    // a chunk in the middle of the long file
    let digest = store.digest_of(&tree[100].1[20]).unwrap();
    let frame = store.read_frame(&digest).unwrap();
    for pack in storage.names() {
        storage.tamper(&pack, |bytes| {
            let at = bytes.windows(frame.len()).position(|w| w == frame);
            at.into_iter().for_each(|at| bytes[at + 100] ^= 1);
        });
    }
    let mut all = Taken::default();
    all.take(&store, id, b"").unwrap();
    let (bytes, lost) = all.sums();
    let whole: usize = tree.iter().flat_map(|f| &f.1).map(Vec::len).sum();
    // the rest of a stretch is not read for a file that is lost
    assert!(
        bytes < whole && bytes >= whole - 30 * 900,
        "{bytes} of {whole}"
    );
    assert_eq!((all.paths.len(), lost.len()), (301, 1));
    assert!(
        lost[0].to_string().contains(&digest.to_string()),
        "{lost:?}"
    );
    for most in [0, 1, 100, 300] {
        let mut some = Taken::at_most(most);
        let stopped = some.take(&store, id, b"").unwrap_err();
        assert!(matches!(stopped, engine::Error::Cancelled), "{stopped}");
        assert_eq!(some.paths.len(), most);
    }
}

#[test]
fn a_copy_grows_frame_by_frame_without_a_key_and_only_from_the_bottom() {
    let keys = keyset();
    let (near, far) = (Simulated::new(), Simulated::new());
    let site = fresh(&near, &keys);
    let id = back_up(&site, &files(50, 1)).unwrap().clear.id;
    let superblock = Store::superblock_for(&keys, Profile::Centre);
    let centre = Store::init(Arc::new(far.clone()), superblock, options()).unwrap();
    let snapshot = site.snapshot_bytes(id).unwrap();
    assert!(matches!(
        centre.put_snapshot(snapshot.clone()),
        Err(Error::Incomplete { .. })
    ));
    let root = site.snapshot(id).unwrap().clear.root;
    assert!(matches!(
        centre.put_frame(&site.read_frame(&root).unwrap()),
        Err(Error::Incomplete { .. })
    ));
    fn copy(site: &Store, centre: &Store, digest: format::Digest) -> usize {
        if centre.has(&[digest]).unwrap()[0] {
            return 0;
        }
        let refs = site.refs_of(&digest).unwrap().1;
        let below: usize = refs.into_iter().map(|d| copy(site, centre, d)).sum();
        below
            + usize::from(
                centre
                    .put_frame(&site.read_frame(&digest).unwrap())
                    .unwrap(),
            )
    }
    assert!(copy(&site, &centre, root) > 50);
    assert!(centre.put_snapshot(snapshot.clone()).unwrap());
    assert!(!centre.put_snapshot(snapshot).unwrap());
    assert!(centre.verify(&Progress::default()).unwrap().is_clean());
    drop(centre);
    let centre = opened(&far, &keys);
    assert_eq!(restored(&centre, id, "").unwrap(), files(50, 1));
    let stranger = fresh(&Simulated::new(), &keyset());
    let frame = site.read_frame(&root).unwrap();
    assert!(matches!(
        stranger.put_frame(&frame),
        Err(Error::Format { .. })
    ));
    let foreign = stranger.put_snapshot(site.snapshot_bytes(id).unwrap());
    assert!(matches!(foreign, Err(Error::Foreign { .. })));
}

/// States tried of what each cut may leave.
const CHOICES: u64 = 38;

#[test]
fn a_power_cut_at_any_call_leaves_every_finished_snapshot_whole() {
    let keys = keyset();
    let (first, second) = (files(60, 1), files(90, 1));
    let (next, states) = (AtomicU64::new(0), AtomicU64::new(0));
    let finished = AtomicBool::new(false);
    let work = || {
        while !finished.load(Relaxed) {
            let stop = next.fetch_add(1, Relaxed);
            let storage = Simulated::new();
            let id = back_up(&fresh(&storage, &keys), &first).unwrap().clear.id;
            storage.set_fault(Some(Fault::PowerCut(storage.calls() + stop)));
            let committed = Store::open(Arc::new(storage.clone()), options()).and_then(|store| {
                store.unlock(&keys)?;
                back_up(&store, &second)
            });
            storage.set_fault(None);
            for choice in 0..CHOICES {
                let after = storage.after_power_cut(choice * 7919 + stop);
                let store = opened(&after, &keys);
                assert!(
                    store.verify(&Progress::default()).unwrap().is_clean(),
                    "stop {stop} choice {choice}"
                );
                assert_eq!(restored(&store, id, "").unwrap(), first);
                if let Ok(info) = &committed {
                    assert_eq!(restored(&store, info.clear.id, "").unwrap(), second);
                }
                let again = back_up(&store, &second).unwrap();
                assert_eq!(restored(&store, again.clear.id, "").unwrap(), second);
                states.fetch_add(1, Relaxed);
            }
            finished.fetch_or(committed.is_ok(), Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
    });
    let states = states.into_inner();
    println!("{states} states");
    assert!(states > 1500, "{states}");
}

#[test]
fn an_index_of_another_release_is_made_anew() {
    let (storage, keys) = (Simulated::new(), keyset());
    let id = back_up(&fresh(&storage, &keys), &files(20, 1))
        .unwrap()
        .clear
        .id;
    let dir = tempfile::tempdir().unwrap();
    let database = redb::Database::create(dir.path().join("index")).unwrap();
    let transaction = database.begin_write().unwrap();
    let chunks = redb::TableDefinition::<&[u8; 32], &[u8; 17]>::new("chunks");
    transaction.open_table(chunks).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let index = std::fs::read(dir.path().join("index")).unwrap();
    storage.tamper("index", |bytes| *bytes = index);
    let store = opened(&storage, &keys);
    assert_eq!(restored(&store, id, "").unwrap(), files(20, 1));
    assert!(store.stats().unwrap().totals.chunks > 20);
}

#[test]
fn a_full_disk_fails_the_backup_in_a_sentence_and_keeps_what_was() {
    let (storage, keys) = (Simulated::new(), keyset());
    let store = fresh(&storage, &keys);
    let id = back_up(&store, &files(20, 1)).unwrap().clear.id;
    storage.set_capacity(Some(storage.used() + 200_000));
    let failed = back_up(&store, &files(400, 99)).unwrap_err();
    assert!(failed.to_string().contains("is full"), "{failed}");
    assert_eq!(restored(&store, id, "").unwrap(), files(20, 1));
    storage.set_capacity(None);
    back_up(&store, &files(400, 99)).unwrap();
    assert!(store.verify(&Progress::default()).unwrap().is_clean());
    assert!(storage.list("tmp").unwrap().is_empty());
}

#[test]
fn several_backups_and_a_verification_at_once() {
    let (storage, keys) = (Simulated::new(), keyset());
    let store = fresh(&storage, &keys);
    std::thread::scope(|scope| {
        for seed in [1, 1, 30, 500] {
            let store = &store;
            scope.spawn(move || {
                let tree = files(200, seed);
                let id = back_up(store, &tree).unwrap().clear.id;
                assert_eq!(restored(store, id, "").unwrap(), tree);
            });
        }
        assert!(store.verify(&Progress::default()).unwrap().is_clean());
    });
    assert!(store.verify(&Progress::default()).unwrap().is_clean());
    let second = Store::open(Arc::new(storage.clone()), options());
    assert!(matches!(second, Err(Error::Busy { .. })));
}
