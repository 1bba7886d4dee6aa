//! The keys of a datastore as they travel through the key pipe or lie in a rescue key file
//! (docs/format.md, "Key sets").

use crate::wire::{CHECK_LEN, Reader, check_of, checked};
use crate::{DatastoreId, FormatError, Result};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use std::collections::BTreeMap;
use zeroize::Zeroizing;

const MAGIC: &[u8; 8] = b"SRKEYSET";
const WHAT: &str = "key set";
/// Most epochs a key set holds.
pub const MAX_EPOCHS: usize = 4096;
/// Longest encoding of a key set, bytes.
pub const MAX_KEYSET_LEN: usize = 8 + 4 + 16 + 32 + 4 + MAX_EPOCHS * 36 + CHECK_LEN;

/// All keys of one datastore. Frames are written under the highest epoch.
#[derive(Clone, PartialEq, Eq)]
pub struct Keyset {
    /// The datastore the keys are of.
    pub datastore_id: DatastoreId,
    /// Key of digests; stays as long as the datastore.
    pub dedup: Zeroizing<[u8; 32]>,
    /// Keys of frames by epoch; never empty.
    pub epochs: BTreeMap<u32, Zeroizing<[u8; 32]>>,
}

impl std::fmt::Debug for Keyset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Keyset of {} with epochs {:?}",
            self.datastore_id,
            self.epochs.keys()
        )
    }
}

impl Keyset {
    /// The epoch new frames are written under, and its key.
    ///
    /// # Errors
    /// [`FormatError::Field`] when there is no epoch at all.
    pub fn newest(&self) -> Result<(u32, &[u8; 32])> {
        self.epochs
            .last_key_value()
            .map(|(epoch, key)| (*epoch, &**key))
            .ok_or(FormatError::Field {
                what: WHAT,
                field: "number of epochs",
            })
    }

    /// The byte encoding.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        // one allocation, so that no half-written copy stays behind in freed memory
        let mut out = Zeroizing::new(Vec::with_capacity(
            8 + 4 + 16 + 32 + 4 + self.epochs.len() * 36 + CHECK_LEN,
        ));
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&1u32.to_le_bytes());
        out.extend_from_slice(&self.datastore_id.0);
        out.extend_from_slice(&*self.dedup);
        out.extend_from_slice(&(self.epochs.len() as u32).to_le_bytes());
        for (epoch, key) in &self.epochs {
            out.extend_from_slice(&epoch.to_le_bytes());
            out.extend_from_slice(&**key);
        }
        let check = check_of(&[&out]);
        out.extend_from_slice(&check);
        out
    }

    /// Reads [`Keyset::encode`]'s bytes.
    ///
    /// # Errors
    /// Any [`FormatError`] but those of sealing and signing.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        if !bytes.starts_with(MAGIC) {
            return Err(FormatError::Magic { what: WHAT });
        }
        if bytes.len() > MAX_KEYSET_LEN {
            return Err(FormatError::Field {
                what: WHAT,
                field: "length",
            });
        }
        let mut reader = Reader::new(&bytes[MAGIC.len()..], WHAT);
        let version = reader.u32()?;
        if version != 1 {
            return Err(FormatError::version(WHAT, version));
        }
        let body = checked(bytes, &[], WHAT)?;
        let mut reader = Reader::new(&body[MAGIC.len() + 4..], WHAT);
        let datastore_id = DatastoreId(reader.array()?);
        let dedup = Zeroizing::new(reader.array()?);
        let count = reader.u32()? as usize;
        let mut epochs = BTreeMap::new();
        for _ in 0..count.min(MAX_EPOCHS) {
            let epoch = reader.u32()?;
            if epochs
                .last_key_value()
                .is_some_and(|(last, _)| *last >= epoch)
            {
                return Err(reader.wrong("order of epochs"));
            }
            epochs.insert(epoch, Zeroizing::new(reader.array()?));
        }
        if count == 0 || count > MAX_EPOCHS {
            return Err(reader.wrong("number of epochs"));
        }
        reader.finish()?;
        Ok(Self {
            datastore_id,
            dedup,
            epochs,
        })
    }

    /// The text of a key file: lines of 64 hexadecimal digits.
    pub fn to_text(&self) -> Zeroizing<String> {
        let bytes = self.encode();
        let mut text = Zeroizing::new(String::with_capacity(bytes.len() * 2 + bytes.len() / 16));
        for line in bytes.chunks(32) {
            HEXLOWER.encode_append(line, &mut text);
            text.push('\n');
        }
        text
    }

    /// Reads [`Keyset::to_text`]'s text; white space anywhere is ignored.
    ///
    /// # Errors
    /// As [`Keyset::decode`]; [`FormatError::Magic`] when it is not hexadecimal.
    pub fn from_text(text: &str) -> Result<Self> {
        let mut digits = Zeroizing::new(Vec::with_capacity(text.len()));
        digits.extend(text.bytes().filter(|b| !b.is_ascii_whitespace()));
        let mut bytes = Zeroizing::new(vec![0; digits.len() / 2]);
        HEXLOWER_PERMISSIVE
            .decode_len(digits.len())
            .ok()
            .and_then(|_| HEXLOWER_PERMISSIVE.decode_mut(&digits, &mut bytes).ok())
            .ok_or(FormatError::Magic { what: WHAT })?;
        Self::decode(&bytes)
    }
}
