//! Golden files: what version 1 wrote, every later release reads, and writes alike.

mod specimens;

use format::entry::Extent;
use format::extents::ExtentList;
use format::frame::{Compression, Frame, Header, Kind, check_at_end};
use format::keyset::Keyset;
use format::leaf::LeafReader;
use format::node::Node;
use format::pack::{PackHeader, Record, TRAILER_LEN, footer_len, parse_footer};
use format::snapshot::Snapshot;
use format::superblock::Superblock;
use specimens::*;
use std::path::PathBuf;

/// The file of this name. One that is missing is written from what the code gives now, for a
/// person to look at and commit; the test fails all the same.
fn vector(name: &str, now: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("vectors/1")
        .join(name);
    match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            std::fs::write(&path, now).unwrap();
            panic!(
                "{} was missing; it is written now, see whether it is right",
                path.display()
            );
        }
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

/// Holds what the code writes against the file.
fn same(name: &str, now: &[u8]) -> Vec<u8> {
    let then = vector(name, now);
    assert!(then == now, "{name} is not written as it was");
    then
}

/// Everything else that is derived from the dedup key.
fn known_digests() -> [(&'static str, String); 7] {
    let keys = digest_keys();
    let refs = [keys.data(b"a"), keys.data(b"b")];
    [
        ("data-empty", keys.data(b"").to_string()),
        ("data-text", keys.data(TEXT).to_string()),
        (
            "leaf-text-2-refs",
            keys.metadata(Kind::Leaf, &refs, TEXT).to_string(),
        ),
        (
            "node-text-no-refs",
            keys.metadata(Kind::Node, &[], TEXT).to_string(),
        ),
        ("group-g", keys.group(b"g").to_string()),
        (
            "boundary-a/b",
            format!("{:016x}", keys.path_boundary(b"a/b")),
        ),
        ("cut-seed", format!("{:016x}", keys.cut_seed())),
    ]
}

#[test]
fn key_sets() {
    let keys = keyset();
    let bytes = same("keyset", &keys.encode());
    assert_eq!(Keyset::decode(&bytes), Ok(keys.clone()));
    let text = same("keyset.txt", keys.to_text().as_bytes());
    assert_eq!(
        Keyset::from_text(std::str::from_utf8(&text).unwrap()),
        Ok(keys)
    );
}

#[test]
fn digests() {
    let lines: String = known_digests()
        .map(|(name, hex)| format!("{name} {hex}\n"))
        .concat();
    same("digests.txt", lines.as_bytes());
}

#[test]
fn datastore_files() {
    for (name, superblock) in [("datastore", site()), ("datastore-centre-no-key", centre())] {
        let bytes = same(name, &superblock.encode());
        assert_eq!(Superblock::parse(&bytes), Ok(superblock));
    }
}

#[test]
fn frames() {
    for specimen in frame_specimens() {
        let name = format!("frame-{}", specimen.name);
        let bytes = same(&name, &specimen.encode());
        let frame = Frame::parse(&bytes, DATASTORE).unwrap();
        assert_eq!(frame.header.kind, specimen.kind, "{name}");
        assert_eq!(frame.header.compression, specimen.compression, "{name}");
        assert_eq!(
            frame.header.epoch, 7,
            "frames are sealed under the newest epoch"
        );
        assert_eq!(frame.refs().collect::<Vec<_>>(), specimen.refs, "{name}");
        let content = frame.open(&frame_keys()).unwrap();
        assert_eq!(content, specimen.content, "{name}");
        let digest = digest_keys().metadata(specimen.kind, &specimen.refs, &content);
        assert_eq!(frame.header.digest, digest, "{name}");
    }
    let earlier = same("frame-data-epoch-1", &data_of_epoch_1());
    let frame = Frame::parse(&earlier, DATASTORE).unwrap();
    assert_eq!(frame.header.epoch, 1);
    assert_eq!(frame.open(&frame_keys()).unwrap(), TEXT);
}

#[test]
fn what_frames_hold() {
    let specimens = frame_specimens();
    let of = |name: &str| specimens.iter().find(|s| s.name == name).unwrap();
    let leaf = of("leaf");
    let read: Result<Vec<_>, _> = LeafReader::new(&leaf.content, &leaf.refs)
        .unwrap()
        .collect();
    assert_eq!(read.unwrap(), entries());
    let node_frame = of("node");
    assert_eq!(
        Node::parse(&node_frame.content, &node_frame.refs),
        Ok(node())
    );
    for (name, list) in [("extents", extents()), ("extents-lists", extent_lists())] {
        let frame = of(name);
        assert_eq!(
            ExtentList::parse(&frame.content, &frame.refs),
            Ok(list),
            "{name}"
        );
    }
    let ExtentList::Extents(list) = extents() else {
        panic!("no extents");
    };
    assert!(matches!(
        list[1],
        Extent::Hole {
            length: 1_000_000_000_000
        }
    ));
}

#[test]
fn packs() {
    let (bytes, records) = pack();
    let bytes = same("pack", &bytes);
    let header = PackHeader::parse(&bytes).unwrap();
    assert_eq!(
        header,
        PackHeader {
            datastore: DATASTORE,
            pack: PACK
        }
    );
    let length = bytes.len() as u64;
    let footer = footer_len(&bytes[bytes.len() - TRAILER_LEN..], length).unwrap();
    let read = parse_footer(&bytes[bytes.len() - footer..], &header, length).unwrap();
    assert_eq!(read, records);
    for record in read {
        let place = record.offset as usize..(record.offset + record.length) as usize;
        let frame = Frame::parse(&bytes[place], DATASTORE).unwrap();
        assert_eq!(Record::of(&frame.header, record.offset), record);
    }
}

#[test]
fn snapshots() {
    let root = frame_specimens()
        .into_iter()
        .find(|s| s.name == "node")
        .unwrap();
    for (name, signed) in [("snapshot", true), ("snapshot-unsigned", false)] {
        let bytes = same(name, &snapshot(signed));
        let snapshot = Snapshot::parse(bytes.clone()).unwrap();
        assert_eq!(snapshot.clear, clear(signed), "{name}");
        assert_eq!(snapshot.details(&frame_keys()), Ok(details()), "{name}");
        assert_eq!(snapshot.bytes(), bytes, "{name}");
        assert_eq!(
            snapshot.clear.root_check,
            check_at_end(&root.encode()).unwrap()
        );
    }
}

#[test]
fn a_delta_is_carried_but_not_opened() {
    // reserved: what a later release writes, this one stores, checks and copies
    let delta = same("frame-delta", &delta());
    let frame = Frame::parse(&delta, DATASTORE).unwrap();
    assert_eq!((frame.header.kind, frame.refs().len()), (Kind::Delta, 1));
    assert_eq!(frame.header.compression, Compression::None);
    let error = frame.open(&frame_keys()).unwrap_err();
    assert!(
        error.to_string().contains("a newer Strongroom wrote it"),
        "{error}"
    );
    assert_eq!(Header::parse(&delta).unwrap().frame_len(), delta.len());
}
