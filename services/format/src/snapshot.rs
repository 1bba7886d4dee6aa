//! Snapshots: a part everybody can read, signed by the site, and an encrypted part
//! (docs/format.md, "Snapshots").

use crate::entry::Timestamp;
use crate::frame::{FrameKeys, NONCE_LEN};
use crate::wire::{CHECK_LEN, Reader, check_of, checked, put_bytes, put_varint};
use crate::{DatastoreId, Digest, FormatError, GroupId, Result, SnapshotId};
use ring::aead::Aad;
use ring::signature::{ED25519, UnparsedPublicKey};

const MAGIC: &[u8; 8] = b"SRSNAPSH";
const WHAT: &str = "snapshot";
/// Length of the part in clear, bytes.
pub const CLEAR_LEN: usize = 240;
/// Longest encrypted part, bytes, its tag included.
pub const MAX_SEALED: usize = 4 << 20;
/// Longest snapshot file, bytes.
pub const MAX_SNAPSHOT: usize = CLEAR_LEN + MAX_SEALED + SIGNATURE_LEN + CHECK_LEN;
/// Most skipped files a snapshot lists; it counts those beyond.
pub const MAX_PROBLEMS: usize = 10_000;
/// Most paths a snapshot lists.
pub const MAX_PATHS: usize = 10_000;
const SIGNATURE_LEN: usize = 64;
/// What comes before the hash in what is signed, so that no other signature of a site's identity
/// passes for a snapshot's.
const SIGNED: &[u8] = b"strongroom manifest v1\0";

fn hash_of(message: &[u8]) -> [u8; 32] {
    *blake3::hash(message).as_bytes()
}

/// The part everybody can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clear {
    /// Datastore it is of.
    pub datastore: DatastoreId,
    /// Its name.
    pub id: SnapshotId,
    /// Which snapshots it follows.
    pub group: GroupId,
    /// When the backup began.
    pub time: Timestamp,
    /// Digest of the tree's topmost node or only leaf.
    pub root: Digest,
    /// Check at the end of that frame as its site wrote it.
    pub root_check: [u8; CHECK_LEN],
    /// Bytes of all files' content, holes not counted.
    pub logical: u64,
    /// Number of entries.
    pub entries: u64,
    /// Bytes of content this backup added that the datastore did not have, before packing.
    pub unique: u64,
    /// Bytes of frames it added.
    pub stored: u64,
    /// Nothing deletes it before this time, seconds since the Unix epoch; 0 for no lock.
    pub lock_until: i64,
    /// Snapshot it was made as a successor of.
    pub parent: Option<SnapshotId>,
    /// Ed25519 key of the signature at the end; `None` when unsigned.
    pub signer: Option<[u8; 32]>,
}

/// How a source held still while it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Consistency {
    /// Files were read one by one while in use.
    #[default]
    Live = 0,
    /// All at one moment, as a power cut would have left them.
    Crash = 1,
    /// Applications had written out all they held.
    Application = 2,
}

/// A file that was skipped, or read though it changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its path in the snapshot.
    pub path: Vec<u8>,
    /// One sentence.
    pub text: String,
}

/// The encrypted part.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Details {
    /// Name of the group.
    pub group: String,
    /// Name of the protected server.
    pub host: String,
    /// What was backed up, as the user named it.
    pub paths: Vec<Vec<u8>>,
    /// How the source held still.
    pub consistency: Consistency,
    /// Operating system of the source, as it calls itself.
    pub source: String,
    /// Skipped files, at most [`MAX_PROBLEMS`].
    pub problems: Vec<Problem>,
    /// Number of all skipped files.
    pub problem_count: u64,
}

mod tag {
    pub(super) const GROUP: u64 = 1;
    pub(super) const HOST: u64 = 2;
    pub(super) const PATH: u64 = 3;
    pub(super) const CONSISTENCY: u64 = 4;
    pub(super) const SOURCE: u64 = 5;
    pub(super) const PROBLEM: u64 = 6;
    pub(super) const PROBLEM_COUNT: u64 = 7;
}

