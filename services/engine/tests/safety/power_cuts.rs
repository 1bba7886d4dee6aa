//! Power cuts, and the process killed, at every call of what tests/datastore.rs leaves out: two
//! backups at once while runs are merged, an index that is made anew, an opening that puts things
//! right.

use crate::trees::*;
use engine::storage::Storage;
use engine::storage::simulated::{Fault, Simulated};
use engine::{Error, Store};
use format::{Keyset, SnapshotId};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A disk with a snapshot on it.
fn disk(keys: &Keyset) -> (Simulated, SnapshotId, Files) {
    let (storage, tree) = (Simulated::new(), files(40, 1));
    let id = back_up(&fresh(&storage, keys), &tree).unwrap();
    (storage, id, tree)
}

/// Runs this and has the power go, or the process killed, at this call of it; answers what it
/// finished and whether it came so far.
fn cut<T>(storage: &Simulated, call: u64, run: impl FnOnce() -> T) -> (T, bool) {
    let at = storage.calls() + call;
    storage.set_fault(Some(Fault::PowerCut(at)));
    let finished = run();
    let reached = storage.calls() > at;
    storage.set_fault(None);
    (finished, reached)
}

/// Some of what a cut may leave; `each` gets a number that differs for all of them.
fn after(storage: &Simulated, count: u64, each: impl Fn(&Simulated, u64)) {
    for choice in (0..count).chain([u64::MAX]) {
        each(&storage.after_power_cut(choice), choice);
    }
}

#[test]
fn power_cut_at_any_call_of_two_backups_at_once() {
    let keys = Store::new_keyset().unwrap();
    let (base, id, first) = disk(&keys);
    // they share half of what they bring
    let trees = [files(50, 500), files(50, 525)];
    let states = AtomicU64::new(0);
    for_every_call(|call| {
        let storage = base.after_power_cut(u64::MAX);
        let store = opened(&storage, &keys);
        let (finished, reached) = cut(&storage, call, || {
            let ids = std::thread::scope(|scope| {
                let backups = trees.each_ref().map(|tree| {
                    let store = &store;
                    scope.spawn(move || back_up(store, tree).ok())
                });
                backups.map(|backup| backup.join().unwrap())
            });
            drop(store);
            ids
        });
        let mut whole = vec![(id, &first)];
        whole.extend(
            finished
                .into_iter()
                .zip(&trees)
                .filter_map(|(id, tree)| Some((id?, tree))),
        );
        if !reached {
            // runs were merged meanwhile: there were many more than there are
            let runs = storage.list("runs").unwrap();
            let last = runs.last().unwrap().strip_suffix(".run").unwrap();
            let numbered = usize::from_str_radix(last, 16).unwrap() + 1;
            assert!(numbered >= runs.len() + 4, "{runs:?}");
        }
        after(&storage, 6, |disk, choice| {
            in_order(&opened(disk, &keys), &whole, &trees[choice as usize % 2]);
            states.fetch_add(1, Relaxed);
        });
        reached
    });
    let states = states.into_inner();
    println!("{states} states");
    assert!(states > 1000, "{states}");
}

#[test]
fn power_cut_at_any_call_of_making_the_index_anew() {
    let keys = Store::new_keyset().unwrap();
    let (base, id, first) = disk(&keys);
    let states = AtomicU64::new(0);
    for_every_call(|call| {
        let storage = base.after_power_cut(u64::MAX);
        let recover = || Store::recover(Arc::new(storage.clone()), options()).map(drop);
        let (_, reached) = cut(&storage, call, recover);
        after(&storage, 10, |disk, _| {
            in_order(&opened(disk, &keys), &[(id, &first)], &files(50, 1));
            states.fetch_add(1, Relaxed);
        });
        reached
    });
    let states = states.into_inner();
    println!("{states} states");
    assert!(states > 300, "{states}");
}

#[test]
fn power_cut_at_any_call_of_opening_after_a_power_cut() {
    let keys = Store::new_keyset().unwrap();
    let (base, id, first) = disk(&keys);
    let second = files(50, 500);
    let states = AtomicU64::new(0);
    for_every_call(|call| {
        // of the first cuts a part: there are as many second ones for each
        let call = 5 * call;
        let storage = base.after_power_cut(u64::MAX);
        let store = opened(&storage, &keys);
        let (finished, reached) = cut(&storage, call, || back_up(&store, &second).ok());
        drop(store);
        let mut whole = vec![(id, &first)];
        whole.extend(finished.map(|id| (id, &second)));
        after(&storage, 2, |disk, choice| {
            for again in 0.. {
                let disk = disk.after_power_cut(u64::MAX);
                let (_, reached) = cut(&disk, again, || try_open(&disk, &keys).map(drop));
                let left = disk.after_power_cut(choice ^ call << 8 ^ again);
                in_order(&opened(&left, &keys), &whole, &second);
                states.fetch_add(1, Relaxed);
                if !reached {
                    break;
                }
            }
        });
        reached
    });
    let states = states.into_inner();
    println!("{states} states");
    assert!(states > 1000, "{states}");
}

/// Who is killed leaves what the kernel has of its files, durable or not; the next process builds on
/// it, and then the power goes.
#[test]
fn killed_at_any_call_and_a_power_cut_after_the_next_backup() {
    let keys = Store::new_keyset().unwrap();
    let (base, id, first) = disk(&keys);
    let second = files(50, 500);
    for_every_call(|call| {
        let storage = base.after_power_cut(u64::MAX);
        let store = opened(&storage, &keys);
        let (_, reached) = cut(&storage, call, || {
            let _ = back_up(&store, &second);
            drop(store);
        });
        let store = opened(&storage, &keys);
        let (there, _) = store.snapshots().unwrap();
        let mut whole = vec![(id, &first)];
        let finished = there.iter().map(|s| s.clear.id).find(|there| *there != id);
        whole.extend(finished.map(|id| (id, &second)));
        whole.push((back_up(&store, &second).unwrap(), &second));
        after(&storage, 6, |disk, _| {
            in_order(&opened(disk, &keys), &whole, &first);
        });
        reached
    });
}

#[test]
fn killed_or_cut_at_any_call_of_making_a_datastore() {
    let keys = Store::new_keyset().unwrap();
    let tree = files(3, 1);
    for_every_call(|call| {
        let storage = Simulated::new();
        let superblock = Store::superblock_for(&keys, format::superblock::Profile::Site);
        let init = |disk: &Simulated| Store::init(Arc::new(disk.clone()), superblock, options());
        let (_, reached) = cut(&storage, call, || init(&storage).map(drop));
        let all_or_nothing = |disk: &Simulated| match try_open(disk, &keys) {
            Ok(store) => {
                let id = back_up(&store, &tree).unwrap();
                drop(store);
                after(disk, 6, |disk, _| {
                    in_order(&opened(disk, &keys), &[(id, &tree)], &tree);
                });
            }
            Err(error) => {
                assert!(matches!(error, Error::NoDatastore { .. }), "{error}");
                if let Err(error) = init(disk) {
                    assert!(matches!(error, Error::Occupied { .. }), "{error}");
                }
            }
        };
        after(&storage, 6, |disk, _| all_or_nothing(disk));
        all_or_nothing(&storage);
        reached
    });
}
