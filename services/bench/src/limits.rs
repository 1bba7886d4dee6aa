//! The engine's pipeline against the sum of its parts, on the same data.
//!
//! The parts are what no backup that encrypts can do without, one after the other in one thread, each
//! in its fastest form that the house has: reading from the page cache, finding where chunks end,
//! their digests, zstd for those new chunks that it makes smaller, AES-GCM, and writing packs. No tree, no
//! index, no metadata.

use crate::corpus::{Corpus, remove};
use crate::measure::{Sample, visit};
use crate::rounds;
use crate::tools::{Step, Tool};
use anyhow::{Context, Result};
use chunking::{Cutter, Sizes};
use nix::unistd::Whence;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What the engine compresses with (`engine::Options`).
const LEVEL: i32 = 3;
/// Bytes of a pack.
const PACK: usize = 64 << 20;
/// Bytes of one call that writes.
const WRITE: usize = 1 << 20;

/// One of the parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Read,
    Cut,
    Digest,
    Compress,
    Encrypt,
    Write,
}

impl Part {
    pub(crate) const ALL: [Self; 6] = [
        Self::Read,
        Self::Cut,
        Self::Digest,
        Self::Compress,
        Self::Encrypt,
        Self::Write,
    ];

    /// What it is called in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Read => "read from the page cache",
            Self::Cut => "find the ends of chunks (our cutter)",
            Self::Digest => "keyed BLAKE3 of each chunk",
            Self::Compress => "zstd -3 of each new chunk it makes smaller",
            Self::Encrypt => "AES-256-GCM (ring) of each new chunk",
            Self::Write => "write packs of 64 MiB, fdatasync each",
        }
    }
}

/// What the parts cost, in order of [`Part::ALL`], and the engine for the same.
pub(crate) struct Limits {
    /// For each run.
    pub(crate) parts: Vec<[Cost; 6]>,
    /// For each run.
    pub(crate) backups: Vec<Sample>,
}

/// Seconds of CPU for so many bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cost {
    pub(crate) seconds: f64,
    pub(crate) bytes: u64,
}

/// Measures parts and engine in turns on the first generation.
///
/// # Errors
/// The engine failed, or the disk is full.
pub(crate) fn run(corpus: &Corpus, ours: &Tool, work: &Path, runs: u8) -> Result<Limits> {
    let source = work.join("source");
    corpus.copy_first(&source)?;
    let mut limits = Limits {
        parts: Vec::new(),
        backups: Vec::new(),
    };
    for run in 1..=runs {
        remove(&ours.state(work))?;
        fs::create_dir(ours.state(work))?;
        crate::measure::quietly(&mut ours.setup(work))?;
        rounds::warm(&source)?;
        let parts = parts(&source, &work.join("packs"))?;
        remove(&work.join("packs"))?;
        let script = ours.script(Step::First).context("our engine backs up")?;
        let backup = rounds::one(ours, Step::First, script, work)?;
        let sum: f64 = parts.iter().map(|cost| cost.seconds).sum();
        eprintln!(
            "run {run} of {runs}, limits: the parts take {sum:.2} s of CPU, the engine {:.2} s",
            backup.cpu
        );
        limits.parts.push(parts);
        limits.backups.push(backup);
    }
    remove(&source)?;
    Ok(limits)
}

fn parts(source: &Path, packs: &Path) -> Result<[Cost; 6]> {
    fs::create_dir(packs)?;
    let mut line = Line {
        cutter: Cutter::new(Sizes::default(), 1),
        zstd: zstd::bulk::Compressor::new(LEVEL)?,
        cipher: UnboundKey::new(&AES_256_GCM, &[7; 32])
            .map(LessSafeKey::new)
            .ok()
            .context("a key of 32 bytes")?,
        window: vec![0; Sizes::default().max * 4],
        known: HashSet::new(),
        packed: Vec::new(),
        buffer: Vec::new(),
        packs: packs.to_owned(),
        pack: None,
        written: 0,
        costs: [Cost::default(); 6],
    };
    let mut seen = HashSet::new();
    visit(
        source,
        &mut |path, meta| match meta.is_file() && seen.insert(meta.ino()) {
            true => line.file(&mut File::open(path)?, meta.len()),
            false => Ok(()),
        },
    )?;
    line.write_out()?;
    line.close()?;
    Ok(line.costs)
}

/// All parts and what they have in hand.
struct Line {
    cutter: Cutter,
    zstd: zstd::bulk::Compressor<'static>,
    cipher: LessSafeKey,
    /// As long as the engine's, so that what is read is still in the processor's cache.
    window: Vec<u8>,
    known: HashSet<blake3::Hash>,
    packed: Vec<u8>,
    buffer: Vec<u8>,
    packs: PathBuf,
    pack: Option<File>,
    written: usize,
    costs: [Cost; 6],
}

/// CPU seconds of this thread.
fn clock() -> Result<f64> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(std::time::Duration::from(now).as_secs_f64())
}

impl Line {
    /// Adds what was spent since `began` to a part.
    fn spent(&mut self, part: Part, began: f64, bytes: usize) -> Result<()> {
        let cost = &mut self.costs[part as usize];
        cost.seconds += clock()? - began;
        cost.bytes += bytes as u64;
        Ok(())
    }

