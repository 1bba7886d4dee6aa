//! What the last backup of the same paths found, in the order of the walk: a file whose
//! fingerprint is as it was then is not read again.
//!
//! A flat file, read and written beside the walk, replaced when the site has the snapshot. It can
//! be lost or damaged at no other cost than reading everything once.

use filetree::walk::Fingerprint;
use format::entry::{Entry, Extent};
use format::extents::length_of;
use protocol::entry::Run;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const MAGIC: &[u8; 8] = b"SRSEEN\x01\n";
/// Bytes before the first record: magic, key check, bytes of content in the whole, and their CRC.
const HEADER: usize = 8 + 16 + 8 + 4;
/// Most runs of a file that is remembered: 128 GiB in chunks of 64 KiB, the average. A run takes 40
/// bytes here, about as many in the question to the site and in the record, so such a file comes to
/// some 400 MB of the 1 GiB the service may have. A longer one is read each time.
pub(super) const MAX_RUNS: usize = 1 << 21;
/// Longest record: so many runs of at most 38 bytes (kind, digest, length), and the path.
const MAX_RECORD: usize = 38 * MAX_RUNS + 2 * format::entry::MAX_PATH;
/// A memory that no backup renewed for so long is of paths that are not backed up any more.
const UNUSED: Duration = Duration::from_secs(90 * 24 * 3600);

fn crc_of(bytes: &[u8]) -> [u8; 4] {
    crc32fast::hash(bytes).to_le_bytes()
}

/// Tells digests of another key from ours.
pub(super) fn key_check(digest_key: &[u8; 32]) -> [u8; 16] {
    let hash = blake3::derive_key("strongroom-agent 1 cache of digests", digest_key);
    std::array::from_fn(|i| hash[i])
}

/// The name of the cache of a backup of these paths and excludes.
pub fn cache_name(paths: &[PathBuf], excludes: &[Vec<u8>]) -> String {
    use std::os::unix::ffi::OsStrExt;
    let mut hasher = blake3::Hasher::new();
    let mut add = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    paths.iter().for_each(|p| add(p.as_os_str().as_bytes()));
    add(b"");
    excludes.iter().for_each(|e| add(e));
    hasher.finalize().to_hex()[..32].to_owned()
}

#[derive(Serialize)]
struct Record {
    path: Vec<u8>,
    fingerprint: Vec<u8>,
    runs: Vec<Run>,
}

/// A record whose runs are not unpacked yet.
#[derive(Deserialize)]
struct Packed {
    path: Vec<u8>,
    fingerprint: Vec<u8>,
    count: u64,
    #[serde(skip)]
    runs: Vec<u8>,
}

/// The last backup's memory.
pub(super) struct Reader {
    file: BufReader<File>,
    total: u64,
    next: Option<Packed>,
}

impl Reader {
    /// Opens it; `None` when there is none of this key.
    pub(super) fn open(path: &Path, key_check: [u8; 16]) -> Option<Self> {
        let mut file = BufReader::with_capacity(1 << 18, File::open(path).ok()?);
        let mut header = [0; HEADER];
        file.read_exact(&mut header).ok()?;
        let (magic, rest) = header.split_first_chunk::<8>()?;
        let (check, rest) = rest.split_first_chunk::<16>()?;
        let (total, crc) = rest.split_first_chunk::<8>()?;
        if magic != MAGIC || *check != key_check || crc != crc_of(total) {
            return None;
        }
        let total = u64::from_le_bytes(*total);
        let mut reader = Self {
            file,
            total,
            next: None,
        };
        reader.advance();
        Some(reader)
    }

    /// Bytes of content in the whole.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Where the content of this file is, if it is as it was. Asked in the order of the walk.
    pub(super) fn unchanged(&mut self, path: &[u8], now: &Fingerprint) -> Option<Vec<Extent>> {
        while self
            .next
            .as_ref()
            .is_some_and(|r| Entry::cmp_path(&r.path, path).is_lt())
        {
            self.advance();
        }
        let record = self.next.as_ref().filter(|r| r.path == path)?;
        if record.fingerprint != now.to_bytes() {
            return None;
        }
        let record = self.next.take()?;
        self.advance();
        let (mut size, mut left) = (0_u64, &record.runs[..]);
        let extents = (0..record.count).map(|_| {
            let (run, rest) = postcard::take_from_bytes::<Run>(left).ok()?;
            left = rest;
            let extent = run.check().ok()?;
            size = size.checked_add(length_of(&extent))?;
            Some(extent)
        });
        extents.collect()
    }

    fn advance(&mut self) {
        self.next = self.record();
    }

