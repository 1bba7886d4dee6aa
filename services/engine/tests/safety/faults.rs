//! A disk that fails or fills up, at every call: what runs fails with one sentence, everything
//! earlier is whole, and the next backup works, in the same process and in the next one.

use crate::trees::*;
use engine::storage::Storage;
use engine::storage::hooked::Hooked;
use engine::storage::simulated::{Fault, Simulated};
use engine::{Error, Progress, Store};
use format::{Keyset, SnapshotId};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

struct Rig {
    keys: Keyset,
    storage: Simulated,
    first: (SnapshotId, Files),
}

impl Rig {
    fn new() -> Self {
        let (keys, storage) = (Store::new_keyset().unwrap(), Simulated::new());
        let files = files(20, 1);
        let id = back_up(&fresh(&storage, &keys), &files).unwrap();
        Self {
            keys,
            storage,
            first: (id, files),
        }
    }

    /// A disk with the first snapshot on it.
    fn disk(&self) -> Simulated {
        self.storage.after_power_cut(u64::MAX)
    }
}

/// The failure itself, of which an operator is told in one sentence with what to do next.
fn told(error: &Error) -> &Error {
    let text = error.to_string();
    let next_step = text.contains("; ") || text.contains(": make room");
    assert!(next_step && !text.contains('\n'), "{text}");
    match error {
        Error::Stopped(first) => told(first),
        other => other,
    }
}

fn packed(storage: &Simulated) -> usize {
    let names = storage.names().into_iter();
    let packs = names.filter(|name| name.starts_with("packs/"));
    packs.map(|name| storage.bytes(&name).unwrap().len()).sum()
}

fn a_backup_with(fault: fn(u64) -> Fault) {
    let rig = Rig::new();
    let (second, third) = (files(40, 500), files(45, 500));
    let again = AtomicU64::new(0);
    let clean = {
        let storage = rig.disk();
        back_up(&opened(&storage, &rig.keys), &second).unwrap();
        packed(&storage)
    };
    let calls = for_every_call(|call| {
        let storage = rig.disk();
        let store = opened(&storage, &rig.keys);
        let at = storage.calls() + call;
        storage.set_fault(Some(fault(at)));
        let ended = back_up(&store, &second);
        storage.set_fault(None);
        let mut whole = vec![(rig.first.0, &rig.first.1)];
        match &ended {
            Ok(id) => whole.push((*id, &second)),
            Err(error) => {
                let error = told(error);
                match fault(at) {
                    Fault::Full(_) => assert!(matches!(error, Error::Full { .. }), "{error}"),
                    _ => assert!(matches!(error, Error::Io { .. }), "{error}"),
                }
                // the last of its threads is soon to end, and takes its pack along
                while !storage.list("tmp").unwrap().is_empty() {
                    std::thread::yield_now();
                }
            }
        }
        // a merge that failed may be told only now
        if let Err(error) = back_up(&store, &second) {
            told(&error);
            again.fetch_add(1, Relaxed);
        }
        whole.push((in_order(&store, &whole, &second), &second));
        // nothing is there twice but a pack that was whole when the disk failed
        let (packed, one) = (packed(&storage), options().pack_size as usize + 4000);
        assert!(packed < clean + one, "{packed}, not {clean}");
        drop(store);
        let reached = storage.calls() > at;
        // what came after the fault is as safe as ever
        for choice in [0, call + 1, u64::MAX] {
            let store = opened(&storage.after_power_cut(choice), &rig.keys);
            in_order(&store, &whole, &third);
        }
        let store = opened(&storage, &rig.keys);
        in_order(&store, &whole, &third);
        reached
    });
    assert!(calls > 60, "{calls}");
    assert!(again.into_inner() <= calls / 20);
}

#[test]
fn a_backup_whose_disk_fails_at_any_call() {
    a_backup_with(Fault::Error);
}

#[test]
fn a_backup_whose_disk_writes_in_part_and_fails_at_any_call() {
    a_backup_with(Fault::Short);
}

#[test]
fn a_backup_whose_disk_is_full_from_any_call_on() {
    a_backup_with(Fault::Full);
}

