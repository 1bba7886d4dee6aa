//! An index that is made anew of very many packs, or is much older than they are.

mod rig;

use engine::storage::Storage;
use engine::storage::directory::Directory;
use engine::storage::hooked::Hooked;
use engine::storage::simulated::Simulated;
use engine::{Error, Options, Progress, Store};
use format::SnapshotId;
use format::superblock::Profile;
use rig::*;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

fn tiny_packs() -> Options {
    Options {
        pack_size: 4 << 10,
        ..options()
    }
}

/// The index's files as they are.
fn keep_index(store: &Path, to: &Path) {
    fs::create_dir_all(to.join("runs")).unwrap();
    fs::copy(store.join("index"), to.join("index")).unwrap();
    for run in fs::read_dir(store.join("runs")).unwrap() {
        let run = run.unwrap();
        fs::copy(run.path(), to.join("runs").join(run.file_name())).unwrap();
    }
}

/// Puts these in the place of those that are there.
fn put_index(store: &Path, from: &Path) {
    fs::remove_dir_all(store.join("runs")).unwrap();
    keep_index(from, store);
}

#[test]
fn few_files_are_open_however_many_packs_there_are() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("s");
    let keys = Store::new_keyset().unwrap();
    let superblock = Store::superblock_for(&keys, Profile::Site);
    let directory = Arc::new(Directory::create(&dir).unwrap());
    let store = Store::init(directory, superblock, tiny_packs()).unwrap();
    store.unlock(&keys).unwrap();
    // each snapshot leaves a pack of metadata at least
    let trees: Vec<Tree> = (0..150).map(|number| tree(number, 10)).collect();
    let ids: Vec<_> = (trees.iter().map(|tree| back_up(&store, tree).unwrap())).collect();
    let before = store.stats().unwrap();
    drop(store);
    let (open, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let counted = most.clone();
    let counted = Hooked::new(Directory::open(&dir).unwrap(), move |call| {
        match call.method {
            "open" | "create" => {
                counted.fetch_max(open.fetch_add(1, Relaxed) + 1, Relaxed);
            }
            "close" => {
                open.fetch_sub(1, Relaxed);
            }
            _ => {}
        }
        Ok(())
    });
    let (store, _) = Store::recover(Arc::new(counted), tiny_packs()).unwrap();
    let most = most.load(Relaxed);
    assert!(most < 50, "{most} files were open");
    store.unlock(&keys).unwrap();
    assert_eq!(store.stats().unwrap(), before);
    for (id, tree) in ids.iter().zip(&trees) {
        restores(&store, *id, tree).unwrap();
    }
    is_clean(&store);
}

#[test]
fn an_index_that_lacks_little_is_completed_and_one_that_lacks_much_is_made_anew() {
    for (count, anew) in [(30, false), (6000, true)] {
        let temp = tempfile::tempdir().unwrap();
        let (dir, old) = (temp.path().join("s"), temp.path().join("old"));
        let keys = Store::new_keyset().unwrap();
        let superblock = Store::superblock_for(&keys, Profile::Site);
        let directory = Arc::new(Directory::create(&dir).unwrap());
        let store = Store::init(directory, superblock, options()).unwrap();
        store.unlock(&keys).unwrap();
        let first = tree(0, 50);
        let one = back_up(&store, &first).unwrap();
        drop(store);
        keep_index(&dir, &old);
        let open = || {
            let directory = Arc::new(Directory::open(&dir).unwrap());
            let store = Store::open(directory, options()).unwrap();
            store.unlock(&keys).unwrap();
            store
        };
        let store = open();
        let second = tree(100, count);
        let two = back_up(&store, &second).unwrap();
        let before = store.stats().unwrap();
        drop(store);
        put_index(&dir, &old);
        // numbers of files that are gone are given again
        let file = || {
            let found = fs::metadata(dir.join("index")).unwrap();
            (found.ino(), found.created().unwrap())
        };
        let there = file();
        let store = open();
        assert_eq!(file() != there, anew, "{count}");
        assert_eq!(store.stats().unwrap(), before);
        restores(&store, one, &first).unwrap();
        restores(&store, two, &second).unwrap();
        is_clean(&store);
        // and it is whole on disk too
        drop(store);
        let made = file();
        restores(&open(), two, &second).unwrap();
        assert_eq!(file(), made);
    }
}

