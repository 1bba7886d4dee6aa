//! Files of very many extents, stored as they come.

mod rig;

use engine::storage::Storage;
use engine::storage::simulated::Simulated;
use engine::{Error, LongContent, Options, Piece, Store};
use format::Digest;
use format::entry::{Extent, Kind};
use format::pack::{RECORD_LEN, TRAILER_LEN, footer_len};
use format::superblock::Profile;
use rig::*;
use std::sync::Arc;

/// Content of so many extents, each third one a hole.
fn extents(writer: &engine::SnapshotWriter, count: u64) -> Vec<Extent> {
    (0..count)
        .map(|number| match number % 3 {
            2 => Extent::Hole {
                length: 4096 + number,
            },
            _ => Extent::Data {
                digest: writer.put_chunk(&number.to_le_bytes()).unwrap(),
                length: 8,
            },
        })
        .collect()
}

fn pieces(store: &Store, id: format::SnapshotId) -> Vec<Piece> {
    let mut entries = store.entries(id, b"").unwrap();
    let (entry, content) = entries.next().unwrap().unwrap();
    let pieces = store.pieces(&entry, &content).unwrap();
    pieces.collect::<Result<_, _>>().unwrap()
}

#[test]
fn what_is_stored_as_it_comes_is_the_same_tree_as_what_came_at_once() {
    let keys = Store::new_keyset().unwrap();
    let store = made(&Simulated::new(), &keys);
    // within an entry, just beyond it, a list of lists, and lists of those
    for count in [1, 63, 64, 65, 66, 1000, 200_000] {
        let mut writer = begun(&store).unwrap();
        let all = extents(&writer, count);
        let mut file = entry("file", Kind::File);
        file.content.clone_from(&all);
        file.size = all.iter().map(format::extents::length_of).sum();
        writer.add_entry(&file).unwrap();
        let at_once = writer.commit(None).unwrap();

        let mut writer = begun(&store).unwrap();
        let mut content = LongContent::default();
        for part in all.chunks(7) {
            writer.extend(&mut content, part.iter().copied()).unwrap();
        }
        assert_eq!(content.size(), file.size);
        let bytes = all.iter().map(format::extents::data_of).sum();
        assert_eq!(content.bytes(), bytes);
        let mut bare = entry("file", Kind::File);
        writer.add_long(&mut bare, content).unwrap();
        let bit_by_bit = writer.commit(None).unwrap();
        assert_eq!(bit_by_bit.clear.root, at_once.clear.root, "{count}");
        assert_eq!(bit_by_bit.clear.logical, bytes);
        assert_eq!(bit_by_bit.clear.unique, 0);
        let expected = (0..count).map(|number| match number % 3 {
            2 => Piece::Hole(4096 + number),
            _ => Piece::Data(number.to_le_bytes().to_vec()),
        });
        assert!(pieces(&store, bit_by_bit.clear.id).into_iter().eq(expected));
    }
    is_clean(&store);
}

#[test]
fn a_pack_is_closed_at_so_many_frames_however_short_they_are() {
    let storage = Simulated::new();
    let keys = Store::new_keyset().unwrap();
    let superblock = Store::superblock_for(&keys, Profile::Site);
    let store = Store::init(Arc::new(storage.clone()), superblock, Options::default()).unwrap();
    store.unlock(&keys).unwrap();
    let mut chunks = begun(&store).unwrap().chunks();
    for number in 0..45_000_u64 {
        chunks.put(&number.to_le_bytes()).unwrap();
    }
    drop((chunks, store));
    let mut counts: Vec<u64> = (storage.list("packs").unwrap().iter())
        .map(|name| {
            let pack = storage.bytes(&format!("packs/{name}")).unwrap();
            let trailer = &pack[pack.len() - TRAILER_LEN..];
            let footer = footer_len(trailer, pack.len() as u64).unwrap();
            ((footer - TRAILER_LEN) / RECORD_LEN) as u64
        })
        .collect();
    counts.sort_unstable();
    assert_eq!(counts, [5000, 20_000, 20_000]);
}

#[test]
fn holes_that_meet_become_one_and_what_cannot_be_is_refused() {
    let keys = Store::new_keyset().unwrap();
    let store = made(&Simulated::new(), &keys);
    let mut writer = begun(&store).unwrap();
    let mut content = LongContent::default();
    for length in [10, 20, 30] {
        let hole = Extent::Hole { length };
        writer.extend(&mut content, [hole]).unwrap();
    }
    writer
        .add_long(&mut entry("file", Kind::File), content)
        .unwrap();
    let snapshot = writer.commit(None).unwrap();
    assert_eq!(pieces(&store, snapshot.clear.id), [Piece::Hole(60)]);

    let nowhere = Extent::Data {
        digest: Digest([7; 32]),
        length: 1,
    };
    for (extents, incomplete) in [
        (vec![nowhere; 2000], true),
        (vec![Extent::Hole { length: 0 }], false),
        (vec![Extent::Hole { length: u64::MAX }; 2], false),
    ] {
        let mut writer = begun(&store).unwrap();
        let refused = writer.extend(&mut LongContent::default(), extents);
        match refused.unwrap_err() {
            Error::Incomplete { .. } => assert!(incomplete),
            Error::Format { .. } => assert!(!incomplete),
            other => panic!("{other}"),
        }
    }
}