    fn record(&mut self) -> Option<Packed> {
        let mut prefix = [0; 8];
        self.file.read_exact(&mut prefix).ok()?;
        let (length, check) = prefix.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        if length > MAX_RECORD {
            return None;
        }
        let mut bytes = Vec::new();
        (&mut self.file)
            .take(length as u64)
            .read_to_end(&mut bytes)
            .ok()?;
        if bytes.len() != length || crc_of(&bytes) != *check {
            return None;
        }
        let (mut record, runs) = postcard::take_from_bytes::<Packed>(&bytes).ok()?;
        let at = bytes.len() - runs.len();
        record.runs = bytes.split_off(at);
        (record.count <= MAX_RUNS as u64).then_some(record)
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
pub(super) struct Writer {
    path: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
    failed: bool,
}

impl Writer {
    /// Begins; `None` when it cannot be written, which costs the next backup its speed only.
    pub(super) fn create(path: &Path, key_check: [u8; 16]) -> Option<Self> {
        let temporary = path.with_extension(format!("{}.new", std::process::id()));
        let dir = path.parent()?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .ok()?;
        sweep(dir);
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary);
        let file = file.ok()?;
        // tells it from what a run that was killed has left
        file.try_lock().ok()?;
        let mut file = BufWriter::with_capacity(1 << 18, file);
        let header = [&MAGIC[..], &key_check, &[0; 8 + 4]].concat();
        file.write_all(&header).ok()?;
        Some(Self {
            path: path.into(),
            temporary,
            file,
            failed: false,
        })
    }

    /// Remembers a file, if it is not too long for that.
    pub(super) fn add(&mut self, path: &[u8], fingerprint: &Fingerprint, content: &[Extent]) {
        if content.len() > MAX_RUNS {
            return;
        }
        let record = Record {
            path: path.to_vec(),
            fingerprint: fingerprint.to_bytes().to_vec(),
            runs: content.iter().map(Run::from).collect(),
        };
        self.failed |= self.write(&record).is_none();
    }

    fn write(&mut self, record: &Record) -> Option<()> {
        let bytes = postcard::to_stdvec(record).ok()?;
        self.file
            .write_all(&(bytes.len() as u32).to_le_bytes())
            .ok()?;
        self.file.write_all(&crc_of(&bytes)).ok()?;
        self.file.write_all(&bytes).ok()
    }

    /// Takes the place of the memory before, once the site has the snapshot. `total`: bytes of
    /// content in the whole.
    pub(super) fn finish(mut self, total: u64) {
        let mut write = || -> std::io::Result<()> {
            self.file.seek(SeekFrom::Start(8 + 16))?;
            let total = total.to_le_bytes();
            self.file
                .write_all(&[&total[..], &crc_of(&total)].concat())?;
            self.file.flush()?;
            self.file.get_ref().sync_all()?;
            fs::rename(&self.temporary, &self.path)
        };
        if !self.failed
            && let Err(error) = write()
        {
            tracing::warn!(
                "what was backed up cannot be remembered, all is read next time: {error}"
            );
        }
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
    use filetree::walk::{Found, Options, Walk};
    use format::Digest;
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[test]
    fn what_was_remembered_is_found_in_the_order_of_the_walk() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        for name in ["a", "b", "c"] {
            fs::write(tree.join(name), name).unwrap();
        }
        let walk = || Walk::new(std::slice::from_ref(&tree), Options::default()).unwrap();
        let found: Vec<_> = walk()
            .filter_map(|f| f.ok())
            .filter(|f| f.is_file())
            .collect();
        let path = dir.path().join("caches/x");
        let runs = vec![
            Extent::Data {
                digest: Digest([1; 32]),
                length: 7,
            },
            Extent::Hole { length: 1 << 40 },
        ];
        let mut writer = Writer::create(&path, [1; 16]).unwrap();
        assert!(
            Reader::open(&path, [1; 16]).is_none(),
            "not before it is finished"
        );
        for f in &found {
            writer.add(&f.entry.path, &f.fingerprint, &runs);
        }
        writer.finish(99);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert!(Reader::open(&path, [2; 16]).is_none(), "another key");
        let mut reader = Reader::open(&path, [1; 16]).unwrap();
        assert_eq!(reader.total(), 99);
        fs::write(tree.join("b"), "changed").unwrap();
        let now: Vec<_> = walk()
            .filter_map(|f| f.ok())
            .filter(|f| f.is_file())
            .collect();
        assert_eq!(reader.unchanged(b"Z", &now[0].fingerprint), None);
        assert_eq!(
            reader.unchanged(b"a", &now[0].fingerprint),
            Some(runs.clone())
        );
        assert_eq!(reader.unchanged(b"b", &now[1].fingerprint), None);
        assert_eq!(reader.unchanged(b"c", &now[2].fingerprint), Some(runs));
        assert_eq!(reader.unchanged(b"d", &now[2].fingerprint), None);
        // any damage is an end
        let bytes = fs::read(&path).unwrap();
        for cut in [HEADER, HEADER + 3, bytes.len() - 1] {
            fs::write(&path, &bytes[..cut]).unwrap();
            let mut reader = Reader::open(&path, [1; 16]).unwrap();
            assert_eq!(reader.unchanged(b"c", &now[2].fingerprint), None);
        }
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            fs::write(&path, &flipped).unwrap();
            let found = Reader::open(&path, [1; 16]).map(|mut reader| {
                assert_eq!(reader.total(), 99);
                reader.unchanged(b"a", &now[0].fingerprint)?;
                reader.unchanged(b"c", &now[2].fingerprint)
            });
            assert_eq!(found.flatten(), None, "byte {at}");
        }
    }

