//! A disk that somebody else filled, or that cannot be written at all: what is there is read, and what is
//! forgotten makes room again.

use crate::trees::*;
use engine::storage::Storage;
use engine::storage::hooked::Hooked;
use engine::storage::read_only::ReadOnly;
use engine::storage::simulated::{Fault, Simulated};
use engine::{Error, Progress, Store};
use format::Keyset;
use std::io;
use std::sync::Arc;

/// A datastore with two snapshots, as it is after a stop in order or after a power cut, which leaves packs
/// that are not in the index.
fn filled(keys: &Keyset, in_order: bool) -> (Simulated, [Files; 2]) {
    let (disk, trees) = (Simulated::new(), [files(60, 1), files(60, 40)]);
    let store = fresh(&disk, keys);
    back_up(&store, &trees[0]).unwrap();
    back_up(&store, &trees[1]).unwrap();
    let cut = disk.after_power_cut(u64::MAX);
    drop(store);
    match in_order {
        true => (disk.after_power_cut(u64::MAX), trees),
        false => (cut, trees),
    }
}

#[test]
fn a_full_disk_is_read_and_what_is_forgotten_makes_room() {
    let keys = Store::new_keyset().unwrap();
    for (in_order, slack) in [true, false]
        .into_iter()
        .flat_map(|order| (0..40).map(move |n| (order, n * 512)))
    {
        let (disk, trees) = filled(&keys, in_order);
        disk.set_capacity(Some(disk.used() + slack));
        let store = try_open(&disk, &keys).unwrap_or_else(|e| panic!("{in_order} {slack}: {e}"));
        let mut ids = store.snapshot_ids().unwrap();
        let mut whole = ids.iter().map(|id| restored(&store, *id).unwrap());
        assert!(whole.all(|files| trees.contains(&files)));
        let refused = back_up(&store, &files(60, 900)).unwrap_err();
        assert!(refused.is_read_only(), "{refused}");
        // half of it: there may be no room to copy what is needed, but what holds garbage alone goes
        let kept = ids.pop().unwrap();
        store.forget(&ids).unwrap();
        let before = store.stats().unwrap().packed;
        if let Err(error) = store.collect(&Progress::default()) {
            assert!(error.is_read_only(), "{error}");
        }
        let packed = store.stats().unwrap().packed;
        assert!(packed < before, "{packed} of {before}");
        assert!(trees.contains(&restored(&store, kept).unwrap()));
        store.forget(&[kept]).unwrap();
        let store = match store.collect(&Progress::default()) {
            Ok(_) => store,
            // room was made, but the index could not be written any more
            Err(error) => {
                assert!(error.is_read_only(), "{in_order} {slack}: {error}");
                drop(store);
                let store = opened(&disk, &keys);
                let done = store.collect(&Progress::default());
                done.unwrap_or_else(|e| panic!("{in_order} {slack}: {e}"));
                store
            }
        };
        assert_eq!(store.stats().unwrap().packed, 0);
        drop(store);
        disk.set_capacity(None);
        let store = opened(&disk, &keys);
        crate::trees::in_order(&store, &[], &trees[0]);
    }
}

#[test]
fn a_power_cut_while_a_full_disk_gets_room_loses_nothing() {
    let keys = Store::new_keyset().unwrap();
    let (disk, _) = filled(&keys, false);
    let store = opened(&disk, &keys);
    store.forget(&store.snapshot_ids().unwrap()).unwrap();
    let kept = files(4, 7000);
    let id = back_up(&store, &kept).unwrap();
    drop(store);
    let calls = for_every_call(|call| {
        let disk = disk.after_power_cut(u64::MAX);
        disk.set_capacity(Some(disk.used()));
        let store = opened(&disk, &keys);
        let at = disk.calls() + call;
        disk.set_fault(Some(Fault::PowerCut(at)));
        let done = store.collect(&Progress::default());
        drop(store);
        for choice in [0, call + 1, u64::MAX] {
            let after = disk.after_power_cut(choice);
            after.set_capacity(None);
            in_order(&opened(&after, &keys), &[(id, &kept)], &files(20, 1));
        }
        done.is_err()
    });
    assert!(calls > 10, "{calls}");
}

