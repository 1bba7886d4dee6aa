//! The index against a map, with merges going on, opened again and again.

use super::*;
use crate::storage::hooked::Hooked;
use crate::storage::simulated::Simulated;
use format::SnapshotId;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::channel;
use std::time::Duration;

#[derive(Clone, Debug)]
enum Step {
    /// A pack of these chunks.
    Pack(Vec<u8>),
    Break(Vec<u8>),
    /// A snapshot whose root is this chunk.
    Refer(u8),
    /// Nothing needs these.
    Bury(Vec<u8>),
    /// What is needed of some packs goes to a new one.
    Move(Vec<u8>),
    Open,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let chunks = || vec(any::<u8>(), 1..30);
    let step = prop_oneof![
        8 => chunks().prop_map(Step::Pack),
        1 => chunks().prop_map(Step::Break),
        2 => any::<u8>().prop_map(Step::Refer),
        2 => chunks().prop_map(Step::Bury),
        1 => vec(any::<u8>(), 1..4).prop_map(Step::Move),
        1 => Just(Step::Open),
    ];
    vec(step, 1..60)
}

fn digest(chunk: u8) -> Digest {
    Digest(*blake3::hash(&[chunk]).as_bytes())
}

fn record(chunk: u8, place: usize) -> Record {
    Record {
        digest: digest(chunk),
        offset: place as u32,
        length: 2,
        plain_len: 3,
        kind: Kind::Data,
    }
}

fn id(number: usize) -> PackId {
    PackId((number as u128).to_le_bytes())
}

/// What the index should say.
#[derive(Default)]
struct Model {
    /// Pack, place and whether it is broken.
    chunks: HashMap<u8, (PackId, u32, bool)>,
    references: HashMap<u8, i64>,
    /// Bytes, those dead of them, of each pack.
    packs: BTreeMap<PackId, (u32, u32)>,
}

impl Model {
    fn waste(&mut self, pack: PackId) {
        self.packs.entry(pack).and_modify(|(_, dead)| *dead += 2);
    }
}

/// With little memory, and runs of a few rows.
fn setting(storage: impl Storage) -> Setting {
    Setting {
        storage: Arc::new(storage),
        datastore: DatastoreId([1; 16]),
        memory: Memory::new(64 << 10),
        batch: 8,
        progress: Arc::default(),
        unread: None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn it_is_a_map_whatever_is_merged_meanwhile(steps in steps()) {
        let storage = Simulated::new();
        storage.create(INDEX).unwrap();
        let setting = setting(storage);
        let mut index = Index::open(setting.clone()).unwrap();
        let mut model = Model::default();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Pack(mut chunks) => {
                    chunks.dedup();
                    let id = id(number);
                    let records: Vec<Record> =
                        chunks.iter().enumerate().map(|(place, c)| record(*c, place)).collect();
                    index.add_pack(id, &records, 0).unwrap();
                    model.packs.insert(id, (2 * records.len() as u32, 0));
                    for (place, chunk) in chunks.into_iter().enumerate() {
                        match model.chunks.get(&chunk).copied() {
                            Some((_, _, false)) => model.waste(id),
                            before => {
                                before.into_iter().for_each(|(old, _, _)| model.waste(old));
                                model.chunks.insert(chunk, (id, place as u32, false));
                            }
                        }
                    }
                }
                Step::Break(chunks) => {
                    let digests: Vec<_> = chunks.iter().map(|c| digest(*c)).collect();
                    index.mark_broken(&digests).unwrap();
                    for chunk in chunks {
                        model.chunks.entry(chunk).and_modify(|(_, _, broken)| *broken = true);
                    }
                }
                Step::Refer(chunk) => {
                    let snapshot = SnapshotId((number as u128).to_le_bytes());
                    index.add_roots(&[(snapshot, digest(chunk))]).unwrap();
                    *model.references.entry(chunk).or_default() += 1;
                }
                Step::Bury(mut chunks) => {
                    chunks.sort_unstable();
                    chunks.dedup();
                    let (mut dead, mut released) = (Vec::new(), Vec::new());
                    for chunk in chunks {
                        if let (Some(place), _) = index.references(&digest(chunk)).unwrap() {
                            dead.push((digest(chunk), place));
                        }
                        if let Some((pack, _, _)) = model.chunks.remove(&chunk) {
                            model.waste(pack);
                        }
                        let count = model.references.remove(&chunk).unwrap_or_default();
                        released.push((digest(chunk), count as u32));
                    }
                    index.condemn(dead.iter().map(|(digest, _)| *digest)).unwrap();
                    index
                        .bury(Burial {
                            dead: &dead,
                            released: &released,
                            snapshots: &[],
                            candidates: Vec::new(),
                            settled: &[],
                            rescues: index.rescues(),
                        })
                        .unwrap();
                }
                Step::Move(which) => {
                    let all: Vec<PackId> = model.packs.keys().copied().collect();
                    if all.is_empty() {
                        continue;
                    }
                    let mut from: Vec<PackId> =
                        which.iter().map(|w| all[usize::from(*w) % all.len()]).collect();
                    from.sort_unstable();
                    from.dedup();
                    let id = id(number);
                    let mut records = Vec::new();
                    for (chunk, at) in &mut model.chunks {
                        if from.contains(&at.0) {
                            (at.0, at.1) = (id, records.len() as u32);
                            records.push(record(*chunk, records.len()));
                        }
                    }
                    let numbers = index.packs_that(|_, pack| from.contains(&pack.id)).unwrap();
                    let numbers: Vec<u32> = numbers.iter().map(|(number, _)| *number).collect();
                    index
                        .relocate(&Move {
                            from: &numbers,
                            to: Some((id, &records)),
                        })
                        .unwrap();
                    model.packs.retain(|pack, _| !from.contains(pack));
                    model.packs.insert(id, (2 * records.len() as u32, 0));
                }
                Step::Open => {
                    drop(index);
                    index = Index::open(setting.clone()).unwrap();
                }
            }
            for chunk in 0..=255 {
                let found = index.find(&digest(chunk)).unwrap();
                let found = found.map(|l| (l.pack, l.offset, l.broken));
                prop_assert_eq!(found, model.chunks.get(&chunk).copied(), "chunk {}", chunk);
                let (_, references) = index.references(&digest(chunk)).unwrap();
                let expected = model.references.get(&chunk).copied().unwrap_or_default();
                prop_assert_eq!(references, expected, "references of chunk {}", chunk);
            }
            let totals = index.totals().unwrap();
            let chunks = model.chunks.len() as u64;
            prop_assert_eq!((totals.chunks, totals.stored, totals.unique), (chunks, 2 * chunks, 3 * chunks));
            let packs = index.packs_that(|_, _| true).unwrap();
            let packs: BTreeMap<_, _> = packs.iter().map(|(_, p)| (p.id, (p.bytes, p.dead))).collect();
            prop_assert_eq!(&packs, &model.packs);
        }
    }
}

