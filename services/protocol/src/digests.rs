//! Lists of digests and the answers to them, one bit a digest.

use format::Digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Most digests in one message.
pub const MAX: usize = 4096;

/// At most [`MAX`] digests; on the wire one run of bytes, 32 each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digests(pub Vec<Digest>);

impl Serialize for Digests {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::with_capacity(self.0.len() * 32);
        self.0.iter().for_each(|d| bytes.extend_from_slice(&d.0));
        s.serialize_bytes(&bytes)
    }
}

impl<'de> Deserialize<'de> for Digests {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let bytes = <&[u8]>::deserialize(d)?;
        match bytes.as_chunks::<32>() {
            (digests, []) if digests.len() <= MAX => {
                Ok(Self(digests.iter().map(|d| Digest(*d)).collect()))
            }
            _ => Err(D::Error::invalid_length(bytes.len(), &"a list of digests")),
        }
    }
}

/// One bit for each digest asked about, the first in the lowest bit of the first byte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bitmap(Vec<u8>);

impl Bitmap {
    /// The bits in order.
    pub fn new(bits: impl IntoIterator<Item = bool>) -> Self {
        let mut bytes = Vec::new();
        for (at, bit) in bits.into_iter().enumerate() {
            if at % 8 == 0 {
                bytes.push(0);
            }
            if bit && let Some(last) = bytes.last_mut() {
                *last |= 1 << (at % 8);
            }
        }
        Self(bytes)
    }

    /// The answers to `count` questions, `None` when it answers another number of them.
    pub fn answers(&self, count: usize) -> Option<impl Iterator<Item = bool> + '_> {
        (self.0.len() == count.div_ceil(8))
            .then(|| (0..count).map(|at| self.0[at / 8] >> (at % 8) & 1 == 1))
    }
}

impl Serialize for Bitmap {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bitmap {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let bytes = <&[u8]>::deserialize(d)?;
        if bytes.len() > MAX / 8 {
            return Err(D::Error::invalid_length(bytes.len(), &"a bitmap"));
        }
        Ok(Self(bytes.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{decode, encode};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bits_arrive_in_order(bits in proptest::collection::vec(any::<bool>(), 0..200)) {
            let bitmap: Bitmap = decode(&encode(&Bitmap::new(bits.clone())).unwrap()[4..]).unwrap();
            prop_assert_eq!(bitmap.answers(bits.len()).unwrap().collect::<Vec<_>>(), bits.clone());
            prop_assert!(bitmap.answers(bits.len() + 8).is_none());
        }
    }

    #[test]
    fn one_digest_too_many_is_refused() {
        let list = |count| Digests(vec![Digest([7; 32]); count]);
        let back: Digests = decode(&encode(&list(MAX)).unwrap()[4..]).unwrap();
        assert_eq!(back, list(MAX));
        assert!(decode::<Digests>(&encode(&list(MAX + 1)).unwrap()[4..]).is_err());
        assert!(decode::<Digests>(b"\x1f0123456789012345678901234567890").is_err());
    }
}