    proptest! {
        /// Also with a checksum that fits, no record says more than a file can be long.
        #[test]
        fn no_file_of_records_is_more_than_a_loss(
            runs in vec((any::<bool>(), any::<u32>(), any::<u64>()), 0..8),
            tail in vec(any::<u8>(), 0..64),
        ) {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("a"), "a").unwrap();
            let walk = Walk::new(&[dir.path().join("a")], Options::default()).unwrap();
            let found = walk.filter_map(Result::ok).find(Found::is_file).unwrap();
            let path = dir.path().join("x");
            let mut writer = Writer::create(&path, [1; 16]).unwrap();
            let record = Record {
                path: b"a".to_vec(),
                fingerprint: found.fingerprint.to_bytes().to_vec(),
                runs: runs
                    .into_iter()
                    .map(|(data, short, long)| match data {
                        true => Run::Data([1; 32], short),
                        false => Run::Hole(long),
                    })
                    .collect(),
            };
            writer.write(&record).unwrap();
            writer.file.write_all(&tail).unwrap();
            writer.finish(0);
            let mut reader = Reader::open(&path, [1; 16]).unwrap();
            if let Some(content) = reader.unchanged(b"a", &found.fingerprint) {
                content.iter().map(length_of).fold(0_u64, |sum, l| sum.checked_add(l).unwrap());
            }
            reader.unchanged(b"b", &found.fingerprint);
        }
    }

    #[test]
    fn a_file_of_more_runs_than_memory_allows_is_not_remembered() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let walk = Walk::new(&[dir.path().into()], Options::default()).unwrap();
        let found: Vec<_> = walk
            .filter_map(Result::ok)
            .filter(Found::is_file)
            .map(|f| f.fingerprint)
            .collect();
        let path = dir.path().join("caches/x");
        let many = vec![Extent::Hole { length: 1 }; MAX_RUNS + 1];
        let mut writer = Writer::create(&path, [1; 16]).unwrap();
        writer.add(b"a", &found[0], &many);
        writer.add(b"b", &found[1], &many[1..]);
        writer.finish(0);
        let mut reader = Reader::open(&path, [1; 16]).unwrap();
        assert_eq!(reader.unchanged(b"a", &found[0]), None);
        assert!(reader.unchanged(b"b", &found[1]).is_some());
        // and what says it has them is damaged
        let mut writer = Writer::create(&path, [1; 16]).unwrap();
        let record = Record {
            path: b"a".to_vec(),
            fingerprint: found[0].to_bytes().to_vec(),
            runs: many.iter().map(Run::from).collect(),
        };
        writer.write(&record).unwrap();
        writer.finish(0);
        let mut reader = Reader::open(&path, [1; 16]).unwrap();
        assert_eq!(reader.unchanged(b"a", &found[0]), None);
    }

    #[test]
    fn what_no_backup_will_want_goes_when_one_begins() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let [killed, old, young] = ["x.1.new", "old", "young"].map(at);
        let under_way = Writer::create(&at("other"), [1; 16]).unwrap();
        for path in [&killed, &old, &young] {
            fs::write(path, "").unwrap();
        }
        let months_ago = std::time::SystemTime::now() - UNUSED - Duration::from_secs(60);
        File::open(&old).unwrap().set_modified(months_ago).unwrap();
        Writer::create(&at("x"), [1; 16]).unwrap().finish(0);
        assert!(!killed.exists() && !old.exists() && young.exists());
        under_way.finish(0);
        assert!(at("other").exists() && at("x").exists());
    }

    #[test]
    fn other_paths_have_another_cache() {
        let name = |p: &[&str], e: &[&str]| {
            let paths: Vec<PathBuf> = p.iter().map(Into::into).collect();
            let excludes: Vec<Vec<u8>> = e.iter().map(|e| e.as_bytes().to_vec()).collect();
            cache_name(&paths, &excludes)
        };
        assert_eq!(name(&["/a"], &[]), name(&["/a"], &[]));
        assert_ne!(name(&["/a", "/b"], &[]), name(&["/a"], &["/b"]));
    }
}