#[test]
fn a_run_that_is_being_written_is_none_of_the_index_that_is_opened_again() {
    let disk = Simulated::new();
    disk.create(INDEX).unwrap();
    let fails = Arc::new(AtomicBool::new(false));
    let (fail, failed) = (fails.clone(), fails.clone());
    let failing = Hooked::new(disk, move |call| {
        match call.name == INDEX && call.method == "write_at" && fail.load(Relaxed) {
            true => Err(io::Error::other("the disk failed")),
            false => Ok(()),
        }
    });
    let (storage, parking) = Hooked::parking(failing, move |call| {
        call.method == "create" && call.name.starts_with(RUNS) && failed.load(Relaxed)
    });
    let setting = setting(storage);
    let index = Index::open(setting.clone()).unwrap();
    let add = |pack: usize| {
        let records = (0..20).map(|place| record((20 * pack + place) as u8, place));
        index.add_pack(id(pack), &records.collect::<Vec<_>>(), 0)
    };
    add(0).unwrap();
    fails.store(true, Relaxed);
    index.mark_broken(&[digest(0)]).unwrap_err();
    let (end, ended) = channel();
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| add(1));
        parking.reached.recv().unwrap();
        fails.store(false, Relaxed);
        let opening = scope.spawn(|| {
            let opened = index.reopen(Index::open);
            end.send(()).unwrap();
            opened
        });
        // it waits, and this is in vain
        let _ = ended.recv_timeout(Duration::from_millis(300));
        parking.go_on.send(()).unwrap();
        let written = writing.join().unwrap();
        assert!(matches!(written, Err(Error::Stopped(_))), "{written:?}");
        opening.join().unwrap().unwrap();
    });
    // of the number that the other pack had
    add(2).unwrap();
    let holds = |index: &Index| {
        for (chunk, pack) in [(5, Some(id(0))), (25, None), (45, Some(id(2)))] {
            let found = index.find(&digest(chunk)).unwrap();
            assert_eq!(found.map(|l| l.pack), pack, "chunk {chunk}");
        }
    };
    holds(&index);
    drop(index);
    holds(&Index::open(setting).unwrap());
}
