//! Entry leaves: consecutive entries of a snapshot in one frame (docs/format.md, "Entries").

use crate::entry::{Entry, Extent, Kind, MAX_PATH, Timestamp, Xattr};
use crate::extents::{Refs, is_valid, length_of, put_extent, read_extent, reference};
use crate::wire::{Reader, put_bytes, put_signed, put_varint};
use crate::{Digest, FormatError, Result};

const WHAT: &str = "entry leaf";
/// Longest name of an owner or group, bytes.
pub const MAX_NAME: usize = 256;
/// Longest value of an extended attribute, bytes.
pub const MAX_XATTR: usize = 64 * 1024;
/// Most extents an entry carries itself; with more it names an extent list.
pub const MAX_INLINE: usize = 64;
/// Longest encoding of one entry, bytes.
pub const MAX_ENTRY: usize = 2 << 20;

/// Most bytes of paths in a leaf once shared beginnings are written out: what bounds the memory
/// a hostile leaf can take.
pub const MAX_LEAF_PATHS: usize = 16 << 20;

/// Where a stored entry's content is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// In the entry's own extents.
    Inline,
    /// In the extent list of this digest; the entry's own extents are empty.
    List(Digest),
}

/// Appends entries to one leaf.
#[derive(Default)]
pub struct LeafBuilder {
    body: Vec<u8>,
    refs: Refs,
    last: Vec<u8>,
    count: u32,
    paths: usize,
}

impl LeafBuilder {
    /// Appends an entry, whose path must come after the last one's ([`Entry::cmp_path`]). With
    /// [`Content::List`], the entry's own extents are not written.
    ///
    /// # Errors
    /// [`FormatError::Field`] when the entry breaks a bound; the leaf is then as before.
    pub fn push(&mut self, entry: &Entry, content: &Content) -> Result<()> {
        let wrong = |field| {
            Err(FormatError::Field {
                what: "entry",
                field,
            })
        };
        if !Entry::path_is_valid(&entry.path) {
            return wrong("path");
        }
        if self.count > 0 && Entry::cmp_path(&self.last, &entry.path).is_ge() {
            return wrong("place in the order of paths");
        }
        if self.paths + entry.path.len() > MAX_LEAF_PATHS {
            return wrong("path, with those before it");
        }
        let target_fits = match &entry.kind {
            Kind::Symlink(target) => target.len() <= MAX_PATH,
            Kind::HardLink(target) => Entry::path_is_valid(target),
            _ => true,
        };
        if !target_fits {
            return wrong("link's target");
        }
        if entry.user.len() > MAX_NAME || entry.group.len() > MAX_NAME {
            return wrong("owner's name");
        }
        if entry.modified.nanos >= 1_000_000_000 {
            return wrong("time");
        }
        if entry.mode > 0o7777 {
            return wrong("mode");
        }
        let extents_fit = match content {
            Content::Inline => {
                entry.content.len() <= MAX_INLINE
                    && entry.content.iter().all(is_valid)
                    && entry
                        .content
                        .iter()
                        .map(length_of)
                        .try_fold(0u64, u64::checked_add)
                        == Some(entry.size)
            }
            Content::List(_) => entry.size > 0,
        };
        if !extents_fit || (entry.kind != Kind::File && entry.size > 0) {
            return wrong("size");
        }
        let xattr_fits =
            |x: &Xattr| !x.name.is_empty() && x.name.len() <= 255 && x.value.len() <= MAX_XATTR;
        if !entry.xattrs.iter().all(xattr_fits)
            || !entry.xattrs.is_sorted_by(|a, b| a.name < b.name)
        {
            return wrong("list of extended attributes");
        }
        let before = self.body.len();
        self.append(entry, content);
        if self.body.len() - before > MAX_ENTRY {
            self.body.truncate(before);
            return wrong("size of its attributes");
        }
        self.last.clear();
        self.last.extend_from_slice(&entry.path);
        self.paths += entry.path.len();
        self.count += 1;
        Ok(())
    }

