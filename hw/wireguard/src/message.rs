//! Netlink messages and attributes (RFC 3549, linux/netlink.h), in the machine's byte order.

use zeroize::Zeroizing;

/// Bytes of a message's header.
pub const HEADER_LEN: usize = 16;
/// An error or, with code 0, an acknowledgement.
pub const ERROR: u16 = 2;
/// The end of a dump.
pub const DONE: u16 = 3;
/// A request.
pub const F_REQUEST: u16 = 1;
/// More parts follow, to [`DONE`].
pub const F_MULTI: u16 = 2;
/// Asks for an acknowledgement.
pub const F_ACK: u16 = 4;
/// Asks for all objects.
pub const F_DUMP: u16 = 0x300;
/// Refuses to touch what exists.
pub const F_EXCL: u16 = 0x200;
/// Makes what does not exist.
pub const F_CREATE: u16 = 0x400;

const NESTED: u16 = 0x8000;
const KIND: u16 = 0x3fff;

/// A message under construction; wiped when dropped, and no copy is left by its growth.
pub struct Writer {
    bytes: Zeroizing<Vec<u8>>,
}

impl Writer {
    /// A request of this type and these flags; length and sequence are set when it is sent.
    pub fn new(kind: u16, flags: u16) -> Writer {
        // never grows: a reallocation would leave the key behind
        let mut bytes = Zeroizing::new(Vec::with_capacity(u16::MAX as usize));
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | F_REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        Writer { bytes }
    }

    /// Appends the fixed part that follows the header.
    pub fn fixed(mut self, bytes: &[u8]) -> Writer {
        self.push(bytes);
        self
    }

    /// Appends an attribute.
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Writer {
        self.push(&((value.len() + 4) as u16).to_ne_bytes());
        self.push(&kind.to_ne_bytes());
        self.push(value);
        self.push(&[0; 3][..value.len().next_multiple_of(4) - value.len()]);
        self
    }

    /// Appends an attribute that holds what `inner` appends.
    pub fn nest(mut self, kind: u16, inner: impl FnOnce(Writer) -> Writer) -> Writer {
        let start = self.bytes.len();
        self.push(&[0; 2]);
        self.push(&(kind | NESTED).to_ne_bytes());
        let mut whole = inner(self);
        let length = (whole.bytes.len() - start) as u16;
        whole.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        whole
    }

    /// The finished bytes, with this sequence number.
    pub fn finish(mut self, sequence: u32) -> Zeroizing<Vec<u8>> {
        let length = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }

    fn push(&mut self, bytes: &[u8]) {
        assert!(
            self.bytes.len() + bytes.len() <= self.bytes.capacity(),
            "a netlink message of ours stays below 64 KiB"
        );
        self.bytes.extend_from_slice(bytes);
    }
}

/// One message as received.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Its type.
    pub kind: u16,
    /// Its flags.
    pub flags: u16,
    /// The sequence number of the request it answers.
    pub sequence: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

/// The messages in one datagram; ends at the first that is cut short.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        let whole = bytes.get(..length).filter(|w| w.len() >= HEADER_LEN)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: u16_at(whole, 4)?,
            flags: u16_at(whole, 6)?,
            sequence: u32_at(whole, 8)?,
            payload: &whole[HEADER_LEN..],
        })
    })
}

/// The attributes (kind without its flag bits, value) in `bytes`; ends at the first cut short.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u16_at(bytes, 0)? as usize;
        let kind = u16_at(bytes, 2)? & KIND;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of this kind.
pub fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(k, _)| *k == kind).map(|(_, v)| v)
}

/// A number at an offset.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// A number at an offset.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A number at an offset.
pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// A string, without the NUL that ends it.
pub fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(kind in 0u16..0x3fff, value in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = Writer::new(5, F_ACK)
                .fixed(&[9; 8])
                .nest(7, |w| w.attribute(kind, &value).attribute(1, b"x\0"))
                .finish(42);
            let all: Vec<_> = messages(&bytes).collect();
            prop_assert_eq!(all.len(), 1);
            prop_assert_eq!((all[0].kind, all[0].flags, all[0].sequence), (5, F_ACK | F_REQUEST, 42));
            let nested = find(&all[0].payload[8..], 7).unwrap();
            prop_assert_eq!(find(nested, kind).unwrap(), &value[..]);
            prop_assert_eq!(attributes(nested).count(), 2);
        }

        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for message in messages(&bytes) {
                for (_, value) in attributes(message.payload) {
                    attributes(value).count();
                }
            }
        }
    }

    #[test]
    fn a_header_of_length_zero_ends_the_reading() {
        assert_eq!(messages(&[0; 64]).count(), 0);
        assert_eq!(attributes(&[0; 64]).count(), 0);
    }
}
