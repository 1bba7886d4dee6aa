//! What a verification finds, whatever the order in which things lie, and how much of it a sample reads.

use crate::rig::{back_up, files, fresh, options, restored, watched};
use engine::storage::simulated::Simulated;
use engine::{Error, Options, Progress, Report, Store};
use format::frame::Kind;
use format::superblock::Profile::Site;
use format::{Digest, SnapshotId};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

fn verify(store: &Store) -> Report {
    store.verify(&Progress::default()).unwrap()
}

/// Flips a bit in the frame of a chunk, wherever it is.
fn damage(disk: &Simulated, store: &Store, digest: &Digest) {
    let frame = store.read_frame(digest).unwrap();
    for name in disk.names() {
        disk.tamper(&name, |bytes| {
            let at = bytes.windows(frame.len()).position(|w| w == frame);
            at.into_iter().for_each(|at| bytes[at + 100] ^= 1);
        });
    }
}

#[test]
fn damage_below_is_traced_to_its_snapshots_in_whatever_order_packs_are_read() {
    let keys = Store::new_keyset().unwrap();
    // a pack for each frame; made anew, the index has them in the order of their random names
    let options = Options {
        pack_size: 1,
        ..options()
    };
    for round in 0..4 {
        let disk = Simulated::new();
        let mut ids: Vec<SnapshotId> = Vec::new();
        let mut chunks = Vec::new();
        drop(fresh(&disk, &keys, Site));
        let store = Store::open(Arc::new(disk.clone()), options.clone()).unwrap();
        store.unlock(&keys).unwrap();
        // so many that there are nodes above leaves, and lists of extents
        let mut tree = files(1500, 1, 40);
        for seed in [70_000, 80_000, 90_000] {
            tree[1499].1 = files(200, seed, 40).into_iter().flat_map(|f| f.1).collect();
            ids.push(back_up(&store, seed as i64, &tree).unwrap().clear.id);
            chunks.push(store.digest_of(&tree[1499].1[150]).unwrap());
        }
        drop(store);
        let (store, _) = Store::recover(Arc::new(disk.clone()), options.clone()).unwrap();
        store.unlock(&keys).unwrap();
        assert!(verify(&store).is_clean());
        damage(&disk, &store, &chunks[1]);
        let report = verify(&store);
        assert_eq!(report.damaged, [chunks[1]], "round {round}");
        assert_eq!(report.snapshots, [ids[1]], "round {round}");
        assert_eq!(report.finding_count, 2, "{report:?}");
        // what all share
        let first = store.digest_of(&tree[0].1[0]).unwrap();
        damage(&disk, &store, &first);
        let report = verify(&store);
        assert_eq!(report.snapshots.len(), 3, "round {round}");
    }
}

#[test]
fn what_a_later_backup_healed_is_found_whole() {
    let keys = Store::new_keyset().unwrap();
    let disk = Simulated::new();
    let store = fresh(&disk, &keys, Site);
    let tree = files(100, 1, 3000);
    let id = back_up(&store, 1, &tree).unwrap().clear.id;
    let first = store.digest_of(&tree[0].1[0]).unwrap();
    damage(&disk, &store, &first);
    assert_eq!(verify(&store).snapshots, [id]);
    back_up(&store, 2, &tree).unwrap();
    // the damaged frame lies where it lay, and nothing finds it
    let report = verify(&store);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(restored(&store, id).unwrap(), tree);
}

#[test]
fn a_pack_with_the_content_of_another_is_noticed() {
    let keys = Store::new_keyset().unwrap();
    let disk = Simulated::new();
    let store = fresh(&disk, &keys, Site);
    let tree = files(200, 1, 3000);
    let id = back_up(&store, 1, &tree).unwrap().clear.id;
    let packs = disk.names().into_iter().filter(|n| n.starts_with("packs/"));
    let [one, two] = packs.take(2).collect::<Vec<_>>().try_into().unwrap();
    let (of_one, of_two) = (disk.bytes(&one).unwrap(), disk.bytes(&two).unwrap());
    disk.tamper(&one, |bytes| *bytes = of_two);
    disk.tamper(&two, |bytes| *bytes = of_one);
    drop(store);
    let store = crate::rig::open(&disk);
    assert_eq!(verify(&store).snapshots, [id]);
    // where each frame is can be told anew
    drop(store);
    let (store, _) = Store::recover(Arc::new(disk.clone()), options()).unwrap();
    store.unlock(&keys).unwrap();
    assert_eq!(restored(&store, id).unwrap(), tree);
}

