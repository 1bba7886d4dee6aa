//! Files that were cut off, are gone, are of elsewhere or of a later release: each is told by name,
//! none takes anything else with it, and none is changed.

use crate::trees::*;
use engine::storage::Storage;
use engine::storage::simulated::Simulated;
use engine::{Error, Progress, Store};
use format::{Keyset, SnapshotId};
use std::collections::BTreeMap;
use std::sync::Arc;

struct Rig {
    keys: Keyset,
    storage: Simulated,
    id: SnapshotId,
    tree: Files,
}

impl Rig {
    fn new() -> Self {
        let (keys, storage) = (Store::new_keyset().unwrap(), Simulated::new());
        let tree = files(30, 1);
        let id = back_up(&fresh(&storage, &keys), &tree).unwrap();
        Self {
            keys,
            storage,
            id,
            tree,
        }
    }

    fn disk(&self) -> Simulated {
        self.storage.after_power_cut(u64::MAX)
    }

    fn open(&self, disk: &Simulated) -> Store {
        opened(disk, &self.keys)
    }
}

/// Names of the files in a directory, with it.
fn names(disk: &Simulated, dir: &str) -> Vec<String> {
    let names = disk.list(dir).unwrap().into_iter();
    names.map(|name| format!("{dir}/{name}")).collect()
}

fn put(disk: &Simulated, name: &str, bytes: &[u8]) {
    disk.create(name).unwrap().write_at(bytes, 0).unwrap();
}

/// The chain of an error, as a command prints it.
fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

#[test]
fn packs_that_were_cut_off_or_are_gone_lose_what_was_in_them_and_heal() {
    let rig = Rig::new();
    let bare = rig.disk();
    for pack in names(&bare, "packs") {
        let whole = bare.bytes(&pack).unwrap().len();
        for length in [None, Some(0), Some(50), Some(64), Some(whole / 2)] {
            for recovered in [false, true] {
                let disk = rig.disk();
                match length {
                    Some(length) => disk.tamper(&pack, |bytes| bytes.truncate(length)),
                    None => disk.remove(&pack).unwrap(),
                }
                if recovered {
                    drop(Store::recover(Arc::new(disk.clone()), options()).unwrap());
                }
                let store = rig.open(&disk);
                let report = store.verify(&Progress::default()).unwrap();
                assert_eq!(report.snapshots, [rig.id], "{pack} {length:?} {recovered}");
                let text = report.findings.join("\n");
                assert!(
                    text.contains(&format!("snapshot {}: not all of it", rig.id)),
                    "{text}"
                );
                // by the index it is known which pack has the damage
                let named = text.contains(&pack) || length.is_none() || recovered;
                assert!(named, "{text}");
                let error = restored(&store, rig.id).unwrap_err();
                let words = [&pack[..], "is not in the datastore; another copy"];
                assert!(words.iter().any(|w| told(&error).contains(w)), "{error}");
                // the next backup brings what is missing, and the snapshot is whole again
                let again = back_up(&store, &rig.tree).unwrap();
                for id in [rig.id, again] {
                    assert_eq!(restored(&store, id).unwrap(), rig.tree);
                }
                drop(store);
                assert_eq!(restored(&rig.open(&disk), again).unwrap(), rig.tree);
            }
        }
    }
}

#[test]
fn a_pack_that_lost_its_footer_alone_is_read_without_it() {
    let rig = Rig::new();
    let disk = rig.disk();
    for pack in names(&disk, "packs") {
        disk.tamper(&pack, |bytes| bytes.truncate(bytes.len() - 1));
    }
    let (recovered, _) = Store::recover(Arc::new(disk.clone()), options()).unwrap();
    let report = recovered.verify(&Progress::default()).unwrap();
    let packs = names(&disk, "packs").len();
    assert_eq!((report.findings.len(), report.snapshots.len()), (packs, 0));
    drop(recovered);
    assert_eq!(restored(&rig.open(&disk), rig.id).unwrap(), rig.tree);
}

