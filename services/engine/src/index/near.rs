//! Neighbours: chunks that were stored together are asked for together. Whoever finds one has the
//! footer of its pack read, and finds the next ones without another look at the disk.

use super::Place;
use super::row::{ROW, Row, State, search};
use crate::core::{locked, pack_name};
use crate::memory::Memory;
use crate::storage::{File, Storage, read_exact};
use format::pack::{TRAILER_LEN, footer_len};
use format::{DatastoreId, Digest, PackId};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// How many packs are looked into; about as many streams go through at once.
const PACKS: usize = 8;

/// How many packs are remembered in which one chunk was found: only where a second one is, its
/// neighbours are worth a look.
const ONCE: usize = 64;

/// Longest footer that is looked into, bytes. One of chunks so small would take the memory of very many
/// pages, or find no room and be read again for each of them; the runs have these as well.
const LONGEST: usize = 1 << 20;

/// Packs touched last.
pub(super) struct Near {
    memory: Arc<Memory>,
    /// By which `memory` knows it.
    number: u64,
    packs: Mutex<VecDeque<u32>>,
    once: Mutex<VecDeque<u32>>,
}

impl Near {
    pub(super) fn new(memory: Arc<Memory>) -> Self {
        Self {
            number: memory.number(),
            memory,
            packs: Mutex::default(),
            once: Mutex::default(),
        }
    }

    /// The place of a digest, if a pack that was touched has it and its footer is still in memory.
    pub(super) fn find(&self, digest: &Digest) -> Option<Place> {
        let mut packs = locked(&self.packs);
        for at in 0..packs.len() {
            let rows = self.memory.peek((self.number, packs[at].into()));
            let row = rows.and_then(|rows| search(&rows, digest));
            let Some(State::At(place)) = row.map(|row| row.state) else {
                continue;
            };
            if let Some(pack) = packs.remove(at) {
                packs.push_front(pack);
            }
            return Some(place);
        }
        None
    }

    /// Told of a pack in which a chunk was found; at the second one its footer is looked into from then
    /// on. It is only for speed: one that cannot be read is as good as one without rows.
    pub(super) fn touch(
        &self,
        storage: &dyn Storage,
        datastore: DatastoreId,
        number: u32,
        id: PackId,
    ) {
        if !self.again(number) {
            return;
        }
        let read = || Ok::<_, ()>(rows(storage, datastore, number, id).into());
        let _ = self.memory.page((self.number, number.into()), read);
        let mut packs = locked(&self.packs);
        packs.retain(|pack| *pack != number);
        packs.push_front(number);
        packs.truncate(PACKS);
    }

    fn again(&self, number: u32) -> bool {
        let mut once = locked(&self.once);
        let again = once.contains(&number);
        once.retain(|pack| *pack != number);
        if !again {
            once.push_front(number);
            once.truncate(ONCE);
        }
        again
    }
}

fn rows(storage: &dyn Storage, datastore: DatastoreId, number: u32, id: PackId) -> Vec<u8> {
    let name = pack_name(id);
    let Ok(file) = storage.open(&name) else {
        return Vec::new();
    };
    if footer(&*file).is_none_or(|length| length > LONGEST) {
        return Vec::new();
    }
    let listed = crate::recover::records(&*file, &name, &storage.place(), datastore);
    let Ok(Some((records, true))) = listed else {
        return Vec::new();
    };
    let mut rows: Vec<Row> = records.iter().map(|r| Row::of(number, r)).collect();
    rows.sort_unstable_by_key(|row| row.digest);
    let mut encoded = Vec::with_capacity(rows.len() * ROW);
    rows.iter().for_each(|row| row.encode(&mut encoded));
    encoded
}

/// Length of a pack's footer, by its last bytes.
fn footer(file: &dyn File) -> Option<usize> {
    let length = file.len().ok()?;
    let trailer = length.checked_sub(TRAILER_LEN as u64)?;
    let bytes = read_exact(file, trailer, TRAILER_LEN).ok()?;
    footer_len(&bytes, length).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::PACKS as DIR;
    use crate::storage::simulated::Simulated;
    use format::frame::{Kind, OVERHEAD};
    use format::pack::{HEADER_LEN, PackHeader, Record, encode_footer};

    #[test]
    fn a_footer_is_looked_into_unless_it_is_very_long() {
        let (datastore, pack) = (DatastoreId([1; 16]), PackId([2; 16]));
        for (count, looked_into) in [(20_000, true), (25_000, false)] {
            let storage = Simulated::new();
            let records: Vec<Record> = (0..count)
                .map(|number: u32| Record {
                    digest: Digest(*blake3::hash(&number.to_le_bytes()).as_bytes()),
                    offset: HEADER_LEN as u32 + number * OVERHEAD as u32,
                    length: OVERHEAD as u32,
                    plain_len: 0,
                    kind: Kind::Data,
                })
                .collect();
            let footer = encode_footer(&PackHeader { datastore, pack }, &records);
            let file = storage.create(&format!("{DIR}/{pack}.pack")).unwrap();
            let header = PackHeader { datastore, pack }.encode();
            file.write_at(&header, 0).unwrap();
            let at = HEADER_LEN + records.len() * OVERHEAD;
            file.write_at(&footer, at as u64).unwrap();
            let rows = rows(&storage, datastore, 7, pack);
            let found = search(&rows, &records[12_345].digest);
            assert_eq!(found, looked_into.then(|| Row::of(7, &records[12_345])));
        }
    }
}
