//! Says in what two trees differ: every byte and every attribute a backup keeps.
//!
//! Both are walked side by side, in bounded memory. Owners are compared by number. Where one tree
//! has holes and the other zeros is information, no difference: no program can read it from a file.

use std::cmp::Ordering;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use format::entry::{Entry, Kind, Timestamp, Xattr};

use crate::problem::{Problem, shown};
use crate::walk::{Content, Found, Options, RootError, Segment, Walk};

/// Differences and informations kept in a [`Comparison`]; more are counted only.
pub const MAX_LISTED: usize = 1000;

/// Bytes of each file held at a time.
const BUFFER: usize = 256 * 1024;

/// One thing in which the trees differ.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {sentence}", shown(path))]
pub struct Difference {
    /// Path below both roots.
    pub path: Vec<u8>,
    /// What differs, the first tree's first.
    pub sentence: String,
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Entries that are in both trees, the roots included.
    pub entries: u64,
    /// Bytes of content compared, holes of both not counted.
    pub bytes: u64,
    /// In what the trees differ, the first [`MAX_LISTED`].
    pub differences: Vec<Difference>,
    /// Differences beyond those.
    pub more: u64,
    /// Files whose holes differ although their bytes are alike, the first [`MAX_LISTED`].
    pub information: Vec<Difference>,
}

impl Comparison {
    /// Whether nothing differs.
    pub fn is_same(&self) -> bool {
        self.differences.is_empty()
    }
}

/// Compares two directories and all that is below them, pseudo file systems left out.
///
/// # Errors
/// One of them does not exist or is no directory. What cannot be read is a difference.
pub fn compare(a: &Path, b: &Path) -> Result<Comparison, RootError> {
    let mut a = Side::new(a)?;
    let mut b = Side::new(b)?;
    let mut job = Job::default();
    let (mut in_a, mut in_b) = (a.next(&mut job), b.next(&mut job));
    loop {
        let order = match (&in_a, &in_b) {
            (None, None) => return Ok(job.done),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => Entry::cmp_path(&a.entry.path, &b.entry.path),
        };
        if order.is_eq() {
            if let (Some(a), Some(b)) = (&in_a, &in_b) {
                job.pair(a, b);
            }
        } else {
            let only = if order.is_lt() { &in_a } else { &in_b };
            let missing = if order.is_lt() { "second" } else { "first" };
            if let Some(only) = only {
                job.differ(
                    &only.entry.path,
                    format!("is missing in the {missing} tree"),
                );
            }
        }
        if order.is_le() {
            in_a = a.next(&mut job);
        }
        if order.is_ge() {
            in_b = b.next(&mut job);
        }
    }
}

/// One tree.
struct Side {
    walk: Walk,
    root: Vec<u8>,
}

impl Side {
    fn new(root: &Path) -> Result<Self, RootError> {
        let unreachable = |source| RootError::Unreachable {
            path: root.to_path_buf(),
            source,
        };
        let walk = Walk::new(&[root.to_path_buf()], Options::default())?;
        let real = root.canonicalize().map_err(unreachable)?;
        if !real.is_dir() {
            return Err(RootError::Kind(root.to_path_buf()));
        }
        let root = real.as_os_str().as_bytes().to_vec();
        Ok(Self { walk, root })
    }

    /// The next object; problems on the way are differences.
    fn next(&mut self, job: &mut Job) -> Option<Found> {
        loop {
            match self.walk.next()? {
                Ok(found) => return Some(found),
                Err(problem) => {
                    let path = problem.path.strip_prefix(&self.root[..]);
                    let path =
                        path.map_or(&problem.path[..], |p| p.strip_prefix(b"/").unwrap_or(p));
                    job.differ(path, problem.sentence.clone());
                }
            }
        }
    }
}

#[derive(Default)]
struct Job {
    done: Comparison,
    buffers: [Vec<u8>; 2],
}

impl Job {
    fn differ(&mut self, path: &[u8], sentence: String) {
        if self.done.differences.len() < MAX_LISTED {
            let path = path.to_vec();
            self.done.differences.push(Difference { path, sentence });
        } else {
            self.done.more += 1;
        }
    }

    fn pair(&mut self, in_a: &Found, in_b: &Found) {
        self.done.entries += 1;
        let (a, b) = (&in_a.entry, &in_b.entry);
        let path = &a.path;
        if a.kind != b.kind {
            self.differ(path, format!("is {}, and {}", kind(&a.kind), kind(&b.kind)));
            return;
        }
        if a.mode != b.mode {
            self.differ(path, format!("has mode {:04o}, and {:04o}", a.mode, b.mode));
        }
        if (a.uid, a.gid) != (b.uid, b.gid) {
            let (au, ag, bu, bg) = (a.uid, a.gid, b.uid, b.gid);
            self.differ(path, format!("belongs to {au}:{ag}, and {bu}:{bg}"));
        }
        if a.modified != b.modified {
            let (a, b) = (time(a.modified), time(b.modified));
            self.differ(path, format!("was modified at {a}, and {b}"));
        }
        self.xattrs(path, &a.xattrs, &b.xattrs);
        if a.kind == Kind::File {
            match self.content(in_a, in_b) {
                Ok(None) => {}
                Ok(Some(sentence)) => self.differ(path, sentence),
                Err(problem) => self.differ(path, problem.sentence),
            }
        }
    }

