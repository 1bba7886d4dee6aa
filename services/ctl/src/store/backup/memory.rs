//! What the last backup of the same paths found: leaf by leaf of its tree, the state of each object
//! ([`filetree::walk::Fingerprint::state`]). A leaf all of whose objects are as they were goes into
//! the next tree as it is; of another one those that are.
//!
//! Kept by [`filetree::memory`] in the user's cache directory, one block for each leaf
//! (docs/decisions/0015).

use anyhow::Context;
use engine::Chunks;
use filetree::memory;
use filetree::walk::Found;
use format::entry::{Entry, MAX_PATH};
use format::node::Child;
use format::{DatastoreId, Digest};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest block: the paths of a leaf, at most 16 MiB, and the states of some thousand entries,
/// where a hard link's is as long as a path.
const MAX_BLOCK: usize = 64 << 20;

/// Where the memories of all datastores are, made if need be; none when the user has no such place.
pub(super) fn place() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let caches = variable("XDG_CACHE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| Some(variable("HOME")?.join(".cache")))?;
    let place = caches.join("strongroom");
    std::fs::create_dir_all(&place).ok()?;
    place.canonicalize().ok()
}

/// The file for a backup of these paths into this datastore.
pub(super) fn file(place: &Path, datastore: DatastoreId, paths: &[PathBuf]) -> PathBuf {
    let paths: Vec<PathBuf> = paths.iter().filter_map(|p| p.canonicalize().ok()).collect();
    let name = memory::name(paths.iter().map(|p| p.as_os_str().as_bytes()));
    place.join(datastore.to_string()).join(name)
}

/// A leaf; so many records follow.
#[derive(Serialize, Deserialize)]
struct Head {
    digest: [u8; 32],
    bytes: u64,
    count: u64,
}

/// An object of a leaf.
#[derive(Serialize, Deserialize)]
struct Record<'a> {
    /// Bytes of path shared with the one before.
    shared: u64,
    rest: &'a [u8],
    /// Empty where a change might not show.
    state: &'a [u8],
    /// Bytes of content without the holes.
    bytes: u64,
}

/// What is remembered of one leaf.
pub(super) struct Block {
    raw: Vec<u8>,
    pub(super) leaf: Child,
    records_at: usize,
}

impl Block {
    fn new(raw: Vec<u8>) -> Option<Self> {
        let (head, records) = postcard::take_from_bytes::<Head>(&raw).ok()?;
        let mut block = Self {
            records_at: raw.len() - records.len(),
            leaf: Child {
                digest: Digest(head.digest),
                first_path: Vec::new(),
                entries: head.count,
                bytes: head.bytes,
            },
            raw,
        };
        block.leaf.first_path = block.cursor()?.path;
        Some(block)
    }

    /// The first object's record.
    pub(super) fn cursor(&self) -> Option<Cursor> {
        let mut cursor = Cursor {
            next: self.records_at,
            index: 0,
            path: Vec::new(),
            state: 0..0,
            bytes: 0,
        };
        cursor.read(self).then_some(cursor)
    }
}

/// Stands at a record of a block.
pub(super) struct Cursor {
    next: usize,
    pub(super) index: usize,
    pub(super) path: Vec<u8>,
    state: Range<usize>,
    pub(super) bytes: u64,
}

impl Cursor {
    pub(super) fn state<'a>(&self, block: &'a Block) -> &'a [u8] {
        &block.raw[self.state.clone()]
    }

    /// Goes to the next record; false when there is none.
    pub(super) fn advance(&mut self, block: &Block) -> bool {
        self.index += 1;
        self.read(block)
    }

    fn read(&mut self, block: &Block) -> bool {
        let rest = &block.raw[self.next..];
        let Ok((record, after)) = postcard::take_from_bytes::<Record<'_>>(rest) else {
            return false;
        };
        let shared = usize::try_from(record.shared).unwrap_or(usize::MAX);
        if shared > self.path.len() || shared + record.rest.len() > MAX_PATH {
            return false;
        }
        self.path.truncate(shared);
        self.path.extend_from_slice(record.rest);
        let from = record.state.as_ptr().addr() - block.raw.as_ptr().addr();
        self.state = from..from + record.state.len();
        self.bytes = record.bytes;
        self.next = block.raw.len() - after.len();
        true
    }
}

/// A stretch of a leaf that is as it was: all of it, if the range is.
pub(super) struct Kept {
    pub(super) block: Arc<Block>,
    pub(super) objects: Range<usize>,
}

/// The last backup's memory, gone through beside the walk.
pub(super) struct Remembered {
    file: memory::Reader,
    chunks: Chunks,
    at: Option<(Arc<Block>, Cursor)>,
    /// First object of the present block that was not told of yet.
    from: usize,
}

impl Remembered {
    /// Opens it; none when there is none of this key.
    pub(super) fn open(path: &Path, key: [u8; 32], chunks: Chunks) -> Option<Self> {
        Some(Self {
            file: memory::Reader::open(path, key, MAX_BLOCK)?,
            chunks,
            at: None,
            from: 0,
        })
    }

