//! Cuts streams into chunks and computes digests; linked by engine and agent.
//!
//! Boundaries are chosen by content (MinCDC, docs/decisions/0011-chunk-sizes.md), so an insertion
//! moves only the chunks around it: a chunk ends at the four bytes, of those where it may, whose hash
//! is the least. The hash depends on a seed: with one derived from a key, lengths of stored chunks do
//! not betray which well-known file they come from.

use mincdc::{Cdc, MinCdcHash4};
use std::io::{self, Read};

pub use format::DigestKeys;

/// Bounds of chunk lengths, bytes; 4 at least. Lengths are spread evenly between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// No chunk but a stream's last is shorter.
    pub min: usize,
    /// No chunk is longer.
    pub max: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            min: 32 << 10,
            max: 96 << 10,
        }
    }
}

/// Finds chunk boundaries.
#[derive(Clone, Debug)]
pub struct Cutter {
    sizes: Sizes,
    hash: MinCdcHash4,
}

impl Cutter {
    /// A cutter of these sizes; streams cut with the same sizes and seed share their chunks.
    pub fn new(sizes: Sizes, seed: u64) -> Self {
        // of an even multiplier the hash would lose what the first bytes say
        let (multiplier, addend) = (seed as u32 | 1, (seed >> 32) as u32);
        Self {
            sizes,
            hash: MinCdcHash4::with_params(multiplier, addend),
        }
    }

    /// The sizes it cuts to.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Length of the chunk that `window` begins with. The window holds at least
    /// [`Sizes::max`] bytes unless the stream ends with it.
    pub fn cut(&self, window: &[u8]) -> usize {
        let Sizes { min, max } = self.sizes;
        let Some(head) = window.get(..max) else {
            return window.len();
        };
        // stretches of zeros: tested at memory speed, and always cut alike
        if is_zero(head) {
            return max;
        }
        min - 4 + self.hash.best_splitpoint(&head[min - 4..])
    }
}

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<128>();
    // an early look at the front, then whole blocks that the compiler turns into vector code
    rest.iter().all(|b| *b == 0) && blocks.iter().all(|b| b.iter().fold(0, |a, b| a | b) == 0)
}

/// Cuts one stream after the other, in one buffer that stays.
#[derive(Debug)]
pub struct Chunker {
    cutter: Cutter,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    ended: bool,
}

impl Chunker {
    /// A chunker with room for a few of the longest chunks.
    pub fn new(cutter: Cutter) -> Self {
        let buffer = vec![0; cutter.sizes.max * 4];
        Self {
            cutter,
            buffer,
            start: 0,
            end: 0,
            ended: false,
        }
    }

    /// Begins with a new stream, forgetting what is left of the last.
    pub fn restart(&mut self) {
        (self.start, self.end, self.ended) = (0, 0, false);
    }

    /// The next chunk of the stream, `None` at its end. `source` is the same stream until then.
    ///
    /// # Errors
    /// What the source's `read` fails with; the chunker is then to be restarted.
    pub fn next<R: Read>(&mut self, source: &mut R) -> io::Result<Option<&[u8]>> {
        if self.end - self.start < self.cutter.sizes.max && !self.ended {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            while self.end < self.buffer.len() && !self.ended {
                match source.read(&mut self.buffer[self.end..]) {
                    Ok(0) => self.ended = true,
                    Ok(count) => self.end += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let window = &self.buffer[self.start..self.end];
        if window.is_empty() {
            return Ok(None);
        }
        let length = self.cutter.cut(window);
        self.start += length;
        Ok(Some(&window[..length]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes that look random, the same for the same seed.
    fn noise(length: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .take(length)
        .collect()
    }

    fn small() -> Sizes {
        Sizes {
            min: 512,
            max: 1536,
        }
    }

    /// Gives out a stream in pieces of unforeseeable length.
    struct Dribble<'a>(&'a [u8], usize);

    impl Read for Dribble<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            self.1 = self.1.wrapping_mul(31).wrapping_add(7);
            let count = (1 + self.1 % 777).min(out.len()).min(self.0.len());
            out[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn chunks(cutter: &Cutter, data: &[u8]) -> Vec<Vec<u8>> {
        let mut chunker = Chunker::new(cutter.clone());
        let mut source = Dribble(data, data.len());
        let mut out = Vec::new();
        while let Some(chunk) = chunker.next(&mut source).unwrap() {
            out.push(chunk.to_vec());
        }
        out
    }

    proptest! {
        #[test]
        fn chunks_make_up_the_stream_within_bounds(
            length in 0usize..60_000, zeros in 0usize..20_000, seed: u64,
        ) {
            let cutter = Cutter::new(small(), seed);
            let mut data = noise(length, seed);
            data.resize(length + zeros, 0);
            data.extend(noise(length / 2, !seed));
            let pieces = chunks(&cutter, &data);
            prop_assert_eq!(pieces.concat(), data);
            for (i, piece) in pieces.iter().enumerate() {
                prop_assert!(piece.len() <= small().max);
                prop_assert!(piece.len() >= small().min || i + 1 == pieces.len());
            }
        }

        #[test]
        fn an_insertion_moves_only_chunks_near_it(at in 0usize..150_000, seed: u64) {
            let cutter = Cutter::new(small(), 0);
            let data = noise(200_000, seed);
            let mut longer = data.clone();
            longer.splice(at..at, *b"seventeen bytes!!");
            let before: std::collections::HashSet<_> = chunks(&cutter, &data).into_iter().collect();
            let fresh = chunks(&cutter, &longer).iter().filter(|c| !before.contains(*c)).count();
            prop_assert!(fresh <= 20, "{fresh} new chunks");
        }
    }

    /// As the definition says, byte by byte.
    fn cut_slowly(sizes: Sizes, seed: u64, window: &[u8]) -> usize {
        let hash = |end: &usize| {
            let bytes = window[end - 4..*end].try_into().unwrap();
            let hash = u32::from_le_bytes(bytes).wrapping_mul(seed as u32 | 1);
            hash.wrapping_add((seed >> 32) as u32)
        };
        (sizes.min..=sizes.max).min_by_key(hash).unwrap()
    }

    proptest! {
        #[test]
        fn cuts_are_the_same_whatever_the_processor(
            seed: u64, data: u64, letters in 1u8..=255, sizes in (4usize..600, 0usize..600),
        ) {
            let sizes = Sizes { min: sizes.0, max: sizes.0 + sizes.1 };
            let mut window = noise(sizes.max, data);
            window.iter_mut().for_each(|b| *b = 1 + *b % letters);
            let cut = Cutter::new(sizes, seed).cut(&window);
            prop_assert_eq!(cut, cut_slowly(sizes, seed, &window));
        }
    }

    #[test]
    fn seeds_cut_differently() {
        let data = noise(100_000, 3);
        let lengths = |seed| -> Vec<usize> {
            chunks(&Cutter::new(small(), seed), &data)
                .iter()
                .map(Vec::len)
                .collect()
        };
        assert_eq!(lengths(1), lengths(1));
        assert_ne!(lengths(1), lengths(2));
    }

    #[test]
    fn zeros_are_recognised_at_any_length() {
        for length in [0, 1, 127, 128, 129, 5000] {
            let mut bytes = vec![0; length];
            assert!(is_zero(&bytes));
            for at in [0, length / 2, length.saturating_sub(1)] {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = 1;
                    assert!(!is_zero(&bytes), "{at} of {length}");
                    bytes[at] = 0;
                }
            }
        }
    }
}
