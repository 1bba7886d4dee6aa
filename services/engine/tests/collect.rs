//! Collections: everything that no snapshot needs goes, nothing that one needs does.

mod rig;

use engine::storage::hooked::Hooked;
use engine::storage::simulated::{Fault, Simulated};
use engine::{Error, Options, Progress, Store};
use format::SnapshotId;
use format::entry::Kind;
use proptest::collection::vec;
use proptest::prelude::*;
use rig::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

fn collected(store: &Store) -> engine::Collected {
    store.collect(&Progress::default()).unwrap()
}

/// After a collection with nobody else about: exactly what is needed is there, and little more space
/// is taken.
fn nothing_is_left_over(storage: &Simulated, store: &Store) {
    let needed = reachable(store);
    let totals = store.stats().unwrap().totals;
    assert_eq!(totals.chunks, needed.len() as u64);
    let frames: u64 = needed
        .iter()
        .map(|d| store.read_frame(d).unwrap().len() as u64)
        .sum();
    assert_eq!(totals.stored, frames);
    // a quarter of a pack may be garbage; header, records and trailer
    let packs = storage
        .names()
        .iter()
        .filter(|n| n.starts_with("packs/"))
        .count() as u64;
    let most = frames * 4 / 3 + packs * 100 + 52 * totals.chunks * 4 / 3;
    assert!(
        pack_bytes(storage) <= most,
        "{} of {most}",
        pack_bytes(storage)
    );
}

