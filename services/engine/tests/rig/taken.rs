//! A restore that goes into memory.

use engine::{Error, Progress, Store, Target, TargetFile};
use format::SnapshotId;
use format::entry::{Entry, Kind};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// What was taken of a snapshot.
#[derive(Default)]
pub(crate) struct Taken {
    /// Paths of all entries, as they came.
    pub(crate) paths: Vec<Vec<u8>>,
    files: Vec<Arc<Bytes>>,
    most: Option<usize>,
}

/// What was taken of a file.
#[derive(Default)]
struct Bytes {
    path: Vec<u8>,
    writes: Mutex<BTreeMap<u64, Vec<u8>>>,
    length: Mutex<Option<u64>>,
    lost: Mutex<Option<Error>>,
}

pub(crate) struct File(Arc<Bytes>);

impl Target for Taken {
    type File = File;
    type Error = Error;

    fn entry(&mut self, entry: &Entry) -> engine::Result<Option<File>> {
        if self.most == Some(self.paths.len()) {
            return Err(Error::Cancelled);
        }
        self.paths.push(entry.path.clone());
        if entry.kind != Kind::File {
            return Ok(None);
        }
        let path = entry.path.clone();
        let bytes = Arc::new(Bytes {
            path,
            ..Bytes::default()
        });
        self.files.push(bytes.clone());
        Ok(Some(File(bytes)))
    }
}

impl TargetFile for File {
    fn write(&self, bytes: &[u8], at: u64) {
        let before = self.0.writes.lock().unwrap().insert(at, bytes.to_vec());
        assert_eq!(before, None, "a byte comes once");
    }

    fn lost(&self, _: u64, _: u64, error: Error) -> bool {
        self.0.lost.lock().unwrap().get_or_insert(error);
        false
    }

    fn done(self, length: u64) {
        let before = self.0.length.lock().unwrap().replace(length);
        assert_eq!(before, None, "a file ends once");
    }
}

impl Taken {
    /// One that wants no more entries than these.
    pub(crate) fn at_most(entries: usize) -> Self {
        Self {
            most: Some(entries),
            ..Self::default()
        }
    }

    /// Restores a snapshot, as far as it goes.
    pub(crate) fn take(
        &mut self,
        store: &Store,
        id: SnapshotId,
        below: &[u8],
    ) -> engine::Result<()> {
        store.restore(id, below, self, &Progress::default())
    }

    /// The files with their chunks, an empty one for each hole of `hole` bytes.
    ///
    /// # Errors
    /// What one of them lost.
    pub(crate) fn files(&self, hole: u64) -> engine::Result<Vec<(String, Vec<Vec<u8>>)>> {
        let chunks = |file: &Bytes| {
            if let Some(error) = file.lost.lock().unwrap().take() {
                return Err(error);
            }
            let (mut at, mut chunks) = (0, Vec::new());
            let holes_to = |at: &mut u64, end: u64, chunks: &mut Vec<Vec<u8>>| {
                while *at < end {
                    chunks.push(Vec::new());
                    *at += hole;
                }
                assert_eq!(*at, end, "a hole of another length");
            };
            for (offset, bytes) in &*file.writes.lock().unwrap() {
                holes_to(&mut at, *offset, &mut chunks);
                at += bytes.len() as u64;
                chunks.push(bytes.clone());
            }
            let length = file.length.lock().unwrap().expect("each file ends");
            holes_to(&mut at, length, &mut chunks);
            Ok((String::from_utf8(file.path.clone()).unwrap(), chunks))
        };
        self.files.iter().map(|file| chunks(file)).collect()
    }

    /// How many bytes there are, and what was lost.
    #[allow(dead_code, reason = "not each test loses something")]
    pub(crate) fn sums(&self) -> (usize, Vec<Error>) {
        let bytes = |file: &Arc<Bytes>| -> usize {
            let writes = file.writes.lock().unwrap();
            writes.values().map(Vec::len).sum()
        };
        let lost = self
            .files
            .iter()
            .filter_map(|file| file.lost.lock().unwrap().take());
        (self.files.iter().map(bytes).sum(), lost.collect())
    }
}
