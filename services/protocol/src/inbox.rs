//! Messages of the short exchanges (pairing, enrolment, control): a length, then postcard.

use serde::{Serialize, de::DeserializeOwned};

/// Longest message, bytes without its length.
pub(crate) const MAX_MESSAGE: usize = 16 << 10;
const LENGTH: usize = 4;

/// The peer sent what is no message here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the other end sent something this release does not understand; compare the releases of both"
)]
pub struct Malformed;

/// A length (u32, little endian) and the body.
pub(crate) fn frame(body: &[u8]) -> Vec<u8> {
    let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

/// A message as postcard. Never fails: our messages hold only what postcard carries.
pub(crate) fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    postcard::to_stdvec(message).expect("plain data")
}

/// A message that is exactly these bytes.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        _ => Err(Malformed),
    }
}

/// Bytes as they come, messages as they are whole. Holds at most one message and its length.
#[derive(Default)]
pub(crate) struct Inbox(Vec<u8>);

impl Inbox {
    /// Takes what `bytes` has of the current message and leaves the rest there. The message's
    /// body, when that made it whole.
    pub(crate) fn take(&mut self, bytes: &mut &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
        self.fill(LENGTH, bytes);
        let Some(length) = self.0.first_chunk::<LENGTH>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > MAX_MESSAGE {
            return Err(Malformed);
        }
        self.fill(LENGTH + length, bytes);
        if self.0.len() < LENGTH + length {
            return Ok(None);
        }
        let body = self.0.split_off(LENGTH);
        self.0.clear();
        Ok(Some(body))
    }

    fn fill(&mut self, to: usize, bytes: &mut &[u8]) {
        let (now, later) = bytes.split_at(bytes.len().min(to.saturating_sub(self.0.len())));
        self.0.extend_from_slice(now);
        *bytes = later;
    }
}
