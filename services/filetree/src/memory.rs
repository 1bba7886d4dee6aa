//! What a backup found, kept for the next one of the same paths: blocks of bytes in the order of the
//! walk, in one flat file that is read beside the walk and written anew beside it.
//!
//! It can be lost or damaged at no other cost than reading everything once: each block is checked
//! under the caller's key, so what a fault, another key or another program made of it counts as not
//! remembered. What the blocks say is the caller's.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const MAGIC: &[u8; 8] = b"SRSEEN\x02\n";
/// Bytes before the first block: magic, total, and their check.
const HEADER: usize = 8 + 8 + CHECK;
/// Bytes of a check.
const CHECK: usize = 16;
/// Bytes before a block: its length and check.
const PREFIX: usize = 4 + CHECK;
/// A memory that no backup renewed for so long is of paths that are not backed up any more.
const UNUSED: Duration = Duration::from_secs(90 * 24 * 3600);

/// Of what is at this place in the file: 0 is the header.
fn check_of(key: &[u8; 32], place: u64, bytes: &[u8]) -> [u8; CHECK] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&place.to_le_bytes()).update(bytes);
    let hash = hasher.finalize();
    std::array::from_fn(|i| hash.as_bytes()[i])
}

/// The name of the memory of a backup told by these parts, such as its paths and excludes.
pub fn name<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

/// The last backup's memory.
pub struct Reader {
    file: BufReader<File>,
    key: [u8; 32],
    total: u64,
    place: u64,
    longest: usize,
}

impl Reader {
    /// Opens it; `None` when there is none of this key. Blocks are at most so long.
    pub fn open(path: &Path, key: [u8; 32], longest: usize) -> Option<Self> {
        let mut file = BufReader::with_capacity(1 << 18, File::open(path).ok()?);
        let mut header = [0; HEADER];
        file.read_exact(&mut header).ok()?;
        let (head, check) = header.split_last_chunk::<CHECK>()?;
        let (magic, total) = head.split_first_chunk::<8>()?;
        if magic != MAGIC || *check != check_of(&key, 0, head) {
            return None;
        }
        Some(Self {
            file,
            key,
            total: u64::from_le_bytes(total.try_into().ok()?),
            place: 0,
            longest,
        })
    }

    /// Bytes of content in the whole.
    pub fn total(&self) -> u64 {
        self.total
    }
}

/// The blocks; none after the first that is damaged.
impl Iterator for Reader {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut prefix = [0; PREFIX];
        self.file.read_exact(&mut prefix).ok()?;
        let (length, check) = prefix.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        if length > self.longest {
            return None;
        }
        let mut bytes = Vec::new();
        (&mut self.file)
            .take(length as u64)
            .read_to_end(&mut bytes)
            .ok()?;
        self.place += 1;
        let whole = bytes.len() == length && check_of(&self.key, self.place, &bytes) == *check;
        whole.then_some(bytes)
    }
}

/// Says of a memory that it still holds, where the backup found all to be as it was.
pub fn renew(path: &Path) {
    if let Ok(file) = File::open(path) {
        // where it cannot be said the memory is taken for unused some day
        let _ = file.set_modified(SystemTime::now());
    }
}

/// Removes what no backup will want any more.
fn sweep(dir: &Path) {
    for found in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = found.path();
        let unwanted = if path.extension().is_some_and(|e| e == "new") {
            File::open(&path).is_ok_and(|file| file.try_lock().is_ok())
        } else {
            let modified = found.metadata().and_then(|m| m.modified());
            modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > UNUSED))
        };
        if unwanted {
            let _ = fs::remove_file(path);
        }
    }
}

/// The memory of the backup under way.
pub struct Writer {
    path: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
    key: [u8; 32],
    place: u64,
    length: u64,
    failed: Option<io::Error>,
}

impl Writer {
    /// Begins, in a directory that is made and from which what is too old is removed.
    ///
    /// # Errors
    /// It cannot be written, which costs the next backup its speed only.
    pub fn create(path: &Path, key: [u8; 32]) -> io::Result<Self> {
        let temporary = path.with_extension(format!("{}.new", std::process::id()));
        let dir = path.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
        sweep(dir);
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(&temporary)?;
        // tells it from what a run that was killed has left
        file.try_lock()?;
        let mut file = BufWriter::with_capacity(1 << 18, file);
        file.write_all(&[0; HEADER])?;
        Ok(Self {
            path: path.into(),
            temporary,
            file,
            key,
            place: 0,
            length: HEADER as u64,
            failed: None,
        })
    }