#[test]
fn what_cannot_be_written_is_read() {
    let keys = Store::new_keyset().unwrap();
    for in_order in [true, false] {
        let (disk, trees) = filled(&keys, in_order);
        let content = |disk: &Simulated| -> Vec<_> {
            let names = disk.names().into_iter();
            names.map(|name| (disk.bytes(&name), name)).collect()
        };
        // what a killed process left, and an index that is damaged
        disk.create("tmp/left").unwrap();
        if !in_order {
            disk.tamper("index", |bytes| bytes.truncate(100));
        }
        let before = content(&disk);
        let protected = Hooked::new(disk.clone(), |call| match call.method {
            "open" | "close" | "read_at" | "len" | "list" | "lock" => Ok(()),
            _ => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        });
        let refused = Store::open(Arc::new(protected.clone()), options()).err();
        let refused = refused.expect("there is something to remove");
        assert!(refused.is_read_only(), "{refused}");
        let text = refused.to_string();
        assert!(text.contains("mount its file system for writing"), "{text}");
        let store = Store::open(Arc::new(ReadOnly::new(protected)), options()).unwrap();
        store.unlock(&keys).unwrap();
        let progress = Progress::default();
        assert!(store.verify(&progress).unwrap().is_clean());
        let ids = store.snapshot_ids().unwrap();
        assert_eq!(ids.len(), 2);
        for id in &ids {
            assert!(trees.contains(&taken(&store, *id).unwrap()));
        }
        assert_eq!(store.garbage(&progress).unwrap().packs, 0);
        // nothing that would be lost is taken on
        for refused in [
            back_up(&store, &trees[0]).err(),
            store.forget(&ids).err(),
            store.lock_snapshot(ids[0], 4_000_000_000).err(),
        ] {
            let refused = refused.expect("it cannot be kept");
            assert!(refused.is_read_only(), "{refused}");
        }
        drop(store);
        assert!(before == content(&disk));
    }
}

#[test]
fn what_is_damaged_is_told_though_it_cannot_be_noted() {
    let keys = Store::new_keyset().unwrap();
    let (disk, _) = filled(&keys, true);
    let pack = disk.list("packs").unwrap().remove(0);
    disk.tamper(&format!("packs/{pack}"), |bytes| bytes[200] ^= 1);
    let store = Store::open(Arc::new(ReadOnly::new(disk.clone())), options()).unwrap();
    store.unlock(&keys).unwrap();
    let report = store.verify(&Progress::default()).unwrap();
    assert_eq!(report.damaged.len(), 1);
    let noted = |f: &String| f.contains("cannot be noted where nothing can be written");
    assert!(report.findings.iter().any(noted), "{report:?}");
    let lost = store.snapshot_ids().unwrap().into_iter().filter(|id| {
        let error = restored(&store, *id).err();
        error.is_some_and(|e| matches!(e, Error::Format { .. } | Error::Content { .. }))
    });
    assert_eq!(lost.collect::<Vec<_>>(), report.snapshots);
}

#[test]
fn what_is_known_to_be_damaged_is_known_to_an_index_that_is_made_anew_for_packs_that_are_gone() {
    let keys = Store::new_keyset().unwrap();
    let disk = Simulated::new();
    let (gone, kept) = (files(60, 1), files(20, 500));
    let store = fresh(&disk, &keys);
    back_up(&store, &gone).unwrap();
    let before = disk.list("packs").unwrap();
    back_up(&store, &kept).unwrap();
    let names = disk.list("packs").unwrap().into_iter();
    let mut packs = names.filter(|pack| !before.contains(pack));
    let pack = format!("packs/{}", packs.next().unwrap());
    disk.tamper(&pack, |bytes| bytes[200] ^= 1);
    assert!(!store.verify(&Progress::default()).unwrap().is_clean());
    drop(store);
    // one that was found something in
    disk.remove(&format!("packs/{}", before[0])).unwrap();
    let store = opened(&disk, &keys);
    let id = back_up(&store, &kept).unwrap();
    assert_eq!(taken(&store, id).unwrap(), kept);
}
