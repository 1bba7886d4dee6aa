//! Bounded reading and writing of the primitive encodings (docs/format.md, "Primitives").

use crate::{FormatError, Result};

/// Reads primitives off the front of a slice; every failure names the thing being read.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn wrong(&self, field: &'static str) -> FormatError {
        FormatError::Field {
            what: self.what,
            field,
        }
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (head, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(FormatError::Truncated { what: self.what })?;
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(FormatError::Truncated { what: self.what })?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        self.array::<1>().map(|[b]| b)
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64> {
        self.array().map(i64::from_le_bytes)
    }

    /// Little-endian base-128; only the shortest form of a number is accepted, so that an
    /// encoding is a function of the value.
    pub(crate) fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    break;
                }
                return Ok(value);
            }
        }
        Err(self.wrong("number"))
    }

    pub(crate) fn varint_max(&mut self, max: u64, field: &'static str) -> Result<u64> {
        let value = self.varint()?;
        if value > max {
            Err(self.wrong(field))
        } else {
            Ok(value)
        }
    }

    pub(crate) fn varint_u32(&mut self, field: &'static str) -> Result<u32> {
        self.varint_max(u64::from(u32::MAX), field)
            .map(|v| v as u32)
    }

    pub(crate) fn signed(&mut self) -> Result<i64> {
        self.varint().map(|v| ((v >> 1) as i64) ^ -((v & 1) as i64))
    }

    /// A varint length and that many bytes, at most `max`.
    pub(crate) fn bytes(&mut self, max: usize, field: &'static str) -> Result<&'a [u8]> {
        let length = self.varint_max(max as u64, field)?;
        self.take(length as usize)
    }

    /// Bytes not read yet.
    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn finish(self) -> Result<()> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.wrong("length"))
        }
    }
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Length of a check: 128 bits find any accident; they are no defence against a forger, whom keys
/// and signatures stop.
pub(crate) const CHECK_LEN: usize = 16;

/// The unkeyed check over `parts` in this order (docs/format.md, "Checks").
pub(crate) fn check_of(parts: &[&[u8]]) -> [u8; CHECK_LEN] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    let mut check = [0; CHECK_LEN];
    hasher.finalize_xof().fill(&mut check);
    check
}

/// Splits the check off the end of `bytes` and tests it over the rest followed by `context`.
pub(crate) fn checked<'a>(bytes: &'a [u8], context: &[u8], what: &'static str) -> Result<&'a [u8]> {
    let (body, check) = bytes
        .split_last_chunk::<CHECK_LEN>()
        .ok_or(FormatError::Truncated { what })?;
    if check_of(&[body, context]) == *check {
        Ok(body)
    } else {
        Err(FormatError::Check { what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_return(value: u64, signed: i64) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            put_signed(&mut out, signed);
            let mut reader = Reader::new(&out, "test");
            prop_assert_eq!(reader.varint().unwrap(), value);
            prop_assert_eq!(reader.signed().unwrap(), signed);
            reader.finish().unwrap();
        }

        #[test]
        fn a_number_has_one_encoding(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut reader = Reader::new(&bytes, "test");
            if let Ok(value) = reader.varint() {
                let mut out = Vec::new();
                put_varint(&mut out, value);
                prop_assert_eq!(&bytes[..out.len()], &out[..]);
            }
        }
    }
}
