//! Damage of any byte is found without a key and healed from another copy; what can be is healed without.

use crate::rig::{Files, back_up, files, fresh, open, options, restored};
use engine::storage::hooked::Hooked;
use engine::storage::simulated::Simulated;
use engine::{Error, Progress, Repaired, Report, Store};
use format::superblock::Profile::{Centre, Site};
use format::superblock::Superblock;
use format::{Keyset, SnapshotId};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn verify(store: &Store) -> engine::Result<Report> {
    store.verify(&Progress::default())
}

fn repair(store: &Store, from: Option<&Store>) -> Repaired {
    store.repair(from, &Progress::default()).unwrap()
}

/// A datastore of two snapshots on a disk, its copy, and what is in it.
struct Pair {
    keys: Keyset,
    near: Simulated,
    far: Store,
    trees: Vec<(SnapshotId, Files)>,
}

impl Pair {
    fn new() -> Self {
        let keys = Store::new_keyset().unwrap();
        let near = Simulated::new();
        let site = fresh(&near, &keys, Site);
        let mut trees = Vec::new();
        let mut tree = files(30, 1, 2000);
        // some of it in both
        for seed in [1, 500] {
            tree.splice(20.., files(30, seed, 2000).into_iter().skip(20));
            let id = back_up(&site, seed as i64, &tree).unwrap().clear.id;
            trees.push((id, tree.clone()));
        }
        let far = fresh(&Simulated::new(), &keys, Centre);
        site.copy_to(&far, &Progress::default()).unwrap();
        drop(site);
        Self {
            keys,
            near,
            far,
            trees,
        }
    }

    /// The disk as it is, to do anything with.
    fn disk(&self) -> Simulated {
        self.near.after_power_cut(u64::MAX)
    }

    fn restores(&self, store: &Store, context: &str) {
        store.unlock(&self.keys).unwrap();
        for (id, tree) in &self.trees {
            assert_eq!(restored(store, *id).unwrap(), *tree, "{context}");
        }
    }
}