#[test]
fn a_snapshot_of_which_a_failure_was_told_is_gone_unless_it_was_locked() {
    for locks in [false, true] {
        let rig = Rig::new();
        let fails = Arc::new(AtomicBool::new(false));
        let found: Arc<Mutex<Option<Arc<Store>>>> = Arc::default();
        let (fail, finds) = (fails.clone(), found.clone());
        let hooked = Hooked::new(rig.disk(), move |call| {
            let its_name = (call.method, call.name) == ("sync_dir", "snapshots");
            if !its_name || !fail.swap(false, Relaxed) {
                return Ok(());
            }
            let finder = finds.lock().unwrap().take();
            if let Some(store) = finder {
                for id in store.snapshot_ids().unwrap() {
                    store.lock_snapshot(id, 4_000_000_000).unwrap();
                }
            }
            Err(io::Error::other("the disk failed"))
        });
        let store = Arc::new(Store::open(Arc::new(hooked), options()).unwrap());
        store.unlock(&rig.keys).unwrap();
        *found.lock().unwrap() = locks.then(|| store.clone());
        fails.store(true, Relaxed);
        let second = files(40, 500);
        let failed = back_up(&store, &second).unwrap_err();
        assert!(matches!(told(&failed), Error::Io { .. }), "{failed}");
        let mut ids = store.snapshot_ids().unwrap();
        ids.retain(|id| *id != rig.first.0);
        assert_eq!(ids.len(), usize::from(locks));
        let mut whole = vec![(rig.first.0, &rig.first.1)];
        whole.extend(ids.into_iter().map(|id| (id, &second)));
        in_order(&store, &whole, &files(45, 500));
    }
}

/// Runs this on a disk that fails or fills up at every call of it that changes something. Then it is run
/// once more, or twice where the first only tells what had failed before.
fn upkeep<P>(
    least: u64,
    prepare: impl Fn(&Rig, &Simulated) -> P + Sync,
    run: impl Fn(&P) -> engine::Result<()> + Sync,
) {
    let rig = Rig::new();
    for fault in [Fault::Error, Fault::Short, Fault::Full] {
        let failures = AtomicU64::new(0);
        let calls = for_every_call(|call| {
            let storage = rig.disk();
            let prepared = prepare(&rig, &storage);
            let at = storage.calls() + call;
            storage.set_fault(Some(fault(at)));
            let ended = run(&prepared);
            storage.set_fault(None);
            let reached = storage.calls() > at;
            if let Err(error) = &ended {
                failures.fetch_add(1, Relaxed);
                let error = told(error);
                let of_it = match fault(at) {
                    Fault::Full(_) => matches!(error, Error::Full { .. }),
                    _ => matches!(error, Error::Io { .. }),
                };
                assert!(of_it, "{error}");
            }
            let cut = [0, call + 1, u64::MAX].map(|choice| storage.after_power_cut(choice));
            if let Err(error) = run(&prepared) {
                told(&error);
                run(&prepared).unwrap();
            }
            drop(prepared);
            let whole = [(rig.first.0, &rig.first.1)];
            for disk in cut.iter().chain([&storage]) {
                let prepared = prepare(&rig, disk);
                run(&prepared).unwrap();
                drop(prepared);
                in_order(&opened(disk, &rig.keys), &whole, &files(25, 1));
            }
            reached
        });
        let failures = failures.into_inner();
        println!("{failures} failures in {calls} calls");
        assert!(calls > least && failures > 0, "{calls}");
    }
}

#[test]
fn a_collection_whose_disk_fails_or_fills_up_at_any_call() {
    let prepare = |rig: &Rig, disk: &Simulated| {
        let store = opened(disk, &rig.keys);
        // packs that go, packs of which a part stays, and short ones
        let mut gone = vec![back_up(&store, &files(40, 10)).unwrap()];
        gone.extend((0..16).map(|n| back_up(&store, &files(1, 900 + n)).unwrap()));
        store.forget(&gone).unwrap();
        store
    };
    upkeep(20, prepare, |store| {
        store.collect(&Progress::default())?;
        assert_eq!(store.garbage(&Progress::default())?.bytes, 0);
        Ok(())
    });
}

#[test]
fn a_repair_whose_disk_fails_or_fills_up_at_any_call() {
    let prepare = |rig: &Rig, disk: &Simulated| {
        let other = opened(&rig.disk(), &rig.keys);
        for pack in disk.list("packs").unwrap() {
            disk.tamper(&format!("packs/{pack}"), |bytes| bytes[300] ^= 1);
        }
        (opened(disk, &rig.keys), other)
    };
    upkeep(20, prepare, |(store, other)| {
        let repaired = store.repair(Some(other), &Progress::default())?;
        assert!(repaired.left.is_empty() && repaired.damaged.is_empty());
        Ok(())
    });
}

