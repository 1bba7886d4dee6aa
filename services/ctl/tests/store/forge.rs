//! Frames and snapshots with right checks, digests and keys, and whatever in them: what who holds
//! the keys can make of a datastore.

use super::*;
use format::frame::{Compression, Draft, FrameKeys, Kind, check_at_end};
use format::snapshot::{Clear, Details, Unsigned};
use format::{Digest, DigestKeys, Keyset, SnapshotId};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A datastore and its keys in the wrong hands.
pub(crate) struct Forge {
    store: Store,
    digests: DigestKeys,
    frames: FrameKeys,
}

/// Frames and snapshots made in this process.
static MADE: AtomicU64 = AtomicU64::new(1);

fn number() -> u64 {
    MADE.fetch_add(1, Relaxed)
}

impl Forge {
    pub(crate) fn of(bench: &Bench) -> Self {
        let text = fs::read_to_string(bench.at("k")).unwrap();
        let keys = Keyset::from_text(&text).unwrap();
        let directory = Directory::open(&bench.at("s")).unwrap();
        let store = Store::open(Arc::new(directory), Options::default()).unwrap();
        Self {
            store,
            digests: DigestKeys::new(&keys.dedup),
            frames: FrameKeys::new(Arc::new(keys)),
        }
    }

    fn sealed(&mut self, kind: Kind, content: &[u8], refs: &[Digest]) -> (Digest, Vec<u8>) {
        let mut nonce = [7; 24];
        nonce[..8].copy_from_slice(&number().to_le_bytes());
        let digest = self.digests.metadata(kind, refs, content);
        let mut raw = Vec::new();
        let length = content.len() as u32;
        let mut draft = Draft::begin(&mut raw, kind, digest, length, refs, 1, nonce);
        let packed = zstd::bulk::compress(content, 1).unwrap();
        let compression = if packed.len() < content.len() {
            draft.payload().extend_from_slice(&packed);
            Compression::Zstd
        } else {
            draft.payload().extend_from_slice(content);
            Compression::None
        };
        draft.seal(compression, &self.frames).unwrap();
        (digest, raw)
    }

    /// Stores a frame, as an evil copy of this datastore sends it.
    pub(crate) fn frame(&mut self, kind: Kind, content: &[u8], refs: &[Digest]) -> Digest {
        let (digest, raw) = self.sealed(kind, content, refs);
        self.store.put_frame(&raw).unwrap();
        digest
    }

    pub(crate) fn data(&mut self, content: &[u8]) -> Digest {
        self.frame(Kind::Data, content, &[])
    }

    /// A leaf of these entries and references.
    pub(crate) fn leaf(&mut self, entries: &[Forged], refs: &[Digest]) -> Digest {
        let mut content = (entries.len() as u32).to_le_bytes().to_vec();
        let mut before: &[u8] = &[];
        for entry in entries {
            let same = before.iter().zip(&entry.path).take_while(|(a, b)| a == b);
            entry.encode(same.count(), &mut content);
            before = &entry.path;
        }
        self.frame(Kind::Leaf, &content, refs)
    }

    /// A node that says of each child that its entries begin with this path.
    pub(crate) fn node(&mut self, level: u8, children: &[(&str, Digest)]) -> Digest {
        let mut content = vec![level];
        for (path, _) in children {
            content.push(0);
            put_bytes(&mut content, path.as_bytes());
            content.extend([1, 1]);
        }
        let refs: Vec<Digest> = children.iter().map(|(_, digest)| *digest).collect();
        self.frame(Kind::Node, &content, &refs)
    }

    /// Makes a snapshot of this tree; `boast` changes what it says of itself.
    pub(crate) fn snapshot(
        &mut self,
        root: Digest,
        boast: impl FnOnce(&mut Clear, &mut Details),
    ) -> String {
        let mut id = [9; 16];
        id[..8].copy_from_slice(&number().to_be_bytes());
        let frame = self.store.read_frame(&root);
        let mut clear = Clear {
            datastore: self.store.datastore(),
            id: SnapshotId(id),
            group: self.digests.group(b"g"),
            time: Default::default(),
            root,
            root_check: frame.map_or([0; 16], |raw| check_at_end(&raw).unwrap()),
            logical: 1,
            entries: 1,
            unique: 1,
            stored: 1,
            lock_until: 0,
            parent: None,
            signer: None,
        };
        let mut details = Details {
            group: "g".into(),
            ..Details::default()
        };
        boast(&mut clear, &mut details);
        let unsigned = Unsigned::new(&clear, &details, &self.frames, [3; 24]).unwrap();
        self.store.flush().unwrap();
        self.store.put_snapshot(unsigned.finish(None)).unwrap();
        clear.id.to_string()
    }
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Numbers as varints.
pub(crate) fn numbers(numbers: &[u64]) -> Vec<u8> {
    let mut out = Vec::new();
    numbers.iter().for_each(|n| put_varint(&mut out, *n));
    out
}

/// An entry's bytes in a leaf, checked by nobody.
#[derive(Clone)]
pub(crate) struct Forged {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: u8,
    /// What a link points to.
    pub(crate) target: Option<Vec<u8>>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The stream of content.
    pub(crate) stream: Option<Vec<u8>>,
}

impl Forged {
    pub(crate) fn new(path: impl AsRef<[u8]>, kind: u8) -> Self {
        Self {
            path: path.as_ref().to_vec(),
            kind,
            target: None,
            xattrs: Vec::new(),
            stream: None,
        }
    }

    pub(crate) fn link(path: impl AsRef<[u8]>, kind: u8, target: impl AsRef<[u8]>) -> Self {
        Self {
            target: Some(target.as_ref().to_vec()),
            ..Self::new(path, kind)
        }
    }

    /// A file whose stream is these numbers.
    pub(crate) fn file(path: impl AsRef<[u8]>, stream: &[u64]) -> Self {
        Self {
            stream: Some(numbers(stream)),
            ..Self::new(path, 0)
        }
    }

    /// Appends it; so many bytes of its path are those of the entry before.
    fn encode(&self, shared: usize, out: &mut Vec<u8>) {
        put_varint(out, shared as u64);
        put_bytes(out, &self.path[shared..]);
        out.push(self.kind);
        let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
        // mode, owner, group, no names, time
        out.extend(numbers(&[
            0o7777,
            uid.as_raw().into(),
            gid.as_raw().into(),
            0,
            0,
            0,
            0,
        ]));
        if let Some(target) = &self.target {
            put_bytes(out, target);
        }
        put_varint(out, self.xattrs.len() as u64);
        for (name, value) in &self.xattrs {
            put_bytes(out, name);
            put_bytes(out, value);
        }
        match &self.stream {
            None => put_varint(out, 0),
            Some(stream) => {
                out.extend(numbers(&[1, 0]));
                put_bytes(out, stream);
            }
        }
    }
}
