//! Frames: one chunk of data or metadata, compressed and encrypted, able to travel alone
//! (docs/format.md, "Frames").

use crate::wire::{CHECK_LEN, Reader, check_of, checked};
use crate::{DatastoreId, Digest, FormatError, Keyset, Result};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use std::cell::RefCell;
use zeroize::Zeroizing;
use zstd::bulk::Decompressor;

/// First bytes of a frame: a mark and the format version, 1.
pub const MAGIC: &[u8; 4] = b"SRF\x01";
/// Bytes before the references.
pub const HEADER_LEN: usize = 80;
/// Bytes of a frame that are neither references nor content.
pub const OVERHEAD: usize = HEADER_LEN + TAG_LEN + CHECK_LEN;
/// Longest content of a frame, bytes.
pub const MAX_PLAIN: usize = 4 << 20;
/// Most references a frame carries.
pub const MAX_REFS: usize = 1 << 16;
/// Longest frame, bytes.
pub const MAX_FRAME: usize = OVERHEAD + MAX_REFS * 32 + MAX_PLAIN;
/// Length of the nonce in clear, bytes; random, so long that 2^64 frames do not collide.
pub const NONCE_LEN: usize = 24;

const TAG_LEN: usize = 16;
const WHAT: &str = "frame";

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A piece of a file.
    Data = 1,
    /// Entries of a snapshot ([`crate::leaf`]).
    Leaf = 2,
    /// Names of leaves or nodes ([`crate::node`]).
    Node = 3,
    /// Where the content of a large file is ([`crate::extents`]).
    Extents = 4,
    /// Reserved: a data chunk as the difference from the one data chunk it refers to.
    Delta = 5,
}

impl Kind {
    /// The kind of this number.
    pub fn from_number(number: u8) -> Option<Self> {
        [
            Self::Data,
            Self::Leaf,
            Self::Node,
            Self::Extents,
            Self::Delta,
        ]
        .into_iter()
        .find(|k| *k as u8 == number)
    }

    /// Whether frames of this kind name others in clear.
    pub fn has_refs(self) -> bool {
        self != Self::Data
    }
}

/// How the content was packed before encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As it is.
    None = 0,
    /// One zstd frame.
    Zstd = 1,
}

/// The part of a frame everybody can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it holds.
    pub kind: Kind,
    /// How the content is packed.
    pub compression: Compression,
    /// Epoch of the key it is sealed with.
    pub epoch: u32,
    /// Bytes of content, unpacked.
    pub plain_len: u32,
    /// Bytes of ciphertext with its tag.
    pub sealed_len: u32,
    /// Number of references.
    pub ref_count: u32,
    /// Name of the content.
    pub digest: Digest,
    /// Random number the frame's key comes from.
    pub nonce: [u8; NONCE_LEN],
}

impl Header {
    /// Reads a header from the front of `bytes`, which may go on behind it.
    ///
    /// # Errors
    /// When it is no header of a frame of version 1 within the bounds.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes, WHAT);
        let magic: [u8; 4] = reader.array()?;
        if magic != *MAGIC {
            return Err(if magic[..3] == MAGIC[..3] {
                FormatError::version(WHAT, magic[3].into())
            } else {
                FormatError::Magic { what: WHAT }
            });
        }
        let kind = Kind::from_number(reader.u8()?).ok_or(reader.wrong("kind"))?;
        let compression = match reader.u8()? {
            0 => Compression::None,
            1 => Compression::Zstd,
            _ => return Err(reader.wrong("compression")),
        };
        if reader.array::<2>()? != [0; 2] {
            return Err(reader.wrong("reserved field"));
        }
        let header = Self {
            kind,
            compression,
            epoch: reader.u32()?,
            plain_len: reader.u32()?,
            sealed_len: reader.u32()?,
            ref_count: reader.u32()?,
            digest: Digest(reader.array()?),
            nonce: reader.array()?,
        };
        if header.plain_len as usize > MAX_PLAIN {
            return Err(reader.wrong("plain length"));
        }
        let packed_max = MAX_PLAIN.min(header.plain_len as usize) + TAG_LEN;
        let sealed_len = header.sealed_len as usize;
        let exact = compression == Compression::None;
        if sealed_len > packed_max || sealed_len < TAG_LEN || (exact && sealed_len != packed_max) {
            return Err(reader.wrong("stored length"));
        }
        let refs_fit = match kind {
            Kind::Data => header.ref_count == 0,
            Kind::Delta => header.ref_count == 1,
            _ => header.ref_count as usize <= MAX_REFS,
        };
        if !refs_fit {
            Err(reader.wrong("number of references"))
        } else {
            Ok(header)
        }
    }

    /// Length of the whole frame, bytes; at most [`MAX_FRAME`].
    pub fn frame_len(&self) -> usize {
        HEADER_LEN + self.ref_count as usize * 32 + self.sealed_len as usize + CHECK_LEN
    }

    fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..4].copy_from_slice(MAGIC);
        out[4] = self.kind as u8;
        out[5] = self.compression as u8;
        out[8..12].copy_from_slice(&self.epoch.to_le_bytes());
        out[12..16].copy_from_slice(&self.plain_len.to_le_bytes());
        out[16..20].copy_from_slice(&self.sealed_len.to_le_bytes());
        out[20..24].copy_from_slice(&self.ref_count.to_le_bytes());
        out[24..56].copy_from_slice(&self.digest.0);
        out[56..80].copy_from_slice(&self.nonce);
        out
    }
}

