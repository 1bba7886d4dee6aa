//! Packs: files of many frames with a list of them at the end (docs/format.md, "Packs").

use crate::frame::{self, Frame, Header, Kind};
use crate::wire::{CHECK_LEN, Reader, check_of, checked};
use crate::{DatastoreId, Digest, FormatError, PackId, Result};

const MAGIC: &[u8; 8] = b"SRPACK\x1a\n";
const END_MAGIC: &[u8; 8] = b"SRPKEND\n";
/// Length of a pack's header, bytes: the first frame begins there.
pub const HEADER_LEN: usize = 64;
/// Length of one frame's record in the footer, bytes.
pub const RECORD_LEN: usize = 48;
/// Length of what ends a pack after the records, bytes.
pub const TRAILER_LEN: usize = 16 + CHECK_LEN;
/// Longest pack, bytes. Writers aim at 64 MiB.
pub const MAX_PACK: u64 = 1 << 30;

/// A pack's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackHeader {
    /// Datastore its frames are of.
    pub datastore: DatastoreId,
    /// Its own name.
    pub pack: PackId,
}

impl PackHeader {
    /// The bytes a pack begins with.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..8].copy_from_slice(MAGIC);
        out[8] = 1;
        out[16..32].copy_from_slice(&self.datastore.0);
        out[32..48].copy_from_slice(&self.pack.0);
        let check = check_of(&[&out[..48]]);
        out[48..].copy_from_slice(&check);
        out
    }

    /// Reads a header from the front of `bytes`.
    ///
    /// # Errors
    /// When it is no header of a pack of version 1.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        const WHAT: &str = "pack";
        let bytes = bytes
            .get(..HEADER_LEN)
            .ok_or(FormatError::Truncated { what: WHAT })?;
        if !bytes.starts_with(MAGIC) {
            return Err(FormatError::Magic { what: WHAT });
        }
        let body = checked(bytes, &[], WHAT)?;
        let mut reader = Reader::new(&body[8..], WHAT);
        let version = reader.u32()?;
        if version != 1 {
            return Err(FormatError::version(WHAT, version));
        }
        if reader.u32()? != 0 {
            return Err(reader.wrong("reserved field"));
        }
        Ok(Self {
            datastore: DatastoreId(reader.array()?),
            pack: PackId(reader.array()?),
        })
    }
}

/// Where a pack has a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Name of the content.
    pub digest: Digest,
    /// Byte of the pack at which the frame begins.
    pub offset: u32,
    /// Bytes of the frame.
    pub length: u32,
    /// Bytes of content.
    pub plain_len: u32,
    /// What it holds.
    pub kind: Kind,
}

impl Record {
    /// The record of a frame at `offset`.
    pub fn of(header: &Header, offset: u32) -> Self {
        Self {
            digest: header.digest,
            offset,
            length: header.frame_len() as u32,
            plain_len: header.plain_len,
            kind: header.kind,
        }
    }
}

