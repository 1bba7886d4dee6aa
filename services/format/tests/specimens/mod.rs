//! One small thing of each kind, the same in every run: fixed keys, fixed nonces.

use format::entry::{Entry, Extent, Kind as EntryKind, Timestamp, Xattr};
use format::extents::ExtentList;
use format::frame::{Compression, Draft, FrameKeys, Header, Kind, check_at_end};
use format::keyset::Keyset;
use format::leaf::{Content, LeafBuilder};
use format::node::{Child, Node};
use format::pack::{PackHeader, Record, encode_footer};
use format::snapshot::{Clear, Consistency, Details, Problem, Unsigned};
use format::superblock::{Profile, Superblock};
use format::{DatastoreId, Digest, DigestKeys, PackId, SnapshotId};
use ring::signature::{Ed25519KeyPair, KeyPair};
use std::collections::BTreeMap;
use std::sync::Arc;
use zeroize::Zeroizing;

pub(crate) const DATASTORE: DatastoreId = DatastoreId(*b"datastore id 16.");
pub(crate) const PACK: PackId = PackId(*b"pack id 16 bytes");
pub(crate) const TEXT: &[u8] = b"the quick brown fox jumps over the lazy dog\n";

pub(crate) fn keyset() -> Keyset {
    let key = |first: u8| Zeroizing::new(std::array::from_fn(|i| first + i as u8));
    Keyset {
        datastore_id: DATASTORE,
        dedup: key(0x20),
        epochs: BTreeMap::from([(1, key(0x40)), (7, key(0x60))]),
    }
}

pub(crate) fn digest_keys() -> DigestKeys {
    DigestKeys::new(&keyset().dedup)
}

pub(crate) fn frame_keys() -> FrameKeys {
    FrameKeys::new(Arc::new(keyset()))
}

pub(crate) fn site() -> Superblock {
    Superblock {
        datastore: DATASTORE,
        profile: Profile::Site,
        key_check: Some(digest_keys().key_check(&DATASTORE.0)),
    }
}

pub(crate) fn centre() -> Superblock {
    Superblock {
        profile: Profile::Centre,
        key_check: None,
        ..site()
    }
}

/// A frame and what is in it.
#[derive(Clone)]
pub(crate) struct FrameSpecimen {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) compression: Compression,
    pub(crate) content: Vec<u8>,
    pub(crate) refs: Vec<Digest>,
    /// What is encrypted. Kept, since another zstd packs the same content otherwise.
    packed: Vec<u8>,
}

impl FrameSpecimen {
    fn plain(name: &'static str, kind: Kind, (content, refs): (Vec<u8>, Vec<Digest>)) -> Self {
        let packed = content.clone();
        Self {
            name,
            kind,
            compression: Compression::None,
            content,
            refs,
            packed,
        }
    }

    pub(crate) fn digest(&self) -> Digest {
        digest_keys().metadata(self.kind, &self.refs, &self.content)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        self.sealed(7)
    }

    fn sealed(&self, epoch: u32) -> Vec<u8> {
        let mut out = Vec::new();
        let length = self.content.len() as u32;
        let nonce = nonce(self.name);
        let digest = self.digest();
        let mut draft = Draft::begin(
            &mut out, self.kind, digest, length, &self.refs, epoch, nonce,
        );
        draft.payload().extend_from_slice(&self.packed);
        draft.seal(self.compression, &frame_keys()).unwrap();
        out
    }
}

/// A nonce that looks like none, so that nobody takes it for one.
fn nonce(name: &str) -> [u8; 24] {
    let mut nonce = *b"nonce of ...............";
    let name = &name.as_bytes()[..name.len().min(15)];
    nonce[9..9 + name.len()].copy_from_slice(name);
    nonce
}

fn text(name: &'static str) -> FrameSpecimen {
    FrameSpecimen::plain(name, Kind::Data, (TEXT.to_vec(), Vec::new()))
}

pub(crate) fn data_of_epoch_1() -> Vec<u8> {
    text("data").sealed(1)
}

pub(crate) fn frame_specimens() -> Vec<FrameSpecimen> {
    let packed = include_bytes!("../../vectors/1/packed.zst").to_vec();
    let zstd = FrameSpecimen {
        compression: Compression::Zstd,
        content: TEXT.repeat(100),
        packed,
        ..text("data-zstd")
    };
    let mut builder = LeafBuilder::default();
    for (entry, content) in entries() {
        builder.push(&entry, &content).unwrap();
    }
    vec![
        text("data"),
        FrameSpecimen::plain("data-empty", Kind::Data, Default::default()),
        zstd,
        FrameSpecimen::plain("leaf", Kind::Leaf, builder.finish()),
        FrameSpecimen::plain("node", Kind::Node, node().encode()),
        FrameSpecimen::plain("extents", Kind::Extents, extents().encode()),
        FrameSpecimen::plain("extents-lists", Kind::Extents, extent_lists().encode()),
    ]
}

/// A frame as a later release may write it: its content is the difference from its one reference.
pub(crate) fn delta() -> Vec<u8> {
    let refs = vec![text("data").digest()];
    FrameSpecimen::plain("delta", Kind::Delta, (b"a difference".to_vec(), refs)).encode()
}

fn entry(path: &[u8], kind: EntryKind) -> Entry {
    Entry {
        path: path.to_vec(),
        kind,
        mode: 0o644,
        uid: 1000,
        gid: u32::MAX,
        user: b"alice".to_vec(),
        group: b"\xffstaff".to_vec(),
        modified: Timestamp {
            seconds: 1_700_000_000,
            nanos: 123_456_789,
        },
        xattrs: Vec::new(),
        size: 0,
        content: Vec::new(),
    }
}