/// A frame whose structure and check hold; its content is still sealed.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The part in clear.
    pub header: Header,
    refs: &'a [u8],
    sealed: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads one whole frame and tests its check: any bit flipped since it was written, and a
    /// frame of another datastore, fail here, without a key.
    ///
    /// # Errors
    /// When it is no whole frame of this datastore.
    pub fn parse(bytes: &'a [u8], datastore: DatastoreId) -> Result<Self> {
        let frame = Self::parse_unchecked(bytes)?;
        checked(bytes, &datastore.0, WHAT)?;
        Ok(frame)
    }

    /// As [`Frame::parse`] without testing the check, for a reader who opens the frame at once,
    /// and so has the cipher's tag for it.
    ///
    /// # Errors
    /// When it is no whole frame.
    pub fn parse_unchecked(bytes: &'a [u8]) -> Result<Self> {
        let header = Header::parse(bytes)?;
        if bytes.len() != header.frame_len() {
            return Err(if bytes.len() < header.frame_len() {
                FormatError::Truncated { what: WHAT }
            } else {
                FormatError::Field {
                    what: WHAT,
                    field: "length",
                }
            });
        }
        let mut reader = Reader::new(&bytes[HEADER_LEN..], WHAT);
        let refs = reader.take(header.ref_count as usize * 32)?;
        let sealed = reader.take(header.sealed_len as usize)?;
        Ok(Self {
            header,
            refs,
            sealed,
        })
    }

    /// The digests this frame refers to.
    pub fn refs(&self) -> impl ExactSizeIterator<Item = Digest> + use<'a> {
        self.refs.as_chunks::<32>().0.iter().map(|d| Digest(*d))
    }

    /// Decrypts and unpacks the content. Whether it has the digest that the header names is for
    /// the caller to test, who has the digest keys.
    ///
    /// # Errors
    /// Another key, altered bytes, an unknown epoch, or a delta, which nothing writes yet.
    pub fn open(&self, keys: &FrameKeys) -> Result<Vec<u8>> {
        if self.header.kind == Kind::Delta {
            return Err(FormatError::Version {
                what: "delta frame",
                found: 2,
            });
        }
        let (key, nonce) = keys.derive(self.header.epoch, &self.header.nonce, WHAT)?;
        let mut buffer = self.sealed.to_vec();
        let aad = associated(keys.datastore, &self.header, self.refs);
        let packed = key
            .open_in_place(nonce, Aad::from(&aad), &mut buffer)
            .map_err(|_| FormatError::Sealed { what: WHAT })?;
        let plain_len = self.header.plain_len as usize;
        match self.header.compression {
            Compression::None => {
                buffer.truncate(plain_len);
                Ok(buffer)
            }
            Compression::Zstd => {
                let mut plain = Vec::with_capacity(plain_len);
                let written = unpack(packed, &mut plain).map_err(|_| FormatError::Field {
                    what: WHAT,
                    field: "packed content",
                })?;
                if written == plain_len {
                    Ok(plain)
                } else {
                    Err(FormatError::Field {
                        what: WHAT,
                        field: "plain length",
                    })
                }
            }
        }
    }
}

/// Unpacks into the capacity of `plain`. A decompressor is some 100 KiB, so each thread keeps one.
fn unpack(packed: &[u8], plain: &mut Vec<u8>) -> std::io::Result<usize> {
    thread_local! {
        static ZSTD: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
    }
    ZSTD.with_borrow_mut(|zstd| {
        let zstd = match zstd {
            Some(zstd) => zstd,
            none => none.insert(Decompressor::new()?),
        };
        zstd.decompress_to_buffer(packed, plain)
    })
}

/// The check at the end of a frame (what a snapshot records of its root).
///
/// # Errors
/// When there are not even so many bytes.
pub fn check_at_end(frame: &[u8]) -> Result<[u8; CHECK_LEN]> {
    frame
        .last_chunk()
        .copied()
        .ok_or(FormatError::Truncated { what: WHAT })
}

