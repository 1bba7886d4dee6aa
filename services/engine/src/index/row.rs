//! One row of the index: a digest and where its frame is.

use format::Digest;
use format::frame::{Kind, MAX_FRAME};
use format::pack::Record;

/// Bytes of a row.
pub(super) const ROW: usize = 49;

/// Where a frame is, its pack by number. Encoded: digest, and little-endian pack, offset, length,
/// length of content, kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) digest: Digest,
    pub(super) pack: u32,
    pub(super) offset: u32,
    pub(super) length: u32,
    pub(super) plain_len: u32,
    pub(super) kind: Kind,
}

impl Row {
    pub(super) fn of(pack: u32, record: &Record) -> Self {
        Self {
            digest: record.digest,
            pack,
            offset: record.offset,
            length: record.length,
            plain_len: record.plain_len,
            kind: record.kind,
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.digest.0);
        for number in [self.pack, self.offset, self.length, self.plain_len] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.push(self.kind as u8);
    }

    /// `None` for one that nobody wrote.
    pub(super) fn decode(bytes: &[u8; ROW]) -> Option<Self> {
        let number = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let row = Self {
            digest: Digest(std::array::from_fn(|i| bytes[i])),
            pack: number(32),
            offset: number(36),
            length: number(40),
            plain_len: number(44),
            kind: Kind::from_number(bytes[48])?,
        };
        (row.length as usize <= MAX_FRAME).then_some(row)
    }
}

/// The row of a digest among encoded ones in order of digest.
pub(super) fn search(rows: &[u8], digest: &Digest) -> Option<Row> {
    let (rows, _) = rows.as_chunks::<ROW>();
    let at = rows.binary_search_by(|row| row[..32].cmp(&digest.0)).ok()?;
    Row::decode(&rows[at])
}
