//! How a session begins: it says what it is for, and, where it reaches data, the peer proves by a
//! signature who it is (docs/protocol.md, "Sessions").

use crate::bounded::{cut, text};
use crate::frame::{self, WireError};
use serde::{Deserialize, Serialize};

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// An agent brings a backup: [`crate::intake`].
    Intake,
    /// An agent takes a snapshot back: [`crate::restore`].
    Restore,
    /// An agent lists the snapshots it may restore: [`crate::restore`].
    List,
    /// An agent waits for orders: [`crate::control`]. Not proved by a challenge: it reaches no data.
    Control,
    /// A site copies to its centre: [`crate::replication`].
    Replicate,
}

impl Kind {
    /// Its byte in what a proof signs.
    pub fn number(self) -> u8 {
        match self {
            Kind::Intake => 1,
            Kind::Restore => 2,
            Kind::List => 3,
            Kind::Control => 4,
            Kind::Replicate => 5,
        }
    }
}

/// The first message of a session, from the end that connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// What it is for.
    pub kind: Kind,
    /// Version of the program that connects, for the other end's log.
    #[serde(deserialize_with = "text::<64, _>")]
    pub version: String,
}

impl Open {
    /// One of this kind and this program's version.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            version: cut(env!("CARGO_PKG_VERSION").to_owned(), 64),
        }
    }
}

/// The answer where proof is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// Random, never used before.
    pub nonce: [u8; 32],
}

/// The answer to a challenge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Who: the agent's id or the site's.
    #[serde(deserialize_with = "text::<64, _>")]
    pub id: String,
    /// Ed25519 signature over [`agent_message`] or [`site_message`], 64 bytes.
    #[serde(with = "signature")]
    pub signature: [u8; 64],
}

/// Whether the proof was good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// The session goes on as its kind says.
    Welcome,
    /// It ends here, for this reason.
    Refused(#[serde(deserialize_with = "text::<4096, _>")] String),
}

impl Verdict {
    /// A refusal with a sentence for the operator.
    pub fn refused(sentence: impl Into<String>) -> Self {
        Self::Refused(cut(sentence.into(), 4096))
    }
}

/// What an agent signs: `strongroom agent session v1`, NUL, the nonce, the kind's byte.
pub fn agent_message(challenge: &Challenge, kind: Kind) -> Vec<u8> {
    let mut message = b"strongroom agent session v1\0".to_vec();
    message.extend_from_slice(&site_message(challenge, kind));
    message
}

/// What a site has its keyd sign for the purpose "session" (which puts `strongroom session v1`
/// and NUL before it): the nonce, the kind's byte.
pub fn site_message(challenge: &Challenge, kind: Kind) -> Vec<u8> {
    let mut message = challenge.nonce.to_vec();
    message.push(kind.number());
    message
}

/// The whole of what a site's signature is over.
pub fn site_signed(challenge: &Challenge, kind: Kind) -> Vec<u8> {
    let mut message = b"strongroom session v1\0".to_vec();
    message.extend_from_slice(&site_message(challenge, kind));
    message
}

/// Looks at the bytes a session begins with: its [`Open`] and how many bytes that took, or `None`
/// until it is whole. Whoever routes the session hands on all bytes, these included.
///
/// # Errors
/// When this is no session of ours; a first message is at most 256 bytes.
pub fn first_frame(bytes: &[u8]) -> Result<Option<(Open, usize)>, WireError> {
    let Some((prefix, rest)) = bytes.split_first_chunk::<{ frame::PREFIX }>() else {
        return Ok(None);
    };
    let length = frame::announced(*prefix)?;
    if length > MAX_OPEN {
        return Err(WireError::TooLong(length));
    }
    match rest.get(..length) {
        Some(body) => Ok(Some((frame::decode(body)?, frame::PREFIX + length))),
        None => Ok(None),
    }
}

const MAX_OPEN: usize = 256;

/// Reads the [`Open`] of a session and the bytes it took, which whoever routes the session hands
/// on before all that follows. Takes nothing beyond the first message off the stream.
///
/// # Errors
/// As [`first_frame`], and when the stream ends or fails.
#[cfg(feature = "tokio")]
pub async fn read_first<S>(stream: &mut S) -> Result<(Open, Vec<u8>), WireError>
where
    S: tokio::io::AsyncRead + Unpin + ?Sized,
{
    use tokio::io::AsyncReadExt;
    let mut bytes = vec![0; frame::PREFIX];
    stream.read_exact(&mut bytes).await?;
    let length = bytes
        .first_chunk()
        .map_or(Ok(0), |prefix| frame::announced(*prefix))?;
    if length > MAX_OPEN {
        return Err(WireError::TooLong(length));
    }
    bytes.resize(frame::PREFIX + length, 0);
    stream.read_exact(&mut bytes[frame::PREFIX..]).await?;
    match first_frame(&bytes)? {
        Some((open, _)) => Ok((open, bytes)),
        None => Err(WireError::Malformed),
    }
}

mod signature {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 64], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<[u8; 64], D::Error> {
        let bytes = <&[u8]>::deserialize(d)?;
        bytes
            .try_into()
            .map_err(|_| D::Error::invalid_length(bytes.len(), &"64 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::again;

    #[test]
    fn the_first_message_is_seen_once_it_is_whole_and_what_follows_is_left_alone() {
        let open = Open::new(Kind::Intake);
        let mut bytes = frame::encode(&open).unwrap();
        let length = bytes.len();
        bytes.extend_from_slice(b"what follows");
        for end in 0..length {
            assert_eq!(first_frame(&bytes[..end]).unwrap(), None);
        }
        assert_eq!(first_frame(&bytes).unwrap(), Some((open, length)));
    }

    #[test]
    fn kinds_sign_differently_and_agents_unlike_sites() {
        let challenge = Challenge { nonce: [7; 32] };
        let kinds = [
            Kind::Intake,
            Kind::Restore,
            Kind::List,
            Kind::Control,
            Kind::Replicate,
        ];
        let mut messages: Vec<_> = kinds
            .iter()
            .map(|k| agent_message(&challenge, *k))
            .collect();
        messages.extend(kinds.iter().map(|k| site_signed(&challenge, *k)));
        messages.sort();
        messages.dedup();
        assert_eq!(messages.len(), 10);
    }

    #[test]
    fn any_bytes_are_understood_or_refused() {
        bolero::check!().for_each(|bytes| {
            if let Ok(Some((open, length))) = first_frame(bytes) {
                assert_eq!(first_frame(&bytes[..length]).unwrap(), Some((open, length)));
            }
            again::<Proof>(bytes);
            again::<Challenge>(bytes);
            again::<Verdict>(bytes);
        });
    }
}
