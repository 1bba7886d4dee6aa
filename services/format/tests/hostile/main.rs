//! What comes from outside: any bytes, flipped bits, ends cut off. No parser panics or takes
//! memory without bound, and what is checked notices.

#[path = "../specimens/mod.rs"]
mod specimens;
mod sys;
mod targets;

use format::entry::Entry;
use format::extents::ExtentList;
use format::frame::{Frame, Header};
use format::keyset::Keyset;
use format::leaf::LeafReader;
use format::node::Node;
use format::pack::{
    Found, HEADER_LEN, PackHeader, TRAILER_LEN, find_frame, footer_len, parse_footer,
};
use format::snapshot::Snapshot;
use format::superblock::Superblock;
use format::{Digest, FormatError, Result};
use proptest::collection::vec;
use proptest::prelude::*;
use specimens::*;

/// Reads bytes as one thing; whether they are it. What is read is taken all the way.
type Parser = fn(&[u8]) -> bool;

fn header(bytes: &[u8]) -> bool {
    PackHeader::parse(bytes).is_ok()
}

fn footer(bytes: &[u8]) -> bool {
    let header = PackHeader {
        datastore: DATASTORE,
        pack: PACK,
    };
    let length = pack().0.len() as u64;
    if let Some(trailer) = bytes.last_chunk::<TRAILER_LEN>() {
        let _ = footer_len(trailer, u64::MAX);
    }
    parse_footer(bytes, &header, length).is_ok()
}

fn frame(bytes: &[u8]) -> bool {
    let _ = Header::parse(bytes);
    if let Ok(frame) = Frame::parse_unchecked(bytes) {
        // whoever opens at once relies on the cipher's tag
        let opened = frame.open(&frame_keys()).is_ok();
        assert!(!opened || frame.refs().len() == frame.header.ref_count as usize);
    }
    Frame::parse(bytes, DATASTORE).is_ok_and(|f| f.open(&frame_keys()).is_ok())
}

/// What is stored and copied by its check alone.
fn carried(bytes: &[u8]) -> bool {
    Frame::parse(bytes, DATASTORE).is_ok()
}

fn superblock(bytes: &[u8]) -> bool {
    Superblock::parse(bytes).is_ok()
}

fn key_set(bytes: &[u8]) -> bool {
    Keyset::decode(bytes).is_ok()
}

fn key_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| Keyset::from_text(text).is_ok())
}

fn snapshot_file(bytes: &[u8]) -> bool {
    Snapshot::parse(bytes.to_vec()).is_ok_and(|s| s.details(&frame_keys()).is_ok())
}

/// What has a check of its own, with one that is whole.
fn checked() -> Vec<(&'static str, Parser, Vec<u8>)> {
    let (pack_bytes, records) = pack();
    let footer_at = pack_bytes.len() - TRAILER_LEN - records.len() * 48;
    let mut all: Vec<(&'static str, Parser, Vec<u8>)> = vec![
        ("pack header", header, pack_bytes[..HEADER_LEN].to_vec()),
        ("pack footer", footer, pack_bytes[footer_at..].to_vec()),
        ("datastore", superblock, site().encode().to_vec()),
        (
            "datastore without a key",
            superblock,
            centre().encode().to_vec(),
        ),
        ("key set", key_set, keyset().encode().to_vec()),
        ("snapshot", snapshot_file, snapshot(true)),
        ("unsigned snapshot", snapshot_file, snapshot(false)),
    ];
    all.push(("delta", carried, delta()));
    all.push(("earlier epoch", frame, data_of_epoch_1()));
    all.extend(
        frame_specimens()
            .iter()
            .map(|f| (f.name, frame as Parser, f.encode())),
    );
    all
}

fn leaf(content: &[u8], refs: &[Digest]) -> Result<usize> {
    let mut last: Option<Entry> = None;
    let mut count = 0;
    for item in LeafReader::new(content, refs)? {
        let (entry, _) = item?;
        assert!(Entry::path_is_valid(&entry.path));
        if let Some(last) = &last {
            assert!(Entry::cmp_path(&last.path, &entry.path).is_lt());
        }
        last = Some(entry);
        count += 1;
    }
    Ok(count)
}

fn node_content(content: &[u8], refs: &[Digest]) -> Result<usize> {
    let node = Node::parse(content, refs)?;
    let (content, refs) = node.encode();
    assert_eq!(Node::parse(&content, &refs).as_ref(), Ok(&node));
    Ok(node.children.len())
}

fn extent_content(content: &[u8], refs: &[Digest]) -> Result<usize> {
    let list = ExtentList::parse(content, refs)?;
    let (content, refs) = list.encode();
    assert_eq!(ExtentList::parse(&content, &refs).as_ref(), Ok(&list));
    Ok(match list {
        ExtentList::Extents(extents) => extents.len(),
        ExtentList::Lists { children, .. } => children.len(),
    })
}

type ContentParser = fn(&[u8], &[Digest]) -> Result<usize>;

/// What lies in frames, where digest and tag have been tested before.
fn contents() -> Vec<(&'static str, ContentParser, FrameSpecimen)> {
    let of = |name: &str| {
        frame_specimens()
            .into_iter()
            .find(|s| s.name == name)
            .unwrap()
    };
    vec![
        ("leaf", leaf, of("leaf")),
        ("node", node_content, of("node")),
        ("extents", extent_content, of("extents")),
        ("extents-lists", extent_content, of("extents-lists")),
    ]
}