/// What sealing and opening frames needs.
#[derive(Clone)]
pub struct FrameKeys {
    datastore: DatastoreId,
    keys: std::sync::Arc<Keyset>,
}

impl FrameKeys {
    /// Keys of frames out of a key set.
    pub fn new(keys: std::sync::Arc<Keyset>) -> Self {
        Self {
            datastore: keys.datastore_id,
            keys,
        }
    }

    /// Epoch new frames are sealed under.
    ///
    /// # Errors
    /// When the key set has none.
    pub fn epoch(&self) -> Result<u32> {
        self.keys.newest().map(|(epoch, _)| epoch)
    }

    /// The cipher and its own nonce for one frame or one encrypted part: both come from the epoch
    /// key and the long nonce by keyed BLAKE3, so no two share a cipher key.
    pub(crate) fn derive(
        &self,
        epoch: u32,
        nonce: &[u8; NONCE_LEN],
        what: &'static str,
    ) -> Result<(LessSafeKey, Nonce)> {
        let epoch_key = self
            .keys
            .epochs
            .get(&epoch)
            .ok_or(FormatError::Epoch { what, epoch })?;
        let mut hasher = blake3::Hasher::new_keyed(epoch_key);
        hasher.update(b"strongroom 1 frame key").update(nonce);
        let mut out = Zeroizing::new([0; 44]);
        hasher.finalize_xof().fill(&mut *out);
        let key =
            UnboundKey::new(&AES_256_GCM, &out[..32]).map_err(|_| FormatError::Sealed { what })?;
        let nonce = Nonce::try_assume_unique_for_key(&out[32..])
            .map_err(|_| FormatError::Sealed { what })?;
        Ok((LessSafeKey::new(key), nonce))
    }
}

/// What the cipher's tag covers besides the content: datastore, the header, the references'
/// hash. Neither pack nor offset, so frames move between packs and stores without a key.
fn associated(datastore: DatastoreId, header: &Header, refs: &[u8]) -> [u8; 128] {
    let mut aad = [0; 128];
    aad[..16].copy_from_slice(&datastore.0);
    aad[16..96].copy_from_slice(&header.encode());
    if !refs.is_empty() {
        aad[96..].copy_from_slice(blake3::hash(refs).as_bytes());
    }
    aad
}

/// A frame under construction at the end of a buffer.
pub struct Draft<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    header: Header,
}

impl<'a> Draft<'a> {
    /// Appends the header's room and the references to `out`; the packed content comes next,
    /// appended to [`Draft::payload`].
    pub fn begin(
        out: &'a mut Vec<u8>,
        kind: Kind,
        digest: Digest,
        plain_len: u32,
        refs: &[Digest],
        epoch: u32,
        nonce: [u8; NONCE_LEN],
    ) -> Self {
        let start = out.len();
        out.resize(start + HEADER_LEN, 0);
        for digest in refs {
            out.extend_from_slice(&digest.0);
        }
        let header = Header {
            kind,
            compression: Compression::None,
            epoch,
            plain_len,
            sealed_len: 0,
            ref_count: refs.len() as u32,
            digest,
            nonce,
        };
        Self { out, start, header }
    }

    /// Where the packed content is appended; what is there already must stay.
    pub fn payload(&mut self) -> &mut Vec<u8> {
        self.out
    }

    /// Encrypts the content and completes the frame.
    ///
    /// # Errors
    /// When the frame breaks a bound or the epoch has no key; the buffer then ends where it
    /// ended before [`Draft::begin`].
    pub fn seal(mut self, compression: Compression, keys: &FrameKeys) -> Result<Header> {
        match self.complete(compression, keys) {
            Ok(()) => Ok(self.header),
            Err(error) => {
                self.out.truncate(self.start);
                Err(error)
            }
        }
    }

    fn complete(&mut self, compression: Compression, keys: &FrameKeys) -> Result<()> {
        let refs_at = self.start + HEADER_LEN;
        let payload_at = refs_at + self.header.ref_count as usize * 32;
        self.header.compression = compression;
        self.header.sealed_len = (self.out.len() - payload_at + TAG_LEN) as u32;
        let encoded = self.header.encode();
        Header::parse(&encoded)?;
        self.out[self.start..refs_at].copy_from_slice(&encoded);
        let aad = associated(keys.datastore, &self.header, &self.out[refs_at..payload_at]);
        let (key, nonce) = keys.derive(self.header.epoch, &self.header.nonce, WHAT)?;
        let tag = key
            .seal_in_place_separate_tag(nonce, Aad::from(&aad), &mut self.out[payload_at..])
            .map_err(|_| FormatError::Sealed { what: WHAT })?;
        self.out.extend_from_slice(tag.as_ref());
        let check = check_of(&[&self.out[self.start..], &keys.datastore.0]);
        self.out.extend_from_slice(&check);
        Ok(())
    }
}
