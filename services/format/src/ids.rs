//! Names of things that are not content: 16 random bytes each, shown as 32 hexadecimal digits.

use data_encoding::HEXLOWER_PERMISSIVE;
use std::fmt;
use std::str::FromStr;

/// A text is not an identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is no {what}: it must be 32 hexadecimal digits")]
pub struct IdError {
    text: String,
    what: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                HEXLOWER_PERMISSIVE
                    .decode(text.as_bytes())
                    .ok()
                    .and_then(|bytes| bytes.try_into().ok())
                    .map(Self)
                    .ok_or_else(|| IdError { text: text.to_owned(), what: $what })
            }
        }
    };
}

id!(
    /// A datastore. Frames, packs and snapshots are bound to it.
    DatastoreId,
    "datastore id"
);
id!(
    /// A snapshot.
    SnapshotId,
    "snapshot id"
);
id!(
    /// A group of snapshots: a keyed hash of the group's name, so that it tells nothing.
    GroupId,
    "group id"
);
id!(
    /// A pack file.
    PackId,
    "pack id"
);
