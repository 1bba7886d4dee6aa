//! The parsers as fuzz targets (docs/HACKING.md); a plain test run gives each a second of random
//! input.

use super::*;
use bolero::{ValueGenerator, produce};

/// How much of a whole one it begins with (all: `None`), bytes changed in that, what follows it,
/// and how many references are taken from its content.
type Input = (Option<u8>, Vec<(u16, u8)>, Vec<u8>, u8);

fn input() -> impl ValueGenerator<Output = Input> {
    (
        produce(),
        produce::<Vec<(u16, u8)>>().with().len(0..6usize),
        produce::<Vec<u8>>().with().len(0..600usize),
        produce::<u8>().with().bounds(0..3),
    )
}

fn bytes((keep, changes, more, _): &Input, whole: &[u8]) -> Vec<u8> {
    let keep = keep.map_or(whole.len(), |keep| whole.len().min(keep.into()));
    let mut bytes = whole[..keep].to_vec();
    for (at, byte) in changes.iter().filter(|_| keep > 0) {
        bytes[usize::from(*at) % keep] = *byte;
    }
    bytes.extend_from_slice(more);
    bytes
}

/// As it came nobody makes another than the whole one; behind a right check its fields are read.
fn checks((what, parse, whole): &(&'static str, Parser, Vec<u8>), input: &Input) {
    let mut bytes = bytes(input, whole);
    let taken = bounded(what, bytes.len(), || parse(&bytes));
    assert!(!taken || bytes.starts_with(whole), "{what}");
    let header = PackHeader {
        datastore: DATASTORE,
        pack: PACK,
    };
    let context: Vec<u8> = match *what {
        "pack header" | "datastore" | "key set" | "snapshot" => Vec::new(),
        "pack footer" => header.encode().to_vec(),
        _ => DATASTORE.0.to_vec(),
    };
    bytes.truncate(bytes.len().saturating_sub(16));
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes).update(&context);
    bytes.extend_from_slice(&hasher.finalize().as_bytes()[..16]);
    bounded(what, bytes.len(), || parse(&bytes));
}

fn parses((what, parse, whole): &(&'static str, ContentParser, FrameSpecimen), input: &Input) {
    let bytes = bytes(input, &whole.content);
    let refs = &whole.refs[..whole.refs.len().saturating_sub(input.3.into())];
    let _ = bounded(what, bytes.len(), || parse(&bytes, refs));
}

macro_rules! targets {
    ($($name:ident: $check:ident of $what:literal in $all:ident;)*) => {$(
        #[test]
        fn $name() {
            let target = $all().into_iter().find(|(what, ..)| *what == $what).unwrap();
            bolero::check!().with_generator(input()).for_each(|input| $check(&target, input));
        }
    )*};
}

targets! {
    pack_header: checks of "pack header" in checked;
    pack_footer: checks of "pack footer" in checked;
    superblock_of_a_datastore: checks of "datastore" in checked;
    keyset_of_bytes: checks of "key set" in checked;
    snapshot_of_bytes: checks of "snapshot" in checked;
    frame_of_data: checks of "data-zstd" in checked;
    frame_of_references: checks of "node" in checked;
    leaf_in_a_frame: parses of "leaf" in contents;
    node_in_a_frame: parses of "node" in contents;
    extents_in_a_frame: parses of "extents" in contents;
    lists_of_extents_in_a_frame: parses of "extents-lists" in contents;
}

#[test]
fn keyset_of_text() {
    let whole = keyset().to_text();
    bolero::check!().with_generator(input()).for_each(|input| {
        let bytes = bytes(input, whole.as_bytes());
        bounded("key set", bytes.len(), || key_text(&bytes));
    });
}

/// As a pack without its footer is looked through.
#[test]
fn frames_between_damage() {
    let (whole, _) = pack();
    bolero::check!().with_generator(input()).for_each(|input| {
        let bytes = bytes(input, &whole);
        let mut at = 0;
        while at < bytes.len() {
            match find_frame(&bytes[at..], 0, DATASTORE) {
                Found::Frame { at: place, header } => at += place + header.frame_len(),
                Found::Perhaps { at: place, need } => {
                    assert!(need > bytes.len() - at - place);
                    at += place + 1;
                }
                Found::Nothing => break,
            }
            assert!(at <= bytes.len());
        }
    });
}
