//! Locked snapshots: nothing removes them or what they need before their time, whatever the wall
//! clock says.

mod rig;

use engine::clock::{Reading, Source};
use engine::storage::Storage;
use engine::storage::hooked::Hooked;
use engine::storage::simulated::Simulated;
use engine::{Error, Keep, Options, Progress, Store};
use format::Keyset;
use format::frame::{Compression, Draft, FrameKeys, Kind};
use format::snapshot::{Clear, Details, Unsigned};
use jiff::tz::TimeZone;
use rig::*;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const DAY: i64 = 86_400;
const START: i64 = 1_800_000_000;

/// Clocks that a test sets.
struct Set(Mutex<Reading>);

impl Source for Set {
    fn read(&self) -> Reading {
        *self.0.lock().unwrap()
    }
}

struct Site {
    storage: Simulated,
    keys: Keyset,
    clock: Arc<Set>,
}

impl Site {
    fn new() -> Self {
        let reading = Reading {
            wall: START,
            boot: Some([1; 16]),
            up: 1000,
        };
        let site = Self {
            storage: Simulated::new(),
            keys: Store::new_keyset().unwrap(),
            clock: Arc::new(Set(Mutex::new(reading))),
        };
        drop(made(&site.storage, &site.keys));
        site
    }

    fn set(&self, change: impl FnOnce(&mut Reading)) {
        change(&mut self.clock.0.lock().unwrap());
    }

    /// The wall clock and the machine go on.
    fn pass(&self, days: i64) {
        self.set(|clock| {
            clock.wall += days * DAY;
            clock.up += days * DAY;
        });
    }

    fn open(&self) -> Store {
        self.open_on(self.storage.clone())
    }

    fn open_on(&self, storage: impl Storage) -> Store {
        let options = Options {
            clock: self.clock.clone(),
            ..options()
        };
        let store = Store::open(Arc::new(storage), options).unwrap();
        store.unlock(&self.keys).unwrap();
        store
    }
}

/// Every way there is of removing it leaves it.
fn stays(store: &Store, id: format::SnapshotId, tree: &Tree) {
    assert!(matches!(
        store.forget(&[id]),
        Err(Error::LockedSnapshot { .. })
    ));
    let keep = Keep {
        last: 1,
        ..Keep::default()
    };
    for (info, verdict) in store.retention(&keep, &TimeZone::UTC).unwrap() {
        assert_eq!(verdict.contains(&"locked"), info.clear.id == id);
    }
    store.collect(&Progress::default()).unwrap();
    restores(store, id, tree).unwrap();
}

#[test]
fn a_lock_holds_whatever_the_wall_clock_jumps_to() {
    let site = Site::new();
    let all = tree(0, 50);
    let store = site.open();
    let id = back_up(&store, &all).unwrap();
    back_up(&store, &tree(100, 50)).unwrap();
    store.lock_snapshot(id, START + 30 * DAY).unwrap();
    stays(&store, id, &all);
    drop(store);
    // ten years on, twenty back, and started anew meanwhile
    for wall in [START + 3650 * DAY, START - 7300 * DAY, START + 3650 * DAY] {
        for boot in [1, 2, 3] {
            site.set(|clock| (clock.wall, clock.boot, clock.up) = (wall, Some([boot; 16]), 2000));
            stays(&site.open(), id, &all);
        }
    }
    // without a boot to tell, no time passes either
    site.set(|clock| clock.boot = None);
    site.pass(100);
    stays(&site.open(), id, &all);

    site.set(|clock| (clock.wall, clock.boot, clock.up) = (START, Some([9; 16]), 0));
    stays(&site.open(), id, &all);
    for _ in 0..29 {
        site.pass(1);
        stays(&site.open(), id, &all);
    }
    site.pass(2);
    let store = site.open();
    assert!(store.locks().unwrap().is_empty());
    store.forget(&[id]).unwrap();
    assert!(store.collect(&Progress::default()).unwrap().chunks >= 50);
    let left = site.storage.names();
    assert!(
        !left.iter().any(|name| name.contains(&id.to_string())),
        "{left:?}"
    );
}