    fn append(&mut self, entry: &Entry, content: &Content) {
        let out = &mut self.body;
        let shared = self
            .last
            .iter()
            .zip(&entry.path)
            .take_while(|(a, b)| a == b)
            .count();
        put_varint(out, shared as u64);
        put_bytes(out, &entry.path[shared..]);
        out.push(number_of(&entry.kind));
        put_varint(out, u64::from(entry.mode));
        put_varint(out, u64::from(entry.uid));
        put_varint(out, u64::from(entry.gid));
        put_bytes(out, &entry.user);
        put_bytes(out, &entry.group);
        put_signed(out, entry.modified.seconds);
        put_varint(out, u64::from(entry.modified.nanos));
        match &entry.kind {
            Kind::Symlink(target) | Kind::HardLink(target) => put_bytes(out, target),
            Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) => {
                put_varint(out, u64::from(*major));
                put_varint(out, u64::from(*minor));
            }
            Kind::File | Kind::Directory | Kind::Fifo | Kind::Socket => {}
        }
        put_varint(out, entry.xattrs.len() as u64);
        for xattr in &entry.xattrs {
            put_bytes(out, &xattr.name);
            put_bytes(out, &xattr.value);
        }
        if entry.size == 0 {
            put_varint(out, 0);
            return;
        }
        put_varint(out, 1);
        let mut stream = Vec::new();
        put_varint(&mut stream, entry.size);
        match content {
            Content::List(digest) => {
                put_varint(&mut stream, 0);
                put_varint(&mut stream, self.refs.place(*digest) << 1);
            }
            Content::Inline => {
                put_varint(&mut stream, entry.content.len() as u64);
                entry
                    .content
                    .iter()
                    .for_each(|e| put_extent(&mut stream, &mut self.refs, e));
            }
        }
        put_varint(out, 0);
        put_bytes(out, &stream);
    }

    /// Bytes the leaf's frame takes for what was pushed, references included, before packing.
    pub fn weight(&self) -> usize {
        self.body.len() + self.refs.list().len() * 32
    }

    /// Bytes of all paths written out; must stay below [`MAX_LEAF_PATHS`].
    pub fn path_bytes(&self) -> usize {
        self.paths
    }

    /// Number of entries so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Content and references of the frame; the builder then begins the next leaf.
    pub fn finish(&mut self) -> (Vec<u8>, Vec<Digest>) {
        let mut content = Vec::with_capacity(4 + self.body.len());
        content.extend_from_slice(&self.count.to_le_bytes());
        content.extend_from_slice(&self.body);
        self.body.clear();
        self.last.clear();
        (self.count, self.paths) = (0, 0);
        (content, self.refs.take())
    }
}

fn number_of(kind: &Kind) -> u8 {
    match kind {
        Kind::File => 0,
        Kind::Directory => 1,
        Kind::Symlink(_) => 2,
        Kind::HardLink(_) => 3,
        Kind::CharDevice(..) => 4,
        Kind::BlockDevice(..) => 5,
        Kind::Fifo => 6,
        Kind::Socket => 7,
    }
}

/// Reads a leaf entry by entry; after an error it ends.
pub struct LeafReader<'a> {
    reader: Reader<'a>,
    refs: &'a [Digest],
    left: u32,
    path: Vec<u8>,
    room: usize,
    first: bool,
}

impl<'a> LeafReader<'a> {
    /// Reads the content of a frame with these references.
    ///
    /// # Errors
    /// When not even the number of entries is there.
    pub fn new(content: &'a [u8], refs: &'a [Digest]) -> Result<Self> {
        let mut reader = Reader::new(content, WHAT);
        let left = reader.u32()?;
        if left == 0 && !reader.is_empty() {
            return Err(reader.wrong("length"));
        }
        Ok(Self {
            reader,
            refs,
            left,
            path: Vec::new(),
            room: MAX_LEAF_PATHS,
            first: true,
        })
    }