/// The bytes that end a pack.
pub fn encode_footer(header: &PackHeader, records: &[Record]) -> Vec<u8> {
    let mut out = Vec::with_capacity(records.len() * RECORD_LEN + TRAILER_LEN);
    for record in records {
        out.extend_from_slice(&record.digest.0);
        out.extend_from_slice(&record.offset.to_le_bytes());
        out.extend_from_slice(&record.length.to_le_bytes());
        out.extend_from_slice(&record.plain_len.to_le_bytes());
        out.extend_from_slice(&[record.kind as u8, 0, 0, 0]);
    }
    out.extend_from_slice(END_MAGIC);
    out.extend_from_slice(&(records.len() as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    let check = check_of(&[&out, &header.encode()]);
    out.extend_from_slice(&check);
    out
}

/// How long the whole footer is, by the last [`TRAILER_LEN`] bytes of a pack of `pack_len` bytes.
///
/// # Errors
/// When these are not the last bytes of a pack.
pub fn footer_len(trailer: &[u8], pack_len: u64) -> Result<usize> {
    const WHAT: &str = "pack footer";
    let mut reader = Reader::new(trailer, WHAT);
    if reader.array::<8>()? != *END_MAGIC {
        return Err(FormatError::Magic { what: WHAT });
    }
    let count = u64::from(reader.u32()?);
    let length = count * RECORD_LEN as u64 + TRAILER_LEN as u64;
    let frames = count * frame::OVERHEAD as u64;
    if pack_len > MAX_PACK || HEADER_LEN as u64 + frames + length > pack_len {
        return Err(reader.wrong("number of frames"));
    }
    Ok(length as usize)
}

/// Reads a whole footer of a pack of `pack_len` bytes. Records are in order of offset, leave no
/// gap, and fill the pack.
///
/// # Errors
/// When it is not this pack's footer, whole and right.
pub fn parse_footer(bytes: &[u8], header: &PackHeader, pack_len: u64) -> Result<Vec<Record>> {
    const WHAT: &str = "pack footer";
    let trailer = bytes
        .last_chunk::<TRAILER_LEN>()
        .ok_or(FormatError::Truncated { what: WHAT })?;
    if footer_len(trailer, pack_len)? != bytes.len() {
        return Err(FormatError::Field {
            what: WHAT,
            field: "number of frames",
        });
    }
    let body = checked(bytes, &header.encode(), WHAT)?;
    let (count, rest) = ((bytes.len() - TRAILER_LEN) / RECORD_LEN, body);
    let mut reader = Reader::new(rest, WHAT);
    let mut records = Vec::with_capacity(count);
    let mut next = HEADER_LEN as u64;
    for _ in 0..count {
        let digest = Digest(reader.array()?);
        let (offset, length, plain_len) = (reader.u32()?, reader.u32()?, reader.u32()?);
        let [kind, a, b, c] = reader.array()?;
        let kind = Kind::from_number(kind).ok_or(reader.wrong("kind of frame"))?;
        let bounded = (frame::OVERHEAD..=frame::MAX_FRAME).contains(&(length as usize));
        if u64::from(offset) != next || !bounded || plain_len as usize > frame::MAX_PLAIN {
            return Err(reader.wrong("place of a frame"));
        }
        if [a, b, c] != [0; 3] {
            return Err(reader.wrong("reserved field"));
        }
        next += u64::from(length);
        records.push(Record {
            digest,
            offset,
            length,
            plain_len,
            kind,
        });
    }
    if next + bytes.len() as u64 != pack_len {
        return Err(FormatError::Field {
            what: WHAT,
            field: "place of a frame",
        });
    }
    Ok(records)
}

/// What [`find_frame`] saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A whole frame at this place of the window.
    Frame {
        /// Place in the window.
        at: usize,
        /// Its header.
        header: Header,
    },
    /// Perhaps a frame from this place on; the window must reach `need` bytes further than that
    /// place to tell.
    Perhaps {
        /// Place in the window.
        at: usize,
        /// Bytes needed from there.
        need: usize,
    },
    /// None.
    Nothing,
}

/// Looks in `window`, from `from` on, for the next frame whose check holds: how frames are
/// recovered from a pack whose footer is torn.
pub fn find_frame(window: &[u8], mut from: usize, datastore: DatastoreId) -> Found {
    while let Some(rest) = window.get(from..) {
        let hit = rest
            .windows(frame::MAGIC.len())
            .position(|w| w == frame::MAGIC);
        let Some(at) = hit.map(|p| p + from) else {
            return Found::Nothing;
        };
        let candidate = &window[at..];
        match Header::parse(candidate) {
            Ok(header) => match candidate.get(..header.frame_len()) {
                None => {
                    return Found::Perhaps {
                        at,
                        need: header.frame_len(),
                    };
                }
                Some(bytes) if Frame::parse(bytes, datastore).is_ok() => {
                    return Found::Frame { at, header };
                }
                Some(_) => {}
            },
            Err(FormatError::Truncated { .. }) => {
                return Found::Perhaps {
                    at,
                    need: frame::HEADER_LEN,
                };
            }
            Err(_) => {}
        }
        from = at + 1;
    }
    Found::Nothing
}
