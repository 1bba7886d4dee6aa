//! Bytes to types and back: chunk frames, packs, index, snapshots, labels. No I/O, no clock.
//!
//! docs/format.md is the one description of every byte; items here cite its sections. Whatever is
//! parsed here may come from a hostile or broken medium: every length is checked against a bound
//! before anything is allocated for it, and no input makes a parser panic.

pub mod digest;
pub mod entry;
pub mod extents;
pub mod frame;
pub mod ids;
pub mod keyset;
pub mod leaf;
pub mod lock;
pub mod node;
pub mod pack;
pub mod snapshot;
pub mod superblock;
mod wire;

pub use digest::{DigestKeys, Hashed};
pub use ids::{DatastoreId, GroupId, PackId, SnapshotId};
pub use keyset::Keyset;

/// Keyed BLAKE3 of a chunk (docs/format.md, "Digests"): 32 bytes that nobody can compute without
/// the key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Why bytes were not understood. `what` names the thing that was being read ("pack header").
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The first bytes are not this thing's.
    #[error("this is no Strongroom {what}")]
    Magic {
        /// Thing that was being read.
        what: &'static str,
    },
    /// A format version this program does not know.
    #[error("this {what} has format version {found}; a newer Strongroom wrote it, update this one")]
    Version {
        /// Thing that was being read.
        what: &'static str,
        /// Version number found.
        found: u32,
    },
    /// The unkeyed check does not fit the bytes.
    #[error("this {what} is damaged or belongs to another datastore: its check does not fit")]
    Check {
        /// Thing that was being read.
        what: &'static str,
    },
    /// It ends before it should.
    #[error("this {what} is cut short")]
    Truncated {
        /// Thing that was being read.
        what: &'static str,
    },
    /// A field holds what no correct writer writes.
    #[error("this {what} has a wrong {field}")]
    Field {
        /// Thing that was being read.
        what: &'static str,
        /// Field that was wrong.
        field: &'static str,
    },
    /// Decryption refused: other key, or altered bytes.
    #[error(
        "this {what} does not open with this key: it is another datastore's key, or the bytes were altered"
    )]
    Sealed {
        /// Thing that was being read.
        what: &'static str,
    },
    /// The key set lacks the epoch the thing was written under.
    #[error(
        "the key set has no key of epoch {epoch}, under which this {what} was written; fetch the newest key set"
    )]
    Epoch {
        /// Thing that was being read.
        what: &'static str,
        /// Epoch it names.
        epoch: u32,
    },
    /// The signature does not fit.
    #[error("this {what} is not signed by the key it names")]
    Signature {
        /// Thing that was being read.
        what: &'static str,
    },
}

impl FormatError {
    /// Of a version that is not the one there is. None was ever 0: that is damage.
    fn version(what: &'static str, found: u32) -> Self {
        match found {
            0 => Self::Field {
                what,
                field: "format version",
            },
            found => Self::Version { what, found },
        }
    }
}

/// Result of reading bytes.
pub type Result<T> = std::result::Result<T, FormatError>;