/// What is in a datastore in memory, with each of its packs damaged at a time and its index made anew.
fn with_a_pack_damaged(
    storage: &Simulated,
    damage: impl Fn(&mut Vec<u8>),
    then: impl Fn(&Simulated),
) {
    for pack in storage.list("packs").unwrap() {
        let disk = storage.after_power_cut(u64::MAX);
        disk.tamper(&format!("packs/{pack}"), |bytes| damage(bytes));
        drop(Store::recover(Arc::new(disk.clone()), options()).unwrap());
        then(&disk);
    }
}

/// How many files come back.
fn files_that_come_back(store: &Store, id: SnapshotId) -> usize {
    let mut whole = 0;
    let Ok(entries) = store.entries(id, b"") else {
        return 0;
    };
    for (entry, content) in entries.map_while(Result::ok) {
        let mut pieces = store.pieces(&entry, &content).unwrap();
        whole += usize::from(pieces.all(|piece| piece.is_ok()));
    }
    whole
}

#[test]
fn what_a_damaged_frame_leaves_of_a_snapshot_is_not_collected() {
    let (storage, keys) = (Simulated::new(), Store::new_keyset().unwrap());
    let store = made(&storage, &keys);
    let files = tree(0, 400);
    let id = back_up(&store, &files).unwrap();
    drop(store);
    let (kept, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    // in the first frame, or all from some frame in the middle on
    for cut in [false, true] {
        let damage = |bytes: &mut Vec<u8>| match cut {
            true => bytes.truncate(bytes.len() / 2),
            false => bytes[64 + 9] ^= 1,
        };
        with_a_pack_damaged(&storage, damage, |disk| {
            let store = opened(disk, &keys);
            let before = files_that_come_back(&store, id);
            match store.collect(&Progress::default()) {
                Ok(_) => kept.fetch_add(1, Relaxed),
                Err(error) => {
                    let said = error.to_string();
                    assert!(said.contains("forget the snapshot"), "{said}");
                    refused.fetch_add(1, Relaxed)
                }
            };
            assert_eq!(files_that_come_back(&store, id), before);
            // what the next backup stores anew, after a verification, makes it whole again
            store.verify(&Progress::default()).unwrap();
            let again = back_up(&store, &files).unwrap();
            restores(&store, again, &files).unwrap();
            restores(&store, id, &files).unwrap();
            let report = store.verify(&Progress::default()).unwrap();
            assert_eq!(report.snapshots, []);
            store.collect(&Progress::default()).unwrap();
            restores(&store, id, &files).unwrap();
        });
    }
    let (kept, refused) = (kept.into_inner(), refused.into_inner());
    println!("{kept} collected, {refused} refused");
    assert!(kept > 10 && refused > 1, "{kept} {refused}");
}

#[test]
fn of_a_chunk_stored_twice_the_sound_one_counts() {
    let (storage, keys) = (Simulated::new(), Store::new_keyset().unwrap());
    let store = made(&storage, &keys);
    let files = tree(0, 60);
    let id = back_up(&store, &files).unwrap();
    drop(store);
    // healed as users are told: a verification, and the next backup
    for pack in storage.list("packs").unwrap() {
        let disk = storage.after_power_cut(u64::MAX);
        disk.tamper(&format!("packs/{pack}"), |bytes| {
            let length = bytes.len();
            (64..length - 64).step_by(97).for_each(|at| bytes[at] ^= 1);
        });
        let store = opened(&disk, &keys);
        assert!(!store.verify(&Progress::default()).unwrap().is_clean());
        back_up(&store, &files).unwrap();
        restores(&store, id, &files).unwrap();
        drop(store);
        drop(Store::recover(Arc::new(disk.clone()), options()).unwrap());
        let store = opened(&disk, &keys);
        restores(&store, id, &files).unwrap();
        store.collect(&Progress::default()).unwrap();
        restores(&store, id, &files).unwrap();
    }
}

#[test]
fn a_sector_that_cannot_be_read_keeps_nobody_from_making_the_index_anew() {
    let (storage, far) = (Simulated::new(), Simulated::new());
    let keys = Store::new_keyset().unwrap();
    let (store, copy) = (made(&storage, &keys), made(&far, &keys));
    let files = tree(0, 400);
    let id = back_up(&store, &files).unwrap();
    store.copy_to(&copy, &Progress::default()).unwrap();
    drop(store);
    let (named, kept) = (AtomicUsize::new(0), AtomicUsize::new(0));
    for pack in storage.list("packs").unwrap() {
        let name = format!("packs/{pack}");
        let end = storage.bytes(&name).unwrap().len() as u64 - 1;
        // with the header, with the footer's end, in the middle
        for at in [0, end, end / 2] {
            let disk = storage.after_power_cut(u64::MAX);
            disk.remove("index").unwrap();
            let (sector, failing) = (at / 4096, name.clone());
            let broken = Hooked::new(disk, move |call| {
                let (from, to) = (call.bytes.0 / 4096, call.bytes.0 + call.bytes.1 as u64);
                let meets = from <= sector && sector * 4096 < to;
                match call.method == "read_at" && call.name == failing && meets {
                    true => Err(std::io::Error::other("the sector cannot be read")),
                    false => Ok(()),
                }
            });
            let opened_as_usual = Store::open(Arc::new(broken.clone()), options()).map(drop);
            let (store, unread) = Store::recover(Arc::new(broken.clone()), options()).unwrap();
            match opened_as_usual {
                // nothing needs to be read there
                Ok(()) => assert_eq!(unread, [] as [String; 0]),
                Err(error) => {
                    assert!(error.to_string().contains(&name), "{error}");
                    let [said] = &unread[..] else {
                        panic!("{unread:?}")
                    };
                    assert!(said.starts_with(&name), "{said}");
                    named.fetch_add(1, Relaxed);
                }
            }
            drop(store);
            let store = opened(&broken, &keys);
            kept.fetch_add(files_that_come_back(&store, id), Relaxed);
            store.repair(Some(&copy), &Progress::default()).unwrap();
            restores(&store, id, &files).unwrap();
            is_clean(&store);
            store.collect(&Progress::default()).unwrap();
            restores(&store, id, &files).unwrap();
        }
    }
    let (named, kept) = (named.into_inner(), kept.into_inner());
    println!("{named} named, {kept} files kept");
    let packs = storage.list("packs").unwrap().len();
    assert!(
        named >= 2 * packs && kept > 3 * packs * 300,
        "{named}, {kept}"
    );
}

/// A cable that is loose for a while.
#[test]
fn what_was_not_read_when_the_index_was_made_is_there_when_it_is_read_again() {
    for method in ["open", "read_at"] {
        let (disk, keys) = (Simulated::new(), Store::new_keyset().unwrap());
        let files = tree(0, 400);
        let store = made(&disk, &keys);
        let id = back_up(&store, &files).unwrap();
        drop(store);
        let loose = Arc::new(AtomicBool::new(true));
        let fails = loose.clone();
        let cable = Hooked::new(disk.clone(), move |call| {
            // one pack in three is on the other disk of the two
            let there = call.name.starts_with("packs/") && call.name.as_bytes()[6] % 3 > 0;
            match there && call.method == method && fails.load(Relaxed) {
                true => Err(std::io::Error::other("the disk does not answer")),
                false => Ok(()),
            }
        });
        let recover = || {
            let disk = Arc::new(cable.clone());
            let (store, unread) = Store::recover(disk, options()).unwrap();
            store.unlock(&keys).unwrap();
            (store, unread)
        };
        let (store, unread) = recover();
        assert!(unread.len() > 1, "{unread:?}");
        drop(store);
        loose.store(false, Relaxed);
        let store = opened(&cable, &keys);
        assert!(restores(&store, id, &files).is_err());
        let refused = |done| matches!(done, Err(Error::Unread { .. }));
        assert!(refused(store.collect(&Progress::default())));
        assert!(refused(store.garbage(&Progress::default())));
        // nor does a repair that heals nothing give anything up
        let packs = disk.list("packs").unwrap().len();
        loose.store(true, Relaxed);
        store.repair(None, &Progress::default()).unwrap();
        loose.store(false, Relaxed);
        assert_eq!(disk.list("packs").unwrap().len(), packs);
        assert!(refused(store.collect(&Progress::default())));
        drop(store);
        let (store, unread) = recover();
        assert_eq!(unread, [] as [String; 0]);
        store.collect(&Progress::default()).unwrap();
        restores(&store, id, &files).unwrap();
    }
}
