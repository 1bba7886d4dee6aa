//! The index against a map, with merges going on, opened again and again.

use super::*;
use crate::storage::simulated::Simulated;
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    /// A pack of these chunks.
    Pack(Vec<u8>),
    Break(Vec<u8>),
    Open,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let chunks = || vec(any::<u8>(), 1..30);
    let step = prop_oneof![
        8 => chunks().prop_map(Step::Pack),
        1 => chunks().prop_map(Step::Break),
        1 => Just(Step::Open),
    ];
    vec(step, 1..60)
}

fn digest(chunk: u8) -> Digest {
    Digest(*blake3::hash(&[chunk]).as_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn it_is_a_map_whatever_is_merged_meanwhile(steps in steps()) {
        let storage = Simulated::new();
        storage.create(INDEX).unwrap();
        let setting = Setting {
            storage: Arc::new(storage),
            datastore: DatastoreId([1; 16]),
            memory: Memory::new(64 << 10),
            batch: 8,
        };
        let mut index = Index::open(setting.clone()).unwrap();
        // pack, place and whether it is broken
        let mut model: HashMap<u8, (PackId, u32, bool)> = HashMap::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Pack(chunks) => {
                    let id = PackId((number as u128).to_le_bytes());
                    let mut records = Vec::new();
                    for (place, chunk) in chunks.iter().enumerate() {
                        records.push(Record {
                            digest: digest(*chunk),
                            offset: place as u32,
                            length: 2,
                            plain_len: 3,
                            kind: Kind::Data,
                        });
                        if model.get(chunk).is_none_or(|(pack, _, broken)| *broken || *pack == id) {
                            model.insert(*chunk, (id, place as u32, false));
                        }
                    }
                    index.add_pack(id, &records).unwrap();
                }
                Step::Break(chunks) => {
                    let digests: Vec<_> = chunks.iter().map(|c| digest(*c)).collect();
                    index.mark_broken(&digests).unwrap();
                    for chunk in chunks {
                        model.entry(chunk).and_modify(|(_, _, broken)| *broken = true);
                    }
                }
                Step::Open => {
                    drop(index);
                    index = Index::open(setting.clone()).unwrap();
                }
            }
            for chunk in 0..=255 {
                let found = index.find(&digest(chunk)).unwrap();
                let found = found.map(|l| (l.pack, l.offset, l.broken));
                prop_assert_eq!(found, model.get(&chunk).copied(), "chunk {}", chunk);
            }
            let totals = index.totals().unwrap();
            let chunks = model.len() as u64;
            prop_assert_eq!((totals.chunks, totals.stored, totals.unique), (chunks, 2 * chunks, 3 * chunks));
        }
    }
}
