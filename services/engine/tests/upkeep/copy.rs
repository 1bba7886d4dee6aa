//! From one datastore into another copy of it: what travels, what stays, and what is refused.

use crate::rig::{back_up, files, fresh, noise, open, options, restored, watched};
use engine::storage::Storage;
use engine::storage::simulated::Simulated;
use engine::{Copied, Error, Progress, Store};
use format::frame::{Compression, Draft, FrameKeys, Kind};
use format::pack::{PackHeader, Record, encode_footer};
use format::superblock::Profile::{Centre, Site};
use format::{Digest, Keyset, PackId};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

fn copy(from: &Store, to: &Store) -> Copied {
    from.copy_to(to, &Progress::default()).unwrap()
}

/// Bytes of packs and snapshots.
fn used(disk: &Simulated) -> u64 {
    let names = disk.names().into_iter();
    let counted = names.filter(|n| n.starts_with("packs/") || n.starts_with("snapshots/"));
    counted.map(|n| disk.bytes(&n).unwrap().len() as u64).sum()
}

/// A hundredth more than this.
fn about(bytes: u64) -> std::ops::RangeInclusive<u64> {
    bytes..=bytes + bytes / 100
}

#[test]
fn unique_frames_travel_once_and_nothing_else_does() {
    let keys = Store::new_keyset().unwrap();
    let (near, far) = (Simulated::new(), Simulated::new());
    let site = fresh(&near, &keys, Site);
    // one file twice, so that a chunk is named more than once
    let mut tree = files(300, 1, 20_000);
    tree[200].1 = tree[100].1.clone();
    let first = back_up(&site, 1, &tree).unwrap().clear;
    drop(site);
    let (watched, read) = watched(&near, None);
    let site = Store::open(Arc::new(watched), options()).unwrap();
    let centre = fresh(&far, &keys, Centre);
    read.store(0, Relaxed);
    let stored = site.stats().unwrap().totals.stored;
    let copied = copy(&site, &centre);
    assert_eq!((&copied.snapshots, copied.present), (&vec![first.id], 0));
    assert_eq!(copied.frames, site.stats().unwrap().totals.chunks);
    assert!(about(stored).contains(&copied.bytes), "{copied:?}");
    assert!(about(stored).contains(&used(&far)), "{}", used(&far));
    let read = read.load(Relaxed);
    assert!(about(stored).contains(&read), "{read} of {stored}");

    // a second one differs a little; a third not at all
    site.unlock(&keys).unwrap();
    tree[50].1[0] = noise(9999, 21_000);
    back_up(&site, 2, &tree).unwrap();
    back_up(&site, 3, &tree).unwrap();
    let new = site.stats().unwrap().totals.stored - stored;
    let before = used(&far);
    let copied = copy(&site, &centre);
    assert_eq!((copied.snapshots.len(), copied.present), (2, 1));
    // with two snapshots' files and a footer or two
    assert!((new..new + 2000).contains(&copied.bytes), "{copied:?}");
    assert!(used(&far) - before < new + 4000, "{}", used(&far) - before);
    let again = copy(&site, &centre);
    assert_eq!((again.bytes, again.present), (0, 3));

    assert!(centre.verify(&Progress::default()).unwrap().is_clean());
    for snapshot in site.snapshots().unwrap().0 {
        let id = snapshot.clear.id;
        assert_eq!(restored(&centre, id).unwrap(), restored(&site, id).unwrap());
    }
}

#[test]
fn what_is_lacking_is_what_a_copy_brings_whatever_was_forgotten() {
    let keys = Store::new_keyset().unwrap();
    let (near, far) = (Simulated::new(), Simulated::new());
    let site = fresh(&near, &keys, Site);
    let centre = fresh(&far, &keys, Centre);
    let brings = || {
        let progress = Progress::default();
        let lacking = site.lacking(&centre).unwrap();
        site.copy_to(&centre, &progress).unwrap();
        // the copy may have ended before it was counted
        let counted = lacking.bytes(|| true).unwrap();
        assert_eq!(counted, Some(progress.counts().bytes));
        counted.unwrap()
    };
    let ours = files(300, 1, 3000);
    let first = back_up(&site, 1, &ours).unwrap().clear;
    back_up(&site, 2, &files(310, 1, 3000)).unwrap();
    // the second now brings what only the first says that it stored
    site.forget(&[first.id]).unwrap();
    site.collect(&Progress::default()).unwrap();
    assert!(brings() > first.stored / 2);
    // the copy keeps what is gone here, and lacks what is new
    let forgotten = site.snapshot_ids().unwrap();
    back_up(&site, 3, &files(200, 5000, 3000)).unwrap();
    site.forget(&forgotten).unwrap();
    site.collect(&Progress::default()).unwrap();
    assert!(brings() > 200 * 3000);
    assert_eq!(brings(), 0);
    back_up(&site, 4, &files(10, 9000, 3000)).unwrap();
    let lacking = site.lacking(&centre).unwrap();
    assert_eq!(lacking.bytes(|| false).unwrap(), None);
    let asked = Cell::new(0);
    let ask = || asked.replace(asked.get() + 1) < u64::MAX;
    let all = lacking.bytes(ask).unwrap().unwrap();
    assert!(asked.get() > site.stats().unwrap().totals.chunks);
    // packs whose footer is damaged are not looked through
    for name in near.names().iter().filter(|n| n.starts_with("packs/")) {
        near.tamper(name, |bytes| *bytes.last_mut().unwrap() ^= 1);
    }
    assert!(all > 0);
    assert_eq!(lacking.bytes(|| true).unwrap(), Some(0));
}

