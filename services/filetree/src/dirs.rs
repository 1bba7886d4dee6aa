//! The open directories from a tree's root to where the work stands.
//!
//! Only the root and the innermost [`KEEP`] are kept open, so that depth costs no descriptors. A
//! closed one is opened again as `..` of its child and must still be the same directory: one moved
//! elsewhere meanwhile is not followed there.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, Stat, fstat, openat};

/// Directories kept open besides the root.
const KEEP: usize = 48;

/// How directories are opened: for reading, never through a symbolic link.
pub(crate) const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

struct Level<T> {
    /// None: closed for the time being, or lost for good.
    fd: Option<Arc<OwnedFd>>,
    id: (u64, u64),
    payload: T,
}

/// A stack of directories, each with what its owner keeps beside it.
pub(crate) struct Dirs<T> {
    levels: Vec<Level<T>>,
}

impl<T> Dirs<T> {
    pub(crate) fn new() -> Self {
        Self { levels: Vec::new() }
    }

    /// Goes down into `fd`, which the caller opened below the present top.
    pub(crate) fn enter(&mut self, fd: Arc<OwnedFd>, stat: &Stat, payload: T) {
        self.levels.push(Level {
            fd: Some(fd),
            id: (stat.st_dev, stat.st_ino),
            payload,
        });
        let depth = self.levels.len();
        if depth > KEEP + 1 {
            self.levels[depth - 1 - KEEP].fd = None;
        }
    }

    /// The innermost directory and its payload; its descriptor is None when it could not be opened
    /// again after a deep branch.
    pub(crate) fn top(&mut self) -> Option<(Option<&Arc<OwnedFd>>, &mut T)> {
        self.levels
            .last_mut()
            .map(|l| (l.fd.as_ref(), &mut l.payload))
    }

    /// The outermost directory.
    pub(crate) fn root(&self) -> Option<&OwnedFd> {
        self.levels.first()?.fd.as_deref()
    }

    /// Goes back up. The directory above is opened again when it was closed.
    pub(crate) fn leave(&mut self) -> Option<T> {
        let left = self.levels.pop()?;
        if let (Some(child), Some(parent)) = (&left.fd, self.levels.last_mut())
            && parent.fd.is_none()
        {
            parent.fd = reopen(child, parent.id).map(Arc::new);
        }
        Some(left.payload)
    }
}

fn reopen(child: &OwnedFd, id: (u64, u64)) -> Option<OwnedFd> {
    let fd = openat(child, c"..", DIRECTORY, Mode::empty()).ok()?;
    let stat = fstat(&fd).ok()?;
    ((stat.st_dev, stat.st_ino) == id).then_some(fd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, mkdirat, renameat};

    fn deep(dirs: &mut Dirs<usize>, start: &std::path::Path, levels: usize) {
        let root = openat(CWD, start, DIRECTORY, Mode::empty()).unwrap();
        let stat = fstat(&root).unwrap();
        dirs.enter(root.into(), &stat, 0);
        for level in 1..=levels {
            let parent = dirs.top().unwrap().0.unwrap().clone();
            mkdirat(&parent, "d", Mode::RWXU).unwrap();
            let fd = openat(&parent, "d", DIRECTORY, Mode::empty()).unwrap();
            let stat = fstat(&fd).unwrap();
            dirs.enter(fd.into(), &stat, level);
        }
    }

    #[test]
    fn depth_costs_no_descriptors_and_the_way_back_is_the_same() {
        let temp = tempfile::tempdir().unwrap();
        let mut dirs = Dirs::new();
        deep(&mut dirs, temp.path(), 3 * KEEP);
        assert_eq!(
            dirs.levels.iter().filter(|l| l.fd.is_some()).count(),
            KEEP + 1
        );
        for level in (0..=3 * KEEP).rev() {
            let (fd, payload) = dirs.top().unwrap();
            assert_eq!(*payload, level);
            let stat = fstat(fd.expect("opened again")).unwrap();
            assert_eq!((stat.st_dev, stat.st_ino), dirs.levels.last().unwrap().id);
            dirs.leave();
        }
        assert!(dirs.top().is_none());
    }

    #[test]
    fn a_directory_moved_elsewhere_is_lost_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("tree")).unwrap();
        let mut dirs = Dirs::new();
        deep(&mut dirs, &temp.path().join("tree"), KEEP + 5);
        // the child of a closed directory moves: its `..` is now somewhere else
        renameat(
            CWD,
            temp.path().join("tree/d/d/d"),
            CWD,
            temp.path().join("away"),
        )
        .unwrap();
        while dirs.levels.len() > 3 {
            assert!(dirs.top().unwrap().0.is_some());
            dirs.leave();
        }
        assert!(dirs.top().unwrap().0.is_none());
        dirs.leave();
        dirs.leave();
        assert!(dirs.top().unwrap().0.is_some(), "the root stays open");
    }
}
