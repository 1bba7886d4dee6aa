//! One row of the index: what is known of a digest since the older rows of it.

use super::Place;
use format::Digest;
use format::frame::{Kind, MAX_FRAME};
use format::pack::Record;

/// Bytes of a row.
pub(super) const ROW: usize = 53;

/// Kinds of row that name no place.
const NOTHING: u8 = 0;
const DEAD: u8 = 255;

/// Whether and where a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// An older row says.
    Older,
    /// Nowhere any more: what older rows say is garbage.
    Dead,
    At(Place),
}

/// Encoded: digest, and little-endian pack, offset, length, length of content, kind, references.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) digest: Digest,
    pub(super) state: State,
    /// How many more frames and snapshots refer to it than older rows say.
    pub(super) references: i32,
}

impl Row {
    pub(super) fn of(pack: u32, record: &Record) -> Self {
        Self {
            digest: record.digest,
            state: State::At(Place::of(pack, record)),
            references: 0,
        }
    }

    /// What this row and an older one of the same digest come to, `counts` saying which packs are
    /// there.
    pub(super) fn over(self, older: &Self, counts: impl Fn(u32) -> bool) -> Self {
        let state = match self.state {
            State::At(place) if !counts(place.pack) => older.state,
            State::Older => older.state,
            newer => newer,
        };
        Self {
            state,
            references: self.references.saturating_add(older.references),
            ..self
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.digest.0);
        let (numbers, kind) = match self.state {
            State::Older => ([0; 4], NOTHING),
            State::Dead => ([0; 4], DEAD),
            State::At(Place {
                pack,
                offset,
                length,
                plain_len,
                kind,
            }) => ([pack, offset, length, plain_len], kind as u8),
        };
        for number in numbers {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.push(kind);
        out.extend_from_slice(&self.references.to_le_bytes());
    }

    /// `None` for one that nobody wrote.
    pub(super) fn decode(bytes: &[u8; ROW]) -> Option<Self> {
        let field = |at: usize| std::array::from_fn(|i| bytes[at + i]);
        let number = |at: usize| u32::from_le_bytes(field(at));
        let state = match bytes[48] {
            NOTHING => State::Older,
            DEAD => State::Dead,
            kind => State::At(Place {
                pack: number(32),
                offset: number(36),
                length: number(40),
                plain_len: number(44),
                kind: Kind::from_number(kind)?,
            }),
        };
        let sound = !matches!(state, State::At(place) if place.length as usize > MAX_FRAME);
        sound.then_some(Self {
            digest: Digest(std::array::from_fn(|i| bytes[i])),
            state,
            references: i32::from_le_bytes(field(49)),
        })
    }
}

/// The row of a digest among encoded ones in order of digest.
pub(super) fn search(rows: &[u8], digest: &Digest) -> Option<Row> {
    let (rows, _) = rows.as_chunks::<ROW>();
    let at = rows.binary_search_by(|row| row[..32].cmp(&digest.0)).ok()?;
    Row::decode(&rows[at])
}
