//! What host and hand say to each other over a serial port.
//!
//! A port loses bytes when an end goes away in mid-sentence, so messages are framed to find the
//! next beginning whatever came before: END, the escaped message and its CRC-32, END (the framing
//! of SLIP, RFC 1055). Several commands run at once, told apart by an id the host chooses.

use serde::{Deserialize, Serialize};

/// The most bytes one message carries of a stream.
pub const PIECE: usize = 32 * 1024;
/// Bytes of standard input the host may send ahead of what the command has read.
pub const WINDOW: usize = 8 * PIECE;
/// Longer frames are not taken in; longest is a command line of [`PIECE`] bytes and its framing.
const LONGEST: usize = 4 * PIECE;

const END: u8 = 0xC0;
const ESC: u8 = 0xDB;
const ESC_END: u8 = 0xDC;
const ESC_ESC: u8 = 0xDD;

/// From the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Forget all that ran before, answer with the same number.
    Hello(u64),
    /// Run a program.
    Run {
        /// Names it in all that follows.
        id: u32,
        /// The program and its arguments; found in PATH.
        argv: Vec<Vec<u8>>,
    },
    /// A piece of its standard input.
    Input(u32, Vec<u8>),
    /// Its standard input ends.
    InputEnd(u32),
    /// Send it a signal, by number.
    Signal(u32, i32),
}

/// From the hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tell {
    /// The answer to [`Ask::Hello`], or 0 when the hand has just started.
    Hello(u64),
    /// A piece of a command's standard output.
    Out(u32, Vec<u8>),
    /// A piece of its standard error.
    Err(u32, Vec<u8>),
    /// So many bytes of its input were taken; the host may send as many more.
    Took(u32, u32),
    /// It ended: the exit code, or 128 + signal. Comes after all its output.
    Ended(u32, i32),
    /// It could not be started, and why.
    Refused(u32, String),
}

/// One message as it goes over the port.
pub fn pack(message: &impl Serialize) -> Vec<u8> {
    let mut plain = postcard::to_stdvec(message).expect("these types always serialise");
    plain.extend(crc32fast::hash(&plain).to_le_bytes());
    let mut frame = Vec::with_capacity(plain.len() + plain.len() / 16 + 2);
    frame.push(END);
    for byte in plain {
        match byte {
            END => frame.extend([ESC, ESC_END]),
            ESC => frame.extend([ESC, ESC_ESC]),
            _ => frame.push(byte),
        }
    }
    frame.push(END);
    frame
}

/// Finds messages in a stream of bytes; what is not one is passed over.
#[derive(Debug, Default)]
pub struct Unpacker {
    frame: Vec<u8>,
    escaped: bool,
    spoilt: bool,
}

impl Unpacker {
    /// The messages completed by these bytes.
    pub fn push<M: for<'a> Deserialize<'a>>(&mut self, bytes: &[u8]) -> Vec<M> {
        let mut messages = Vec::new();
        for &byte in bytes {
            if byte == END {
                let whole = !self.spoilt && !self.escaped;
                if whole && let Some(message) = Self::read(&self.frame) {
                    messages.push(message);
                }
                *self = Unpacker {
                    frame: std::mem::take(&mut self.frame),
                    ..Unpacker::default()
                };
                self.frame.clear();
                continue;
            }
            let plain = match (self.escaped, byte) {
                (false, ESC) => {
                    self.escaped = true;
                    continue;
                }
                (false, other) => other,
                (true, ESC_END) => END,
                (true, ESC_ESC) => ESC,
                (true, _) => {
                    self.spoilt = true;
                    continue;
                }
            };
            self.escaped = false;
            if self.frame.len() == LONGEST {
                self.spoilt = true;
            } else if !self.spoilt {
                self.frame.push(plain);
            }
        }
        messages
    }

    fn read<M: for<'a> Deserialize<'a>>(frame: &[u8]) -> Option<M> {
        let (plain, sum) = frame.split_last_chunk::<4>()?;
        if crc32fast::hash(plain) != u32::from_le_bytes(*sum) {
            return None;
        }
        postcard::from_bytes(plain).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn messages_survive_cuts_and_what_came_before(
            noise in proptest::collection::vec(any::<u8>(), 0..200),
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..500), 1..8),
            cut in 1usize..97,
        ) {
            let sent: Vec<Tell> = pieces.into_iter().map(|p| Tell::Out(7, p)).collect();
            let mut bytes = noise;
            for message in &sent {
                bytes.extend(pack(message));
            }
            let mut unpacker = Unpacker::default();
            let got: Vec<Tell> = bytes.chunks(cut).flat_map(|c| unpacker.push(c)).collect();
            prop_assert!(got.ends_with(&sent));
        }

        #[test]
        fn any_bytes_at_all_are_borne(bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
            Unpacker::default().push::<Ask>(&bytes);
            Unpacker::default().push::<Tell>(&bytes);
        }
    }

    #[test]
    fn an_endless_frame_takes_no_endless_memory() {
        let mut unpacker = Unpacker::default();
        for _ in 0..64 {
            unpacker.push::<Tell>(&[1; PIECE]);
        }
        assert!(unpacker.frame.len() <= LONGEST);
        let message = Tell::Ended(1, 0);
        let got: Vec<Tell> = unpacker.push(&pack(&message));
        assert_eq!(got, [message]);
    }
}
