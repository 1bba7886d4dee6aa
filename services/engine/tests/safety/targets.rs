//! What the engine reads, as fuzz targets (docs/HACKING.md): files with any bytes in them behind
//! right checks, and trees of any frames behind right digests.

use crate::taken::Taken;
use crate::trees::*;
use bolero::{TypeGenerator, ValueGenerator, produce};
use engine::storage::Storage;
use engine::storage::simulated::Simulated;
use engine::{Progress, SnapshotInfo, Store};
use format::frame::{Compression, Draft, Frame, FrameKeys, Kind};
use format::pack::{HEADER_LEN, PackHeader, TRAILER_LEN, footer_len, parse_footer};
use format::snapshot::Unsigned;
use format::{Digest, DigestKeys, Keyset, SnapshotId};
use std::sync::Arc;
use std::time::Duration;

/// What a plain test run gives each; with those of the formats they come to a minute.
const TIME: Duration = Duration::from_secs(4);

/// Of the index's files.
const PAGE: usize = 4096;

struct Rig {
    keys: Keyset,
    storage: Simulated,
    info: SnapshotInfo,
    tree: Files,
}

impl Rig {
    fn new() -> Self {
        let (keys, storage) = (Store::new_keyset().unwrap(), Simulated::new());
        let tree = files(4, 1);
        let store = fresh(&storage, &keys);
        let id = back_up(&store, &tree).unwrap();
        Self {
            info: store.snapshot(id).unwrap(),
            keys,
            storage,
            tree,
        }
    }

    fn name_in(&self, dir: &str, at: usize) -> String {
        format!("{dir}/{}", self.storage.list(dir).unwrap()[at])
    }

    /// A disk on which this file has other bytes.
    fn with(&self, name: &str, bytes: Vec<u8>) -> Simulated {
        let disk = self.storage.after_power_cut(u64::MAX);
        disk.tamper(name, |file| *file = bytes);
        disk
    }

    /// Opens and uses a datastore, or is refused; whatever of the index is wrong, one that is made
    /// anew is not.
    fn used(&self, disk: Simulated) {
        if let Ok(store) = try_open(&disk, &self.keys) {
            for read in [restored, taken] {
                if let Ok(files) = read(&store, self.info.clear.id) {
                    assert_eq!(files, self.tree);
                }
            }
            let _ = store.verify(&Progress::default());
            let _ = back_up(&store, &files(3, 3));
        }
        drop(Store::recover(Arc::new(disk.clone()), options()).unwrap());
        let store = opened(&disk, &self.keys);
        assert_eq!(restored(&store, self.info.clear.id).unwrap(), self.tree);
    }
}

/// Bytes changed, at most so many kept, and what follows them.
type Changes = (Vec<(u32, u8)>, Option<u32>, Vec<u8>);

fn changes() -> impl ValueGenerator<Output = Changes> {
    (
        produce::<Vec<(u32, u8)>>().with().len(0..8usize),
        produce(),
        produce::<Vec<u8>>().with().len(0..60usize),
    )
}

fn changed((changes, keep, more): &Changes, whole: &[u8]) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    if let Some(keep) = keep {
        bytes.truncate(*keep as usize % (whole.len() + 1));
    }
    let length = bytes.len();
    for (at, byte) in changes.iter().filter(|_| length > 0) {
        bytes[*at as usize % length] = *byte;
    }
    bytes.extend_from_slice(more);
    bytes
}

#[test]
fn catalogue_of_bytes() {
    let rig = Rig::new();
    let whole = rig.storage.bytes("index").unwrap();
    // where anything is written, which is little of it
    let written: Vec<u32> = (0..whole.len() as u32)
        .filter(|at| whole[*at as usize] != 0)
        .collect();
    let target = bolero::check!().with_test_time(TIME);
    target
        .with_generator(changes())
        .for_each(|(changes, keep, more)| {
            let there = |(at, byte): &(u32, u8)| match at % 4 {
                0 => (*at, *byte),
                _ => (written[*at as usize % written.len()], *byte),
            };
            let changes = changes.iter().map(there).collect();
            rig.used(rig.with("index", changed(&(changes, *keep, more.clone()), &whole)));
        });
}

