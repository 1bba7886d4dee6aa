//! A whole datastore as version 1 wrote it, with its key file: every later release opens, verifies and
//! reads it. It is in services/format/vectors/1/store, without its index, which is no part of the format.

use engine::storage::directory::Directory;
use engine::{Options, Piece, Progress, Signer, SnapshotMeta, Store};
use format::Keyset;
use format::entry::{Entry, Extent, Kind, Timestamp, Xattr};
use format::snapshot::Details;
use format::superblock::Profile;
use ring::signature::{Ed25519KeyPair, KeyPair};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

fn vector() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../format/vectors/1/store")
}

fn entry(path: &[u8], kind: Kind) -> Entry {
    Entry {
        path: path.to_vec(),
        kind,
        mode: 0o640,
        uid: 1000,
        gid: 100,
        user: b"user".to_vec(),
        group: b"users".to_vec(),
        modified: Timestamp {
            seconds: 1_700_000_000,
            nanos: 123_456_789,
        },
        xattrs: Vec::new(),
        size: 0,
        content: Vec::new(),
    }
}

/// What the datastore holds: entries, and for files what they are made of; nothing is a hole.
fn tree() -> Vec<(Entry, Vec<Piece>)> {
    let data = |text: &str| Piece::Data(text.as_bytes().to_vec());
    let file = |path: &[u8], pieces: Vec<Piece>| (entry(path, Kind::File), pieces);
    let bare = |path: &[u8], kind: Kind| (entry(path, kind), Vec::new());
    let mut special = entry(b"special", Kind::Directory);
    special.mode = 0o3775;
    special.modified = Timestamp {
        seconds: -1,
        nanos: 999_999_999,
    };
    special.xattrs = vec![
        Xattr {
            name: b"user.comment".to_vec(),
            value: b"two".to_vec(),
        },
        Xattr {
            name: b"user.empty".to_vec(),
            value: Vec::new(),
        },
    ];
    let many = (0..2500).map(|i| file(format!("many/{i:04}").as_bytes(), Vec::new()));
    let before = vec![
        bare(b"", Kind::Directory),
        file(b"empty", Vec::new()),
        file(
            b"large",
            (0..1500).map(|i| data(["one ", "two "][i % 2])).collect(),
        ),
        bare(b"many", Kind::Directory),
    ];
    let after = vec![
        file(
            b"sparse",
            vec![data("start"), Piece::Hole(1 << 40), data("end")],
        ),
        (special, Vec::new()),
        bare(b"special/block", Kind::BlockDevice(7, 1)),
        bare(b"special/char", Kind::CharDevice(1, 3)),
        bare(b"special/hard", Kind::HardLink(b"empty".to_vec())),
        bare(b"special/pipe", Kind::Fifo),
        bare(b"special/socket", Kind::Socket),
        bare(b"special/symbolic", Kind::Symlink(b"../large".to_vec())),
        file(
            b"special-not",
            vec![data(&"text that compresses. ".repeat(50))],
        ),
        file(b"\xff odd\n", vec![data("a name that is no text\n")]),
    ];
    before.into_iter().chain(many).chain(after).collect()
}

fn details() -> Details {
    Details {
        group: "group".into(),
        host: "host".into(),
        paths: vec![b"/srv".to_vec()],
        source: "Linux 6.1".into(),
        ..Details::default()
    }
}

struct Identity(Ed25519KeyPair);

impl Identity {
    fn new() -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap())
    }
}

impl Signer for Identity {
    fn public(&self) -> [u8; 32] {
        self.0.public_key().as_ref().try_into().unwrap()
    }

    fn sign(&self, hash: &[u8; 32]) -> Result<[u8; 64], String> {
        let message = [&b"strongroom manifest v1\0"[..], hash].concat();
        Ok(self.0.sign(&message).as_ref().try_into().unwrap())
    }
}

