//! The kernel's requests, handed to the tree.

use super::tree::{Answer, Tree};
use format::entry::Xattr;
use fuser::{
    Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEntry, ReplyLseek, ReplyOpen, ReplyXattr, Request,
};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Nothing ever changes.
const TTL: Duration = Duration::from_secs(24 * 60 * 60);
const GENERATION: Generation = Generation(0);
/// lseek(2)
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

pub(super) struct Served(pub(super) Arc<Tree>);

/// As getxattr(2) and listxattr(2) have it: a size of nought asks for the size.
fn give(reply: ReplyXattr, size: u32, bytes: &[u8]) {
    match size {
        0 => reply.size(bytes.len() as u32),
        size if (size as usize) < bytes.len() => reply.error(Errno::ERANGE),
        _ => reply.data(bytes),
    }
}

impl Served {
    fn xattrs<T>(&self, ino: INodeNo, of: impl FnOnce(&[Xattr]) -> T) -> Answer<T> {
        let seen = self.0.entry(ino.0)?;
        Ok(of(seen.as_ref().map_or(&[], |seen| &seen.entry().xattrs)))
    }
}

impl Filesystem for Served {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // each is for speed, and an older kernel does without
        for flag in [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
        ] {
            let _ = config.add_capabilities(flag);
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.0.lookup(parent.0, name.as_bytes()) {
            Ok(attr) => reply.entry(&TTL, &attr, GENERATION),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.attr(ino.0) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.0.link(ino.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.0.read(ino.0, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn lseek(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let found = match (u64::try_from(offset), whence) {
            (Ok(offset), SEEK_DATA | SEEK_HOLE) => self.0.seek(ino.0, offset, whence == SEEK_DATA),
            _ => Err(Errno::EINVAL),
        };
        match found.and_then(|at| i64::try_from(at).map_err(|_| Errno::EOVERFLOW)) {
            Ok(at) => reply.offset(at),
            Err(error) => reply.error(error),
        }
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR;
        reply.opened(FileHandle(0), flags);
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        from: u64,
        mut reply: ReplyDirectory,
    ) {
        let mut some = false;
        let listed = self.0.list(ino.0, from, |item, name, next| {
            let full = reply.add(
                INodeNo(item.ino()),
                next,
                item.kind(),
                OsStr::from_bytes(name),
            );
            some |= !full;
            full
        });
        match listed {
            Err(error) if !some => reply.error(error),
            // what is there is given first, and the next call meets what failed
            _ => reply.ok(),
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        from: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let mut some = false;
        let listed = self.0.list(ino.0, from, |item, name, next| {
            let attr: Answer<FileAttr> = self.0.attr_of(item);
            // of what cannot be read the name is given, and who looks at it asks again
            let ttl = if attr.is_ok() { TTL } else { Duration::ZERO };
            let attr = attr.unwrap_or_else(|_| item.attr(SystemTime::UNIX_EPOCH));
            let name = OsStr::from_bytes(name);
            let full = reply.add(attr.ino, next, name, &ttl, &attr, GENERATION);
            some |= !full;
            full
        });
        match listed {
            Err(error) if !some => reply.error(error),
            _ => reply.ok(),
        }
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let value = self.xattrs(ino, |xattrs| {
            let found = xattrs.iter().find(|x| x.name == name.as_bytes());
            found.map(|xattr| xattr.value.clone())
        });
        match value.and_then(|value| value.ok_or(Errno::NO_XATTR)) {
            Ok(value) => give(reply, size, &value),
            Err(error) => reply.error(error),
        }
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.xattrs(ino, |xattrs| {
            let names = xattrs.iter().map(|x| [&x.name[..], b"\0"].concat());
            names.collect::<Vec<_>>().concat()
        });
        match names {
            Ok(names) => give(reply, size, &names),
            Err(error) => reply.error(error),
        }
    }
}
