//! Bytes to types and back: chunk frames, packs, index, snapshots, labels. No I/O, no clock.
//!
//! docs/format.md is the one description of every byte; items here cite its sections.

pub mod entry;

/// Keyed BLAKE3 of a chunk (docs/format.md, "Digests"): 32 bytes that nobody can compute without
/// the key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}
