//! What a restore did and what went wrong, told apart: one entry, or all.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::problem::{Problem, shown};

/// Problems kept in a [`Report`]; more are counted only.
pub const MAX_PROBLEMS: usize = 10_000;
/// Bytes of their paths and sentences, likewise.
pub(super) const MAX_PROBLEM_BYTES: usize = 4 << 20;

/// What stops a restore.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The target holds something and [`Options::overwrite`](super::Options::overwrite) is off.
    #[error("{} is not empty; choose an empty or new directory", shown(.0.as_os_str().as_bytes()))]
    NotEmpty(PathBuf),
    /// The target cannot be made or opened.
    #[error("{} cannot be used as the target; check that it is a directory and may be written", shown(.path.as_os_str().as_bytes()))]
    Target {
        /// The target.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No space, or the user's share of it is used up.
    #[error("the disk of {} is full; make room there and restore again", shown(.path.as_os_str().as_bytes()))]
    Full {
        /// What was being written.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The device or file system fails.
    #[error("{} cannot be written because its disk fails; check the kernel log and restore elsewhere", shown(.path.as_os_str().as_bytes()))]
    Device {
        /// What was being written.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

/// What a restore did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Entries written.
    pub entries: u64,
    /// Bytes of file content written, holes not counted.
    pub bytes: u64,
    /// What is missing or incomplete, the first [`MAX_PROBLEMS`] of it or what fits into 4 MiB.
    pub problems: Vec<Problem>,
    /// Problems beyond those.
    pub more: u64,
}

/// Why one step failed.
pub(super) enum Failure {
    One(Problem),
    All(WriteError),
}