fn back_up(store: &Store, second: bool) {
    let meta = SnapshotMeta {
        time: Timestamp {
            seconds: 1_700_000_000 + i64::from(second),
            nanos: 1,
        },
        parent: None,
        details: details(),
    };
    let mut writer = store.begin(meta, Arc::new(Progress::default())).unwrap();
    for (mut entry, pieces) in tree() {
        for piece in pieces {
            entry.content.push(match piece {
                Piece::Hole(length) => Extent::Hole { length },
                Piece::Data(bytes) => Extent::Data {
                    digest: writer.put_chunk(&bytes).unwrap(),
                    length: bytes.len() as u32,
                },
            });
        }
        entry.size = entry.content.iter().map(format::extents::length_of).sum();
        writer.add_entry(&entry).unwrap();
    }
    if second {
        writer.problem(b"/srv/closed", "cannot be opened");
    }
    let identity = Identity::new();
    let signer: Option<&dyn Signer> = if second { Some(&identity) } else { None };
    writer.commit(signer).unwrap();
}

/// Writes the vector from what the code makes now, for a person to look at and commit.
fn make() {
    let temp = TempDir::new().unwrap();
    let keys = Store::new_keyset().unwrap();
    let superblock = Store::superblock_for(&keys, Profile::Site);
    let directory = Arc::new(Directory::open(temp.path()).unwrap());
    let store = Store::init(directory, superblock, Options::default()).unwrap();
    store.unlock(&keys).unwrap();
    back_up(&store, false);
    back_up(&store, true);
    drop(store);
    copy(temp.path(), &vector());
    fs::write(vector().join("key"), keys.to_text().as_bytes()).unwrap();
}

/// Copies what is of the format.
fn copy(from: &Path, to: &Path) {
    for dir in ["packs", "snapshots"] {
        fs::create_dir_all(to.join(dir)).unwrap();
        for file in fs::read_dir(from.join(dir)).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), to.join(dir).join(file.file_name())).unwrap();
        }
    }
    fs::copy(from.join("datastore"), to.join("datastore")).unwrap();
}

#[test]
fn a_datastore_of_version_1_is_opened_verified_and_read() {
    if !vector().exists() {
        make();
        panic!("{} was missing; it is written now", vector().display());
    }
    let temp = TempDir::new().unwrap();
    copy(&vector(), temp.path());
    let directory = Arc::new(Directory::open(temp.path()).unwrap());
    let store = Store::open(directory, Options::default()).unwrap();
    let keyless = store.verify(&Progress::default()).unwrap();
    let text = fs::read_to_string(vector().join("key")).unwrap();
    store.unlock(&Keyset::from_text(&text).unwrap()).unwrap();
    let report = store.verify(&Progress::default()).unwrap();
    assert!(keyless.is_clean() && report.is_clean(), "{report:?}");
    // six chunks of data, lists of extents of two levels, three leaves below a node
    assert_eq!(report.frames, 13);

    let (snapshots, unreadable) = store.snapshots().unwrap();
    assert!(unreadable.is_empty());
    let [second, first] = &snapshots[..] else {
        panic!("{snapshots:?}");
    };
    assert_eq!(first.details, Some(details()));
    assert_eq!(second.details.as_ref().unwrap().problem_count, 1);
    assert_eq!(second.clear.signer, Some(Identity::new().public()));
    assert_eq!(
        (first.clear.time.seconds, first.clear.entries),
        (1_700_000_000, 2514)
    );
    for snapshot in snapshots {
        let mut read = Vec::new();
        for item in store.entries(snapshot.clear.id, b"").unwrap() {
            let (mut entry, content) = item.unwrap();
            let pieces = store.pieces(&entry, &content).unwrap();
            let pieces: engine::Result<Vec<Piece>> = pieces.collect();
            (entry.content, entry.size) = (Vec::new(), 0);
            read.push((entry, pieces.unwrap()));
        }
        assert_eq!(read, tree());
    }
    // and the next backup goes on from it
    back_up(&store, false);
    assert_eq!(store.stats().unwrap().snapshots, 3);
}