    /// Bytes of content in the whole.
    pub(super) fn total(&self) -> u64 {
        self.file.total()
    }

    /// Whether this object, the next of the walk, is as it was. `tell` is called with stretches of
    /// objects that are, in their order: those before this one at the latest when it is not.
    pub(super) fn unchanged(
        &mut self,
        found: &Found,
        mut tell: impl FnMut(Kept),
    ) -> engine::Result<bool> {
        let path = &found.entry.path;
        while self.at.is_some() || self.load()? {
            let Some((block, cursor)) = &self.at else {
                break;
            };
            let order = Entry::cmp_path(&cursor.path, path);
            let state = cursor.state(block);
            let same = order.is_eq()
                && !state.is_empty()
                && state == found.fingerprint.state(&found.entry);
            if !same {
                self.part(&mut tell, order.is_le());
            }
            if order.is_gt() {
                return Ok(false);
            }
            self.advance(&mut tell);
            if order.is_eq() {
                return Ok(same);
            }
        }
        Ok(false)
    }

    /// Tells of what was passed. `over`: and passes over the present object, which is not as it was.
    fn part(&mut self, tell: &mut impl FnMut(Kept), over: bool) {
        let Some((block, cursor)) = &self.at else {
            return;
        };
        if self.from < cursor.index {
            tell(Kept {
                block: block.clone(),
                objects: self.from..cursor.index,
            });
        }
        self.from = cursor.index + usize::from(over);
    }

    /// Goes to the next object; past the last one it tells of what was passed.
    fn advance(&mut self, tell: &mut impl FnMut(Kept)) {
        let Some((block, cursor)) = &mut self.at else {
            return;
        };
        if !cursor.advance(block) {
            self.part(tell, false);
            self.at = None;
        }
    }

    /// Goes to the next leaf that the datastore still has; false when there is none.
    fn load(&mut self) -> engine::Result<bool> {
        while let Some(block) = self.file.next().and_then(Block::new) {
            if !self.chunks.known(&block.leaf.digest)? {
                continue;
            }
            let Some(cursor) = block.cursor() else { break };
            (self.from, self.at) = (0, Some((Arc::new(block), cursor)));
            return Ok(true);
        }
        Ok(false)
    }

    /// Tells of what was passed when the walk has ended.
    pub(super) fn end(&mut self, mut tell: impl FnMut(Kept)) {
        self.part(&mut tell, false);
    }
}

/// The memory of the backup under way.
pub(super) struct Remembering {
    path: PathBuf,
    file: memory::Writer,
    /// Records of the leaf that has not ended.
    records: Vec<u8>,
    last: Vec<u8>,
    /// All so far is what the last backup remembered.
    same: bool,
}

impl Remembering {
    /// Begins; told where it cannot be.
    pub(super) fn create(path: &Path, key: [u8; 32]) -> Option<Self> {
        let made = memory::Writer::create(path, key);
        let made = made.with_context(|| cannot(path));
        let file = made.inspect_err(|e| eprintln!("{e:#}")).ok()?;
        Some(Self {
            path: path.into(),
            file,
            records: Vec::new(),
            last: Vec::new(),
            same: true,
        })
    }

    /// Adds an object of the leaf under way. Its state is empty where a change might not show.
    pub(super) fn add(&mut self, path: &[u8], state: &[u8], bytes: u64) {
        let pairs = path.iter().zip(&self.last);
        let shared = pairs.take_while(|(a, b)| a == b).count();
        let record = Record {
            shared: shared as u64,
            rest: &path[shared..],
            state,
            bytes,
        };
        self.records = append(std::mem::take(&mut self.records), &record);
        self.last.clear();
        self.last.extend_from_slice(path);
    }

    /// Ends the leaf of the objects added.
    pub(super) fn end_leaf(&mut self, leaf: &Child) {
        let head = Head {
            digest: leaf.digest.0,
            bytes: leaf.bytes,
            count: leaf.entries,
        };
        let mut block = append(Vec::new(), &head);
        block.append(&mut self.records);
        self.last.clear();
        self.same = false;
        self.file.add(&block);
    }

    /// Adds a leaf as it was remembered.
    pub(super) fn add_leaf(&mut self, block: &Block) {
        self.file.add(&block.raw);
    }

    /// Takes the place of the memory before, once the snapshot is kept; told where it cannot.
    pub(super) fn finish(self, total: u64) {
        let length = self.path.metadata().map(|m| m.len());
        if self.same && length.is_ok_and(|length| length == self.file.length()) {
            memory::renew(&self.path);
        } else if let Err(error) = self.file.finish(total).with_context(|| cannot(&self.path)) {
            eprintln!("{error:#}");
        }
    }
}

fn cannot(path: &Path) -> String {
    let dir = path.parent().unwrap_or(path).display();
    format!("what was found cannot be remembered in {dir}, so the next backup reads all again")
}

/// Appends what has no reason to fail: it is bytes and numbers, in memory.
fn append(out: Vec<u8>, value: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(value, out).expect("packing into memory")
}
