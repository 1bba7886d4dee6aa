//! The file that makes a directory a datastore (docs/format.md, "The datastore file").

use crate::wire::{Reader, check_of, checked};
use crate::{DatastoreId, FormatError, Result};

const MAGIC: &[u8; 8] = b"SRSTORE\n";
const WHAT: &str = "datastore";
/// Length of the file, bytes.
pub const SUPERBLOCK_LEN: usize = 64;

/// Which end of the offsite copy a datastore is for; it sets how much memory its index takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Takes backups, holds keys while unlocked.
    Site = 0,
    /// One of many that hold offsite copies without keys.
    Centre = 1,
}

/// What the datastore file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The datastore's name.
    pub datastore: DatastoreId,
    /// What it is for.
    pub profile: Profile,
    /// Recognises the dedup key ([`crate::DigestKeys::key_check`]); `None` where no key was
    /// present when it was made.
    pub key_check: Option<[u8; 16]>,
}

impl Superblock {
    /// The file's bytes.
    pub fn encode(&self) -> [u8; SUPERBLOCK_LEN] {
        let mut out = [0; SUPERBLOCK_LEN];
        out[..8].copy_from_slice(MAGIC);
        out[8] = 1;
        out[12] = self.profile as u8;
        out[16..32].copy_from_slice(&self.datastore.0);
        out[32..48].copy_from_slice(&self.key_check.unwrap_or_default());
        let check = check_of(&[&out[..48]]);
        out[48..].copy_from_slice(&check);
        out
    }

    /// Reads the file's bytes.
    ///
    /// # Errors
    /// When it is no datastore file of version 1, whole and right.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if !bytes.starts_with(MAGIC) {
            return Err(FormatError::Magic { what: WHAT });
        }
        let mut reader = Reader::new(&bytes[8..], WHAT);
        let version = reader.u32()?;
        if version != 1 {
            return Err(FormatError::version(WHAT, version));
        }
        let body = checked(bytes, &[], WHAT)?;
        let mut reader = Reader::new(body.get(12..).unwrap_or_default(), WHAT);
        let profile = match reader.array()? {
            [0, 0, 0, 0] => Profile::Site,
            [1, 0, 0, 0] => Profile::Centre,
            _ => return Err(reader.wrong("profile")),
        };
        let datastore = DatastoreId(reader.array()?);
        let key_check = Some(reader.array()?).filter(|c| *c != [0; 16]);
        reader.finish()?;
        Ok(Self {
            datastore,
            profile,
            key_check,
        })
    }
}
