//! `strongroom store backup`.
//!
//! One thread walks and opens files, some read, cut and store them, and the calling one puts
//! their entries into the tree, in the order of the walk.

use super::meter::Meter;
use super::{Outcome, Unlocked, answer, outcome, ratio, show, tell};
use anyhow::{Context, Result};
use chunking::{Chunker, Cutter, Sizes};
use clap::Args;
use engine::{Chunks, Progress, SnapshotInfo, SnapshotMeta, SnapshotWriter, Store};
use filetree::walk::{Content, Found, Options, Segment, Walk};
use filetree::{Pattern, Problem, ProblemKind};
use format::entry::{Entry, Extent, Kind, Timestamp};
use format::snapshot::Details;
use serde_json::json;
use std::collections::HashSet;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

/// Threads that read and cut; those that compress are the engine's.
const READERS: usize = 2;
/// Files walked and opened ahead of what is in the tree.
const AHEAD: usize = 256;

/// What to back up, and where to.
#[derive(Args)]
pub(crate) struct Backup {
    #[command(flatten)]
    store: Unlocked,
    /// What its snapshots are called together, such as the server's name
    #[arg(long)]
    group: String,
    /// Directories and files
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

impl Backup {
    pub(super) fn run(&self, json: bool) -> Result<Outcome> {
        let began = Instant::now();
        let own = std::fs::canonicalize(&self.store.dir);
        let options = Options {
            // a backup of itself would never end
            excludes: own.iter().map(|dir| Pattern::exactly(dir)).collect(),
            ..Options::default()
        };
        let walk = Walk::new(&self.paths, options.clone())?;
        let store = self.store.open()?;
        let progress = Arc::new(Progress::default());
        let writer = store.begin(self.meta(&store)?, progress.clone())?;
        let total = Arc::new(AtomicU64::new(0));
        let ended = AtomicBool::new(false);
        let stored = std::thread::scope(|scope| {
            scope.spawn(|| count(&self.paths, options, &total, &ended));
            let meter = Meter::start(progress.clone(), total.clone());
            let stored = store_all(writer, walk);
            ended.store(true, Relaxed);
            drop(meter);
            stored
        });
        let (snapshot, problems, problem_count) = stored?;
        let clear = &snapshot.clear;
        let seconds = began.elapsed().as_secs_f64();
        answer(
            json,
            json!({
                "snapshot": clear.id.to_string(), "group": self.group,
                "entries": clear.entries, "logical": clear.logical,
                "unique": clear.unique, "stored": clear.stored, "seconds": seconds,
                "problem_count": problem_count, "problems": problems,
            }),
            || {
                println!("Snapshot {}", clear.id);
                println!(
                    "{} entries, {} in {seconds:.1} s; {} new, {} stored ({})",
                    clear.entries,
                    show::size(clear.logical),
                    show::size(clear.unique),
                    show::size(clear.stored),
                    ratio(clear.logical, clear.stored),
                );
                if problem_count > 0 {
                    eprintln!("{problem_count} problems:");
                    tell(&problems, problem_count);
                }
            },
        )?;
        Ok(outcome(problem_count))
    }

