//! A backup: one thread walks, reads, cuts and hashes; the session asks what the site knows, and
//! sends the rest, many chunks and questions in flight.

mod cache;
mod read;
mod send;

pub use cache::cache_name;

use crate::{Error, Result, Stream, session};
use filetree::Pattern;
use filetree::walk::{Options, Walk};
use protocol::control;
use protocol::intake::{Begin, Committed, FromSite, Path as WirePath};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Most problems an outcome lists; it counts all.
const MAX_PROBLEMS: usize = control::MAX_PROBLEMS;

/// What to back up.
#[derive(Clone, Debug, Default)]
pub struct Job {
    /// The run jobd ordered, empty without one.
    pub run: String,
    /// This server's name.
    pub host: String,
    /// Its operating system as it calls itself.
    pub source: String,
    /// What to protect.
    pub paths: Vec<PathBuf>,
    /// Patterns of what to leave out.
    pub excludes: Vec<Vec<u8>>,
    /// Where to remember unchanged files; nothing is remembered without it.
    pub cache: Option<PathBuf>,
}

/// How far a backup has come.
#[derive(Debug, Default)]
pub struct Counters {
    /// Entries seen.
    pub entries: AtomicU64,
    /// Bytes of files read or passed over as unchanged, holes not counted.
    pub done: AtomicU64,
    /// Bytes in the last backup of the same, or counted ahead of the reading where there was none;
    /// 0 until they are.
    pub total: AtomicU64,
    /// Bytes of chunks sent.
    pub sent: AtomicU64,
    /// Problems met.
    pub problems: AtomicU64,
}

impl Counters {
    /// The counters as they travel.
    pub fn progress(&self) -> control::Progress {
        control::Progress {
            entries: self.entries.load(Relaxed),
            done: self.done.load(Relaxed),
            total: self.total.load(Relaxed),
            sent: self.sent.load(Relaxed),
            problems: self.problems.load(Relaxed),
        }
    }
}

/// A backup that is kept.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What the site says of it.
    pub committed: Committed,
    /// Files skipped or changed while read, the first of them, one sentence each.
    pub problems: Vec<String>,
    /// Number of all problems.
    pub problem_count: u64,
}

impl Outcome {
    /// As it travels to jobd.
    pub fn stats(&self) -> control::Stats {
        let c = &self.committed;
        control::Stats {
            snapshot: c.snapshot,
            entries: c.entries,
            logical: c.logical,
            unique: c.unique,
            stored: c.stored,
            wire: c.wire,
            problem_count: self.problem_count,
            problems: self
                .problems
                .iter()
                .map(|p| control::Sentence::new(p.clone()))
                .collect(),
        }
    }
}

/// A backup whose paths are there.
pub struct Prepared {
    job: Job,
    options: Options,
    walk: Walk,
}

impl Prepared {
    /// Looks at the paths, so that a wrong one is told before anything is dialled.
    ///
    /// # Errors
    /// A path that does not exist or a pattern that cannot be read.
    pub fn new(job: Job) -> Result<Self> {
        let excludes = job
            .excludes
            .iter()
            .map(|p| Pattern::new(p))
            .collect::<Result<_, _>>()?;
        let options = Options {
            excludes,
            ..Options::default()
        };
        let walk = Walk::new(&job.paths, options.clone())?;
        Ok(Self { job, options, walk })
    }

    /// Runs over a session of kind `Intake` that is open.
    ///
    /// # Errors
    /// The stream or the site fails, or `cancel` is cancelled; nothing is then kept as a snapshot.
    pub async fn run(
        self,
        mut stream: impl Stream,
        counters: Arc<Counters>,
        cancel: CancellationToken,
    ) -> Result<Outcome> {
        let Prepared { job, options, walk } = self;
        let FromSite::Terms(terms) = session::expect(&mut stream).await? else {
            return Err(protocol::WireError::Unexpected("no terms first").into());
        };
        let key = cache::key(&terms.digest_key);
        let remembered = job
            .cache
            .as_ref()
            .and_then(|path| cache::Reader::open(path, key));
        let counting = CancellationToken::new();
        let _counting_ends = counting.clone().drop_guard();
        match &remembered {
            Some(remembered) => counters.total.store(remembered.total(), Relaxed),
            None => {
                // the same once more, to count what is to be read
                let count = Walk::new(&job.paths, options)?;
                let counters = counters.clone();
                tokio::task::spawn_blocking(move || {
                    if let Some(total) = occupied(count, &counting) {
                        counters.total.store(total, Relaxed);
                    }
                });
            }
        }
        let began = SystemTime::now();
        let begin = Begin {
            run: job.run.clone(),
            host: shortened(&job.host, 256),
            source: shortened(&job.source, 256),
            paths: job
                .paths
                .iter()
                .map(|p| WirePath(p.as_os_str().as_bytes().to_vec()))
                .collect(),
        };
        let (items, queue) = mpsc::channel(128);
        let distrust = Arc::new(AtomicBool::new(false));
        let reader = read::Reader::new(&terms, items, counters.clone(), distrust.clone(), began);
        let again = reader.for_one_file();
        let reading = tokio::task::spawn_blocking(move || reader.all(walk, remembered));
        let memory = job
            .cache
            .as_ref()
            .and_then(|path| cache::Writer::create(path, key));
        let sender = send::Sender::new(stream, counters, distrust, memory, again);
        let outcome = sender.run(begin, queue, cancel).await;
        // the reader ends with its queue; what it says of its fault is more than that the queue ended
        reading.await.map_err(|e| Error::Fault(e.to_string()))?;
        outcome
    }
}

/// Bytes of all files; none when nobody wants to know any more.
fn occupied(mut walk: Walk, stop: &CancellationToken) -> Option<u64> {
    let mut sum = 0_u64;
    while let Some(found) = walk.step() {
        if stop.is_cancelled() {
            return None;
        }
        // what cannot be looked at is told by the walk that reads
        if let Ok(found) = found
            && found.is_file()
        {
            sum = sum.saturating_add(found.occupied);
        }
    }
    Some(sum)
}

/// Text of at most `most` bytes.
fn shortened(text: &str, most: usize) -> String {
    let end = (0..=most.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    text[..end.unwrap_or(0)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn what_is_counted_ahead_is_what_is_to_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name| dir.path().join(name);
        std::fs::write(path("a"), [1; 10_000]).unwrap();
        std::fs::hard_link(path("a"), path("the same")).unwrap();
        std::fs::write(path("left out"), [1; 5000]).unwrap();
        let sparse = std::fs::File::create(path("sparse")).unwrap();
        sparse.write_all_at(&[1; 4096], 1 << 30).unwrap();
        let walk = || {
            let options = Options {
                excludes: vec![Pattern::new(b"left out").unwrap()],
                ..Options::default()
            };
            Walk::new(&[dir.path().into()], options).unwrap()
        };
        let stop = CancellationToken::new();
        let counted = occupied(walk(), &stop).unwrap();
        assert!((14_096..1 << 20).contains(&counted), "{counted}");
        stop.cancel();
        assert_eq!(occupied(walk(), &stop), None);
    }
}