/// Each kind of entry and of content.
pub(crate) fn entries() -> Vec<(Entry, Content)> {
    let directory = |path| entry(path, EntryKind::Directory);
    let data = text("data");
    let length = data.content.len() as u32;
    let xattr = |name: &[u8], value: &[u8]| Xattr {
        name: name.to_vec(),
        value: value.to_vec(),
    };
    let small = Entry {
        mode: 0o6755,
        xattrs: vec![
            xattr(b"system.posix_acl_access", b"\x02\0\0\0"),
            xattr(b"user.note", b""),
        ],
        size: u64::from(2 * length) + 4096,
        content: vec![
            Extent::Data {
                digest: data.digest(),
                length,
            },
            Extent::Hole { length: 4096 },
            Extent::Data {
                digest: data.digest(),
                length,
            },
        ],
        ..entry(b"d/file", EntryKind::File)
    };
    let large = Entry {
        size: 1 << 40,
        ..entry(b"d/large", EntryKind::File)
    };
    let list = FrameSpecimen::plain("", Kind::Extents, extent_lists().encode()).digest();
    let old = Timestamp {
        seconds: -1,
        nanos: 999_999_999,
    };
    let inline = [
        Entry {
            mode: 0o1777,
            ..directory(b"")
        },
        entry(b"char", EntryKind::CharDevice(1, 3)),
        directory(b"d"),
        Entry {
            modified: old,
            ..entry(b"d/empty", EntryKind::File)
        },
        small,
        entry(b"d/hard", EntryKind::HardLink(b"d/file".to_vec())),
        entry(b"d/sym", EntryKind::Symlink(b"../\xff/nowhere".to_vec())),
        entry(b"d-after-d", EntryKind::BlockDevice(259, 1_048_575)),
        entry(b"fifo\n", EntryKind::Fifo),
        entry(b"socket", EntryKind::Socket),
    ];
    let mut all: Vec<_> = inline.map(|entry| (entry, Content::Inline)).into();
    all.insert(6, (large, Content::List(list)));
    all
}

pub(crate) fn node() -> Node {
    let child = |name: &[u8], first_path: &[u8], entries, bytes| Child {
        digest: digest_keys().data(name),
        first_path: first_path.to_vec(),
        entries,
        bytes,
    };
    Node {
        level: 1,
        children: vec![
            child(b"first", b"", 300, 5_000_000_000),
            child(b"second", b"usr/share/doc", 1, 0),
            child(b"third", b"usr/share/\xff", 299, 1),
        ],
    }
}

pub(crate) fn extents() -> ExtentList {
    let data = |name: &[u8], length| Extent::Data {
        digest: digest_keys().data(name),
        length,
    };
    ExtentList::Extents(vec![
        data(b"a", 65_536),
        Extent::Hole {
            length: 1_000_000_000_000,
        },
        data(b"b", 4 << 20),
        data(b"a", 65_536),
        data(b"c", 1),
    ])
}

pub(crate) fn extent_lists() -> ExtentList {
    let digest = |name: &[u8]| digest_keys().metadata(Kind::Extents, &[], name);
    ExtentList::Lists {
        level: 1,
        children: vec![
            (digest(b"one"), 1 << 39),
            (digest(b"two"), 1),
            (digest(b"one"), (1 << 39) - 1),
        ],
    }
}

pub(crate) fn pack() -> (Vec<u8>, Vec<Record>) {
    let header = PackHeader {
        datastore: DATASTORE,
        pack: PACK,
    };
    let mut bytes = header.encode().to_vec();
    let mut records = Vec::new();
    for frame in frame_specimens().iter().take(3) {
        let frame = frame.encode();
        records.push(Record::of(
            &Header::parse(&frame).unwrap(),
            bytes.len() as u32,
        ));
        bytes.extend_from_slice(&frame);
    }
    bytes.extend_from_slice(&encode_footer(&header, &records));
    (bytes, records)
}

fn signer() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(b"seed of a signing key, 32 bytes.").unwrap()
}

pub(crate) fn details() -> Details {
    Details {
        group: "server.example".into(),
        host: "server".into(),
        paths: vec![b"/".to_vec(), b"/srv/\xff".to_vec()],
        consistency: Consistency::Crash,
        source: "Debian GNU/Linux 13 (trixie)".into(),
        problems: vec![Problem {
            path: b"etc/shadow".to_vec(),
            text: "cannot be opened".into(),
        }],
        problem_count: 2,
    }
}

pub(crate) fn clear(signed: bool) -> Clear {
    let root = frame_specimens()
        .into_iter()
        .find(|s| s.name == "node")
        .unwrap();
    let public = signer().public_key().as_ref().try_into().unwrap();
    Clear {
        datastore: DATASTORE,
        id: SnapshotId(*b"snapshot id 16 b"),
        group: digest_keys().group(b"server.example"),
        time: Timestamp {
            seconds: 1_700_000_000,
            nanos: 5,
        },
        root: root.digest(),
        root_check: check_at_end(&root.encode()).unwrap(),
        logical: 5_000_000_001,
        entries: 600,
        unique: 1_000_000,
        stored: 400_000,
        lock_until: if signed { 1_900_000_000 } else { 0 },
        parent: signed.then_some(SnapshotId(*b"snapshot before.")),
        signer: signed.then_some(public),
    }
}

pub(crate) fn snapshot(signed: bool) -> Vec<u8> {
    let unsigned =
        Unsigned::new(&clear(signed), &details(), &frame_keys(), nonce("snapshot")).unwrap();
    let message = [&b"strongroom manifest v1\0"[..], &unsigned.message()].concat();
    let signature = signer().sign(&message).as_ref().try_into().unwrap();
    unsigned.finish(signed.then_some(signature))
}