/// Opens it, mending the datastore file if need be; and whether that, or making the index anew, was all
/// that had to be done.
fn opened(disk: &Simulated, like: &Superblock) -> (Store, bool) {
    match Store::open(Arc::new(disk.clone()), options()) {
        Ok(store) => (store, false),
        Err(Error::Format { .. } | Error::Newer { .. } | Error::Headless { .. }) => {
            Store::mend_superblock(disk, like).unwrap();
            (open(disk), true)
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_flipped_bit_anywhere_is_found_without_a_key_and_healed_from_a_copy() {
    let pair = Pair::new();
    let names = pair.near.names().into_iter();
    let names: Vec<String> = names.filter(|name| name != "lock").collect();
    for kind in ["packs/", "snapshots/", "runs/", "index", "datastore"] {
        assert!(names.iter().any(|name| name.starts_with(kind)), "{kind}");
    }
    for name in names {
        let length = pair.near.bytes(&name).unwrap().len();
        let index = name.starts_with("runs/") || name == "index";
        for at in (0..length).step_by((length / 61).max(1)) {
            let context = format!("byte {at} of {name}");
            let disk = pair.disk();
            disk.tamper(&name, |bytes| bytes[at] ^= 1 << (at % 8));
            let (store, mended) = opened(&disk, pair.far.superblock());
            assert_eq!(mended, name == "datastore", "{context}");
            let store = match verify(&store) {
                Err(Error::Index { .. }) if index => {
                    drop(store);
                    Store::recover(Arc::new(disk.clone()), options()).unwrap().0
                }
                Err(error) => panic!("{context}: {error}"),
                // an index is made anew when it is opened, or has nothing there
                Ok(report) => {
                    assert_eq!(report.is_clean(), mended || index, "{context}: {report:?}");
                    let torn = !report.torn.is_empty();
                    assert_eq!(
                        report.snapshots.is_empty(),
                        report.is_clean() || torn,
                        "{context}"
                    );
                    store
                }
            };
            let repaired = repair(&store, Some(&pair.far));
            assert!(repaired.left.is_empty(), "{context}: {repaired:?}");
            assert_eq!(repaired.healed, repaired.report.snapshots, "{context}");
            let after = verify(&store).unwrap();
            assert!(after.is_clean(), "{context}: {after:?}");
            let kept = disk.bytes(&name);
            if name.starts_with("packs/") {
                assert_eq!(kept, None, "{context}: a damaged pack stays");
            }
            pair.restores(&store, &context);
            drop(store);
            // with what it was healed by, also when it is opened again
            let store = open(&disk);
            assert_eq!(store.superblock().profile, Site);
            pair.restores(&store, &context);
        }
    }
}

#[test]
fn a_pack_or_a_snapshot_that_is_gone_is_brought_back() {
    let pair = Pair::new();
    let packs = pair
        .near
        .names()
        .into_iter()
        .filter(|n| n.starts_with("packs/"));
    for pack in packs {
        let disk = pair.disk();
        engine::storage::Storage::remove(&disk, &pack).unwrap();
        let store = open(&disk);
        assert!(!verify(&store).unwrap().snapshots.is_empty(), "{pack}");
        // nothing here can help
        let repaired = repair(&store, None);
        assert_eq!(
            repaired.left.len(),
            repaired.report.snapshots.len(),
            "{pack}"
        );
        let repaired = repair(&store, Some(&pair.far));
        assert!(repaired.left.is_empty(), "{pack}: {repaired:?}");
        assert!(verify(&store).unwrap().is_clean(), "{pack}");
        pair.restores(&store, &pack);
    }
    // one that is gone may have been forgotten
    let disk = pair.disk();
    let (id, _) = pair.trees[0];
    engine::storage::Storage::remove(&disk, &format!("snapshots/{id}.snap")).unwrap();
    let store = open(&disk);
    let repaired = repair(&store, Some(&pair.far));
    assert_eq!((repaired.frames, &repaired.elsewhere[..]), (0, &[id][..]));
    let copied = pair.far.copy_to(&store, &Progress::default()).unwrap();
    assert_eq!((copied.frames, &copied.snapshots[..]), (0, &[id][..]));
    pair.restores(&store, "copied");
}

#[test]
fn without_a_copy_what_lies_elsewhere_heals_and_the_rest_is_told() {
    let pair = Pair::new();
    let disk = pair.disk();
    let store = open(&disk);
    store.unlock(&pair.keys).unwrap();
    let digest = store.digest_of(&pair.trees[0].1[0].1[0]).unwrap();
    let frame = store.read_frame(&digest).unwrap();
    let damage = |count: usize| {
        let packs = disk.names().into_iter().filter(|n| n.starts_with("packs/"));
        for pack in packs.take(count) {
            disk.tamper(&pack, |bytes| {
                let at = bytes.windows(frame.len()).position(|w| w == frame);
                at.into_iter().for_each(|at| bytes[at + 90] ^= 1);
            });
        }
    };
    damage(usize::MAX);
    let repaired = repair(&store, None);
    let left: Vec<SnapshotId> = repaired.left.iter().map(|(id, _)| *id).collect();
    let mut both: Vec<SnapshotId> = pair.trees.iter().map(|(id, _)| *id).collect();
    both.sort();
    assert_eq!(left, both);
    let why = repaired.left[0].1.to_string();
    assert!(why.contains(&digest.to_string()), "{why}");
    // stored anew by a backup, and that one damaged too, but undamaged where it was
    back_up(&store, 9, &pair.trees[1].1).unwrap();
    assert!(verify(&store).unwrap().is_clean());
    let again = store.read_frame(&digest).unwrap();
    for pack in disk.names() {
        disk.tamper(&pack, |bytes| {
            let at = bytes.windows(again.len()).position(|w| w == again);
            at.into_iter().for_each(|at| bytes[at + 90] ^= 1);
            let at = bytes
                .windows(frame.len())
                .position(|w| w[..90] == frame[..90]);
            at.into_iter()
                .for_each(|at| bytes[at..at + frame.len()].copy_from_slice(&frame));
        });
    }
    store.lock();
    assert!(!verify(&store).unwrap().is_clean());
    let repaired = repair(&store, None);
    assert!(repaired.left.is_empty(), "{repaired:?}");
    assert!(verify(&store).unwrap().is_clean());
    pair.restores(&store, "by its other copy");
}

#[test]
fn what_only_the_key_can_tell_is_healed_with_it() {
    let pair = Pair::new();
    let disk = pair.disk();
    let store = open(&disk);
    store.unlock(&pair.keys).unwrap();
    let digest = store.digest_of(&pair.trees[1].1[0].1[0]).unwrap();
    let frame = store.read_frame(&digest).unwrap();
    for pack in disk.names() {
        disk.tamper(&pack, |bytes| {
            let Some(at) = bytes.windows(frame.len()).position(|w| w == frame) else {
                return;
            };
            // a forger's: the check holds
            let end = at + frame.len() - 16;
            bytes[end - 40] ^= 1;
            let id = pair.keys.datastore_id.0;
            let check = blake3::Hasher::new()
                .update(&bytes[at..end])
                .update(&id)
                .finalize();
            bytes[end..end + 16].copy_from_slice(&check.as_bytes()[..16]);
        });
    }
    store.lock();
    assert!(verify(&store).unwrap().is_clean());
    assert_eq!(repair(&store, Some(&pair.far)).frames, 0);
    store.unlock(&pair.keys).unwrap();
    assert_eq!(verify(&store).unwrap().damaged, [digest]);
    let repaired = repair(&store, Some(&pair.far));
    assert_eq!((repaired.healed.len(), repaired.left.len()), (2, 0));
    assert!(verify(&store).unwrap().is_clean());
    pair.restores(&store, "with the key");
}

#[test]
fn a_datastore_file_is_mended_for_its_own_datastore_only() {
    let pair = Pair::new();
    let like = *pair.far.superblock();
    // gone altogether: the profile is the other one's
    let disk = pair.disk();
    engine::storage::Storage::remove(&disk, "datastore").unwrap();
    assert!(Store::mend_superblock(&disk, &like).unwrap());
    assert!(!Store::mend_superblock(&disk, &like).unwrap());
    assert_eq!(open(&disk).superblock().profile, Site);
    // of a later release
    let disk = pair.disk();
    let mut later = disk.bytes("datastore").unwrap();
    later[8] = 2;
    later[30..].fill(9);
    disk.tamper("datastore", |bytes| bytes.clone_from(&later));
    let refused = Store::mend_superblock(&disk, &like);
    assert!(matches!(refused, Err(Error::Newer { .. })), "{refused:?}");
    assert_eq!(disk.bytes("datastore").unwrap(), later);
    // of another datastore
    let other = Store::superblock_for(&Store::new_keyset().unwrap(), Centre);
    let disk = pair.disk();
    let refused = Store::mend_superblock(&disk, &other);
    assert!(matches!(refused, Err(Error::Foreign { .. })), "{refused:?}");
    let nothing = Store::mend_superblock(&Simulated::new(), &like);
    assert!(
        matches!(nothing, Err(Error::NoDatastore { .. })),
        "{nothing:?}"
    );
}

#[test]
fn of_two_repairs_or_a_repair_and_a_collection_one_writes_a_pack_anew() {
    for collects in [false, true] {
        let pair = Pair::new();
        let disk = pair.disk();
        // nothing is lost by it but the pack
        let packs = disk.names().into_iter().filter(|n| n.starts_with("packs/"));
        packs.for_each(|pack| {
            disk.tamper(&pack, |bytes| {
                let last = bytes.len() - 1;
                bytes[last] ^= 1;
            });
        });
        // there is nothing to heal, so the first pack that is begun is one that others give way to
        let (hooked, parking) = Hooked::parking(disk, |call| {
            call.method == "create" && call.name.ends_with(".pack")
        });
        let store = Store::open(Arc::new(hooked), options()).unwrap();
        let (gone, _) = pair.trees[0];
        store.forget(&[gone]).unwrap();
        let (end, ended) = channel();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| repair(&store, None));
            parking.reached.recv().unwrap();
            scope.spawn(|| {
                if collects {
                    let collected = store.collect(&Progress::default()).unwrap();
                    assert_eq!(collected.findings, [] as [String; 0]);
                } else {
                    assert!(repair(&store, None).damaged.is_empty());
                }
                end.send(()).unwrap();
            });
            // it waits, and this is in vain
            let _ = ended.recv_timeout(Duration::from_millis(300));
            parking.go_on.send(()).unwrap();
            assert!(first.join().unwrap().damaged.is_empty());
        });
        assert!(verify(&store).unwrap().is_clean());
        store.unlock(&pair.keys).unwrap();
        let (id, tree) = &pair.trees[1];
        assert_eq!(restored(&store, *id).unwrap(), *tree);
    }
}

