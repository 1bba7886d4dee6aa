//! From the paths an operator names to the paths of a snapshot.

use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use format::entry::{Entry, MAX_PATH};

use super::listing::Names;
use crate::path::is_at_or_below;

/// A walk that cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// No root was named.
    #[error("no path to protect was given; name at least one")]
    None,
    /// A root does not exist.
    #[error("{} does not exist; check the path to protect", crate::shown(.0.as_os_str().as_bytes()))]
    Missing(PathBuf),
    /// A root is neither a directory nor a regular file nor a block device.
    #[error("{} is neither a directory, a file nor a block device; name the directory that holds it", crate::shown(.0.as_os_str().as_bytes()))]
    Kind(PathBuf),
    /// A root cannot be reached.
    #[error("{} cannot be reached; check its permissions and those of the directories above", crate::shown(.path.as_os_str().as_bytes()))]
    Unreachable {
        /// The root.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Where the snapshot's root is at the source, and what of it is protected.
pub(super) struct Roots {
    /// Absolute path of the snapshot's root, no slash at its end: `/` is empty.
    base: Vec<u8>,
    /// Several roots: their paths below `/`, sorted, none below another. Empty: all of `base`.
    several: Vec<Vec<u8>>,
}

impl Roots {
    pub(super) fn new(roots: &[PathBuf]) -> Result<Self, RootError> {
        let mut paths = Vec::new();
        let mut directories = true;
        for root in roots {
            let (path, directory) = resolve(root)?;
            directories &= directory;
            paths.push(path);
        }
        match &mut paths[..] {
            [] => Err(RootError::None),
            [path] if directories => Ok(Self {
                base: match &path[..] {
                    b"/" => Vec::new(),
                    _ => std::mem::take(path),
                },
                several: Vec::new(),
            }),
            paths => {
                let mut several: Vec<Vec<u8>> = paths.iter().map(|p| p[1..].to_vec()).collect();
                several.sort_unstable_by(|a, b| Entry::cmp_path(a, b));
                several.dedup_by(|later, earlier| is_at_or_below(later, earlier));
                several.retain(|path| !path.is_empty());
                Ok(Self {
                    base: Vec::new(),
                    several,
                })
            }
        }
    }

    /// The absolute path at the source of a path of the snapshot.
    pub(super) fn source(&self, path: &[u8]) -> Vec<u8> {
        let mut source = Vec::with_capacity(self.base.len() + 1 + path.len());
        source.extend_from_slice(&self.base);
        if !path.is_empty() || source.is_empty() {
            source.push(b'/');
        }
        source.extend_from_slice(path);
        source
    }

    /// Whether a path of the snapshot is one that was named itself.
    pub(super) fn is_named(&self, path: &[u8]) -> bool {
        self.several.iter().any(|root| root == path)
    }

    /// Whether a directory is on the way to roots rather than part of one.
    pub(super) fn leads_on(&self, path: &[u8]) -> bool {
        self.several
            .iter()
            .any(|root| root.len() > path.len() && is_at_or_below(root, path))
    }

    /// The names in a directory on the way that lead to roots.
    pub(super) fn below(&self, path: &[u8]) -> Names {
        let mut names = Names::new();
        let skip = path.len() + usize::from(!path.is_empty());
        for root in self
            .several
            .iter()
            .filter(|root| is_at_or_below(root, path))
        {
            if let Some(name) = root[skip..].split(|b| *b == b'/').next() {
                names.push(name);
            }
        }
        names.sort();
        names
    }
}

/// The absolute path, links followed, and whether it is a directory.
fn resolve(root: &Path) -> Result<(Vec<u8>, bool), RootError> {
    let failed = |source: std::io::Error| match source.kind() {
        ErrorKind::NotFound => RootError::Missing(root.to_path_buf()),
        _ => RootError::Unreachable {
            path: root.to_path_buf(),
            source,
        },
    };
    let path = root.canonicalize().map_err(failed)?;
    let metadata = path.symlink_metadata().map_err(failed)?;
    let kind = metadata.file_type();
    if !kind.is_dir() && !kind.is_file() && !kind.is_block_device() {
        return Err(RootError::Kind(root.to_path_buf()));
    }
    let bytes = path.into_os_string().into_encoded_bytes();
    debug_assert!(
        bytes.len() <= MAX_PATH,
        "the kernel resolves no path as long as that"
    );
    Ok((bytes, metadata.is_dir()))
}