    /// The runs of data of one file; its holes are read by nobody.
    fn file(&mut self, file: &mut File, length: u64) -> Result<()> {
        let mut at = 0;
        while at < length {
            let began = clock()?;
            let Ok(start) = nix::unistd::lseek(file.as_fd(), at.cast_signed(), Whence::SeekData)
            else {
                break; // a hole up to the end
            };
            let end = nix::unistd::lseek(file.as_fd(), start, Whence::SeekHole)?.cast_unsigned();
            file.seek(std::io::SeekFrom::Start(start.cast_unsigned()))?;
            self.spent(Part::Read, began, 0)?;
            self.run(&mut file.take(end - start.cast_unsigned()))?;
            at = end;
        }
        Ok(())
    }

    fn run(&mut self, source: &mut impl Read) -> Result<()> {
        let (mut start, mut end, mut ended) = (0, 0, false);
        let longest = self.cutter.sizes().max;
        while !ended || start < end {
            self.window.copy_within(start..end, 0);
            (start, end) = (0, end - start);
            let (began, before) = (clock()?, end);
            while !ended && end < self.window.len() {
                let count = source.read(&mut self.window[end..])?;
                end += count;
                ended = count == 0;
            }
            self.spent(Part::Read, began, end - before)?;

            let began = clock()?;
            let mut chunks = Vec::new();
            while end - start >= longest || (ended && start < end) {
                let length = self.cutter.cut(&self.window[start..end]);
                chunks.push(start..start + length);
                start += length;
            }
            self.spent(Part::Cut, began, start)?;

            let began = clock()?;
            let key = [5; 32];
            let digests: Vec<_> = chunks
                .iter()
                .map(|chunk| blake3::keyed_hash(&key, &self.window[chunk.clone()]))
                .collect();
            self.spent(Part::Digest, began, start)?;
            for (chunk, digest) in chunks.into_iter().zip(digests) {
                if self.known.insert(digest) {
                    self.new_chunk(chunk)?;
                }
            }
        }
        Ok(())
    }

    fn new_chunk(&mut self, chunk: std::ops::Range<usize>) -> Result<()> {
        let length = chunk.len();
        // as the engine: what saves less than a thirty-second is kept as it is
        self.packed.resize(length - length / 32, 0);
        let began = clock()?;
        let packed = self
            .zstd
            .compress_to_buffer(&self.window[chunk.clone()], &mut self.packed[..]);
        match packed {
            Ok(length_packed) => {
                self.spent(Part::Compress, began, length)?;
                self.packed.truncate(length_packed);
            }
            // tried in vain, which somebody who knew beforehand would not have done: no part
            Err(_) => {
                self.packed.clear();
                self.packed.extend_from_slice(&self.window[chunk]);
            }
        }
        let began = clock()?;
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&(self.known.len() as u64).to_le_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let sealed = self
            .cipher
            .seal_in_place_separate_tag(nonce, Aad::empty(), &mut self.packed);
        let tag = sealed.ok().context("AES-GCM seals")?;
        self.spent(Part::Encrypt, began, self.packed.len())?;
        self.buffer.extend_from_slice(&self.packed);
        self.buffer.extend_from_slice(tag.as_ref());
        if self.buffer.len() >= WRITE {
            self.write_out()?;
        }
        Ok(())
    }

    fn write_out(&mut self) -> Result<()> {
        let began = clock()?;
        let mut pack = match self.pack.take() {
            Some(pack) => pack,
            None => File::create_new(self.packs.join(self.known.len().to_string()))?,
        };
        pack.write_all(&self.buffer)?;
        self.pack = Some(pack);
        self.written += self.buffer.len();
        self.spent(Part::Write, began, self.buffer.len())?;
        self.buffer.clear();
        match self.written >= PACK {
            true => self.close(),
            false => Ok(()),
        }
    }

    fn close(&mut self) -> Result<()> {
        let began = clock()?;
        if let Some(pack) = self.pack.take() {
            pack.sync_data()?;
        }
        self.written = 0;
        self.spent(Part::Write, began, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_is_the_engines() {
        assert_eq!(LEVEL, engine::Options::default().level);
        assert_eq!(PACK, engine::Options::default().pack_size as usize);
    }

    #[test]
    fn each_part_sees_the_bytes_that_are_its_own() {
        let temp = tempfile::tempdir().unwrap();
        let (source, packs) = (temp.path().join("source"), temp.path().join("packs"));
        fs::create_dir(&source).unwrap();
        let random = &mut filetree::specimen::random::Random::new(1);
        let (noise, text) = (random.bytes(3 << 20), random.text(2 << 20));
        fs::write(source.join("noise"), &noise).unwrap();
        fs::write(source.join("again"), &noise).unwrap();
        fs::write(source.join("text"), &text).unwrap();
        File::create(source.join("hole"))
            .unwrap()
            .set_len(1 << 30)
            .unwrap();
        fs::hard_link(source.join("text"), source.join("link")).unwrap();
        let costs = parts(&source, &packs).unwrap();
        let bytes = |part: Part| costs[part as usize].bytes;
        let whole = 2 * noise.len() as u64 + text.len() as u64;
        for part in [Part::Read, Part::Cut, Part::Digest] {
            assert_eq!(bytes(part), whole, "{part:?}");
        }
        assert_eq!(bytes(Part::Compress), text.len() as u64);
        let stored = noise.len() as u64..(noise.len() + text.len()) as u64;
        assert!(
            stored.contains(&bytes(Part::Encrypt)),
            "{}",
            bytes(Part::Encrypt)
        );
        assert!(bytes(Part::Write) > bytes(Part::Encrypt));
        let files = fs::read_dir(&packs)
            .unwrap()
            .map(|f| f.unwrap().metadata().unwrap().len());
        assert_eq!(files.sum::<u64>(), bytes(Part::Write));
        assert!(costs.iter().all(|cost| cost.seconds > 0.0));
    }
}
