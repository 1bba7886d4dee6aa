//! Backups and copies that run at the same time share one way in: what one of them finishes must
//! not lean on what another has only begun.

use engine::storage::simulated::Simulated;
use engine::storage::{File, Guard, Storage};
use engine::{Options, Progress, SnapshotMeta, Store};
use format::entry::{Entry, Extent, Kind, Timestamp};
use format::superblock::Profile;
use format::{Digest, Keyset};
use std::io;
use std::sync::{Arc, Mutex};

fn options(threads: usize) -> Options {
    Options {
        threads,
        pack_size: 256 << 10,
        index_batch: 50,
        ..Options::default()
    }
}

fn file(digest: Digest, length: u32) -> Entry {
    Entry {
        path: b"f".to_vec(),
        kind: Kind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        user: Vec::new(),
        group: Vec::new(),
        modified: Timestamp::default(),
        xattrs: Vec::new(),
        size: length.into(),
        content: vec![Extent::Data { digest, length }],
    }
}

fn made(storage: Arc<dyn Storage>, keys: &Keyset, threads: usize) -> Store {
    let superblock = Store::superblock_for(keys, Profile::Site);
    let store = Store::init(storage, superblock, options(threads)).unwrap();
    store.unlock(keys).unwrap();
    store
}

fn begun(store: &Store) -> engine::SnapshotWriter {
    let progress = Arc::new(Progress::default());
    store.begin(SnapshotMeta::default(), progress).unwrap()
}

#[test]
fn a_finished_snapshot_has_the_chunk_that_another_backup_was_just_bringing() {
    let keys = Store::new_keyset().unwrap();
    let content = [7; 5000];
    for round in 0..300 {
        // many threads to start: that is done between claiming the first chunk and sending it
        let store = made(Arc::new(Simulated::new()), &keys, 16);
        let digest = store.digest_of(&content).unwrap();
        let (bringing, mut leaning) = (begun(&store), begun(&store));
        std::thread::scope(|scope| {
            scope.spawn(|| bringing.put_chunk(&content).unwrap());
            while !leaning.known(&digest).unwrap() {
                std::hint::spin_loop();
            }
            leaning.add_entry(&file(digest, 5000)).unwrap();
            leaning.commit(None).unwrap();
            assert_eq!(store.has(&[digest]).unwrap(), [true], "round {round}");
        });
    }
}

type Then = Box<dyn FnOnce() + Send>;

/// Calls back once, in the middle of the first pack's getting its name.
#[derive(Clone)]
struct Interrupted {
    disk: Simulated,
    then: Arc<Mutex<Option<Then>>>,
}

impl Storage for Interrupted {
    fn place(&self) -> String {
        self.disk.place()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.disk.create(name)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.disk.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        if to.starts_with("packs/") {
            let then = self.then.lock().unwrap().take();
            if let Some(then) = then {
                then();
            }
        }
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn make_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.make_dir(dir)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn lock(&self) -> io::Result<Box<dyn Guard>> {
        self.disk.lock()
    }
}

#[test]
fn metadata_is_never_durable_before_what_it_refers_to() {
    let keys = Store::new_keyset().unwrap();
    // a leaf and its chunk, as another copy would send them
    let source = made(Arc::new(Simulated::new()), &keys, 1);
    let mut writer = begun(&source);
    let chunk = writer.put_chunk(&[1; 3000]).unwrap();
    writer.add_entry(&file(chunk, 3000)).unwrap();
    let leaf = writer.commit(None).unwrap().clear.root;
    let mut other = begun(&source);
    let earlier = other.put_chunk(&[2; 3000]).unwrap();
    other.add_entry(&file(earlier, 3000)).unwrap();
    other.commit(None).unwrap();
    let frame = |digest| source.read_frame(&digest).unwrap();

    let disk = Interrupted {
        disk: Simulated::new(),
        then: Arc::default(),
    };
    let store = Arc::new(made(Arc::new(disk.clone()), &keys, 1));
    store.put_frame(&frame(earlier)).unwrap();
    // while that chunk's pack is being finished, another connection brings chunk and leaf
    let (bring, frames) = (store.clone(), [frame(chunk), frame(leaf)]);
    let (sender, receiver) = std::sync::mpsc::channel();
    let bringing = Arc::new(Mutex::new(None));
    let handle = bringing.clone();
    *disk.then.lock().unwrap() = Some(Box::new(move || {
        let thread = std::thread::spawn(move || {
            for frame in frames {
                bring.put_frame(&frame).unwrap();
            }
            let _ = sender.send(());
        });
        *handle.lock().unwrap() = Some(thread);
        // the leaf may have to wait until the flush is over, and then this is in vain
        let _ = receiver.recv_timeout(std::time::Duration::from_millis(300));
    }));
    store.flush().unwrap();
    let after = disk.disk.after_power_cut(0);
    let thread = bringing.lock().unwrap().take().unwrap();
    thread.join().unwrap();

    let after = Store::open(Arc::new(after), options(1)).unwrap();
    let [has_chunk, has_leaf] = after.has(&[chunk, leaf]).unwrap()[..] else {
        unreachable!("two were asked for");
    };
    assert!(has_chunk || !has_leaf, "a leaf without its chunk");
    assert_eq!(after.has(&[earlier]).unwrap(), [true]);
}
