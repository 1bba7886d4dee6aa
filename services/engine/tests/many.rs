//! Many datastores in one process, as a centre has them: one memory for all, and no way from one to
//! another.

mod rig;

use engine::storage::directory::Directory;
use engine::storage::hooked::Hooked;
use engine::storage::simulated::Simulated;
use engine::{Error, Memory, Options, Progress, Store};
use format::superblock::Profile;
use rig::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages = statm.split(' ').nth(1).unwrap();
    pages.parse::<u64>().unwrap() * 4096
}

#[test]
fn five_hundred_idle_datastores_take_little_memory_together() {
    let temp = tempfile::tempdir().unwrap();
    let options = Options {
        memory: Memory::new(64 << 20),
        ..options()
    };
    let before = resident();
    let stores: Vec<(Store, format::SnapshotId)> = (0..500)
        .map(|number| {
            let directory = Directory::create(&temp.path().join(number.to_string())).unwrap();
            let keys = Store::new_keyset().unwrap();
            let superblock = Store::superblock_for(&keys, Profile::Centre);
            let store = Store::init(Arc::new(directory), superblock, options.clone()).unwrap();
            store.unlock(&keys).unwrap();
            let id = back_up(&store, &tree(number, 60)).unwrap();
            (store, id)
        })
        .collect();
    // each was used, and is looked into once more
    for (number, (store, id)) in stores.iter().enumerate() {
        restores(store, *id, &tree(number as u64, 60)).unwrap();
    }
    let taken = (resident() - before) >> 20;
    println!("{taken} MiB");
    assert!(taken < 512, "{taken} MiB");
}

#[test]
fn a_datastore_is_as_if_no_other_were_there() {
    let memory = Memory::new(1 << 20);
    let store = || {
        let options = Options {
            memory: memory.clone(),
            ..options()
        };
        let keys = Store::new_keyset().unwrap();
        let superblock = Store::superblock_for(&keys, Profile::Site);
        let store = Store::init(Arc::new(Simulated::new()), superblock, options).unwrap();
        store.unlock(&keys).unwrap();
        store
    };
    let (first, second) = (store(), store());
    let all = tree(0, 200);
    let one = back_up(&first, &all).unwrap();
    let alone = first.stats().unwrap();
    // the same content has another name there, and counts as new in full
    let chunk = noise(7);
    let digests = [&first, &second].map(|store| store.digest_of(&chunk).unwrap());
    assert_ne!(digests[0], digests[1]);
    assert_eq!(second.has(&digests).unwrap(), [false, false]);
    let two = back_up(&second, &all).unwrap();
    let stats = second.stats().unwrap();
    assert_eq!(
        (stats.totals.unique, stats.totals.chunks),
        (alone.totals.unique, alone.totals.chunks)
    );
    assert_eq!(first.stats().unwrap(), alone);
    let counts = |store: &Store, id| store.snapshot(id).unwrap().clear.unique;
    assert_eq!(counts(&first, one), counts(&second, two));

    // what is of one is not found in the other, and not taken there
    assert_eq!(second.has(&digests[..1]).unwrap(), [false]);
    assert!(matches!(
        second.read_frame(&digests[0]),
        Err(Error::NoChunk { .. })
    ));
    let frame = first.read_frame(&digests[0]).unwrap();
    assert!(matches!(
        second.put_frame(&frame),
        Err(Error::Format { .. })
    ));
    let snapshot = first.snapshot_bytes(one).unwrap();
    assert!(matches!(
        second.put_snapshot(snapshot),
        Err(Error::Foreign { .. })
    ));
    assert!(matches!(
        second.entries(one, b""),
        Err(Error::NoSnapshot { .. })
    ));

    // and what one gives up stays in the other
    first.forget(&[one]).unwrap();
    first.collect(&Progress::default()).unwrap();
    restores(&second, two, &all).unwrap();
}

#[test]
fn looking_for_what_another_datastore_has_takes_as_long_as_for_what_none_has() {
    const CHUNKS: u64 = 2000;
    let options = Options {
        memory: Memory::new(1 << 20),
        ..options()
    };
    let store = |from| {
        let reads = Arc::new(AtomicU64::new(0));
        let count = reads.clone();
        let hooked = Hooked::new(Simulated::new(), move |call| {
            count.fetch_add(u64::from(call.method == "read_at"), Relaxed);
            Ok(())
        });
        let keys = Store::new_keyset().unwrap();
        let superblock = Store::superblock_for(&keys, Profile::Site);
        let store = Store::init(Arc::new(hooked.clone()), superblock, options.clone()).unwrap();
        store.unlock(&keys).unwrap();
        back_up(&store, &tree(from, CHUNKS)).unwrap();
        drop(store);
        // opened anew it merges nothing
        let store = Store::open(Arc::new(hooked), options.clone()).unwrap();
        store.unlock(&keys).unwrap();
        (store, reads)
    };
    let ((first, of_first), (second, of_second)) = (store(0), store(10_000));
    let named = |store: &Store, from: u64| -> Vec<_> {
        let chunks = (from..from + CHUNKS).map(|n| store.digest_of(&noise(n)).unwrap());
        chunks.collect()
    };
    for digests in [named(&second, 0), named(&first, 0), named(&second, 20_000)] {
        of_first.store(0, Relaxed);
        of_second.store(0, Relaxed);
        assert!(!second.has(&digests).unwrap().contains(&true));
        // the second's own filters are wrong now and then
        let reads = of_second.load(Relaxed);
        assert!(reads < CHUNKS / 10, "{reads}");
        assert_eq!(of_first.load(Relaxed), 0);
    }
    // whose own chunks the disk is asked for
    second.has(&named(&second, 10_000)).unwrap();
    assert!(of_second.load(Relaxed) > 0);
}

#[test]
fn a_quota_stops_a_backup_in_a_sentence_until_there_is_room_again() {
    let storage = Simulated::new();
    let keys = Store::new_keyset().unwrap();
    drop(made(&storage, &keys));
    let options = Options {
        quota: Some(400 << 10),
        ..options()
    };
    let store = Store::open(Arc::new(storage.clone()), options).unwrap();
    store.unlock(&keys).unwrap();
    let (small, large) = (tree(0, 100), tree(1000, 300));
    let id = back_up(&store, &small).unwrap();
    let refused = back_up(&store, &large).unwrap_err();
    assert!(refused.to_string().contains("quota"), "{refused}");
    restores(&store, id, &small).unwrap();
    is_clean(&store);
    assert!(pack_bytes(&storage) <= 500 << 10);
    // what the failed one left is garbage
    store.collect(&Progress::default()).unwrap();
    let other = back_up(&store, &tree(2000, 60)).unwrap();
    restores(&store, other, &tree(2000, 60)).unwrap();
}