#[test]
fn a_lock_only_moves_later() {
    let site = Site::new();
    let store = site.open();
    let id = back_up(&store, &tree(0, 5)).unwrap();
    for wrong in [START - DAY, START, START + 40_000 * DAY] {
        let refused = store.lock_snapshot(id, wrong);
        assert!(matches!(refused, Err(Error::NotLater { .. })), "{wrong}");
    }
    store.lock_snapshot(id, START + 10 * DAY).unwrap();
    let earlier = store.lock_snapshot(id, START + 9 * DAY);
    assert!(matches!(earlier, Err(Error::NotLater { .. })));
    store.lock_snapshot(id, START + 20 * DAY).unwrap();
    assert_eq!(store.locks().unwrap().get(&id), Some(&(START + 20 * DAY)));
    assert!(matches!(
        store.lock_snapshot(format::SnapshotId([7; 16]), START + DAY),
        Err(Error::NoSnapshot { .. })
    ));
}

#[test]
fn what_a_locked_snapshot_needs_stays_when_its_file_was_removed_behind_our_back() {
    let site = Site::new();
    let all = tree(0, 60);
    let store = site.open();
    let id = back_up(&store, &all).unwrap();
    store.lock_snapshot(id, START + 30 * DAY).unwrap();
    drop(store);
    let name = format!("snapshots/{id}.snap");
    let file = site.storage.bytes(&name).unwrap();
    site.storage.remove(&name).unwrap();
    for with_an_index_made_anew in [false, true] {
        let store = site.open();
        let done = store.collect(&Progress::default()).unwrap();
        assert_eq!(done.chunks, 0);
        assert!(
            done.findings[0].contains("its chunks are kept"),
            "{:?}",
            done.findings
        );
        if with_an_index_made_anew {
            // its file comes back, as from another copy
            store.put_snapshot(file.clone()).unwrap();
            restores(&store, id, &all).unwrap();
            let done = store.collect(&Progress::default()).unwrap();
            assert!(done.findings.is_empty(), "{:?}", done.findings);
        } else {
            drop(store);
            site.storage.remove("index").unwrap();
        }
    }
}

/// Frames and snapshots' files are all that a site can send to its replica.
#[test]
fn whatever_another_copy_sends_leaves_what_is_locked() {
    let (site, centre) = (Site::new(), Site::new());
    let centre = Site {
        keys: site.keys.clone(),
        storage: Simulated::new(),
        ..centre
    };
    drop(made(&centre.storage, &centre.keys));
    let (all, progress) = (tree(0, 60), Progress::default());
    let (near, far) = (site.open(), centre.open());
    let id = back_up(&near, &all).unwrap();
    near.copy_to(&far, &progress).unwrap();
    far.lock_snapshot(id, START + 30 * DAY).unwrap();
    let root = near.snapshot(id).unwrap().clear.root;
    let mut needed = vec![root];
    let mut at = 0;
    while let Some(digest) = needed.get(at) {
        needed.extend(near.refs_of(digest).unwrap().1);
        at += 1;
    }
    // it forgets, and goes on
    near.forget(&[id]).unwrap();
    near.collect(&progress).unwrap();
    back_up(&near, &tree(30, 60)).unwrap();
    near.copy_to(&far, &progress).unwrap();
    stays(&far, id, &all);
    // taken over, with all keys it has: other content for each chunk, another snapshot of this id
    let keys = FrameKeys::new(Arc::new(site.keys.clone()));
    for digest in &needed {
        let mut frame = Vec::new();
        let mut draft = Draft::begin(&mut frame, Kind::Data, *digest, 5, &[], 1, [7; 24]);
        draft.payload().extend_from_slice(b"other");
        draft.seal(Compression::None, &keys).unwrap();
        assert!(!far.put_frame(&frame).unwrap(), "it is there already");
        frame[20] ^= 1;
        far.put_frame(&frame).unwrap_err();
    }
    let clear = Clear {
        id,
        ..near.snapshots().unwrap().0[0].clear.clone()
    };
    let forged = Unsigned::new(&clear, &Details::default(), &keys, [8; 24]).unwrap();
    assert!(matches!(
        far.put_snapshot(forged.finish(None)),
        Err(Error::Conflict { .. })
    ));
    stays(&far, id, &all);
}

