//! Two ends over datastores that are maps: whatever is cut, nothing is ever there before what it
//! refers to, and the next session goes on with what is missing.

use super::receiver::ReceiveError;
use super::*;
use crate::frame::{decode, encode};
use crate::fuzz::{again, message};
use format::{DatastoreId, Digest, SnapshotId};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Frames are lists of references here, 32 bytes each, and a body.
#[derive(Clone, Default)]
struct Store {
    frames: BTreeMap<Digest, (Vec<Digest>, Vec<u8>)>,
    snapshots: BTreeMap<SnapshotId, (Vec<u8>, Digest)>,
    reads: usize,
}

fn digest(n: u64) -> Digest {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&n.to_le_bytes());
    Digest(bytes)
}

fn raw(digest: Digest, refs: &[Digest], body: &[u8]) -> Vec<u8> {
    let mut out = digest.0.to_vec();
    out.extend_from_slice(&(refs.len() as u32).to_le_bytes());
    refs.iter().for_each(|r| out.extend_from_slice(&r.0));
    out.extend_from_slice(body);
    out
}

impl Source for Store {
    type Error = String;

    fn refs(&mut self, digest: &Digest) -> Result<Vec<Digest>, String> {
        self.frames
            .get(digest)
            .map(|(refs, _)| refs.clone())
            .ok_or("gone".into())
    }

    fn frame(&mut self, digest: &Digest) -> Result<Vec<u8>, String> {
        self.reads += 1;
        self.frames
            .get(digest)
            .map(|(refs, body)| raw(*digest, refs, body))
            .ok_or("gone".into())
    }

    fn snapshot(&mut self, id: SnapshotId) -> Result<(Vec<u8>, Digest), String> {
        self.snapshots.get(&id).cloned().ok_or("gone".into())
    }
}

#[derive(Default)]
struct Replica {
    datastore: [u8; 16],
    frames: BTreeMap<Digest, (Vec<Digest>, Vec<u8>)>,
    snapshots: BTreeMap<SnapshotId, Digest>,
    puts: usize,
}

impl Sink for Replica {
    type Error = String;

    fn open(&mut self, datastore: DatastoreId, _: &[u8]) -> Result<Vec<SnapshotId>, String> {
        if datastore.0 != self.datastore {
            return Err("another site's".into());
        }
        Ok(self.snapshots.keys().copied().collect())
    }

    fn has(&mut self, digest: &Digest) -> Result<bool, String> {
        Ok(self.frames.contains_key(digest))
    }

    fn put_frame(&mut self, frame: &[u8]) -> Result<(), String> {
        let (id, rest) = frame.split_first_chunk::<32>().ok_or("short")?;
        let (count, rest) = rest.split_first_chunk::<4>().ok_or("short")?;
        let (refs, body) = rest
            .split_at_checked(u32::from_le_bytes(*count) as usize * 32)
            .ok_or("short")?;
        let refs: Vec<Digest> = refs
            .as_chunks::<32>()
            .0
            .iter()
            .map(|d| Digest(*d))
            .collect();
        if let Some(missing) = refs.iter().find(|r| !self.frames.contains_key(r)) {
            return Err(format!("{missing} comes later"));
        }
        self.puts += 1;
        self.frames.insert(Digest(*id), (refs, body.to_vec()));
        Ok(())
    }

    fn put_snapshot(&mut self, file: Vec<u8>) -> Result<SnapshotId, String> {
        let (id, root) = file.split_first_chunk::<16>().ok_or("short")?;
        let root = Digest(*root.first_chunk().ok_or("short")?);
        if !self.frames.contains_key(&root) {
            return Err("the root comes later".into());
        }
        self.snapshots.insert(SnapshotId(*id), root);
        Ok(SnapshotId(*id))
    }
}

