//! The parsers as fuzz targets (docs/HACKING.md); a plain test run gives each some seconds of random
//! input.

use super::*;
use bolero::{ValueGenerator, produce};
use format::frame::{Compression, Draft, Kind};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use std::time::Duration;

/// What a plain test run gives each; with those of the engine they come to a minute.
const TIME: Duration = Duration::from_secs(3);

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
            bolero::check!()
                .with_test_time(TIME)
                .with_generator(input())
                .for_each(|input| $check(&target, input));
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
    let target = bolero::check!().with_test_time(TIME);
    target.with_generator(input()).for_each(|input| {
        let bytes = bytes(input, whole.as_bytes());
        bounded("key set", bytes.len(), || key_text(&bytes));
    });
}

/// As a pack without its footer is looked through.
#[test]
fn frames_between_damage() {
    let (whole, _) = pack();
    let target = bolero::check!().with_test_time(TIME);
    target.with_generator(input()).for_each(|input| {
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

/// What was packed, as who has the keys may have packed it.
#[test]
fn packed_content_of_a_frame() {
    let packed = include_bytes!("../../vectors/1/packed.zst");
    let target = bolero::check!().with_test_time(TIME);
    let input = (input(), produce::<Option<u32>>());
    target.with_generator(input).for_each(|(input, length)| {
        let bytes = bytes(input, packed);
        let length = length.map_or(TEXT.len() as u32 * 100, |length| length >> 8);
        let mut raw = Vec::new();
        let digest = Digest([1; 32]);
        let mut draft = Draft::begin(&mut raw, Kind::Data, digest, length, &[], 7, [2; 24]);
        draft.payload().extend_from_slice(&bytes);
        if draft.seal(Compression::Zstd, &frame_keys()).is_ok() {
            bounded("packed content", raw.len(), || frame(&raw));
        }
    });
}

/// The cipher of a snapshot's encrypted part, by docs/format.md.
fn cipher(epoch: u32, nonce: &[u8]) -> (LessSafeKey, Nonce) {
    let mut hasher = blake3::Hasher::new_keyed(&keyset().epochs[&epoch]);
    hasher.update(b"strongroom 1 frame key").update(nonce);
    let mut out = [0; 44];
    hasher.finalize_xof().fill(&mut out);
    let key = UnboundKey::new(&AES_256_GCM, &out[..32]).unwrap();
    let nonce = Nonce::try_assume_unique_for_key(&out[32..]).unwrap();
    (LessSafeKey::new(key), nonce)
}

/// The encrypted part of a snapshot, as who has the keys may have filled it.
#[test]
fn details_in_a_snapshot() {
    let (whole, clear_len) = (snapshot(false), 240);
    let clear = whole[..clear_len].to_vec();
    let mut part = whole[clear_len..whole.len() - 80].to_vec();
    let (key, nonce) = cipher(7, &clear[80..104]);
    let part = key
        .open_in_place(nonce, Aad::from(&clear), &mut part)
        .unwrap();
    let target = bolero::check!().with_test_time(TIME);
    target.with_generator(input()).for_each(|input| {
        let mut bytes = bytes(input, part);
        let mut file = clear.clone();
        file[12..16].copy_from_slice(&(bytes.len() as u32 + 16).to_le_bytes());
        let (key, nonce) = cipher(7, &clear[80..104]);
        key.seal_in_place_append_tag(nonce, Aad::from(&file), &mut bytes)
            .unwrap();
        file.extend_from_slice(&bytes);
        file.extend_from_slice(&[0; 64]);
        let check = blake3::hash(&file);
        file.extend_from_slice(&check.as_bytes()[..16]);
        let read = Snapshot::parse(file.clone()).unwrap();
        let details = bounded("details", file.len(), || read.details(&frame_keys()));
        // it is reached whatever it holds
        assert!(!matches!(details, Err(FormatError::Sealed { .. })));
    });
}
