//! Deciding what to compress, and doing it into a buffer that stays.

use format::frame::Compression;
use std::io;
use zstd::bulk::Compressor;

/// Contents shorter than this are not worth a look.
const SHORT: usize = 64;
/// Contents shorter than this are compressed without sampling them first.
const SAMPLED: usize = 16 << 10;
/// What is tried before all of a content that looks incompressible.
const TRIAL: usize = 8 << 10;

/// One thread's compressor.
pub(crate) struct Packer {
    zstd: Compressor<'static>,
    /// Where it writes to: zeroed once, not for each content.
    room: Vec<u8>,
}

impl Packer {
    pub(crate) fn new(level: i32) -> io::Result<Self> {
        Ok(Self {
            zstd: Compressor::new(level)?,
            room: Vec::new(),
        })
    }

    /// Appends the content to `out`, compressed if that saves a thirty-second of it or more.
    pub(crate) fn pack(&mut self, content: &[u8], out: &mut Vec<u8>) -> Compression {
        let goal = content.len() - content.len() / 32;
        if content.len() >= SHORT && !self.looks_incompressible(content) {
            // not fitting into the goal's room is one way of not compressing well enough
            if let Some(packed) = self.fits(content, goal) {
                out.extend_from_slice(packed);
                return Compression::Zstd;
            }
        }
        out.extend_from_slice(content);
        Compression::None
    }

    /// The content compressed, if it takes no more than so many bytes.
    fn fits(&mut self, content: &[u8], most: usize) -> Option<&[u8]> {
        if self.room.len() < most {
            self.room.resize(most, 0);
        }
        let room = &mut self.room[..most];
        let length = self.zstd.compress_to_buffer(content, room).ok()?;
        Some(&self.room[..length])
    }

    /// Looks at every 16th byte or so; if these are spread like random ones, a piece from the
    /// middle is tried.
    fn looks_incompressible(&mut self, content: &[u8]) -> bool {
        if content.len() < SAMPLED {
            return false;
        }
        let mut counts = [0u32; 256];
        // an odd step meets all columns of whatever tables the content holds
        let samples = content.iter().step_by(17);
        let total = samples.len() as u64;
        samples.for_each(|b| counts[usize::from(*b)] += 1);
        // sum of squares: total²/256 if even; twice the excess that chance explains is allowed
        let squares: u64 = counts.iter().map(|c| u64::from(*c).pow(2)).sum();
        if squares > total * total / 256 + 2 * total {
            return false;
        }
        let trial = &content[content.len() / 2..][..TRIAL];
        self.fits(trial, TRIAL - TRIAL / 64).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(content: &[u8]) -> (Compression, Vec<u8>) {
        let mut out = b"before".to_vec();
        let compression = Packer::new(3).unwrap().pack(content, &mut out);
        assert_eq!(&out[..6], b"before");
        (compression, out.split_off(6))
    }

    #[test]
    fn text_is_compressed_and_noise_is_not() {
        let text = b"all work and no play makes a dull boy\n".repeat(2000);
        let (compression, bytes) = packed(&text);
        assert_eq!(compression, Compression::Zstd);
        assert_eq!(zstd::bulk::decompress(&bytes, text.len()).unwrap(), text);

        let noise: [u8; 65536] = crate::core::random().unwrap();
        assert_eq!(packed(&noise), (Compression::None, noise.to_vec()));
        assert_eq!(packed(b"short"), (Compression::None, b"short".to_vec()));
        assert_eq!(packed(b""), (Compression::None, Vec::new()));
    }

    #[test]
    fn repeated_noise_is_compressed() {
        let noise: [u8; 4096] = crate::core::random().unwrap();
        let (compression, bytes) = packed(&noise.repeat(16));
        assert_eq!(compression, Compression::Zstd);
        assert!(bytes.len() < 5000);
    }
}