/// Random trees: `levels` of frames, each referring to some of the level below.
fn store(seed: u64, snapshots: u8, width: u64, levels: u64) -> Store {
    let mut state = seed | 1;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 20) % below.max(1)
    };
    let mut store = Store::default();
    for n in 0..width * 3 {
        store
            .frames
            .insert(digest(n), (vec![], vec![n as u8; random(50) as usize + 1]));
    }
    for level in 1..=levels {
        for n in 0..width {
            let below = if level == 1 { width * 3 } else { width };
            let refs: BTreeSet<u64> = (0..random(width * 2) + 1).map(|_| random(below)).collect();
            let refs = refs
                .into_iter()
                .map(|r| digest((level - 1) * 100_000 + r))
                .collect();
            store
                .frames
                .insert(digest(level * 100_000 + n), (refs, vec![9; 3]));
        }
    }
    for id in 0..snapshots {
        let root = digest(levels * 100_000 + random(width));
        let mut file = [id; 16].to_vec();
        file.extend_from_slice(&root.0);
        store.snapshots.insert(SnapshotId([id; 16]), (file, root));
    }
    store
}

fn sender(store: &Store) -> Sender {
    Sender::new(
        [7; 16],
        vec![1; 64],
        store.snapshots.keys().copied().collect(),
    )
}

fn replica() -> Replica {
    Replica {
        datastore: [7; 16],
        ..Replica::default()
    }
}

/// Runs a session until it is done or `cut` messages went over; answers stay on their way for a
/// while, as on a long line.
fn session(store: &mut Store, replica: &mut Replica, cut: usize, delay: usize) -> Option<Sender> {
    let (mut sender, mut receiver) = (sender(store), Receiver::default());
    let mut line: std::collections::VecDeque<FromCentre> = Default::default();
    let mut sent = 0;
    loop {
        let step = sender.next(store).unwrap();
        let waits = step == Step::Wait;
        match step {
            Step::Send(message) => {
                if sent == cut {
                    return None;
                }
                sent += 1;
                let message: FromSite = decode(&encode(&message).unwrap()[4..]).unwrap();
                line.extend(receiver.receive(message, replica).unwrap());
            }
            Step::Wait => {}
            Step::Done => {
                assert!(receiver.is_done());
                return Some(sender);
            }
        }
        while line.len() > delay || (waits && !line.is_empty()) {
            sender.receive(line.pop_front().unwrap()).unwrap();
            if waits {
                break;
            }
        }
    }
}