#[test]
fn a_damaged_lock_holds_until_the_snapshot_is_locked_anew() {
    let site = Site::new();
    let all = tree(0, 20);
    let store = site.open();
    let id = back_up(&store, &all).unwrap();
    store.lock_snapshot(id, START + DAY).unwrap();
    for byte in 0..format::lock::LOCK_LEN {
        site.storage
            .tamper(&format!("snapshots/{id}.lock"), |lock| lock[byte] ^= 4);
        site.pass(100);
        let found = store.verify(&Progress::default()).unwrap();
        assert_eq!(found.finding_count, 1, "byte {byte}: {:?}", found.findings);
        let refused = store.forget(&[id]);
        // a newer release's is not understood at all
        let newer = (8..12).contains(&byte);
        assert!(
            if newer {
                matches!(refused, Err(Error::Newer { .. }))
            } else {
                matches!(refused, Err(Error::DamagedLock { .. }))
            },
            "byte {byte}: {refused:?}"
        );
        site.storage
            .tamper(&format!("snapshots/{id}.lock"), |lock| lock[byte] ^= 4);
    }
    site.storage
        .tamper(&format!("snapshots/{id}.lock"), |lock| lock.truncate(50));
    let now = site.clock.read().wall;
    assert!(matches!(
        store.forget(&[id]),
        Err(Error::DamagedLock { .. })
    ));
    store.lock_snapshot(id, now + DAY).unwrap();
    site.pass(2);
    store.forget(&[id]).unwrap();
}

#[test]
fn a_clock_that_is_lost_begins_where_the_lock_was_made() {
    let site = Site::new();
    let store = site.open();
    let id = back_up(&store, &tree(0, 5)).unwrap();
    store.lock_snapshot(id, START + 30 * DAY).unwrap();
    for damage in [true, false] {
        site.pass(10);
        store.locks().unwrap();
        if damage {
            site.storage.tamper("clock", |clock| clock[20] ^= 1);
            let found = store.verify(&Progress::default()).unwrap();
            assert!(
                found.findings[0].starts_with("clock: it is damaged"),
                "{found:?}"
            );
        } else {
            site.storage.remove("clock").unwrap();
        }
        site.set(|clock| clock.wall += 3650 * DAY);
        assert!(matches!(
            store.forget(&[id]),
            Err(Error::LockedSnapshot { .. })
        ));
    }
}

#[test]
fn of_locking_and_forgetting_a_snapshot_at_once_the_second_is_refused() {
    for forgets_first in [false, true] {
        let site = Site::new();
        let id = back_up(&site.open(), &tree(0, 5)).unwrap();
        // the first waits where it is about to do it
        let about_to = match forgets_first {
            true => ("remove", ".snap"),
            false => ("rename", ".lock"),
        };
        let (hooked, parking) = Hooked::parking(site.storage.clone(), move |call| {
            call.method == about_to.0 && call.name.ends_with(about_to.1)
        });
        let store = site.open_on(hooked);
        let run = |forgets| match forgets {
            true => store.forget(&[id]),
            false => store.lock_snapshot(id, START + DAY),
        };
        let (end, ended) = channel();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| run(forgets_first));
            parking.reached.recv().unwrap();
            let second = scope.spawn(|| {
                let second = run(!forgets_first);
                end.send(()).unwrap();
                second
            });
            // it waits, and this is in vain
            let _ = ended.recv_timeout(Duration::from_millis(300));
            parking.go_on.send(()).unwrap();
            first.join().unwrap().unwrap();
            match second.join().unwrap() {
                Err(Error::NoSnapshot { .. }) => assert!(forgets_first),
                Err(Error::LockedSnapshot { .. }) => assert!(!forgets_first),
                other => panic!("{other:?}"),
            }
        });
        assert_eq!(store.snapshot(id).is_ok(), !forgets_first);
    }
}