    fn meta(&self, store: &Store) -> Result<SnapshotMeta> {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .context("the clock is before 1970; set it")?;
        let (earlier, _) = store.snapshots()?;
        let of_group = |s: &&SnapshotInfo| {
            let details = s.details.as_ref();
            details.is_some_and(|d| d.group == self.group)
        };
        let details = Details {
            group: self.group.clone(),
            host: first_line("/proc/sys/kernel/hostname"),
            paths: self
                .paths
                .iter()
                .map(|p| p.as_os_str().as_bytes().to_vec())
                .collect(),
            source: format!("Linux {}", first_line("/proc/sys/kernel/osrelease")),
            ..Details::default()
        };
        Ok(SnapshotMeta {
            time: Timestamp {
                seconds: now.as_secs().try_into()?,
                nanos: now.subsec_nanos(),
            },
            parent: earlier.iter().find(of_group).map(|s| s.clear.id),
            details,
        })
    }
}

/// What the kernel says of itself; empty where /proc is not mounted.
fn first_line(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

/// Sums up what there is to read, for what is left.
fn count(paths: &[PathBuf], options: Options, total: &AtomicU64, ended: &AtomicBool) {
    let mut sum = 0;
    for found in Walk::new(paths, options).into_iter().flatten().flatten() {
        if ended.load(Relaxed) {
            return;
        }
        sum += found.entry.size;
    }
    total.store(sum, Relaxed);
}

/// Something of the walk, in its order.
enum Slot {
    Entry(Box<Entry>),
    Problem(Problem),
    File(Receiver<engine::Result<ReadFile>>),
}

/// A file to read and where to say what came of it.
type Job = (Box<Found>, Content, SyncSender<engine::Result<ReadFile>>);

/// A file that was read: its entry, unless it could not be.
struct ReadFile {
    entry: Result<Entry, Vec<u8>>,
    problem: Option<Problem>,
}

/// Stores everything the walk finds and commits.
fn store_all(mut writer: SnapshotWriter, walk: Walk) -> Result<(SnapshotInfo, Vec<String>, u64)> {
    let (put, slots) = sync_channel(AHEAD);
    let (give, jobs) = sync_channel::<Job>(AHEAD);
    let jobs = Mutex::new(jobs);
    let cutter = Cutter::new(Sizes::default(), writer.cut_seed());
    let mut problems = Problems::default();
    std::thread::scope(|scope| -> engine::Result<()> {
        // moved in, so that a failure here ends the walk, and the walk's end the readers
        let slots = slots;
        scope.spawn(move || walk_all(walk, &put, &give));
        for _ in 0..READERS {
            let reader = Reader {
                chunks: writer.chunks(),
                chunker: Chunker::new(cutter.clone()),
            };
            scope.spawn(|| reader.all(&jobs));
        }
        for slot in slots {
            match slot {
                Slot::Entry(entry) => problems.add_entry(&mut writer, *entry)?,
                Slot::Problem(problem) => problems.note(&mut writer, &problem),
                Slot::File(answer) => {
                    let read = answer.recv().map_err(|_| engine::Error::Cancelled)??;
                    if let Some(problem) = &read.problem {
                        problems.note(&mut writer, problem);
                    }
                    match read.entry {
                        Ok(entry) => problems.add_entry(&mut writer, entry)?,
                        Err(path) => drop(problems.left_out.insert(path)),
                    }
                }
            }
        }
        Ok(())
    })?;
    let snapshot = writer.commit(None)?;
    Ok((snapshot, problems.list, problems.count))
}

/// What went wrong so far.
#[derive(Default)]
struct Problems {
    list: Vec<String>,
    count: u64,
    /// Files whose reading failed after the walk went on.
    left_out: HashSet<Vec<u8>>,
}

impl Problems {
    fn note(&mut self, writer: &mut SnapshotWriter, problem: &Problem) {
        writer.problem(&problem.path, &problem.sentence);
        self.count += 1;
        if self.list.len() < format::snapshot::MAX_PROBLEMS {
            self.list.push(problem.to_string());
        }
    }

    fn add_entry(&mut self, writer: &mut SnapshotWriter, entry: Entry) -> engine::Result<()> {
        if let Kind::HardLink(first) = &entry.kind
            && self.left_out.contains(first)
        {
            let sentence = "is another name of a file that could not be read; back up again";
            let problem = Problem {
                path: entry.path,
                kind: ProblemKind::Unreadable,
                sentence: sentence.into(),
            };
            self.note(writer, &problem);
            return Ok(());
        }
        writer.add_entry(&entry)
    }
}

fn walk_all(mut walk: Walk, put: &SyncSender<Slot>, give: &SyncSender<Job>) {
    while let Some(found) = walk.next() {
        let slot = match found {
            Err(problem) => Slot::Problem(problem),
            Ok(found) if !found.is_file() => Slot::Entry(Box::new(found.entry)),
            // opened here: whether its other names may refer to it is known in time
            Ok(found) => match found.open() {
                Err(problem) => {
                    walk.forget(&found);
                    Slot::Problem(problem)
                }
                Ok(content) => {
                    let (tell, answer) = sync_channel(1);
                    if give.send((Box::new(found), content, tell)).is_err() {
                        return;
                    }
                    Slot::File(answer)
                }
            },
        };
        if put.send(slot).is_err() {
            return;
        }
    }
}

struct Reader {
    chunks: Chunks,
    chunker: Chunker,
}

impl Reader {
    fn all(mut self, jobs: &Mutex<Receiver<Job>>) {
        loop {
            let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok((found, content, answer)) = job else {
                return;
            };
            let read = self.file(found.entry, content);
            // nobody waits any more when the backup has failed
            let _ = answer.send(read);
        }
    }

    fn file(&mut self, mut entry: Entry, mut content: Content) -> engine::Result<ReadFile> {
        entry.size = 0;
        let read = self.content(&mut entry, &mut content)?;
        let problem = read.err().or_else(|| content.finish());
        // what changed while it was read is kept all the same, and told
        let kept = problem
            .as_ref()
            .is_none_or(|p| p.kind == ProblemKind::Changed);
        Ok(ReadFile {
            entry: if kept { Ok(entry) } else { Err(entry.path) },
            problem,
        })
    }

    fn content(
        &mut self,
        entry: &mut Entry,
        content: &mut Content,
    ) -> engine::Result<Result<(), Problem>> {
        loop {
            match content.segment() {
                Ok(None) => return Ok(Ok(())),
                Ok(Some(Segment::Hole { length })) => {
                    entry.content.push(Extent::Hole { length });
                    entry.size += length;
                    self.chunks.add_bytes(length);
                }
                Ok(Some(Segment::Data { .. })) => {
                    if let Err(problem) = self.data(entry, content)? {
                        return Ok(Err(problem));
                    }
                }
                Err(problem) => return Ok(Err(problem)),
            }
        }
    }

    /// Cuts and stores one run of data.
    fn data(
        &mut self,
        entry: &mut Entry,
        content: &mut Content,
    ) -> engine::Result<Result<(), Problem>> {
        let mut source = Source {
            content,
            problem: None,
        };
        self.chunker.restart();
        loop {
            match self.chunker.next(&mut source) {
                Ok(Some(chunk)) => {
                    let digest = self.chunks.put(chunk)?;
                    let length = chunk.len() as u32;
                    entry.content.push(Extent::Data { digest, length });
                    entry.size += u64::from(length);
                    self.chunks.add_bytes(length.into());
                }
                Ok(None) => return Ok(Ok(())),
                Err(error) => {
                    return Ok(Err(source.problem.unwrap_or_else(|| Problem {
                        path: entry.path.clone(),
                        kind: ProblemKind::Unreadable,
                        sentence: format!("cannot be read ({error}); back up again"),
                    })));
                }
            }
        }
    }
}

/// A run of data as a stream, its problem kept aside.
struct Source<'a> {
    content: &'a mut Content,
    problem: Option<Problem>,
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.content.read(buffer).map_err(|problem| {
            let error = std::io::Error::other(problem.sentence.clone());
            self.problem = Some(problem);
            error
        })
    }
}
