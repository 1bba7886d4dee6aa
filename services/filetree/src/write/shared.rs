//! What a writer and those who fill its files share: what is told, and which files are not complete.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};
use rustix::fs::{Mode, openat, syncfs};
use rustix::io::{self, Errno};

use super::report::{Failure, MAX_PROBLEM_BYTES, MAX_PROBLEMS, Report, WriteError};
use crate::dirs::DIRECTORY;
use crate::problem::{Problem, ProblemKind, errno_text};
use crate::xattrs::Xattrs;

/// After so many bytes the disk is set to work on them, while more are written: it would be idle
/// otherwise, and all be waited for at the end.
const SYNC_EVERY: u64 = 64 << 20;

pub(super) struct Shared {
    target: PathBuf,
    /// New objects may get attributes from their directory that their entries do not have.
    pub(super) inherits: bool,
    pub(super) xattrs: Mutex<Xattrs>,
    state: Mutex<State>,
    changed: Condvar,
    /// Bytes of files.
    written: AtomicU64,
    sync: Mutex<Option<Sync>>,
}

/// The thread that has the disk write.
struct Sync {
    due: SyncSender<()>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
pub(super) struct State {
    report: Report,
    /// What is reported once, not for every entry it befalls.
    told: HashSet<String>,
    /// Bytes of the problems in the report.
    told_bytes: usize,
    /// What stops the restore, until it is told.
    stop: Option<WriteError>,
    stopped: bool,
    /// Files that are not complete, by number in the order they were begun.
    open: BTreeMap<u64, Vec<u8>>,
    /// Paths of files that are not there as their entries say, by a hash.
    lost: HashSet<u64>,
}

impl State {
    /// How many files are not complete.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    /// Whether all files are complete that were begun before this number.
    pub(super) fn complete(&self, number: u64) -> bool {
        self.open
            .first_key_value()
            .is_none_or(|(first, _)| *first >= number)
    }

    /// Whether the file of this path is not there, or what is there is not of its entry.
    pub(super) fn is_lost(&self, path: &[u8]) -> bool {
        self.lost.contains(&hash(path))
    }

    /// Whether the file of this path is not complete.
    pub(super) fn is_open(&self, path: &[u8]) -> bool {
        self.open.values().any(|open| open == path)
    }
}

impl Shared {
    /// For a target that is open.
    pub(super) fn new(
        target: PathBuf,
        root: &OwnedFd,
        inherits: bool,
        xattrs: Xattrs,
    ) -> io::Result<Self> {
        // of its own, so that errors of the disk are told to the last call of all as well
        let root = openat(root, c".", DIRECTORY, Mode::empty())?;
        let (due, wanted) = sync_channel(1);
        let work = move || {
            for () in wanted {
                // the last call of all tells
                let _ = syncfs(&root);
            }
        };
        let thread = std::thread::Builder::new()
            .name("restore-sync".into())
            .spawn(work);
        Ok(Self {
            target,
            inherits,
            xattrs: Mutex::new(xattrs),
            state: Mutex::default(),
            changed: Condvar::new(),
            written: AtomicU64::new(0),
            // it is only for speed
            sync: Mutex::new(thread.ok().map(|thread| Sync { due, thread })),
        })
    }

    /// Waits until something holds; an error is what stops the restore meanwhile.
    pub(super) fn wait_until(&self, holds: impl Fn(&State) -> bool) -> Result<(), WriteError> {
        let waits = |state: &mut State| !state.stopped && !holds(state);
        let mut state = self.state.lock();
        self.changed.wait_while(&mut state, waits);
        state.stop.take().map_or(Ok(()), Err)
    }

    /// Whether something holds now.
    pub(super) fn is(&self, holds: impl Fn(&State) -> bool) -> bool {
        holds(&self.state.lock())
    }

    /// What stops the restore, told once.
    pub(super) fn go_on(&self) -> Result<(), WriteError> {
        self.wait_until(|_| true)
    }

    pub(super) fn open_file(&self, number: u64, path: &[u8]) {
        self.state.lock().open.insert(number, path.to_vec());
    }

    /// Nothing of this path is to be linked to.
    pub(super) fn lose(&self, path: &[u8]) {
        self.state.lock().lost.insert(hash(path));
    }

    pub(super) fn close_file(&self, number: u64) {
        self.state.lock().open.remove(&number);
        self.changed.notify_all();
    }

    pub(super) fn count_entry(&self) {
        self.state.lock().report.entries += 1;
    }

    pub(super) fn count_bytes(&self, bytes: u64) {
        let before = self.written.fetch_add(bytes, Ordering::Relaxed);
        if before / SYNC_EVERY != (before + bytes) / SYNC_EVERY
            && let Some(sync) = &*self.sync.lock()
        {
            // one that waits already is as good
            let _ = sync.due.try_send(());
        }
    }

    /// Waits until the disk is not worked on any more.
    pub(super) fn end_sync(&self) {
        let sync = self.sync.lock().take();
        if let Some(Sync { due, thread }) = sync {
            drop(due);
            // it does nothing that panics
            let _ = thread.join();
        }
    }

    /// What was done until now.
    pub(super) fn report(&self) -> Report {
        Report {
            bytes: self.written.load(Ordering::Relaxed),
            ..self.state.lock().report.clone()
        }
    }

    /// Tells of what befell one entry; passes on what stops all.
    pub(super) fn settle(&self, done: Result<(), Failure>) -> Result<(), WriteError> {
        match done {
            Ok(()) => Ok(()),
            Err(Failure::One(problem)) => {
                self.tell(problem);
                Ok(())
            }
            Err(Failure::All(error)) => Err(error),
        }
    }

    /// The same where nobody is there to take it: it stops the writer.
    pub(super) fn settle_later(&self, done: Result<(), Failure>) {
        if let Err(error) = self.settle(done) {
            let mut state = self.state.lock();
            state.stop.get_or_insert(error);
            state.stopped = true;
            self.changed.notify_all();
        }
    }

    pub(super) fn tell(&self, problem: Problem) {
        let mut state = self.state.lock();
        let bytes = state.told_bytes + problem.path.len() + problem.sentence.len();
        if state.report.problems.len() < MAX_PROBLEMS && bytes <= MAX_PROBLEM_BYTES {
            state.told_bytes = bytes;
            state.report.problems.push(problem);
        } else {
            state.report.more += 1;
        }
    }

    /// Whether this is said the first time.
    pub(super) fn is_new(&self, what: &str) -> bool {
        self.state.lock().told.insert(what.to_string())
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

fn hash(path: &[u8]) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(path)
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.end_sync();
    }
}