    /// Adds a block; what fails is told by [`finish`](Self::finish).
    pub fn add(&mut self, block: &[u8]) {
        if self.failed.is_none() {
            self.failed = self.write(block).err();
        }
    }

    /// Bytes so far: in a memory of the same length as one before that has all its blocks there are no
    /// others.
    pub fn length(&self) -> u64 {
        self.length
    }

    fn write(&mut self, block: &[u8]) -> io::Result<()> {
        self.place += 1;
        self.length += (PREFIX + block.len()) as u64;
        let length = u32::try_from(block.len()).map_err(io::Error::other)?;
        self.file.write_all(&length.to_le_bytes())?;
        self.file
            .write_all(&check_of(&self.key, self.place, block))?;
        self.file.write_all(block)
    }

    /// Takes the place of the memory before, once the snapshot is kept. `total`: bytes of content
    /// in the whole.
    ///
    /// # Errors
    /// It cannot be written; the memory before stays.
    pub fn finish(mut self, total: u64) -> io::Result<()> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let head = [&MAGIC[..], &total.to_le_bytes()].concat();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&head)?;
        self.file.write_all(&check_of(&self.key, 0, &head))?;
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        fs::rename(&self.temporary, &self.path)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // gone already when it took its place
        let _ = fs::remove_file(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [1; 32];

    fn all(path: &Path) -> Option<(u64, Vec<Vec<u8>>)> {
        let reader = Reader::open(path, KEY, 100)?;
        Some((reader.total(), reader.collect()))
    }

    #[test]
    fn what_was_remembered_is_there_when_it_is_finished_and_any_damage_is_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("caches/x");
        let blocks = [b"one".to_vec(), Vec::new(), vec![3; 100]];
        let mut writer = Writer::create(&path, KEY).unwrap();
        blocks.iter().for_each(|b| writer.add(b));
        assert_eq!(all(&path), None, "not before it is finished");
        writer.finish(99).unwrap();
        let alone = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(alone, 1);
        assert_eq!(all(&path), Some((99, blocks.to_vec())));
        assert!(Reader::open(&path, [2; 32], 100).is_none(), "another key");
        let shorter = Reader::open(&path, KEY, 99).unwrap();
        assert_eq!(shorter.count(), 2);
        let bytes = fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            for torn in [&bytes[..at], &flipped] {
                fs::write(&path, torn).unwrap();
                if let Some((total, found)) = all(&path) {
                    assert_eq!(total, 99);
                    assert!(found.len() < 3 && blocks.starts_with(&found), "byte {at}");
                }
            }
        }
        // blocks in another order are damage too
        let mut swapped = bytes[..HEADER].to_vec();
        swapped.extend_from_slice(&bytes[HEADER + PREFIX + 3..]);
        fs::write(&path, swapped).unwrap();
        assert_eq!(all(&path), Some((99, vec![])));
    }

    #[test]
    fn what_is_not_finished_or_not_renewed_goes() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name| dir.path().join(name);
        Writer::create(&at("unused"), KEY)
            .unwrap()
            .finish(0)
            .unwrap();
        Writer::create(&at("renewed"), KEY)
            .unwrap()
            .finish(0)
            .unwrap();
        fs::write(at("killed.1.new"), "").unwrap();
        let running = Writer::create(&at("running"), KEY).unwrap();
        let old = SystemTime::now() - UNUSED - Duration::from_secs(9);
        for name in ["unused", "renewed"] {
            File::open(at(name)).unwrap().set_modified(old).unwrap();
        }
        renew(&at("renewed"));
        drop(Writer::create(&at("next"), KEY).unwrap());
        let names = fs::read_dir(dir.path()).unwrap();
        let mut names: Vec<_> = names.map(|n| n.unwrap().path()).collect();
        names.sort();
        assert_eq!(names, [at("renewed"), running.temporary.clone()]);
    }

    #[test]
    fn a_name_is_of_its_parts() {
        let names = [
            name([&b"ab"[..], b"c"]),
            name([&b"a"[..], b"bc"]),
            name([&b"abc"[..]]),
            name([]),
        ];
        for (i, one) in names.iter().enumerate() {
            assert_eq!(one.len(), 32);
            assert!(!names[..i].contains(one));
        }
    }
}