    fn entry(&mut self) -> Result<(Entry, Content)> {
        let reader = &mut self.reader;
        let shared = reader.varint_max(self.path.len() as u64, "path")? as usize;
        let suffix = reader.bytes(MAX_PATH, "path")?;
        self.room = self
            .room
            .checked_sub(shared + suffix.len())
            .ok_or(reader.wrong("path"))?;
        let mut path = Vec::with_capacity(shared + suffix.len());
        path.extend_from_slice(&self.path[..shared]);
        path.extend_from_slice(suffix);
        // the shortest suffix is the only encoding of a path
        let longer = self
            .path
            .get(shared)
            .is_some_and(|next| Some(next) == suffix.first());
        if longer || !Entry::path_is_valid(&path) {
            return Err(reader.wrong("path"));
        }
        if !self.first && Entry::cmp_path(&self.path, &path).is_ge() {
            return Err(reader.wrong("order of paths"));
        }
        self.first = false;
        self.path.clone_from(&path);
        let kind = reader.u8()?;
        let mode = reader.varint_max(0o7777, "mode")? as u32;
        let uid = reader.varint_u32("owner")?;
        let gid = reader.varint_u32("group")?;
        let user = reader.bytes(MAX_NAME, "owner's name")?.to_vec();
        let group = reader.bytes(MAX_NAME, "group's name")?.to_vec();
        let modified = Timestamp {
            seconds: reader.signed()?,
            nanos: reader.varint_max(999_999_999, "time")? as u32,
        };
        let kind = match kind {
            0 => Kind::File,
            1 => Kind::Directory,
            2 => Kind::Symlink(reader.bytes(MAX_PATH, "link's target")?.to_vec()),
            3 => {
                let target = reader.bytes(MAX_PATH, "link's target")?.to_vec();
                if !Entry::path_is_valid(&target) {
                    return Err(reader.wrong("link's target"));
                }
                Kind::HardLink(target)
            }
            4 | 5 => {
                let major = reader.varint_u32("device number")?;
                let minor = reader.varint_u32("device number")?;
                if kind == 4 {
                    Kind::CharDevice(major, minor)
                } else {
                    Kind::BlockDevice(major, minor)
                }
            }
            6 => Kind::Fifo,
            7 => Kind::Socket,
            _ => return Err(reader.wrong("kind of entry")),
        };
        let xattrs = Self::xattrs(reader)?;
        let mut entry = Entry {
            path,
            kind,
            mode,
            uid,
            gid,
            user,
            group,
            modified,
            xattrs,
            size: 0,
            content: Vec::new(),
        };
        let content = match reader.varint()? {
            0 => Content::Inline,
            1 if entry.kind == Kind::File => self.stream(&mut entry)?,
            _ => return Err(reader.wrong("number of streams")),
        };
        Ok((entry, content))
    }

    fn xattrs(reader: &mut Reader<'_>) -> Result<Vec<Xattr>> {
        let mut xattrs: Vec<Xattr> = Vec::new();
        for _ in 0..reader.varint()? {
            let name = reader.bytes(255, "attribute's name")?.to_vec();
            let value = reader.bytes(MAX_XATTR, "attribute's value")?.to_vec();
            if name.is_empty() || xattrs.last().is_some_and(|last| last.name >= name) {
                return Err(reader.wrong("attribute's name"));
            }
            xattrs.push(Xattr { name, value });
        }
        Ok(xattrs)
    }

    fn stream(&mut self, entry: &mut Entry) -> Result<Content> {
        let reader = &mut self.reader;
        if reader.varint()? != 0 {
            return Err(FormatError::Version {
                what: "kind of stream in an entry",
                found: 2,
            });
        }
        let mut reader = Reader::new(reader.bytes(MAX_ENTRY, "stream")?, WHAT);
        entry.size = reader.varint()?;
        let count = reader.varint_max(MAX_INLINE as u64, "number of extents")?;
        let content = if count == 0 {
            let head = reader.varint()?;
            if head & 1 == 1 {
                return Err(reader.wrong("reference"));
            }
            Content::List(reference(&reader, self.refs, head)?)
        } else {
            let mut sum = 0u64;
            for _ in 0..count {
                let extent: Extent = read_extent(&mut reader, self.refs)?;
                sum = sum
                    .checked_add(length_of(&extent))
                    .ok_or(reader.wrong("size"))?;
                entry.content.push(extent);
            }
            if sum != entry.size {
                return Err(reader.wrong("size"));
            }
            Content::Inline
        };
        if entry.size == 0 {
            return Err(reader.wrong("size"));
        }
        reader.finish()?;
        Ok(content)
    }
}

impl Iterator for LeafReader<'_> {
    type Item = Result<(Entry, Content)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let before = self.reader.left();
        let mut result = self.entry();
        if result.is_ok() && before - self.reader.left() > MAX_ENTRY {
            result = Err(self.reader.wrong("size of an entry"));
        }
        if result.is_ok() && self.left == 0 && !self.reader.is_empty() {
            result = Err(self.reader.wrong("length"));
        }
        if result.is_err() {
            self.left = 0;
        }
        Some(result)
    }
}