#[test]
fn files_of_elsewhere_are_left_alone_and_told() {
    let rig = Rig::new();
    let (other, disk) = (Rig::new(), rig.disk());
    let (strange_pack, strange_snapshot) = (
        names(&other.storage, "packs").remove(0),
        names(&other.storage, "snapshots").remove(0),
    );
    let own_snapshot = names(&disk, "snapshots").remove(0);
    let renamed = format!("snapshots/{}.snap", SnapshotId([7; 16]));
    let garbage = [
        format!("packs/{}.pack", "ab".repeat(16)),
        format!("snapshots/{}.snap", "cd".repeat(16)),
    ];
    // names of ours have no capitals
    let capitals = [
        format!("packs/{}.pack", "AB".repeat(16)),
        format!("snapshots/{}.snap", "CD".repeat(16)),
    ];
    capitals
        .iter()
        .for_each(|name| put(&disk, name, b"not of this datastore"));
    for name in [
        "packs/README",
        "packs/x.pack",
        "snapshots/x.snap",
        "snapshots/.hidden",
        "else",
    ] {
        put(&disk, name, b"not of this datastore");
    }
    garbage
        .iter()
        .for_each(|name| put(&disk, name, &[0x53; 5000]));
    for name in [&strange_pack, &strange_snapshot] {
        put(&disk, name, &other.storage.bytes(name).unwrap());
    }
    put(&disk, &renamed, &disk.bytes(&own_snapshot).unwrap());
    let files = |disk: &Simulated| -> BTreeMap<String, Vec<u8>> {
        let names = disk.names().into_iter();
        let names = names.filter(|name| !name.starts_with("runs/") && name != "index");
        names
            .map(|name| (name.clone(), disk.bytes(&name).unwrap()))
            .collect()
    };
    let before = files(&disk);
    let store = rig.open(&disk);
    let (listed, unreadable) = store.snapshots().unwrap();
    assert_eq!(
        listed.iter().map(|s| s.clear.id).collect::<Vec<_>>(),
        [rig.id]
    );
    let mut told: Vec<String> = unreadable.iter().map(|(_, error)| told(error)).collect();
    told.sort();
    let stranger = other.keys.datastore_id;
    let belongs = format!(
        "{strange_snapshot} belongs to datastore {stranger}, not to {}; take it there",
        rig.keys.datastore_id
    );
    let mut expected = [
        belongs,
        format!(
            "{renamed} cannot be used; another copy may have it whole, and repair takes it from there: \
             this snapshot has a wrong name"
        ),
        format!(
            "{} cannot be used; another copy may have it whole, and repair takes it from there: \
             this is no Strongroom snapshot",
            garbage[1]
        ),
    ];
    expected.sort();
    assert_eq!(told, expected);
    let report = store.verify(&Progress::default()).unwrap();
    assert_eq!(
        (report.findings.len(), report.damaged.len()),
        (8, 0),
        "{report:?}"
    );
    let nothing_in_it = format!("{}: its header or footer is damaged", garbage[0]);
    assert!(report.findings.contains(&nothing_in_it), "{report:?}");
    assert_eq!(restored(&store, rig.id).unwrap(), rig.tree);
    drop(store);
    drop(Store::recover(Arc::new(disk.clone()), options()).unwrap());
    assert_eq!(files(&disk), before);
    let strange = other
        .open(&other.disk())
        .digest_of(&other.tree[0].1[0])
        .unwrap();
    assert_eq!(rig.open(&disk).has(&[strange]).unwrap(), [false]);
}

/// Sets a version number and puts the check right where it comes first.
fn newer(bytes: &mut [u8], at: usize) {
    bytes[at] = 2;
    if bytes.starts_with(b"SRPACK") {
        let check = blake3::hash(&bytes[..48]);
        bytes[48..64].copy_from_slice(&check.as_bytes()[..16]);
    }
}

const UPDATE: &str = "has format version 2; a newer Strongroom wrote it, update this one";

#[test]
fn a_datastore_of_a_later_release_is_refused_by_name() {
    let rig = Rig::new();
    let disk = rig.disk();
    disk.tamper("datastore", |bytes| newer(bytes, 8));
    let before = disk.names();
    for refused in [
        try_open(&disk, &rig.keys).map(drop),
        Store::recover(Arc::new(disk.clone()), options()).map(drop),
    ] {
        assert_eq!(
            told(&refused.unwrap_err()),
            format!("the simulated disk/datastore {UPDATE}")
        );
    }
    assert_eq!(disk.names(), before);
}

#[test]
fn what_a_later_release_added_is_refused_by_name_and_kept() {
    let rig = Rig::new();
    // a pack that the index has is looked into no more; one that it has not is
    let disk = rig.disk();
    let pack = names(&disk, "packs").remove(0);
    disk.tamper(&pack, |bytes| newer(bytes, 8));
    let report = rig.open(&disk).verify(&Progress::default()).unwrap();
    assert_eq!(report.findings, [format!("{pack}: {pack} {UPDATE}")]);
    let bytes = disk.bytes(&pack);
    let refused = Store::recover(Arc::new(disk.clone()), options())
        .err()
        .unwrap();
    assert_eq!(told(&refused), format!("{pack} {UPDATE}"));
    assert_eq!(disk.bytes(&pack), bytes);

    let disk = rig.disk();
    let snapshot = names(&disk, "snapshots").remove(0);
    disk.tamper(&snapshot, |bytes| newer(bytes, 8));
    let store = rig.open(&disk);
    let refused = restored(&store, rig.id).unwrap_err();
    assert_eq!(told(&refused), format!("{snapshot} {UPDATE}"));
    let report = store.verify(&Progress::default()).unwrap();
    assert_eq!(
        report.findings,
        [format!("snapshot {}: {snapshot} {UPDATE}", rig.id)]
    );
    in_order(
        &rig.open(&{
            drop(store);
            disk.remove(&snapshot).unwrap();
            disk
        }),
        &[],
        &rig.tree,
    );

    let disk = rig.disk();
    let digest = rig.open(&disk).digest_of(&rig.tree[3].1[0]).unwrap();
    let frame = rig.open(&disk).read_frame(&digest).unwrap();
    for pack in names(&disk, "packs") {
        disk.tamper(&pack, |bytes| {
            let at = bytes.windows(frame.len()).position(|w| w == frame);
            at.into_iter().for_each(|at| bytes[at + 3] = 2);
        });
    }
    let refused = restored(&rig.open(&disk), rig.id).unwrap_err();
    assert_eq!(told(&refused), format!("chunk {digest} {UPDATE}"));
}

#[test]
fn keys_of_another_epoch_are_told_from_damage() {
    let rig = Rig::new();
    let mut keys = rig.keys.clone();
    let key = keys.epochs.remove(&1).unwrap();
    keys.epochs.insert(2, key);
    let store = opened(&rig.disk(), &keys);
    let refused = told(&restored(&store, rig.id).unwrap_err());
    assert!(
        refused.contains("the key set has no key of epoch 1"),
        "{refused}"
    );
    assert!(refused.contains("fetch the newest key set"), "{refused}");
}