impl Details {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut field = |tag: u64, value: &[u8]| {
            put_varint(&mut out, tag);
            put_bytes(&mut out, value);
        };
        field(tag::GROUP, self.group.as_bytes());
        field(tag::HOST, self.host.as_bytes());
        self.paths.iter().for_each(|p| field(tag::PATH, p));
        field(tag::CONSISTENCY, &[self.consistency as u8]);
        field(tag::SOURCE, self.source.as_bytes());
        // what does not fit is dropped from the list but stays counted
        let mut room = MAX_SEALED / 2;
        for problem in self.problems.iter().take(MAX_PROBLEMS) {
            let mut value = Vec::new();
            put_bytes(&mut value, &problem.path);
            value.extend_from_slice(problem.text.as_bytes());
            let Some(left) = room.checked_sub(value.len() + 8) else {
                break;
            };
            room = left;
            field(tag::PROBLEM, &value);
        }
        field(tag::PROBLEM_COUNT, &self.problem_count.to_le_bytes());
        out
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        const WHAT: &str = "encrypted part of a snapshot";
        let mut reader = Reader::new(bytes, WHAT);
        let mut details = Self::default();
        let text = |b: &[u8]| {
            String::from_utf8(b.to_vec()).map_err(|_| FormatError::Field {
                what: WHAT,
                field: "text",
            })
        };
        let mut last = 0;
        while !reader.is_empty() {
            let tag = reader.varint()?;
            let value = reader.bytes(MAX_SEALED, "length")?;
            let repeats = matches!(tag, tag::PATH | tag::PROBLEM) || tag > tag::PROBLEM_COUNT;
            if tag < last || (tag == last && !repeats) {
                return Err(reader.wrong("order of fields"));
            }
            last = tag;
            match tag {
                tag::GROUP => details.group = text(value)?,
                tag::HOST => details.host = text(value)?,
                tag::PATH if details.paths.len() < MAX_PATHS => details.paths.push(value.to_vec()),
                tag::PATH => return Err(reader.wrong("number of paths")),
                tag::CONSISTENCY => {
                    details.consistency = match value {
                        [0] => Consistency::Live,
                        [1] => Consistency::Crash,
                        [2] => Consistency::Application,
                        _ => return Err(reader.wrong("consistency level")),
                    }
                }
                tag::SOURCE => details.source = text(value)?,
                tag::PROBLEM if details.problems.len() < MAX_PROBLEMS => {
                    let mut inner = Reader::new(value, WHAT);
                    let path = inner.bytes(value.len(), "problem")?.to_vec();
                    let rest = value.len() - encoded_len(&path);
                    let text = text(inner.take(rest)?)?;
                    details.problems.push(Problem { path, text });
                }
                tag::PROBLEM => return Err(reader.wrong("number of problems")),
                tag::PROBLEM_COUNT => {
                    let count = value
                        .try_into()
                        .map_err(|_| reader.wrong("problem count"))?;
                    details.problem_count = u64::from_le_bytes(count);
                }
                // fields that later releases add, which say nothing one must know to restore
                _ => {}
            }
        }
        Ok(details)
    }
}

fn encoded_len(bytes: &[u8]) -> usize {
    let mut prefix = Vec::new();
    put_varint(&mut prefix, bytes.len() as u64);
    prefix.len() + bytes.len()
}

/// A snapshot file being made: everything before the signature.
pub struct Unsigned {
    bytes: Vec<u8>,
}

