//! Descriptors that cross the bus: keys by pipe, streams by socket pair.

use contract::Error;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use tokio::net::UnixStream;
use zeroize::Zeroizing;

/// Most bytes a key may have: less than a pipe's atomic write, so giving never blocks.
pub const MAX_KEY: usize = 4096;

/// The read end of a pipe that holds `key` and then ends.
pub fn give_key(key: &[u8]) -> Result<OwnedFd, Error> {
    if key.len() > MAX_KEY {
        return Err(too_long());
    }
    let failed = |e| {
        Error::Failed(format!(
            "no key could be handed over ({e}); restart the appliance"
        ))
    };
    let (read, mut write) = std::io::pipe().map_err(failed)?;
    write.write_all(key).map_err(failed)?;
    Ok(read.into())
}

/// Reads a key to the pipe's end; wiped when dropped. Blocks only while the giver still writes.
pub fn take_key(pipe: impl Into<OwnedFd>) -> Result<Zeroizing<Vec<u8>>, Error> {
    // one allocation of full size: a growing vector would leave copies behind
    let mut key = Zeroizing::new(vec![0u8; MAX_KEY + 1]);
    let mut file = std::fs::File::from(pipe.into());
    let mut filled = 0;
    loop {
        match file.read(&mut key[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => {
                return Err(Error::Failed(format!(
                    "the key that was handed over could not be read ({e}); try again"
                )));
            }
        }
        if filled > MAX_KEY {
            return Err(too_long());
        }
    }
    key.truncate(filled);
    Ok(key)
}

fn too_long() -> Error {
    Error::Failed(format!(
        "a key of more than {MAX_KEY} bytes goes through no pipe; whoever gave it is to be updated"
    ))
}

fn session(error: std::io::Error) -> Error {
    Error::Failed(format!(
        "no socket for a session ({error}); try again, and restart the appliance if it stays so"
    ))
}

/// A connected pair of stream sockets: ours, and the end to hand over the bus.
pub fn stream_pair() -> Result<(UnixStream, OwnedFd), Error> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(session)?;
    Ok((adopt(ours)?, theirs.into()))
}

/// A stream socket that came over the bus.
pub fn adopt_stream(stream: impl Into<OwnedFd>) -> Result<UnixStream, Error> {
    adopt(std::os::unix::net::UnixStream::from(stream.into()))
}

fn adopt(stream: std::os::unix::net::UnixStream) -> Result<UnixStream, Error> {
    stream
        .set_nonblocking(true)
        .and_then(|()| UnixStream::from_std(stream))
        .map_err(session)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_key_arrives_whole_and_once() {
        let pipe = super::give_key(&[7; 64]).unwrap();
        assert_eq!(*super::take_key(pipe).unwrap(), vec![7; 64]);
        let pipe = super::give_key(&[]).unwrap();
        assert!(super::take_key(pipe).unwrap().is_empty());
        assert!(super::give_key(&[0; super::MAX_KEY + 1]).is_err());
    }
}
