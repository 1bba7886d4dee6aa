//! What the last backup of the same paths found: a file that is as it was then is not read again.
//! Kept by [`filetree::memory`], one block for each file.

use filetree::memory;
use filetree::walk::{Fingerprint, Found};
use format::entry::{Entry, Extent, Xattr};
use format::extents::length_of;
use protocol::entry::Run;
use serde::{Deserialize, Serialize};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Most runs of a file that is remembered: 128 GiB in chunks of 64 KiB, the average. A run takes 40
/// bytes here, about as many in the question to the site and in the record, so such a file comes to
/// some 400 MB of the 1 GiB the service may have. A longer one is read each time.
pub(super) const MAX_RUNS: usize = 1 << 21;
/// Longest record: so many runs of at most 38 bytes (kind, digest, length), path and attributes.
const MAX_RECORD: usize = 38 * MAX_RUNS + 2 * format::entry::MAX_PATH + format::leaf::MAX_ENTRY;

/// Under which key the memory is: digests of another key are none of ours.
pub(super) fn key(digest_key: &[u8; 32]) -> [u8; 32] {
    blake3::derive_key("strongroom-agent 1 cache of digests", digest_key)
}

/// The name of the cache of a backup of these paths and excludes.
pub fn cache_name(paths: &[PathBuf], excludes: &[Vec<u8>]) -> String {
    let paths = paths.iter().map(|p| p.as_os_str().as_bytes());
    let excludes = excludes.iter().map(|e| &e[..]);
    memory::name(paths.chain([&b""[..]]).chain(excludes))
}

#[derive(Serialize)]
struct Record {
    path: Vec<u8>,
    state: Vec<u8>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    runs: Vec<Run>,
}

/// A record whose runs are not unpacked yet.
#[derive(Deserialize)]
struct Packed {
    path: Vec<u8>,
    state: Vec<u8>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    count: u64,
    #[serde(skip)]
    runs: Vec<u8>,
}

/// The last backup's memory.
pub(super) struct Reader {
    file: memory::Reader,
    next: Option<Packed>,
}

impl Reader {
    /// Opens it; `None` when there is none of this key.
    pub(super) fn open(path: &Path, key: [u8; 32]) -> Option<Self> {
        let file = memory::Reader::open(path, key, MAX_RECORD)?;
        let mut reader = Self { file, next: None };
        reader.advance();
        Some(reader)
    }

    /// Bytes of content in the whole.
    pub(super) fn total(&self) -> u64 {
        self.file.total()
    }

    /// Where the content of this file is, if it is as it was; its attributes are then there too.
    /// Asked in the order of the walk.
    pub(super) fn unchanged(&mut self, found: &mut Found) -> Option<Vec<Extent>> {
        let entry = &mut found.entry;
        while self
            .next
            .as_ref()
            .is_some_and(|r| Entry::cmp_path(&r.path, &entry.path).is_lt())
        {
            self.advance();
        }
        let record = self.next.as_ref().filter(|r| r.path == entry.path)?;
        if record.state != found.fingerprint.state(entry) {
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
        let extents = extents.collect::<Option<_>>()?;
        let xattrs = record.xattrs.into_iter();
        entry.xattrs = xattrs.map(|(name, value)| Xattr { name, value }).collect();
        Some(extents)
    }

    fn advance(&mut self) {
        self.next = self.file.next().and_then(unpacked);
    }
}

fn unpacked(mut bytes: Vec<u8>) -> Option<Packed> {
    let (mut record, runs) = postcard::take_from_bytes::<Packed>(&bytes).ok()?;
    let at = bytes.len() - runs.len();
    record.runs = bytes.split_off(at);
    (record.count <= MAX_RUNS as u64).then_some(record)
}

/// The memory of the backup under way.
pub(super) struct Writer(memory::Writer);

impl Writer {
    /// Begins; `None` when it cannot be written, which costs the next backup its speed only.
    pub(super) fn create(path: &Path, key: [u8; 32]) -> Option<Self> {
        memory::Writer::create(path, key).ok().map(Self)
    }

    /// Remembers a file, if it is not too long for that.
    pub(super) fn add(&mut self, entry: &Entry, fingerprint: &Fingerprint) {
        if entry.content.len() > MAX_RUNS {
            return;
        }
        let xattrs = entry.xattrs.iter();
        self.write(&Record {
            path: entry.path.clone(),
            state: fingerprint.state(entry),
            xattrs: xattrs.map(|x| (x.name.clone(), x.value.clone())).collect(),
            runs: entry.content.iter().map(Run::from).collect(),
        });
    }

    fn write(&mut self, record: &Record) {
        // one that cannot be packed is not remembered
        if let Ok(bytes) = postcard::to_stdvec(record) {
            self.0.add(&bytes);
        }
    }