impl Unsigned {
    /// Encrypts the details and lays out everything the signature covers.
    ///
    /// # Errors
    /// When the details are too long or too many, or the key set has no key.
    pub fn new(
        clear: &Clear,
        details: &Details,
        keys: &FrameKeys,
        nonce: [u8; NONCE_LEN],
    ) -> Result<Self> {
        let mut sealed = details.encode();
        if sealed.len() + 16 > MAX_SEALED || details.paths.len() > MAX_PATHS {
            return Err(FormatError::Field {
                what: WHAT,
                field: "length of its description",
            });
        }
        let epoch = keys.epoch()?;
        let mut bytes = Vec::with_capacity(CLEAR_LEN + sealed.len() + 16 + 80);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&1u32.to_le_bytes());
        bytes.extend_from_slice(&(sealed.len() as u32 + 16).to_le_bytes());
        bytes.extend_from_slice(&clear.datastore.0);
        bytes.extend_from_slice(&clear.id.0);
        bytes.extend_from_slice(&clear.group.0);
        bytes.extend_from_slice(&clear.time.seconds.to_le_bytes());
        bytes.extend_from_slice(&clear.time.nanos.to_le_bytes());
        bytes.extend_from_slice(&epoch.to_le_bytes());
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&clear.root.0);
        bytes.extend_from_slice(&clear.root_check);
        for number in [clear.logical, clear.entries, clear.unique, clear.stored] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&clear.lock_until.to_le_bytes());
        bytes.extend_from_slice(&clear.parent.map_or([0; 16], |p| p.0));
        bytes.extend_from_slice(&clear.signer.unwrap_or_default());
        debug_assert_eq!(bytes.len(), CLEAR_LEN);
        let (key, nonce) = keys.derive(epoch, &nonce, WHAT)?;
        let tag = key
            .seal_in_place_separate_tag(nonce, Aad::from(&bytes), &mut sealed)
            .map_err(|_| FormatError::Sealed { what: WHAT })?;
        bytes.extend_from_slice(&sealed);
        bytes.extend_from_slice(tag.as_ref());
        Ok(Self { bytes })
    }

    /// What the signer is given: the BLAKE3 hash of everything before the signature. The
    /// signature is over `strongroom manifest v1`, NUL and this, as `Keys1.Sign` makes it for the
    /// purpose "manifest".
    pub fn message(&self) -> [u8; 32] {
        hash_of(&self.bytes)
    }

    /// The whole file; an unsigned snapshot has 64 zeros in place of a signature.
    pub fn finish(mut self, signature: Option<[u8; SIGNATURE_LEN]>) -> Vec<u8> {
        self.bytes
            .extend_from_slice(&signature.unwrap_or([0; SIGNATURE_LEN]));
        let check = check_of(&[&self.bytes]);
        self.bytes.extend_from_slice(&check);
        self.bytes
    }
}

/// A snapshot file that was read; structure, check and signature (if it has one) hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The part in clear.
    pub clear: Clear,
    bytes: Vec<u8>,
    epoch: u32,
    nonce: [u8; NONCE_LEN],
}

impl Snapshot {
    /// Reads a whole snapshot file. The signature must be that of the key the snapshot names;
    /// whether that key is to be trusted is for the caller.
    ///
    /// # Errors
    /// When it is no snapshot of version 1, whole and signed as it says.
    pub fn parse(bytes: Vec<u8>) -> Result<Self> {
        if !bytes.starts_with(MAGIC) {
            return Err(FormatError::Magic { what: WHAT });
        }
        let mut reader = Reader::new(&bytes[8..], WHAT);
        let version = reader.u32()?;
        if version != 1 {
            return Err(FormatError::version(WHAT, version));
        }
        let sealed_len = reader.u32()? as usize;
        if !(16..=MAX_SEALED).contains(&sealed_len) {
            return Err(reader.wrong("length"));
        }
        if bytes.len() != CLEAR_LEN + sealed_len + SIGNATURE_LEN + CHECK_LEN {
            return Err(FormatError::Truncated { what: WHAT });
        }
        checked(&bytes, &[], WHAT)?;
        let datastore = DatastoreId(reader.array()?);
        let id = SnapshotId(reader.array()?);
        let group = GroupId(reader.array()?);
        let time = Timestamp {
            seconds: reader.i64()?,
            nanos: reader.u32()?,
        };
        if time.nanos >= 1_000_000_000 {
            return Err(reader.wrong("time"));
        }
        let epoch = reader.u32()?;
        let nonce = reader.array()?;
        let clear = Clear {
            datastore,
            id,
            group,
            time,
            root: Digest(reader.array()?),
            root_check: reader.array()?,
            logical: reader.u64()?,
            entries: reader.u64()?,
            unique: reader.u64()?,
            stored: reader.u64()?,
            lock_until: reader.i64()?,
            parent: Some(reader.array()?)
                .filter(|p| *p != [0; 16])
                .map(SnapshotId),
            signer: Some(reader.array()?).filter(|s| *s != [0; 32]),
        };
        let (message, signature) = bytes[..bytes.len() - CHECK_LEN]
            .split_last_chunk::<SIGNATURE_LEN>()
            .ok_or(FormatError::Truncated { what: WHAT })?;
        match clear.signer {
            Some(key) => UnparsedPublicKey::new(&ED25519, key)
                .verify(&[SIGNED, &hash_of(message)].concat(), signature)
                .map_err(|_| FormatError::Signature { what: WHAT })?,
            None if *signature == [0; SIGNATURE_LEN] => {}
            None => return Err(FormatError::Signature { what: WHAT }),
        }
        Ok(Self {
            clear,
            bytes,
            epoch,
            nonce,
        })
    }

