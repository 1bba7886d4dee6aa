//! Frames on a wire: a length (u32, little-endian, at most [`MAX`]) and that many bytes, which are
//! one message in postcard's encoding, whole.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{Read, Write};

/// Most bytes of a message.
pub const MAX: usize = 1 << 20;
/// Most bytes of a run of content in one message; longer content comes in several.
pub const PART: usize = MAX - 4096;
/// Bytes of the length before a message.
pub const PREFIX: usize = 4;

/// Why a peer was not understood or could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// A message longer than allowed.
    #[error(
        "the peer sent a message of {0} bytes, more than {MAX}; update the older of the two ends"
    )]
    TooLong(usize),
    /// What came is no message of this protocol.
    #[error("the peer sent what is no message of this protocol; update the older of the two ends")]
    Malformed,
    /// A message that does not belong here.
    #[error("the peer broke the protocol: {0}; update the older of the two ends")]
    Unexpected(&'static str),
    /// The connection ended before the work was done.
    #[error("the connection ended before the work was done; try again")]
    Ended,
    /// The connection failed.
    #[error("the connection failed ({0}); check the network and try again")]
    Io(std::io::Error),
}

impl From<std::io::Error> for WireError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof
            | std::io::ErrorKind::BrokenPipe
            | std::io::ErrorKind::ConnectionReset => WireError::Ended,
            _ => WireError::Io(error),
        }
    }
}

/// Appends a message as a frame.
///
/// # Errors
/// [`WireError::TooLong`]; `out` is then as before.
pub fn append<T: Serialize>(message: &T, out: &mut Vec<u8>) -> Result<(), WireError> {
    let start = out.len();
    let mut filled = std::mem::take(out);
    filled.extend_from_slice(&[0; PREFIX]);
    // only running out of room can fail, and a vector does not
    *out = postcard::to_extend(message, filled).map_err(|_| WireError::Malformed)?;
    let length = out.len() - start - PREFIX;
    if length > MAX {
        out.truncate(start);
        return Err(WireError::TooLong(length));
    }
    out[start..start + PREFIX].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(())
}

/// A message as a frame.
///
/// # Errors
/// [`WireError::TooLong`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::new();
    append(message, &mut out)?;
    Ok(out)
}

/// Reads the message of a frame (without its length).
///
/// # Errors
/// [`WireError::Malformed`].
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        _ => Err(WireError::Malformed),
    }
}

/// The length a prefix announces.
///
/// # Errors
/// [`WireError::TooLong`].
pub fn announced(prefix: [u8; PREFIX]) -> Result<usize, WireError> {
    let length = u32::from_le_bytes(prefix) as usize;
    if length > MAX {
        Err(WireError::TooLong(length))
    } else {
        Ok(length)
    }
}

/// Reads one message; `None` when the stream ended where a message would begin.
///
/// # Errors
/// Any [`WireError`].
pub fn read<T: DeserializeOwned>(stream: &mut impl Read) -> Result<Option<T>, WireError> {
    let mut prefix = [0; PREFIX];
    let mut filled = 0;
    while filled < PREFIX {
        match stream.read(&mut prefix[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(WireError::Ended),
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut body = vec![0; announced(prefix)?];
    stream.read_exact(&mut body)?;
    decode(&body).map(Some)
}

/// Writes one message.
///
/// # Errors
/// Any [`WireError`].
pub fn write<T: Serialize>(stream: &mut impl Write, message: &T) -> Result<(), WireError> {
    stream.write_all(&encode(message)?)?;
    Ok(())
}

/// The same over tokio's streams.
#[cfg(feature = "tokio")]
pub mod aio {
    use super::{DeserializeOwned, PREFIX, Serialize, WireError, announced, decode, encode};
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

    /// Reads one message; `None` when the stream ended where a message would begin. Not
    /// cancel-safe: dropped half way, the stream has lost its place.
    ///
    /// # Errors
    /// Any [`WireError`].
    pub async fn read<T, S>(stream: &mut S) -> Result<Option<T>, WireError>
    where
        T: DeserializeOwned,
        S: AsyncRead + Unpin + ?Sized,
    {
        match read_raw(stream).await? {
            Some(bytes) => decode(&bytes[PREFIX..]).map(Some),
            None => Ok(None),
        }
    }

    /// Reads one frame with its length, as it came.
    ///
    /// # Errors
    /// Any [`WireError`] but [`WireError::Malformed`].
    pub async fn read_raw<S>(stream: &mut S) -> Result<Option<Vec<u8>>, WireError>
    where
        S: AsyncRead + Unpin + ?Sized,
    {
        let mut prefix = [0; PREFIX];
        let mut filled = 0;
        while filled < PREFIX {
            match stream.read(&mut prefix[filled..]).await? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(WireError::Ended),
                count => filled += count,
            }
        }
        let mut bytes = vec![0; PREFIX + announced(prefix)?];
        bytes[..PREFIX].copy_from_slice(&prefix);
        stream.read_exact(&mut bytes[PREFIX..]).await?;
        Ok(Some(bytes))
    }

    /// Writes one message and flushes it.
    ///
    /// # Errors
    /// Any [`WireError`].
    pub async fn write<T, S>(stream: &mut S, message: &T) -> Result<(), WireError>
    where
        T: Serialize,
        S: AsyncWrite + Unpin + ?Sized,
    {
        stream.write_all(&encode(message)?).await?;
        stream.flush().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives no more than so many bytes at once.
    struct Cut<'a>(&'a [u8], usize);

    impl Read for Cut<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let length = buffer.len().min(self.1);
            self.0.read(&mut buffer[..length])
        }
    }

    proptest! {
        #[test]
        fn messages_arrive_whole_however_they_are_cut(
            messages in proptest::collection::vec(".{0,200}", 0..20),
            cut in 1usize..50,
        ) {
            let mut bytes = Vec::new();
            messages.iter().for_each(|m| append(m, &mut bytes).unwrap());
            let mut stream = Cut(&bytes, cut);
            for message in &messages {
                let read: Option<String> = read(&mut stream).unwrap();
                prop_assert_eq!(read.as_ref(), Some(message));
            }
            prop_assert!(read::<String>(&mut stream).unwrap().is_none());
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_it_is_believed() {
        assert!(matches!(
            read::<String>(&mut &[0xff; 8][..]),
            Err(WireError::TooLong(_))
        ));
        assert!(matches!(
            encode(&"x".repeat(MAX)),
            Err(WireError::TooLong(_))
        ));
    }

    #[test]
    fn an_end_inside_a_message_is_told_from_an_end_between() {
        let bytes = encode(&"hello").unwrap();
        for cut in 1..bytes.len() {
            assert!(
                matches!(read::<String>(&mut &bytes[..cut]), Err(WireError::Ended)),
                "{cut}"
            );
        }
        assert!(matches!(
            decode::<String>(b"\x01ab"),
            Err(WireError::Malformed)
        ));
    }
}