    /// Takes the place of the memory before, once the site has the snapshot. `total`: bytes of
    /// content in the whole.
    pub(super) fn finish(self, total: u64) {
        if let Err(error) = self.0.finish(total) {
            tracing::warn!(
                "what was backed up cannot be remembered, all is read next time: {error}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use filetree::walk::{Options, Walk};
    use format::Digest;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::fs;

    const KEY: [u8; 32] = [1; 32];

    /// Files of these names in a directory, and a walk over them.
    fn files(names: &[&str]) -> (tempfile::TempDir, impl Fn() -> Vec<Found>) {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        for name in names {
            fs::write(tree.join(name), name).unwrap();
        }
        let find = move || {
            let walk = Walk::new(std::slice::from_ref(&tree), Options::default()).unwrap();
            walk.filter_map(Result::ok).filter(Found::is_file).collect()
        };
        (dir, find)
    }

    fn remember(path: &Path, found: &[Found], content: &[Extent]) {
        let mut writer = Writer::create(path, KEY).unwrap();
        for f in found {
            let content = content.to_vec();
            let entry = Entry {
                content,
                ..f.entry.clone()
            };
            writer.add(&entry, &f.fingerprint);
        }
        writer.finish(99);
    }

    #[test]
    fn what_was_remembered_is_found_in_the_order_of_the_walk() {
        let (dir, find) = files(&["a", "b", "c"]);
        let path = dir.path().join("caches/x");
        let runs = vec![
            Extent::Data {
                digest: Digest([1; 32]),
                length: 7,
            },
            Extent::Hole { length: 1 << 40 },
        ];
        let mut found = find();
        let xattr = Xattr {
            name: b"user.it".to_vec(),
            value: b"has".to_vec(),
        };
        found[2].entry.xattrs = vec![xattr.clone()];
        remember(&path, &found, &runs);
        assert!(Reader::open(&path, [2; 32]).is_none(), "another key");
        let mut reader = Reader::open(&path, KEY).unwrap();
        assert_eq!(reader.total(), 99);
        fs::write(dir.path().join("tree/b"), "changed").unwrap();
        fs::write(dir.path().join("tree/bb"), "new").unwrap();
        let mut now = find();
        let answers: Vec<_> = now.iter_mut().map(|f| reader.unchanged(f)).collect();
        assert_eq!(answers, [Some(runs.clone()), None, None, Some(runs)]);
        assert_eq!(now[3].entry.xattrs, [xattr]);
        // the name of an owner is not the file's to change
        let mut reader = Reader::open(&path, KEY).unwrap();
        now[0].entry.user = b"renamed".to_vec();
        assert_eq!(reader.unchanged(&mut now[0]), None);
    }

    proptest! {
        /// Also with a check that fits, no record says more than a file can be long.
        #[test]
        fn no_file_of_records_is_more_than_a_loss(
            runs in vec((any::<bool>(), any::<u32>(), any::<u64>()), 0..8),
            tail in vec(any::<u8>(), 0..64),
        ) {
            let (dir, find) = files(&["a", "b"]);
            let mut found = find();
            let path = dir.path().join("x");
            let mut writer = Writer::create(&path, KEY).unwrap();
            writer.write(&Record {
                path: b"a".to_vec(),
                state: found[0].fingerprint.state(&found[0].entry),
                xattrs: Vec::new(),
                runs: runs
                    .into_iter()
                    .map(|(data, short, long)| match data {
                        true => Run::Data([1; 32], short),
                        false => Run::Hole(long),
                    })
                    .collect(),
            });
            writer.0.add(&tail);
            writer.finish(0);
            let mut reader = Reader::open(&path, KEY).unwrap();
            if let Some(content) = reader.unchanged(&mut found[0]) {
                content.iter().map(length_of).fold(0_u64, |sum, l| sum.checked_add(l).unwrap());
            }
            reader.unchanged(&mut found[1]);
        }
    }

    #[test]
    fn a_file_of_more_runs_than_memory_allows_is_not_remembered() {
        let (dir, find) = files(&["a", "b"]);
        let mut found = find();
        let path = dir.path().join("caches/x");
        let many = vec![Extent::Hole { length: 1 }; MAX_RUNS + 1];
        remember(&path, &found[..1], &many);
        let mut reader = Reader::open(&path, KEY).unwrap();
        assert_eq!(reader.unchanged(&mut found[0]), None);
        remember(&path, &found[1..], &many[1..]);
        let mut reader = Reader::open(&path, KEY).unwrap();
        assert!(reader.unchanged(&mut found[1]).is_some());
        // and what says it has them is damaged
        let mut writer = Writer::create(&path, KEY).unwrap();
        writer.write(&Record {
            path: b"a".to_vec(),
            state: found[0].fingerprint.state(&found[0].entry),
            xattrs: Vec::new(),
            runs: many.iter().map(Run::from).collect(),
        });
        writer.finish(0);
        let mut reader = Reader::open(&path, KEY).unwrap();
        assert_eq!(reader.unchanged(&mut found[0]), None);
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