#[test]
fn a_copy_whose_disk_fails_or_fills_up_at_any_call() {
    let prepare = |rig: &Rig, disk: &Simulated| {
        let from = opened(&rig.disk(), &rig.keys);
        let second = back_up(&from, &files(40, 500)).unwrap();
        (from, opened(disk, &rig.keys), second)
    };
    upkeep(20, prepare, |(from, to, second)| {
        let copied = from.copy_to(to, &Progress::default())?;
        assert!(copied.left_out.is_empty());
        assert_eq!(taken(to, *second)?, files(40, 500));
        Ok(())
    });
}

#[test]
fn a_lock_and_a_removal_whose_disk_fails_or_fills_up_at_any_call() {
    let prepare = |rig: &Rig, disk: &Simulated| {
        let store = opened(disk, &rig.keys);
        let gone = back_up(&store, &files(5, 500)).unwrap();
        (store, rig.first.0, gone)
    };
    upkeep(5, prepare, |(store, kept, gone)| {
        if !store.locks()?.contains_key(kept) {
            store.lock_snapshot(*kept, 4_000_000_000)?;
        }
        assert!(matches!(
            store.forget(&[*kept]),
            Err(Error::LockedSnapshot { .. })
        ));
        match store.forget(&[*gone]) {
            Err(Error::NoSnapshot { .. }) => Ok(()),
            forgotten => forgotten,
        }
    });
}

/// Runs this with a fault at every reading call of it: it may do without what could not be read, but
/// gets nothing else instead.
fn reading<P>(
    prepare: impl Fn(&Rig, &Simulated) -> P + Sync,
    run: impl Fn(&Rig, P) -> engine::Result<()> + Sync,
) {
    let rig = Rig::new();
    let failures = AtomicU64::new(0);
    let calls = for_every_call(|call| {
        let storage = rig.disk();
        let prepared = prepare(&rig, &storage);
        let at = storage.reads() + call;
        storage.set_fault(Some(Fault::Read(at)));
        if let Err(error) = run(&rig, prepared) {
            let error = told(&error);
            assert!(matches!(error, Error::Io { .. }), "{error:?}");
            failures.fetch_add(1, Relaxed);
        }
        let reached = storage.reads() > at;
        storage.set_fault(None);
        let store = opened(&storage, &rig.keys);
        in_order(&store, &[(rig.first.0, &rig.first.1)], &files(25, 1));
        reached
    });
    let failures = failures.into_inner();
    println!("{failures} failures in {calls} calls");
    assert!(failures > 0);
}

fn ready(rig: &Rig, disk: &Simulated) -> Store {
    opened(disk, &rig.keys)
}

#[test]
fn opening_where_any_read_fails() {
    let just = |_: &Rig, disk: &Simulated| disk.clone();
    reading(just, |rig, disk| {
        let store = try_open(&disk, &rig.keys)?;
        store.stats()?;
        let (snapshots, unreadable) = store.snapshots()?;
        assert_eq!(snapshots.len() + unreadable.len(), 1);
        unreadable.into_iter().try_for_each(|(_, error)| Err(error))
    });
    reading(just, |rig, disk| {
        let (store, unread) = Store::recover(Arc::new(disk), options())?;
        // a second try reads what one failure kept back
        assert_eq!(unread, [] as [String; 0]);
        store.unlock(&rig.keys)
    });
}

#[test]
fn a_restore_where_any_read_fails() {
    for restore in [restored, taken] {
        reading(ready, |rig, store| {
            let files = restore(&store, rig.first.0)?;
            assert_eq!(files, rig.first.1);
            Ok(())
        });
    }
}

#[test]
fn a_backup_where_any_read_fails() {
    reading(ready, |rig, store| {
        let next = files(30, 10);
        let id = back_up(&store, &next)?;
        assert_eq!(restored(&store, id)?, next);
        assert_eq!(restored(&store, rig.first.0)?, rig.first.1);
        Ok(())
    });
}

#[test]
fn a_verification_where_any_read_fails() {
    let found = AtomicU64::new(0);
    for keys in [true, false] {
        reading(ready, |_, store| {
            if !keys {
                store.lock();
            }
            let report = store.verify(&Progress::default())?;
            found.fetch_add(u64::from(!report.is_clean()), Relaxed);
            Ok(())
        });
    }
    // what cannot be read is as good as damaged, and told as such
    assert!(found.into_inner() > 10);
}