#[test]
fn run_of_pages_with_right_checks() {
    let rig = Rig::new();
    let run = rig.name_in("runs", 0);
    let whole = rig.storage.bytes(&run).unwrap();
    let target = bolero::check!().with_test_time(TIME);
    target.with_generator(changes()).for_each(|changes| {
        let mut bytes = changed(changes, &whole);
        for page in bytes.chunks_exact_mut(PAGE) {
            let (content, check) = page.split_at_mut(PAGE - 8);
            check.copy_from_slice(&blake3::hash(content).as_bytes()[..8]);
        }
        rig.used(rig.with(&run, bytes));
    });
}

/// Puts the checks of a pack's header and footer right.
fn check(pack: &mut [u8]) {
    if pack.len() < HEADER_LEN + TRAILER_LEN {
        return;
    }
    let hash = blake3::hash(&pack[..48]);
    pack[48..64].copy_from_slice(&hash.as_bytes()[..16]);
    let length = pack.len();
    if let Ok(footer) = footer_len(&pack[length - TRAILER_LEN..], length as u64) {
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(&pack[length - footer..length - 16])
            .update(&pack[..64]);
        let hash = hasher.finalize();
        pack[length - 16..].copy_from_slice(&hash.as_bytes()[..16]);
    }
}

/// The index is made anew with such a pack; the next backup is whole, whatever is wrong with it.
fn recovered(rig: &Rig, pack: &str, bytes: Vec<u8>) {
    let disk = rig.with(pack, bytes);
    // a version that is none of ours may be refused
    let Ok((store, _)) = Store::recover(Arc::new(disk.clone()), options()) else {
        return;
    };
    store.unlock(&rig.keys).unwrap();
    if let Ok(files) = restored(&store, rig.info.clear.id) {
        assert_eq!(files, rig.tree);
    }
    // what is wrong is found, and then stored anew
    store.verify(&Progress::default()).unwrap();
    let again = back_up(&store, &rig.tree).unwrap();
    assert_eq!(restored(&store, again).unwrap(), rig.tree);
}

#[test]
fn pack_of_bytes() {
    let rig = Rig::new();
    let packs: Vec<_> = (0..2).map(|at| rig.name_in("packs", at)).collect();
    let target = bolero::check!().with_test_time(TIME);
    let input = (changes(), produce::<(bool, bool)>());
    target
        .with_generator(input)
        .for_each(|(changes, (which, checked))| {
            let pack = &packs[usize::from(*which)];
            let mut bytes = changed(changes, &rig.storage.bytes(pack).unwrap());
            if *checked {
                check(&mut bytes);
            }
            recovered(&rig, pack, bytes);
        });
}

/// What the one above found: a frame that is left out of the index is still in its pack's footer.
#[test]
fn a_metadata_frame_that_is_none() {
    // the order of the frames is by digests, and so by keys
    for _ in 0..40 {
        let rig = Rig::new();
        for at in 0..2 {
            let pack = rig.name_in("packs", at);
            let whole = rig.storage.bytes(&pack).unwrap();
            let (header, length) = (PackHeader::parse(&whole).unwrap(), whole.len());
            let footer = footer_len(&whole[length - TRAILER_LEN..], length as u64).unwrap();
            let records = parse_footer(&whole[length - footer..], &header, length as u64).unwrap();
            for record in records.iter().filter(|r| r.kind.has_refs()) {
                let mut bytes = whole.clone();
                bytes[record.offset as usize] = 0;
                recovered(&rig, &pack, bytes);
            }
        }
    }
}