fn reachable(store: &Store) -> HashSet<Digest> {
    let mut seen = HashSet::new();
    let mut stack: Vec<Digest> = store.snapshots.values().map(|(_, root)| *root).collect();
    while let Some(next) = stack.pop() {
        if seen.insert(next) {
            stack.extend(&store.frames[&next].0);
        }
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn everything_arrives_whatever_is_cut(
        seed: u64, snapshots in 0u8..4, width in 1u64..20, levels in 1u64..4,
        cuts in proptest::collection::vec(0usize..120, 0..4), delay in 0usize..40,
    ) {
        let mut store = store(seed, snapshots, width, levels);
        let mut replica = replica();
        for cut in cuts {
            session(&mut store, &mut replica, cut, delay);
        }
        let sender = session(&mut store, &mut replica, usize::MAX, delay).unwrap();
        prop_assert_eq!(sender.confirmed().len(), usize::from(snapshots));
        let there: HashSet<Digest> = replica.frames.keys().copied().collect();
        prop_assert_eq!(&there, &reachable(&store));
        prop_assert!(there.iter().all(|d| replica.frames[d] == store.frames[d]));
        // again: nothing travels
        let reads = store.reads;
        let sender = session(&mut store, &mut replica, usize::MAX, delay).unwrap();
        prop_assert_eq!((sender.totals().frames, store.reads), (0, reads));
    }

    #[test]
    fn a_cut_at_every_message_loses_nothing_that_arrived(seed: u64) {
        let mut store = store(seed, 2, 5, 2);
        let mut counting = replica();
        let whole = session(&mut store, &mut counting, usize::MAX, 3).unwrap().totals();
        for cut in 0.. {
            let mut replica = replica();
            let ended = session(&mut store, &mut replica, cut, 3).is_some();
            let before = replica.puts as u64;
            let rest = session(&mut store, &mut replica, usize::MAX, 3).unwrap().totals();
            prop_assert_eq!(before + rest.frames, whole.frames, "cut at {}", cut);
            if ended {
                break;
            }
        }
    }
}

#[test]
fn any_bytes_are_understood_or_refused() {
    let whole = store(1, 2, 5, 2);
    bolero::check!()
        .with_type::<Vec<(u8, Vec<u8>)>>()
        .for_each(|messages| {
            let (mut receiver, mut replica) = (Receiver::default(), replica());
            let hello = FromSite::Hello {
                datastore: [7; 16],
                superblock: vec![1; 64],
            };
            receiver.receive(hello, &mut replica).unwrap();
            let mut store = whole.clone();
            let mut sender = sender(&store);
            for (kind, bytes) in messages {
                let bytes = message(*kind, 5, bytes);
                if let Some(message) = again::<FromSite>(&bytes) {
                    let _ = receiver.receive(message, &mut replica);
                }
                if let Some(message) = again::<FromCentre>(&bytes) {
                    let _ = sender.receive(message);
                }
                let _ = sender.next(&mut store);
            }
        });
}

#[test]
fn what_is_shared_travels_once() {
    let mut store = store(5, 4, 12, 3);
    let mut replica = replica();
    let totals = session(&mut store, &mut replica, usize::MAX, 30)
        .unwrap()
        .totals();
    assert_eq!(totals.frames as usize, reachable(&store).len());
    assert_eq!(totals.snapshots, 4);
}

#[test]
fn a_site_that_breaks_the_order_is_refused() {
    let mut replica = replica();
    let mut receive = |receiver: &mut Receiver, m| receiver.receive(m, &mut replica);
    let hello = || FromSite::Hello {
        datastore: [7; 16],
        superblock: vec![1; 64],
    };
    let part = |n, last| Part {
        last,
        bytes: vec![0; n],
    };
    let mut r = Receiver::default();
    assert!(receive(&mut r, FromSite::Done).is_err());
    receive(&mut r, hello()).unwrap();
    assert!(receive(&mut r, hello()).is_err());
    assert!(receive(&mut r, FromSite::Frame(part(0, false))).is_err());
    // a frame that never ends is refused before it takes more than a frame may
    let endless = (0..).find(|_| receive(&mut r, FromSite::Frame(part(PART, false))).is_err());
    assert!(endless.unwrap() <= format::frame::MAX_FRAME / PART);
    let mut r = Receiver::default();
    receive(&mut r, hello()).unwrap();
    receive(&mut r, FromSite::Snapshot(part(5, false))).unwrap();
    assert!(receive(&mut r, FromSite::Done).is_err());
    let other = FromSite::Hello {
        datastore: [8; 16],
        superblock: vec![],
    };
    let refused = receive(&mut Receiver::default(), other);
    assert!(matches!(refused, Err(ReceiveError::Sink(_))));
    // a frame whose references are missing
    let orphan = Part {
        last: true,
        bytes: raw(digest(1), &[digest(2)], b""),
    };
    let mut r = Receiver::default();
    receive(&mut r, hello()).unwrap();
    assert!(receive(&mut r, FromSite::Frame(orphan)).is_err());
}

#[test]
fn a_centre_that_answers_what_was_not_asked_is_refused() {
    let store = store(1, 2, 5, 2);
    let mut s = sender(&store);
    assert!(s.receive(FromCentre::Known(Bitmap::new([]))).is_err());
    assert!(s.receive(FromCentre::Stored([0; 16])).is_err());
    s.receive(FromCentre::Snapshots(Ids::pages(&[]).remove(0)))
        .unwrap();
    assert!(
        s.receive(FromCentre::Snapshots(Ids::pages(&[]).remove(0)))
            .is_err()
    );
}

#[test]
fn lists_that_are_long_come_in_pages() {
    let ids: Vec<[u8; 16]> = (0..MAX_LISTED as u32 + 5)
        .map(|n| std::array::from_fn(|i| n.to_le_bytes()[i % 4]))
        .collect();
    let pages = Ids::pages(&ids);
    assert_eq!(
        pages.iter().map(|p| p.last).collect::<Vec<_>>(),
        [false, true]
    );
    assert_eq!(pages.iter().flat_map(Ids::iter).collect::<Vec<_>>(), ids);
}