#[test]
fn garbage_goes_though_there_is_no_room_to_make_one_pack_of_short_ones() {
    const ROOM: u64 = 300_000;
    let (disk, keys) = (Simulated::new(), Store::new_keyset().unwrap());
    drop(made(&disk, &keys));
    let (full, written) = (Arc::new(AtomicBool::new(false)), AtomicU64::new(0));
    let is_full = full.clone();
    let small = Hooked::new(disk.clone(), move |call| {
        let packs = call.method == "write_at" && call.name.starts_with("tmp/");
        let more = call.bytes.1 as u64;
        match packs && is_full.load(Relaxed) && written.fetch_add(more, Relaxed) + more > ROOM {
            true => Err(std::io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    });
    let options = Options {
        pack_size: 1 << 20,
        ..options()
    };
    let store = Store::open(Arc::new(small), options).unwrap();
    store.unlock(&keys).unwrap();
    // a pack of which three fourths are garbage, and very many short ones
    let most = tree(0, 400);
    let rest: Tree = most
        .clone()
        .into_iter()
        .filter(|(_, n)| n % 4 == 0)
        .collect();
    let gone = back_up(&store, &most).unwrap();
    let kept = back_up(&store, &rest).unwrap();
    for number in 0..60 {
        back_up(&store, &tree(10_000 + number * 10, 10)).unwrap();
    }
    store.forget(&[gone]).unwrap();
    let before = pack_bytes(&disk);
    full.store(true, Relaxed);
    let done = collected(&store);
    assert!(done.freed > 300_000, "{done:?}");
    assert!(pack_bytes(&disk) + done.freed - 20_000 < before, "{done:?}");
    full.store(false, Relaxed);
    let names = || disk.names().len();
    let many = names();
    collected(&store);
    assert!(names() < many - 50);
    restores(&store, kept, &rest).unwrap();
}

#[test]
fn what_only_a_forgotten_snapshot_needs_goes_and_the_rest_stays() {
    let (storage, keys) = (Simulated::new(), Store::new_keyset().unwrap());
    let store = made(&storage, &keys);
    let (first, second) = (tree(0, 300), tree(150, 300));
    let old = back_up(&store, &first).unwrap();
    let new = back_up(&store, &second).unwrap();
    assert_eq!(collected(&store).chunks, 0);
    store.forget(&[old]).unwrap();
    assert!(matches!(
        restores(&store, old, &first),
        Err(Error::NoSnapshot { .. })
    ));

    let before = pack_bytes(&storage);
    let planned = store.garbage(&Progress::default()).unwrap();
    assert_eq!(pack_bytes(&storage), before);
    let done = collected(&store);
    assert_eq!(planned, done);
    assert!(done.chunks >= 150 && done.freed > 150 * 1000, "{done:?}");
    assert!(pack_bytes(&storage) < before - done.freed * 9 / 10);
    nothing_is_left_over(&storage, &store);
    restores(&store, new, &second).unwrap();
    is_clean(&store);
    assert_eq!(collected(&store).chunks, 0);

    store.forget(&[new]).unwrap();
    collected(&store);
    assert_eq!(store.stats().unwrap().totals.chunks, 0);
    assert_eq!(pack_bytes(&storage), 0);
    let again = back_up(&store, &first).unwrap();
    restores(&store, again, &first).unwrap();
}

#[test]
fn what_a_backup_that_was_given_up_left_goes() {
    let (storage, keys) = (Simulated::new(), Store::new_keyset().unwrap());
    let store = made(&storage, &keys);
    let mut given_up = begun(&store).unwrap();
    for (name, number) in &tree(0, 400) {
        add(&mut given_up, name, *number).unwrap();
    }
    drop(given_up);
    let kept = back_up(&store, &tree(300, 200)).unwrap();
    assert!(collected(&store).chunks >= 300);
    nothing_is_left_over(&storage, &store);
    restores(&store, kept, &tree(300, 200)).unwrap();
}

#[test]
fn a_restore_that_began_before_its_snapshot_was_forgotten_ends_whole() {
    let (storage, keys) = (Simulated::new(), Store::new_keyset().unwrap());
    let store = made(&storage, &keys);
    let all = tree(0, 300);
    let id = back_up(&store, &all).unwrap();
    let mut entries = store.entries(id, b"").unwrap();
    entries.next().unwrap().unwrap();
    store.forget(&[id]).unwrap();
    let progress = Progress::default();
    std::thread::scope(|scope| {
        let collecting = scope.spawn(|| store.collect(&progress).unwrap());
        let mut files = 0;
        for item in entries {
            let (entry, content) = item.unwrap();
            let pieces = store.pieces(&entry, &content).unwrap();
            files += pieces.map(Result::unwrap).count();
        }
        assert_eq!(files, 300);
        assert!(collecting.join().unwrap().chunks > 300);
    });
    assert_eq!(pack_bytes(&storage), 0);
}

#[test]
fn a_collection_that_waits_can_be_cancelled_and_leaves_everything() {
    let (storage, keys) = (Simulated::new(), Store::new_keyset().unwrap());
    let store = made(&storage, &keys);
    let all = tree(0, 100);
    let id = back_up(&store, &all).unwrap();
    let running = begun(&store).unwrap();
    store.forget(&[id]).unwrap();
    let progress = Progress::default();
    std::thread::scope(|scope| {
        let collecting = scope.spawn(|| store.collect(&progress));
        progress.cancel();
        assert!(matches!(collecting.join().unwrap(), Err(Error::Cancelled)));
    });
    drop(running);
    let again = back_up(&store, &all).unwrap();
    restores(&store, again, &all).unwrap();
    is_clean(&store);
}

#[test]
fn a_backup_that_stores_anew_what_is_about_to_be_buried_wins() {
    let (disk, keys) = (Simulated::new(), Store::new_keyset().unwrap());
    let all = tree(0, 100);
    let gone = back_up(&made(&disk, &keys), &all).unwrap();
    // after what is dead was found and all who could lean on it ended: the third look at the snapshots
    let (looks, counted) = (AtomicU64::new(0), Arc::new(AtomicBool::new(false)));
    let counts = counted.clone();
    let (hooked, parking) = Hooked::parking(disk.clone(), move |call| {
        let looks_at_them = (call.method, call.name) == ("list", "snapshots");
        looks_at_them && counts.load(Relaxed) && looks.fetch_add(1, Relaxed) == 2
    });
    let store = opened(&hooked, &keys);
    let chunk = store.digest_of(&noise(50)).unwrap();
    store.forget(&[gone]).unwrap();
    counted.store(true, Relaxed);
    let again = std::thread::scope(|scope| {
        let collecting = scope.spawn(|| collected(&store));
        parking.reached.recv().unwrap();
        store.read_frame(&chunk).unwrap();
        assert_eq!(store.has(&[chunk]).unwrap(), [false], "it is condemned");
        // as a backup that ends after the burial
        let mut writer = begun(&store).unwrap();
        writer.add_entry(&entry("", Kind::Directory)).unwrap();
        for (name, number) in &all {
            add(&mut writer, name, *number).unwrap();
        }
        writer.end().unwrap();
        parking.go_on.send(()).unwrap();
        collecting.join().unwrap();
        writer.commit(None).unwrap().clear.id
    });
    for _ in 0..2 {
        restores(&store, again, &all).unwrap();
        is_clean(&store);
        collected(&store);
        nothing_is_left_over(&disk, &store);
    }
}

#[test]
fn packs_of_many_small_backups_become_few() {
    let (storage, keys) = (Simulated::new(), Store::new_keyset().unwrap());
    drop(made(&storage, &keys));
    let options = Options {
        pack_size: 1 << 20,
        ..options()
    };
    let store = Store::open(Arc::new(storage.clone()), options).unwrap();
    store.unlock(&keys).unwrap();
    let packs = || {
        let names = storage.names().into_iter();
        names.filter(|name| name.starts_with("packs/")).count()
    };
    let (mut kept, mut copied) = (Vec::new(), 0);
    for count in 1..=200 {
        let tree = tree(0, count);
        kept.push((back_up(&store, &tree).unwrap(), tree));
        if count % 10 == 0 {
            let planned = store.garbage(&Progress::default()).unwrap();
            let done = collected(&store);
            assert_eq!(planned, done);
            copied += done.copied;
        }
    }
    assert!(packs() < 70, "{}", packs());
    let stored = store.stats().unwrap().totals.stored;
    println!("{} packs, {copied} bytes copied of {stored}", packs());
    assert!(
        copied > stored / 2 && copied < 3 * stored,
        "{copied} of {stored}"
    );
    assert_eq!(collected(&store).copied, 0);
    for (id, tree) in &kept {
        restores(&store, *id, tree).unwrap();
    }
    is_clean(&store);
    nothing_is_left_over(&storage, &store);
}

#[derive(Clone, Debug)]
enum Step {
    BackUp(u64, u64),
    GiveUp(u64, u64),
    Forget(usize),
    Collect,
    Open,
    /// The index made anew.
    Recover,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let files = || (0u64..200, 1u64..120);
    let step = prop_oneof![
        4 => files().prop_map(|(first, count)| Step::BackUp(first, count)),
        1 => files().prop_map(|(first, count)| Step::GiveUp(first, count)),
        3 => any::<prop::sample::Index>().prop_map(|i| Step::Forget(i.index(1000))),
        2 => Just(Step::Collect),
        1 => Just(Step::Open),
        1 => Just(Step::Recover),
    ];
    vec(step, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn whatever_came_before_exactly_what_is_needed_is_kept(steps in steps()) {
        let (storage, keys) = (Simulated::new(), Store::new_keyset().unwrap());
        let mut store = Some(made(&storage, &keys));
        let mut model: BTreeMap<SnapshotId, Tree> = BTreeMap::new();
        for step in steps.into_iter().chain([Step::Collect]) {
            let open = store.as_ref().unwrap();
            match step {
                Step::BackUp(first, count) => {
                    let tree = tree(first, count);
                    model.insert(back_up(open, &tree).unwrap(), tree);
                }
                Step::GiveUp(first, count) => {
                    let mut writer = begun(open).unwrap();
                    for (name, number) in tree(first, count) {
                        add(&mut writer, &name, number).unwrap();
                    }
                }
                Step::Forget(which) if !model.is_empty() => {
                    let id = *model.keys().nth(which % model.len()).unwrap();
                    open.forget(&[id]).unwrap();
                    model.remove(&id);
                }
                Step::Forget(_) => {}
                Step::Collect => {
                    collected(open);
                    nothing_is_left_over(&storage, open);
                    is_clean(open);
                    for (id, tree) in &model {
                        restores(open, *id, tree).unwrap();
                    }
                }
                Step::Open => {
                    drop(store.take());
                    store = Some(opened(&storage, &keys));
                }
                Step::Recover => {
                    drop(store.take());
                    let (recovered, _) = Store::recover(Arc::new(storage.clone()), options()).unwrap();
                    recovered.unlock(&keys).unwrap();
                    store = Some(recovered);
                }
            }
        }
    }
}

#[test]
fn a_power_cut_at_any_call_of_a_collection_loses_nothing() {
    const CHOICES: u64 = 4;
    let (storage, keys) = (Simulated::new(), Store::new_keyset().unwrap());
    let (first, second, third) = (tree(0, 120), tree(40, 120), tree(100, 120));
    let store = made(&storage, &keys);
    let gone = back_up(&store, &first).unwrap();
    let kept = back_up(&store, &second).unwrap();
    collected(&store);
    // each with a pack of data and one of metadata that are short
    let short: Vec<_> = (500..516).map(|number| tree(number, 1)).collect();
    let short: Vec<_> = (short.iter())
        .map(|tree| (back_up(&store, tree).unwrap(), tree))
        .collect();
    drop(store);
    let before = storage.after_power_cut(u64::MAX);
    let (states, ended, next) = (AtomicU64::new(0), AtomicBool::new(false), AtomicU64::new(0));
    let work = || {
        while !ended.load(Relaxed) {
            let stop = next.fetch_add(1, Relaxed);
            let storage = before.after_power_cut(u64::MAX);
            let store = opened(&storage, &keys);
            storage.set_fault(Some(Fault::PowerCut(storage.calls() + stop)));
            let done = store.forget(&[gone]).and_then(|()| {
                let added = back_up(&store, &third)?;
                let done = store.collect(&Progress::default())?;
                assert!(done.packs > 32, "the short ones are among them: {done:?}");
                Ok(added)
            });
            drop(store);
            storage.set_fault(None);
            for choice in 0..CHOICES {
                let after = storage.after_power_cut(choice * 7919 + stop);
                let store = opened(&after, &keys);
                is_clean(&store);
                restores(&store, kept, &second).unwrap();
                for (id, tree) in &short {
                    restores(&store, *id, tree).unwrap();
                }
                let there = store.snapshot(gone).is_ok();
                if there {
                    restores(&store, gone, &first).unwrap();
                }
                if let Ok(added) = &done {
                    restores(&store, *added, &third).unwrap();
                    assert!(!there);
                }
                collected(&store);
                nothing_is_left_over(&after, &store);
                let again = back_up(&store, &first).unwrap();
                restores(&store, again, &first).unwrap();
                is_clean(&store);
                states.fetch_add(1, Relaxed);
            }
            ended.fetch_or(done.is_ok(), Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
    });
    let states = states.into_inner();
    println!("{states} states");
    assert!(states > 300, "{states}");
}

#[test]
fn backups_restores_verifications_and_collections_go_on_at_once() {
    let (storage, keys) = (Simulated::new(), Store::new_keyset().unwrap());
    let store = made(&storage, &keys);
    let kept = tree(1000, 150);
    let stays = back_up(&store, &kept).unwrap();
    std::thread::scope(|scope| {
        let backups: Vec<_> = (0..3u64)
            .map(|thread| {
                let store = &store;
                scope.spawn(move || {
                    let mut earlier: Option<SnapshotId> = None;
                    for round in 0..8 {
                        // overlapping ones, so that each leans on what others bring and forget
                        let tree = tree(thread * 10 + round * 25, 100);
                        let id = back_up(store, &tree).unwrap();
                        restores(store, id, &tree).unwrap();
                        if let Some(earlier) = earlier.replace(id) {
                            store.forget(&[earlier]).unwrap();
                        }
                    }
                })
            })
            .collect();
        let mut rounds = 0;
        while !backups.iter().all(|b| b.is_finished()) {
            collected(&store);
            is_clean(&store);
            restores(&store, stays, &kept).unwrap();
            rounds += 1;
        }
        println!("{rounds} collections meanwhile");
    });
    collected(&store);
    nothing_is_left_over(&storage, &store);
    is_clean(&store);
}

#[test]
fn an_index_that_is_opened_again_while_packs_are_copied_keeps_all() {
    let (disk, keys) = (Simulated::new(), Store::new_keyset().unwrap());
    let all = tree(0, 120);
    let kept: Tree = all
        .clone()
        .into_iter()
        .filter(|(_, n)| n % 2 == 0)
        .collect();
    let store = made(&disk, &keys);
    let gone = back_up(&store, &all).unwrap();
    let id = back_up(&store, &kept).unwrap();
    drop(store);
    let (armed, fails) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let (arms, fail) = (armed.clone(), fails.clone());
    let failing = Hooked::new(disk.clone(), move |call| {
        match call.name == "index" && call.method == "write_at" && fail.swap(false, Relaxed) {
            true => Err(std::io::Error::other("the disk failed")),
            false => Ok(()),
        }
    });
    // when the first pack that was copied out of is about to be sealed
    let (parking, parked) = Hooked::parking(failing, move |call| {
        call.method == "rename" && call.name.starts_with("packs/") && arms.load(Relaxed)
    });
    let store = Store::open(Arc::new(parking), options()).unwrap();
    store.unlock(&keys).unwrap();
    store.forget(&[gone]).unwrap();
    armed.store(true, Relaxed);
    std::thread::scope(|scope| {
        let collecting = scope.spawn(|| store.collect(&Progress::default()));
        parked.reached.recv().unwrap();
        fails.store(true, Relaxed);
        // it fails, and the next backup opens the index again
        let _ = store.verify(&Progress::default());
        let other = tree(900, 60);
        let _ = back_up(&store, &other);
        let second = back_up(&store, &other).unwrap();
        parked.go_on.send(()).unwrap();
        let ended = collecting.join().unwrap();
        println!("{ended:?}");
        restores(&store, second, &other).unwrap();
    });
    assert!(!fails.load(Relaxed), "the index was not written to");
    for _ in 0..3 {
        collected(&store);
        restores(&store, id, &kept).unwrap();
        is_clean(&store);
    }
}

#[test]
fn garbage_that_a_damaged_chunk_hides_is_told_and_freed_by_an_index_made_anew() {
    let (disk, keys) = (Simulated::new(), Store::new_keyset().unwrap());
    let store = made(&disk, &keys);
    let gone = back_up(&store, &tree(0, 120)).unwrap();
    let packs = disk.names().into_iter().filter(|n| n.starts_with("packs/"));
    let metadata = packs.min_by_key(|n| disk.bytes(n).unwrap().len()).unwrap();
    disk.tamper(&metadata, |bytes| bytes[200] ^= 1);
    store.forget(&[gone]).unwrap();
    for _ in 0..2 {
        for told in [
            store.garbage(&Progress::default()),
            store.collect(&Progress::default()),
        ] {
            let told = told.unwrap().findings;
            assert!(
                told[0].contains("which no snapshot needs, is damaged"),
                "{told:?}"
            );
        }
    }
    assert!(pack_bytes(&disk) > 100_000);
    drop(store);
    let (store, _) = Store::recover(Arc::new(disk.clone()), options()).unwrap();
    collected(&store);
    assert_eq!(pack_bytes(&disk), 0);
}