/// A frame that is like one of an honest tree but for what was changed.
#[derive(Clone, Debug, TypeGenerator)]
struct Like {
    which: u8,
    changes: Vec<(u8, u8)>,
    /// Of the frames before.
    refs: Vec<u8>,
    own_refs: bool,
}

/// What is in a frame that refers to others.
#[derive(Clone)]
struct Inside {
    kind: Kind,
    content: Vec<u8>,
    refs: Vec<Digest>,
}

/// All frames of the honest tree, and the digests of those that refer to nothing.
fn honest(rig: &Rig) -> (Vec<Inside>, Vec<Digest>) {
    let keys = FrameKeys::new(Arc::new(rig.keys.clone()));
    let (mut metadata, mut data) = (Vec::new(), Vec::new());
    for at in 0..rig.storage.list("packs").unwrap().len() {
        let pack = rig.storage.bytes(&rig.name_in("packs", at)).unwrap();
        let header = PackHeader::parse(&pack).unwrap();
        let length = pack.len();
        let footer = footer_len(&pack[length - TRAILER_LEN..], length as u64).unwrap();
        for record in parse_footer(&pack[length - footer..], &header, length as u64).unwrap() {
            let place = record.offset as usize..(record.offset + record.length) as usize;
            let frame = Frame::parse(&pack[place], header.datastore).unwrap();
            match record.kind.has_refs() {
                false => data.push(record.digest),
                true => metadata.push(Inside {
                    kind: record.kind,
                    content: frame.open(&keys).unwrap(),
                    refs: frame.refs().collect(),
                }),
            }
        }
    }
    (metadata, data)
}

#[test]
fn tree_of_any_frames() {
    let rig = Rig::new();
    let (metadata, data) = honest(&rig);
    let (keys, digests) = (
        FrameKeys::new(Arc::new(rig.keys.clone())),
        DigestKeys::new(&rig.keys.dedup),
    );
    let target = bolero::check!().with_test_time(TIME);
    let frames = produce::<Vec<Like>>().with().len(1..6usize);
    target.with_generator(frames).for_each(|frames| {
        let store = opened(&rig.storage.after_power_cut(u64::MAX), &rig.keys);
        let mut known = data.clone();
        for (number, like) in frames.iter().enumerate() {
            let Inside {
                kind,
                mut content,
                refs,
            } = metadata[like.which as usize % metadata.len()].clone();
            // the first bytes are the ones that say most
            for (at, byte) in &like.changes {
                let at = usize::from(*at) % content.len();
                content[at] = *byte;
            }
            let of = |at: &u8| known[known.len() - 1 - usize::from(*at) % known.len()];
            let refs = match like.own_refs {
                true => refs,
                false => like.refs.iter().map(of).collect(),
            };
            let digest = digests.metadata(kind, &refs, &content);
            let mut raw = Vec::new();
            let length = content.len() as u32;
            let nonce = [number as u8; 24];
            let mut draft = Draft::begin(&mut raw, kind, digest, length, &refs, 1, nonce);
            draft.payload().extend_from_slice(&content);
            draft.seal(Compression::None, &keys).unwrap();
            store.put_frame(&raw).unwrap();
            known.push(digest);
        }
        let mut clear = rig.info.clear.clone();
        clear.id = SnapshotId([1; 16]);
        clear.root = *known.last().unwrap();
        let details = rig.info.details.as_ref().unwrap();
        let snapshot = Unsigned::new(&clear, details, &keys, [1; 24])
            .unwrap()
            .finish(None);
        store.put_snapshot(snapshot).unwrap();
        let mut taken = Taken::at_most(20_000);
        // it may be refused anywhere
        let _ = taken.take(&store, clear.id, b"");
        let paths = taken.paths.windows(2);
        for pair in paths {
            assert!(format::entry::Entry::cmp_path(&pair[0], &pair[1]).is_lt());
        }
        store.verify(&Progress::default()).unwrap();
        assert_eq!(restored(&store, rig.info.clear.id).unwrap(), rig.tree);
    });
}
