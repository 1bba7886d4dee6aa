//! Digests: names of content that nobody can compute without the dedup key (docs/format.md,
//! "Digests").

use crate::frame::Kind;
use crate::{Digest, GroupId};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A digest with the kind it was computed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hashed {
    /// Kind of frame.
    pub kind: Kind,
    /// Its name.
    pub digest: Digest,
}

/// The keys under which digests are computed: one per kind of frame, so that content of one kind
/// never has the name of another, and data chunks are hashed in one aligned stretch.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct DigestKeys {
    data: [u8; 32],
    leaf: [u8; 32],
    node: [u8; 32],
    extents: [u8; 32],
    group: [u8; 32],
    boundary: [u8; 32],
    probe: [u8; 32],
}

impl DigestKeys {
    /// Derives all keys from a dedup key (or from an agent's own key for its own digests).
    pub fn new(dedup_key: &[u8; 32]) -> Self {
        let derive = |use_: &[u8]| *blake3::keyed_hash(dedup_key, use_).as_bytes();
        Self {
            data: derive(b"strongroom 1 digest of data"),
            leaf: derive(b"strongroom 1 digest of entry leaf"),
            node: derive(b"strongroom 1 digest of node"),
            extents: derive(b"strongroom 1 digest of extent list"),
            group: derive(b"strongroom 1 group id"),
            boundary: derive(b"strongroom 1 boundaries"),
            probe: derive(b"strongroom 1 key check"),
        }
    }

    /// Digest of a data chunk.
    pub fn data(&self, content: &[u8]) -> Digest {
        Digest(*blake3::keyed_hash(&self.data, content).as_bytes())
    }

    /// Digest of a metadata frame: it commits to the references that stand in clear.
    pub fn metadata(&self, kind: Kind, refs: &[Digest], content: &[u8]) -> Digest {
        let key = match kind {
            Kind::Leaf => &self.leaf,
            Kind::Node => &self.node,
            Kind::Extents => &self.extents,
            Kind::Data | Kind::Delta => &self.data,
        };
        if matches!(kind, Kind::Data | Kind::Delta) {
            return self.data(content);
        }
        let mut hasher = blake3::Hasher::new_keyed(key);
        hasher.update(&(refs.len() as u32).to_le_bytes());
        for digest in refs {
            hasher.update(&digest.0);
        }
        hasher.update(content);
        Digest(*hasher.finalize().as_bytes())
    }

    /// Identifier of the group of this name.
    pub fn group(&self, name: &[u8]) -> GroupId {
        GroupId(first16(blake3::keyed_hash(&self.group, name)))
    }

    /// Number deciding whether an entry leaf may end after the entry of this path.
    pub fn path_boundary(&self, path: &[u8]) -> u64 {
        first8(blake3::keyed_hash(&self.boundary, path))
    }

    /// Seed of the chunk cutter, so that the lengths of chunks in clear do not tell which known
    /// file they are of.
    pub fn cut_seed(&self) -> u64 {
        first8(blake3::keyed_hash(
            &self.boundary,
            b"\0seed of the chunk cutter",
        ))
    }

    /// Key for what is kept outside a datastore about what is in it.
    pub fn memory_key(&self) -> [u8; 32] {
        *blake3::keyed_hash(&self.boundary, b"\0memory of files").as_bytes()
    }

    /// What a datastore keeps in clear to recognise its dedup key.
    pub fn key_check(&self, datastore: &[u8; 16]) -> [u8; 16] {
        first16(blake3::keyed_hash(&self.probe, datastore))
    }
}

fn first16(hash: blake3::Hash) -> [u8; 16] {
    std::array::from_fn(|i| hash.as_bytes()[i])
}

fn first8(hash: blake3::Hash) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| hash.as_bytes()[i]))
}