    fn xattrs(&mut self, path: &[u8], a: &[Xattr], b: &[Xattr]) {
        for xattr in a {
            let name = shown(&xattr.name);
            match b.iter().find(|other| other.name == xattr.name) {
                None => self.differ(path, format!("has attribute {name}, and none")),
                Some(other) if other.value != xattr.value => {
                    self.differ(path, format!("has another value of attribute {name}"));
                }
                Some(_) => {}
            }
        }
        for xattr in b
            .iter()
            .filter(|x| a.iter().all(|other| other.name != x.name))
        {
            let name = shown(&xattr.name);
            self.differ(path, format!("has no attribute {name}, and has it"));
        }
    }

    /// Reads both files to the end or their first difference.
    fn content(&mut self, in_a: &Found, in_b: &Found) -> Result<Option<String>, Problem> {
        if in_a.entry.size != in_b.entry.size {
            let (a, b) = (in_a.entry.size, in_b.entry.size);
            return Ok(Some(format!("has {a} bytes, and {b}")));
        }
        let (mut a, mut b) = (Run::open(in_a)?, Run::open(in_b)?);
        let [buffer_a, buffer_b] = &mut self.buffers;
        buffer_a.resize(BUFFER, 0);
        buffer_b.resize(BUFFER, 0);
        let mut at = 0;
        loop {
            let length = a.left()?.min(b.left()?);
            if length == 0 {
                break;
            }
            if a.is_hole && b.is_hole {
                a.skip(length);
                b.skip(length);
                at += length;
                continue;
            }
            let length = usize::try_from(length).map_or(BUFFER, |length| length.min(BUFFER));
            let read_a = a.read(&mut buffer_a[..length])?;
            let read_b = b.read(&mut buffer_b[..length])?;
            let same = buffer_a[..read_a]
                .iter()
                .zip(&buffer_b[..read_b])
                .position(|(a, b)| a != b);
            if let Some(first) = same {
                return Ok(Some(format!("differs from byte {} on", at + first as u64)));
            }
            if read_a != read_b {
                return Ok(Some(
                    "was cut while it was compared; compare again".to_string(),
                ));
            }
            at += read_a as u64;
            self.done.bytes += read_a as u64;
        }
        if a.holes != b.holes && self.done.information.len() < MAX_LISTED {
            let (a, b) = (a.holes, b.holes);
            self.done.information.push(Difference {
                path: in_a.entry.path.clone(),
                sentence: format!("has {a} bytes of holes, and {b}"),
            });
        }
        Ok(a.content
            .finish()
            .or(b.content.finish())
            .map(|problem| problem.sentence))
    }
}

/// Where one file is read, and how much is left of the data or the hole there.
struct Run {
    content: Content,
    is_hole: bool,
    left: u64,
    holes: u64,
}

impl Run {
    fn open(found: &Found) -> Result<Self, Problem> {
        Ok(Self {
            content: found.open()?,
            is_hole: false,
            left: 0,
            holes: 0,
        })
    }

    /// Bytes until data or hole ends, 0 at the end of the file.
    fn left(&mut self) -> Result<u64, Problem> {
        if self.left == 0 {
            match self.content.segment()? {
                None => {}
                Some(Segment::Data { length }) => (self.is_hole, self.left) = (false, length),
                Some(Segment::Hole { length }) => {
                    (self.is_hole, self.left) = (true, length);
                    self.holes += length;
                }
            }
        }
        Ok(self.left)
    }

    fn skip(&mut self, length: u64) {
        self.left -= length;
    }

    /// Fills the buffer, less only when the file was cut.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Problem> {
        let mut done = 0;
        if self.is_hole {
            buffer.fill(0);
            done = buffer.len();
        }
        while done < buffer.len() {
            match self.content.read(&mut buffer[done..])? {
                0 => break,
                read => done += read,
            }
        }
        self.skip(done as u64);
        Ok(done)
    }
}

fn kind(kind: &Kind) -> String {
    match kind {
        Kind::File => "a file".to_string(),
        Kind::Directory => "a directory".to_string(),
        Kind::Symlink(to) => format!("a symbolic link to {}", shown(to)),
        Kind::HardLink(first) => format!("another name of {}", shown(first)),
        Kind::CharDevice(major, minor) => format!("character device {major}:{minor}"),
        Kind::BlockDevice(major, minor) => format!("block device {major}:{minor}"),
        Kind::Fifo => "a named pipe".to_string(),
        Kind::Socket => "a socket".to_string(),
    }
}

fn time(time: Timestamp) -> String {
    format!("{}.{:09}", time.seconds, time.nanos)
}
