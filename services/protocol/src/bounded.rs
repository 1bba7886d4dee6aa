//! Bounds on what a peer may put into a message, checked while it is read: a collection with too
//! many members fails at the member that is one too many, before more memory is taken.

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// At most `N` members.
pub(crate) fn list<'de, const N: usize, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct Members<T, const N: usize>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for Members<T, N> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {N} members")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let mut members = Vec::new();
            while let Some(member) = seq.next_element()? {
                if members.len() == N {
                    return Err(A::Error::invalid_length(N + 1, &self));
                }
                members.push(member);
            }
            Ok(members)
        }
    }
    deserializer.deserialize_seq(Members::<T, N>(PhantomData))
}

/// At most `N` bytes of UTF-8.
pub(crate) fn text<'de, const N: usize, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    let text = <&str>::deserialize(d)?;
    if text.len() > N {
        return Err(D::Error::invalid_length(text.len(), &"a shorter text"));
    }
    Ok(text.to_owned())
}

/// Bytes as one run (not as a list of numbers) of at most `N`.
pub(crate) mod bytes {
    use super::{Deserializer, Error};
    use serde::{Deserialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, const N: usize, D>(d: D) -> Result<Vec<u8>, D::Error>
    where
        D: Deserializer<'de>,
    {
        let bytes = <&[u8]>::deserialize(d)?;
        if bytes.len() > N {
            return Err(D::Error::invalid_length(bytes.len(), &"fewer bytes"));
        }
        Ok(bytes.to_vec())
    }
}

/// Text of at most `N` bytes, longer ones cut at a character: for what we send ourselves.
pub(crate) fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        let end = (0..=most)
            .rev()
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or(0);
        text.truncate(end);
    }
    text
}
