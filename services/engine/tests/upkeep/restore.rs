//! What a restore does for the other files when something goes wrong with one.

use crate::rig::{back_up, files, fresh, restored};
use engine::storage::simulated::Simulated;
use engine::{Error, Progress, Store, Target, TargetFile};
use format::SnapshotId;
use format::entry::{Entry, Kind};
use format::superblock::Profile::Site;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

fn stored(count: usize) -> (Store, SnapshotId) {
    let keys = Store::new_keyset().unwrap();
    let store = fresh(&Simulated::new(), &keys, Site);
    let id = back_up(&store, 1, &files(count, 1, 100)).unwrap().clear.id;
    (store, id)
}

/// Takes one file at a time, and panics when the first is done.
struct OneByOne {
    ends: Sender<u64>,
    ended: Receiver<u64>,
    begun: u64,
}

struct Panics {
    number: u64,
    ends: Sender<u64>,
}

impl Target for OneByOne {
    type File = Panics;
    type Error = Error;

    fn entry(&mut self, entry: &Entry) -> engine::Result<Option<Panics>> {
        if entry.kind != Kind::File {
            return Ok(None);
        }
        if self.begun > 0 {
            let ended = self.ended.recv_timeout(Duration::from_secs(60));
            assert_eq!(ended, Ok(self.begun), "the file before ends");
        }
        self.begun += 1;
        let (number, ends) = (self.begun, self.ends.clone());
        Ok(Some(Panics { number, ends }))
    }
}

impl TargetFile for Panics {
    fn write(&self, _: &[u8], _: u64) {}

    fn lost(&self, _: u64, _: u64, error: Error) -> bool {
        panic!("{error}");
    }

    fn done(self, _: u64) {
        assert!(self.number > 1, "the first");
    }
}

impl Drop for Panics {
    fn drop(&mut self) {
        let _ = self.ends.send(self.number);
    }
}

#[test]
fn a_panic_when_a_file_is_done_leaves_nobody_waiting_for_the_others() {
    let (store, id) = stored(5);
    let (ends, ended) = channel();
    let mut target = OneByOne {
        ends,
        ended,
        begun: 0,
    };
    let restore = || store.restore(id, b"", &mut target, &Progress::default());
    let panic = catch_unwind(AssertUnwindSafe(restore));
    assert!(panic.is_err(), "it is told nevertheless");
    assert_eq!(target.begun, 5);
    assert_eq!(target.ended.try_recv(), Ok(5));
}

/// Locks the datastore at the first entry, and counts.
struct Locks<'a> {
    store: &'a Store,
    bytes: &'static AtomicU64,
}

struct Counts(&'static AtomicU64);

impl Target for Locks<'_> {
    type File = Counts;
    type Error = Error;

    fn entry(&mut self, entry: &Entry) -> engine::Result<Option<Counts>> {
        self.store.lock();
        Ok((entry.kind == Kind::File).then_some(Counts(self.bytes)))
    }
}

impl TargetFile for Counts {
    fn write(&self, bytes: &[u8], _: u64) {
        self.0.fetch_add(bytes.len() as u64, Relaxed);
    }

    fn lost(&self, _: u64, _: u64, error: Error) -> bool {
        panic!("{error}");
    }

    fn done(self, _: u64) {}
}

#[test]
fn a_restore_that_has_begun_goes_on_when_the_datastore_is_locked() {
    static BYTES: AtomicU64 = AtomicU64::new(0);
    let (store, id) = stored(50);
    let logical: usize = restored(&store, id)
        .unwrap()
        .iter()
        .flat_map(|(_, chunks)| chunks)
        .map(Vec::len)
        .sum();
    let mut target = Locks {
        store: &store,
        bytes: &BYTES,
    };
    store
        .restore(id, b"", &mut target, &Progress::default())
        .unwrap();
    assert_eq!(BYTES.load(Relaxed), logical as u64);
}
