//! What the fuzz targets of this crate share (docs/HACKING.md, "Fuzz targets").

use crate::frame::{PREFIX, decode, encode};
use serde::{Serialize, de::DeserializeOwned};

/// A message whose first byte is one of `kinds`, as few bytes at random would be.
pub(crate) fn message(kind: u8, kinds: u8, bytes: &[u8]) -> Vec<u8> {
    [&[kind % kinds], bytes].concat()
}

/// Reads a message; one that is understood reads the same once more after it is written.
pub(crate) fn again<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Option<T> {
    let message: T = decode(bytes).ok()?;
    let written = encode(&message).expect("what fitted once");
    let same: T = decode(&written[PREFIX..]).expect("what we wrote");
    assert_eq!(encode(&same).expect("what fitted once"), written);
    Some(message)
}