    /// The file, as it travels to other datastores.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Decrypts the description.
    ///
    /// # Errors
    /// Another key, or altered bytes.
    pub fn details(&self, keys: &FrameKeys) -> Result<Details> {
        let (key, nonce) = keys.derive(self.epoch, &self.nonce, WHAT)?;
        let end = self.bytes.len() - SIGNATURE_LEN - CHECK_LEN;
        let mut sealed = self.bytes[CLEAR_LEN..end].to_vec();
        let plain = key
            .open_in_place(nonce, Aad::from(&self.bytes[..CLEAR_LEN]), &mut sealed)
            .map_err(|_| FormatError::Sealed { what: WHAT })?;
        Details::parse(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn problem() -> impl Strategy<Value = Problem> {
        let path = proptest::collection::vec(any::<u8>(), 0..20);
        (path, ".{0,20}").prop_map(|(path, text)| Problem { path, text })
    }

    proptest! {
        #[test]
        fn details_return(
            group in ".{0,20}", host in ".{0,20}", source in ".{0,20}",
            paths in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..4),
            problems in proptest::collection::vec(problem(), 0..4), problem_count: u64,
        ) {
            let consistency = Consistency::Application;
            let details =
                Details { group, host, paths, consistency, source, problems, problem_count };
            let encoded = details.encode();
            prop_assert_eq!(Details::parse(&encoded), Ok(details.clone()));
            // what a later release adds is passed over, once or often
            let later = [&encoded[..], &[99, 2, 1, 2, 99, 0, 100, 1, 7]].concat();
            prop_assert_eq!(Details::parse(&later), Ok(details));
        }

        #[test]
        fn any_bytes_are_details_or_not(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            fields in proptest::collection::vec(
                (1u8..9, proptest::collection::vec(any::<u8>(), 0..12)), 0..12),
        ) {
            let _ = Details::parse(&bytes);
            let mut likely = Vec::new();
            for (tag, value) in fields {
                likely.push(tag);
                put_bytes(&mut likely, &value);
            }
            if let Ok(details) = Details::parse(&likely) {
                prop_assert_eq!(Details::parse(&details.encode()), Ok(details));
            }
        }
    }

    #[test]
    fn more_problems_than_fit_are_counted() {
        let problem = Problem {
            path: vec![b'x'; 1000],
            text: "is gone".into(),
        };
        let details = Details {
            problems: vec![problem; MAX_PROBLEMS],
            problem_count: 1 << 40,
            ..Details::default()
        };
        let encoded = details.encode();
        assert!(encoded.len() < MAX_SEALED);
        let parsed = Details::parse(&encoded).unwrap();
        assert!(parsed.problems.len() > 2000 && parsed.problems.len() < MAX_PROBLEMS);
        assert_eq!(parsed.problem_count, 1 << 40);
        let mut too_many = Vec::new();
        for _ in 0..=MAX_PROBLEMS {
            too_many.extend_from_slice(&[6, 1, 0]);
        }
        assert!(Details::parse(&too_many[3..]).is_ok());
        assert!(Details::parse(&too_many).is_err());
    }
}