#[test]
fn a_sample_reads_all_metadata_and_so_much_of_the_data() {
    let keys = Store::new_keyset().unwrap();
    let disk = Simulated::new();
    let store = fresh(&disk, &keys, Site);
    let tree = files(1000, 1, 3000);
    let id = back_up(&store, 1, &tree).unwrap().clear.id;
    let sample = |percent| store.verify_sample(percent, &Progress::default()).unwrap();
    let whole = verify(&store);
    assert_eq!(
        (whole.bytes, whole.frames),
        (whole.stored, store.stats().unwrap().totals.chunks)
    );
    let metadata = sample(0.0);
    assert_eq!(metadata.frames, whole.frames - 1000);
    assert_eq!(metadata.stored, whole.stored);
    let part = sample(10.0);
    let data = part.frames - metadata.frames;
    // to one frame in each pack
    let packs = disk
        .names()
        .iter()
        .filter(|n| n.starts_with("packs/"))
        .count() as u64;
    assert!(data.abs_diff(100) <= packs, "{data}");
    assert!(part.is_clean());
    // what is found is chance, but in the end it is
    let digest = store.digest_of(&tree[0].1[0]).unwrap();
    damage(&disk, &store, &digest);
    let found = (0..2000)
        .map(|_| sample(10.0))
        .find(|report| !report.is_clean());
    let found = found.expect("but once in 10^91 runs");
    assert_eq!((found.damaged, found.snapshots), (vec![digest], vec![id]));
}

#[test]
fn files_that_are_lost_are_named_and_counted() {
    let keys = Store::new_keyset().unwrap();
    let disk = Simulated::new();
    let store = fresh(&disk, &keys, Site);
    let mut tree = files(1500, 1, 40);
    let first = back_up(&store, 1, &tree).unwrap().clear.id;
    tree[1499].1 = files(200, 70_000, 40)
        .into_iter()
        .flat_map(|f| f.1)
        .collect();
    let second = back_up(&store, 2, &tree).unwrap().clear.id;
    let lost = |report: &Report, id| report.lost.iter().find(|l| l.snapshot == id).cloned();
    // of a file with a list of its own, and of one that both have
    for chunk in [&tree[1499].1[150], &tree[3].1[0]] {
        damage(&disk, &store, &store.digest_of(chunk).unwrap());
    }
    let report = verify(&store);
    let [in_first, in_second] = [first, second].map(|id| lost(&report, id).unwrap());
    assert_eq!(in_first.files, [b"f00003"]);
    assert_eq!(in_second.files, [b"f00003", b"f01499"]);
    assert_eq!((in_second.file_count, in_second.nameless), (2, 0));
    // more than are named
    for (_, chunks) in &tree[4..151] {
        damage(&disk, &store, &store.digest_of(&chunks[0]).unwrap());
    }
    let report = verify(&store);
    let [in_first, in_second] = [first, second].map(|id| lost(&report, id).unwrap());
    assert_eq!((in_first.files.len(), in_first.file_count), (100, 148));
    assert_eq!((in_second.files.len(), in_second.file_count), (100, 149));
    // and a leaf, of whose names none is known
    let mut leaf = store.snapshot(first).unwrap().clear.root;
    while let (Kind::Node, below) = store.refs_of(&leaf).unwrap() {
        leaf = below[0];
    }
    damage(&disk, &store, &leaf);
    let report = verify(&store);
    let in_first = lost(&report, first).unwrap();
    assert!(
        in_first.nameless > 0 && in_first.file_count < 148,
        "{in_first:?}"
    );
    store.lock();
    assert_eq!(verify(&store).lost, []);
}

#[test]
fn what_is_damaged_is_marked_before_names_are_looked_for_which_a_repair_does_not() {
    let keys = Store::new_keyset().unwrap();
    let disk = Simulated::new();
    let store = fresh(&disk, &keys, Site);
    let tree = files(1500, 1, 40);
    back_up(&store, 1, &tree).unwrap();
    let digest = store.digest_of(&tree[700].1[0]).unwrap();
    damage(&disk, &store, &digest);
    drop(store);
    let opened = |cancel| {
        let (watched, read) = watched(&disk.after_power_cut(u64::MAX), cancel);
        (Store::open(Arc::new(watched), options()).unwrap(), read)
    };
    let (store, read) = opened(None);
    verify(&store);
    let without_names = read.load(Relaxed);
    let (store, _) = opened(None);
    store.unlock(&keys).unwrap();
    let repaired = store.repair(None, &Progress::default()).unwrap();
    assert_eq!(repaired.report.damaged, [digest]);
    assert_eq!(repaired.report.lost, []);
    let progress = Arc::new(Progress::default());
    let (store, _) = opened(Some((without_names, progress.clone())));
    store.unlock(&keys).unwrap();
    let cancelled = store.verify(&progress);
    assert!(matches!(cancelled, Err(Error::Cancelled)), "{cancelled:?}");
    assert_eq!(store.has(&[digest]).unwrap(), [false]);
}
