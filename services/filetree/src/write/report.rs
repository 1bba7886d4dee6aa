//! What a restore did and what went wrong, told apart: one entry, or all.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use rustix::io::Errno;

use super::Writer;
use crate::problem::{Problem, ProblemKind, errno_text, shown};

/// Problems kept in a [`Report`]; more are counted only.
pub const MAX_PROBLEMS: usize = 10_000;
/// Bytes of their paths and sentences, likewise.
const MAX_PROBLEM_BYTES: usize = 4 << 20;

/// What stops a restore.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The target holds something and [`Options::overwrite`](super::Options::overwrite) is off.
    #[error("{} is not empty; choose an empty or new directory, or ask to overwrite", shown(.0.as_os_str().as_bytes()))]
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

impl Writer {
    pub(super) fn settle(&mut self, done: Result<(), Failure>) -> Result<(), WriteError> {
        match done {
            Ok(()) => Ok(()),
            Err(Failure::One(problem)) => {
                self.tell(problem);
                Ok(())
            }
            Err(Failure::All(error)) => Err(error),
        }
    }

    pub(super) fn tell(&mut self, problem: Problem) {
        let bytes = self.told_bytes + problem.path.len() + problem.sentence.len();
        if self.report.problems.len() < MAX_PROBLEMS && bytes <= MAX_PROBLEM_BYTES {
            self.told_bytes = bytes;
            self.report.problems.push(problem);
        } else {
            self.report.more += 1;
        }
    }

    /// Tells apart what stops one entry and what stops all.
    pub(super) fn failure(&self, path: &[u8], what: &str, errno: Errno) -> Failure {
        let full_path = || self.target.join(OsString::from_vec(path.to_vec()));
        let source = errno.into();
        let next = match errno {
            Errno::NOSPC | Errno::DQUOT => {
                let path = full_path();
                return Failure::All(WriteError::Full { path, source });
            }
            Errno::IO | Errno::ROFS | Errno::NODEV => {
                let path = full_path();
                return Failure::All(WriteError::Device { path, source });
            }
            Errno::PERM | Errno::ACCESS => "restore as root, or to a directory that may be written",
            Errno::EXIST | Errno::ISDIR | Errno::NOTEMPTY | Errno::NOTDIR | Errno::LOOP => {
                "something else is in its place; restore to an empty directory"
            }
            Errno::NAMETOOLONG | Errno::INVAL | Errno::ILSEQ => {
                "the target's file system does not take it; restore to another one"
            }
            _ => "solve that and restore it again",
        };
        let sentence = format!("{what} ({}); {next}", errno_text(errno));
        Failure::One(Problem::new(path, ProblemKind::Unwritten, sentence))
    }
}
