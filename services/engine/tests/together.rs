//! Backups and copies that run at the same time share one way in: what one of them finishes must
//! not lean on what another has only begun.

use engine::storage::Storage;
use engine::storage::hooked::Hooked;
use engine::storage::simulated::Simulated;
use engine::{Options, Progress, SnapshotMeta, Store};
use format::entry::{Entry, Extent, Kind, Timestamp};
use format::superblock::Profile;
use format::{Digest, Keyset};
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

    let disk = Simulated::new();
    // what happens in the middle of the first pack's getting its name
    let then: Arc<Mutex<Option<Then>>> = Arc::default();
    let first = then.clone();
    let hooked = Hooked::new(disk.clone(), move |call| {
        if call.method == "rename" && call.name.starts_with("packs/") {
            let then = first.lock().unwrap().take();
            then.into_iter().for_each(|then| then());
        }
        Ok(())
    });
    let store = Arc::new(made(Arc::new(hooked), &keys, 1));
    store.put_frame(&frame(earlier)).unwrap();
    // while that chunk's pack is being finished, another connection brings chunk and leaf
    let (bring, frames) = (store.clone(), [frame(chunk), frame(leaf)]);
    let (sender, receiver) = std::sync::mpsc::channel();
    let bringing = Arc::new(Mutex::new(None));
    let handle = bringing.clone();
    *then.lock().unwrap() = Some(Box::new(move || {
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
    let after = disk.after_power_cut(0);
    let thread = bringing.lock().unwrap().take().unwrap();
    thread.join().unwrap();

    let after = Store::open(Arc::new(after), options(1)).unwrap();
    let [has_chunk, has_leaf] = after.has(&[chunk, leaf]).unwrap()[..] else {
        unreachable!("two were asked for");
    };
    assert!(has_chunk || !has_leaf, "a leaf without its chunk");
    assert_eq!(after.has(&[earlier]).unwrap(), [true]);
}