/// Runs a parser and holds the memory it takes against what it was given: a bound on the bytes
/// of the input, and what one frame's content may be.
fn bounded<T>(what: &str, length: usize, parse: impl FnOnce() -> T) -> T {
    let (result, peak) = sys::peak_during(parse);
    assert!(
        peak <= 200 * length + (5 << 20),
        "{what}: {peak} bytes for {length}"
    );
    result
}

#[test]
fn every_flipped_bit_of_what_is_checked_is_noticed() {
    for (what, parse, mut bytes) in checked() {
        assert!(parse(&bytes), "{what}");
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!parse(&bytes), "{what}: bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn every_end_cut_off_or_added_is_noticed() {
    for (what, parse, mut bytes) in checked() {
        for length in 0..bytes.len() {
            assert!(!parse(&bytes[..length]), "{what}: {length}");
        }
        // a pack's header is read from the front of what goes on
        if what != "pack header" {
            bytes.push(0);
            assert!(!parse(&bytes), "{what}");
        }
    }
    for (what, parse, specimen) in contents() {
        let content = specimen.content;
        assert!(parse(&content, &specimen.refs).is_ok(), "{what}");
        for length in 0..content.len() {
            assert!(
                parse(&content[..length], &specimen.refs).is_err(),
                "{what}: {length}"
            );
        }
        let longer = [&content[..], &[0]].concat();
        assert!(parse(&longer, &specimen.refs).is_err(), "{what}");
    }
}

#[test]
fn frames_are_of_their_datastore_alone() {
    let mut other = DATASTORE;
    other.0[15] ^= 1;
    for specimen in frame_specimens() {
        assert!(Frame::parse(&specimen.encode(), other).is_err());
    }
}

#[test]
fn a_newer_version_is_told_by_name_and_none_is_0() {
    versions(
        2,
        " has format version 2; a newer Strongroom wrote it, update this one",
    );
    versions(0, " has a wrong format version");
}

fn versions(version: u8, words: &str) {
    let newer = |mut bytes: Vec<u8>, at: usize| {
        bytes[at] = version;
        bytes
    };
    // a pack's header is held against its check first: a flipped bit there is no newer version
    let mut header = newer(pack().0[..HEADER_LEN].to_vec(), 8);
    let check = blake3::hash(&header[..HEADER_LEN - 16]);
    header[HEADER_LEN - 16..].copy_from_slice(&check.as_bytes()[..16]);
    let frame = newer(frame_specimens()[0].encode(), 3);
    for error in [
        PackHeader::parse(&header).unwrap_err(),
        Header::parse(&frame).unwrap_err(),
        Superblock::parse(&newer(site().encode().to_vec(), 8)).unwrap_err(),
        Keyset::decode(&newer(keyset().encode().to_vec(), 8)).unwrap_err(),
        Snapshot::parse(newer(snapshot(true), 8)).unwrap_err(),
    ] {
        let told = error.to_string();
        assert!(told.ends_with(words), "{told}");
    }
}

#[test]
fn what_cannot_be_is_refused_before_memory_is_taken() {
    // counts and lengths as large as their fields hold, with nothing behind them
    for (what, parse, _) in contents() {
        for head in [&[255; 4][..], &[1, 255, 255, 255], &[0, 255, 255, 3]] {
            let content = [head, &[0xff; 9], &[1]].concat();
            bounded(what, content.len(), || {
                assert!(parse(&content, &[Digest([1; 32])]).is_err());
            });
        }
    }
    // paths that share all but their end, again and again
    let long = vec![b'x'; 60_000];
    let mut content = 100_000u32.to_le_bytes().to_vec();
    content.extend_from_slice(&[0, 0xe0, 0xd4, 3]);
    content.extend_from_slice(&long);
    let attributes = [3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    content.extend_from_slice(&attributes);
    for _ in 0..2000 {
        content.extend_from_slice(&[0xe0, 0xd4, 3, 1, b'y']);
        content.extend_from_slice(&attributes);
    }
    let (result, peak) = sys::peak_during(|| leaf(&content, &[]));
    assert!(result.is_err());
    assert!(peak < 40 << 20, "{peak}");
}

proptest! {
    #[test]
    fn frames_are_found_between_any_bytes(before in vec(any::<u8>(), 0..300), which in 0usize..7) {
        let frame = frame_specimens()[which].encode();
        let window = [&before[..], &frame, &before].concat();
        let Found::Frame { at, header } = find_frame(&window, 0, DATASTORE) else {
            return Err(TestCaseError::fail("not found"));
        };
        prop_assert_eq!((at, header.frame_len()), (before.len(), frame.len()));
        let cut = &window[..before.len() + frame.len() - 1];
        let lost = find_frame(cut, 0, DATASTORE);
        prop_assert!(matches!(lost, Found::Perhaps { at, need } if at == before.len() && need > frame.len() - 1), "{:?}", lost);
        prop_assert_eq!(find_frame(&before, 0, DATASTORE), Found::Nothing);
    }

    #[test]
    fn key_sets_return_as_text(space in "[ \n\t\r]{0,5}", upper: bool) {
        let keys = keyset();
        let mut text = keys.to_text().replace('\n', &space);
        if upper {
            text.make_ascii_uppercase();
        }
        prop_assert_eq!(Keyset::from_text(&text).unwrap(), keys);
    }
}
