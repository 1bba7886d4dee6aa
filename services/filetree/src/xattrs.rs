//! Extended attributes of an object, whatever it is.

use std::os::fd::{AsRawFd, BorrowedFd};

use format::entry::Xattr;
use rustix::fs::{fgetxattr, flistxattr, getxattr, lgetxattr, listxattr, llistxattr};
use rustix::io::{self, Errno};

/// The kernel's bound on a list of names and on one value.
const LIMIT: usize = 64 * 1024;

/// Where an object's attributes are reached.
///
/// The calls that take a descriptor refuse symbolic links, devices and what may not be opened, and
/// those that take a path follow links on the way; through /proc/self/fd the way begins at an open
/// directory and takes one step.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    /// The file that is open for reading.
    File(BorrowedFd<'a>),
    /// The object that is open (also by O_PATH).
    Open(BorrowedFd<'a>),
    /// The name in the open directory, itself when it is a symbolic link.
    Named(BorrowedFd<'a>, &'a [u8]),
}

impl Place<'_> {
    /// The path of an open object below /proc, for calls that take no O_PATH descriptor.
    fn path(&self) -> Vec<u8> {
        match self {
            Self::File(fd) | Self::Open(fd) => {
                format!("/proc/self/fd/{}", fd.as_raw_fd()).into_bytes()
            }
            Self::Named(dir, name) => {
                let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
                path.extend_from_slice(name);
                path
            }
        }
    }
}

/// Reads attributes with buffers it keeps.
pub(crate) struct Xattrs {
    names: Vec<u8>,
    value: Vec<u8>,
}

impl Xattrs {
    pub(crate) fn new() -> Self {
        Self {
            names: vec![0; LIMIT],
            value: vec![0; LIMIT],
        }
    }

    /// All attributes, sorted by name; none where the file system has none.
    pub(crate) fn read(&mut self, place: Place<'_>) -> io::Result<Vec<Xattr>> {
        let listed = match place {
            Place::File(fd) => flistxattr(fd, &mut self.names[..]),
            Place::Open(_) => listxattr(place.path(), &mut self.names[..]),
            Place::Named(..) => llistxattr(place.path(), &mut self.names[..]),
        };
        let length = match listed {
            Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            listed => listed?,
        };
        let path = place.path();
        let mut xattrs = Vec::new();
        for name in self.names[..length].split(|b| *b == 0) {
            if name.is_empty() {
                continue;
            }
            let got = match place {
                Place::File(fd) => fgetxattr(fd, name, &mut self.value[..]),
                Place::Open(_) => getxattr(&path, name, &mut self.value[..]),
                Place::Named(..) => lgetxattr(&path, name, &mut self.value[..]),
            };
            match got {
                Ok(length) => xattrs.push(Xattr {
                    name: name.to_vec(),
                    value: self.value[..length].to_vec(),
                }),
                // removed since it was listed, or listed by a file system that keeps no value
                Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(errno),
            }
        }
        xattrs.sort_unstable();
        Ok(xattrs)
    }
}

/// Sets one attribute of an open object.
pub(crate) fn set(fd: BorrowedFd<'_>, xattr: &Xattr) -> io::Result<()> {
    let path = Place::Open(fd).path();
    rustix::fs::setxattr(
        &path,
        &xattr.name,
        &xattr.value,
        rustix::fs::XattrFlags::empty(),
    )
}

/// Removes one attribute of an open object.
pub(crate) fn remove(fd: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    rustix::fs::removexattr(Place::Open(fd).path(), name)
}