#[test]
fn what_arrived_before_an_interruption_stays() {
    let keys = Store::new_keyset().unwrap();
    let (near, far) = (Simulated::new(), Simulated::new());
    let site = fresh(&near, &keys, Site);
    let tree = files(300, 1, 20_000);
    let id = back_up(&site, 1, &tree).unwrap().clear.id;
    let stored = site.stats().unwrap().totals.stored;
    drop(site);
    drop(fresh(&far, &keys, Centre));
    let mut brought = 0;
    for part in 1..3 {
        let progress = Arc::new(Progress::default());
        let (watched, _) = watched(&near, Some((stored / 3, progress.clone())));
        let site = Store::open(Arc::new(watched), options()).unwrap();
        let centre = open(&far);
        let cancelled = site.copy_to(&centre, &progress);
        assert!(matches!(cancelled, Err(Error::Cancelled)), "{cancelled:?}");
        assert_eq!(centre.snapshot_ids().unwrap(), []);
        drop(centre);
        brought = open(&far).stats().unwrap().totals.stored;
        assert!(brought > part * stored / 4, "part {part}: {brought}");
    }
    let (site, centre) = (open(&near), open(&far));
    let copied = copy(&site, &centre);
    assert!(about(stored).contains(&(brought + copied.bytes)));
    assert!(centre.verify(&Progress::default()).unwrap().is_clean());
    centre.unlock(&keys).unwrap();
    assert_eq!(restored(&centre, id).unwrap(), tree);
}

#[test]
fn damage_keeps_back_the_snapshots_that_need_it_and_no_others() {
    let keys = Store::new_keyset().unwrap();
    let (near, far) = (Simulated::new(), Simulated::new());
    let site = fresh(&near, &keys, Site);
    let (one, two) = (files(200, 1, 3000), files(200, 5000, 3000));
    let damaged = back_up(&site, 1, &one).unwrap().clear.id;
    let whole = back_up(&site, 2, &two).unwrap().clear.id;
    let unread = back_up(&site, 3, &two).unwrap().clear.id;
    let digest = site.digest_of(&one[77].1[0]).unwrap();
    let frame = site.read_frame(&digest).unwrap();
    for name in near.names() {
        near.tamper(&name, |bytes| {
            let at = bytes.windows(frame.len()).position(|w| w == frame);
            at.into_iter().for_each(|at| bytes[at + 90] ^= 1);
        });
    }
    near.tamper(&format!("snapshots/{unread}.snap"), |bytes| bytes[200] ^= 1);
    let centre = fresh(&far, &keys, Centre);
    let copied = copy(&site, &centre);
    assert_eq!(copied.snapshots, [whole]);
    let left_out: Vec<_> = copied.left_out.iter().map(|(id, _)| *id).collect();
    assert_eq!(left_out, [unread, damaged]);
    let sentence = copied.left_out[1].1.to_string();
    assert!(sentence.contains(&digest.to_string()), "{sentence}");
    assert!(centre.verify(&Progress::default()).unwrap().is_clean());
    assert_eq!(restored(&centre, whole).unwrap(), two);
    assert_eq!(centre.snapshot_ids().unwrap(), [whole]);
}

#[test]
fn another_datastore_is_no_copy() {
    let [one, other] = [(); 2].map(|()| {
        let keys = Store::new_keyset().unwrap();
        fresh(&Simulated::new(), &keys, Site)
    });
    back_up(&one, 1, &files(3, 1, 100)).unwrap();
    let refused = one.copy_to(&other, &Progress::default());
    assert!(matches!(refused, Err(Error::Foreign { .. })), "{refused:?}");
    assert_eq!(other.stats().unwrap().totals.chunks, 0);
}

/// Frames that refer to each other in a circle: without a key they look sound.
fn circle(disk: &Simulated, keys: &Keyset, digests: [Digest; 2]) {
    let frames = FrameKeys::new(Arc::new(keys.clone()));
    let header = PackHeader {
        datastore: keys.datastore_id,
        pack: PackId([5; 16]),
    };
    let (mut pack, mut records) = (header.encode().to_vec(), Vec::new());
    for (at, digest) in digests.iter().enumerate() {
        let offset = pack.len() as u32;
        let refs = [digests[1 - at]];
        let mut draft = Draft::begin(&mut pack, Kind::Node, *digest, 1, &refs, 1, [at as u8; 24]);
        draft.payload().push(0);
        let header = draft.seal(Compression::None, &frames).unwrap();
        records.push(Record::of(&header, offset));
    }
    pack.extend(encode_footer(&header, &records));
    let file = disk.create(&format!("packs/{}.pack", header.pack)).unwrap();
    file.write_at(&pack, 0).unwrap();
}

#[test]
fn frames_that_lead_back_to_themselves_end_it() {
    let keys = Store::new_keyset().unwrap();
    let near = Simulated::new();
    let site = fresh(&near, &keys, Site);
    let snapshot = back_up(&site, 1, &files(3, 1, 100)).unwrap().clear;
    drop(site);
    // the snapshot's file names another root, as its owner could make it
    let root = Digest([7; 32]);
    circle(&near, &keys, [root, Digest([8; 32])]);
    near.tamper(&format!("snapshots/{}.snap", snapshot.id), |bytes| {
        bytes[104..136].copy_from_slice(&root.0);
        let end = bytes.len() - 16;
        let check = blake3::hash(&bytes[..end]);
        bytes[end..].copy_from_slice(&check.as_bytes()[..16]);
    });
    let (site, _) = Store::recover(Arc::new(near.clone()), options()).unwrap();
    assert_eq!(site.has(&[root]).unwrap(), [true]);
    let centre = fresh(&Simulated::new(), &keys, Centre);
    let copied = copy(&site, &centre);
    assert_eq!(copied.snapshots, []);
    assert!(matches!(copied.left_out[0].1, Error::Content { .. }));
}