#[test]
fn a_snapshot_that_is_forgotten_during_a_repair_is_not_brought_back() {
    let pair = Pair::new();
    let disk = pair.disk();
    let ids: Vec<SnapshotId> = pair.trees.iter().map(|(id, _)| *id).collect();
    let (id, tree) = pair.trees.iter().min().unwrap();
    let store = Arc::new(open(&disk));
    store.unlock(&pair.keys).unwrap();
    let chunk = store.digest_of(&tree[25].1[0]).unwrap();
    let frame = store.read_frame(&chunk).unwrap();
    for name in disk.names() {
        disk.tamper(&name, |bytes| {
            let at = bytes.windows(frame.len()).position(|w| w == frame);
            at.into_iter().for_each(|at| bytes[at + 90] ^= 1);
        });
    }
    let file = format!("snapshots/{id}.snap");
    disk.tamper(&file, |bytes| bytes[250] ^= 1);
    // when a chunk of the first one is fetched, and nothing was asked of the second
    let forget = Mutex::new(Some((store.clone(), ids)));
    let far = Simulated::new();
    pair.far
        .copy_to(&fresh(&far, &pair.keys, Centre), &Progress::default())
        .unwrap();
    let far = Hooked::new(far, move |call| {
        if call.method == "read_at" && call.name.starts_with("packs/") {
            let now = forget.lock().unwrap().take();
            now.into_iter()
                .for_each(|(store, ids)| store.forget(&ids).unwrap());
        }
        Ok(())
    });
    let far = Store::open(Arc::new(far), options()).unwrap();
    let repaired = repair(&store, Some(&far));
    assert_eq!(repaired.report.snapshots, [*id]);
    assert_eq!((repaired.healed, repaired.left.len()), (vec![*id], 0));
    assert_eq!(store.snapshot_ids().unwrap(), []);
}
