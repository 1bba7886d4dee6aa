//! `strongroom store backup`.
//!
//! One thread walks and holds what it finds against the memory of the last backup, some read, cut
//! and store what is not as it was, and the calling one puts it all into the tree, in the order of
//! the walk.

mod memory;
mod read;

use super::meter::Meter;
use super::{Outcome, Unlocked, answer, outcome, ratio, show, tell};
use anyhow::{Context, Result};
use clap::Args;
use engine::{Progress, SnapshotInfo, SnapshotMeta, SnapshotWriter, Store};
use filetree::walk::{Found, Options, Walk};
use filetree::{Pattern, Problem, ProblemKind};
use format::entry::{Entry, Kind, Timestamp};
use format::extents::data_of;
use format::leaf::Content;
use format::snapshot::Details;
use memory::{Block, Cursor, Kept, Remembered, Remembering};
use read::{Job, Object, Reader, Unread};
use serde_json::json;
use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};
use std::vec;

/// Threads that read and cut; those that compress are the engine's.
const READERS: usize = 2;
/// Objects, and bytes likely to be read for them, that a reader gets at a time. Each object may keep
/// two descriptors open, and a process has 1024.
const BATCH: usize = 48;
const BATCH_BYTES: u64 = 1 << 20;
/// Batches ready for readers, and what is walked ahead of the tree.
const READY: usize = 4;
const AHEAD: usize = 64;

/// What to back up, and where to.
#[derive(Args)]
pub(crate) struct Backup {
    #[command(flatten)]
    store: Unlocked,
    /// What its snapshots are called together, such as the server's name
    #[arg(long)]
    group: String,
    /// Read all files, also those whose metadata is as it was in the last backup
    #[arg(long)]
    force_read: bool,
    /// Directories and files
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

/// What a backup came to.
struct Done {
    snapshot: SnapshotInfo,
    problems: Vec<String>,
    problem_count: u64,
}

impl Backup {
    pub(super) fn run(&self, json: bool) -> Result<Outcome> {
        let began = Instant::now();
        let place = memory::place();
        // a backup of itself would never end, a memory of itself never be as it was
        let own = std::fs::canonicalize(&self.store.dir).ok();
        let options = Options {
            excludes: own
                .iter()
                .chain(&place)
                .map(|p| Pattern::exactly(p))
                .collect(),
            ..Options::default()
        };
        let walk = Walk::new(&self.paths, options.clone())?;
        let store = self.store.open()?;
        let file = place.map(|place| memory::file(&place, store.datastore(), &self.paths));
        let mut done = self.back_up(&store, walk, &options, file.as_deref(), !self.force_read);
        if let Err(error) = &done
            && !self.force_read
            && is_of_memory(error)
        {
            eprintln!("what the last backup remembered is of no use, all is read: {error:#}");
            let walk = Walk::new(&self.paths, options.clone())?;
            done = self.back_up(&store, walk, &options, file.as_deref(), false);
        }
        let Done {
            snapshot,
            problems,
            problem_count,
        } = done?;
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

    /// One backup, with or without what the last one remembered in this file.
    fn back_up(
        &self,
        store: &Store,
        walk: Walk,
        options: &Options,
        file: Option<&Path>,
        trust: bool,
    ) -> Result<Done> {
        let progress = Arc::new(Progress::default());
        let writer = store.begin(self.meta(store)?, progress.clone())?;
        let key = writer.memory_key();
        let remembered = file
            .filter(|_| trust)
            .and_then(|file| Remembered::open(file, key, writer.chunks()));
        let total = remembered.as_ref().map_or(0, Remembered::total);
        let known = remembered.is_some();
        let total = Arc::new(AtomicU64::new(total));
        let ended = AtomicBool::new(false);
        let tree = Tree {
            writer,
            memory: file.and_then(|file| Remembering::create(file, key)),
            open: None,
            problems: Problems::default(),
        };
        std::thread::scope(|scope| {
            if !known {
                scope.spawn(|| count(&self.paths, options.clone(), &total, &ended));
            }
            let meter = Meter::start(progress, total.clone());
            let done = tree.build(walk, remembered);
            ended.store(true, Relaxed);
            drop(meter);
            Ok(done?)
        })
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
    // what cannot be looked at is told by the walk that reads
    let Ok(mut walk) = Walk::new(paths, options) else {
        return;
    };
    while let Some(found) = walk.step() {
        if ended.load(Relaxed) {
            return;
        }
        sum += found.map_or(0, |f| if f.is_file() { f.occupied } else { 0 });
    }
    total.store(sum, Relaxed);
}

/// Whether a backup failed for what it took from the last one's memory: that the datastore does not
/// have it, or not whole.
fn is_of_memory(error: &anyhow::Error) -> bool {
    use engine::Error::{Content, Format, Incomplete, NoChunk};
    matches!(
        error.downcast_ref(),
        Some(Incomplete { .. } | NoChunk { .. } | Content { .. } | Format { .. })
    )
}

/// The tree that is built and what is remembered of it.
struct Tree {
    writer: SnapshotWriter,
    memory: Option<Remembering>,
    open: Option<OpenLeaf>,
    problems: Problems,
}

/// A leaf of the last backup of whose objects not all are as they were.
struct OpenLeaf {
    block: Arc<Block>,
    /// At the record of the entry that is next.
    cursor: Cursor,
    entries: vec::IntoIter<(Entry, Content)>,
}

impl Tree {
    /// Stores everything the walk finds and commits.
    fn build(mut self, walk: Walk, remembered: Option<Remembered>) -> engine::Result<Done> {
        let (put, slots) = sync_channel(AHEAD);
        let (give, jobs) = sync_channel::<Job>(READY);
        let jobs = Mutex::new(jobs);
        let began = SystemTime::now();
        std::thread::scope(|scope| -> engine::Result<()> {
            // moved in, so that a failure here ends the walk, and the walk's end the readers
            let slots = slots;
            for _ in 0..READERS {
                let reader = Reader::new(&self.writer, &walk, began);
                scope.spawn(|| reader.all(&jobs));
            }
            let walker = scope.spawn(move || {
                let walker = Walker {
                    walk,
                    remembered,
                    put: &put,
                    give: &give,
                    batch: Vec::new(),
                    weight: 0,
                };
                walker.all()
            });
            for slot in slots {
                match slot {
                    Slot::Kept(kept) => self.kept(&kept)?,
                    Slot::Problem(problem) => self.problems.note(&mut self.writer, &problem),
                    Slot::Read(answer) => {
                        let objects = answer.recv().map_err(|_| engine::Error::Cancelled)??;
                        objects.into_iter().try_for_each(|o| self.object(o))?;
                    }
                }
            }
            walker.join().map_err(|_| engine::Error::Cancelled)?
        })?;
        let last = self.writer.end()?;
        if let (Some(memory), Some(leaf)) = (&mut self.memory, last) {
            memory.end_leaf(&leaf);
        }
        let snapshot = self.writer.commit(None)?;
        if let Some(memory) = self.memory {
            memory.finish(snapshot.clear.logical);
        }
        Ok(Done {
            snapshot,
            problems: self.problems.list,
            problem_count: self.problems.count,
        })
    }

    /// Adds what was read.
    fn object(&mut self, object: Object) -> engine::Result<()> {
        for problem in &object.problems {
            self.problems.note(&mut self.writer, problem);
        }
        let entry = match object.entry {
            Ok(entry) => entry,
            Err(path) => {
                self.problems.left_out.insert(path);
                return Ok(());
            }
        };
        if self.problems.leave_out(&mut self.writer, &entry) {
            return Ok(());
        }
        let ended = self.writer.add_entry(&entry)?;
        if let Some(memory) = &mut self.memory {
            let bytes = entry.content.iter().map(data_of).sum();
            memory.add(&entry.path, &object.state, bytes);
            ended.iter().for_each(|leaf| memory.end_leaf(leaf));
        }
        Ok(())
    }

    /// Adds what is as it was: the leaf itself where that can be, else its entries.
    fn kept(&mut self, kept: &Kept) -> engine::Result<()> {
        let (block, leaf) = (&kept.block, &kept.block.leaf);
        if kept.objects == (0..leaf.entries as usize) && self.writer.add_leaf(leaf)? {
            self.writer.progress().add_bytes(leaf.bytes);
            if let Some(memory) = &mut self.memory {
                memory.add_leaf(block);
            }
            return Ok(());
        }
        let wrong = || engine::Error::Content {
            digest: leaf.digest,
        };
        let mut open = match self.open.take() {
            Some(open) if Arc::ptr_eq(&open.block, block) => open,
            _ => OpenLeaf {
                block: block.clone(),
                cursor: block.cursor().ok_or_else(wrong)?,
                entries: self.writer.entries_of(&leaf.digest)?.into_iter(),
            },
        };
        while open.cursor.index < kept.objects.end {
            let (entry, content) = open.entries.next().ok_or_else(wrong)?;
            let cursor = &open.cursor;
            if entry.path != cursor.path {
                return Err(wrong());
            }
            if kept.objects.contains(&cursor.index) {
                self.writer.progress().add_bytes(cursor.bytes);
                let ended = self.writer.add_kept(&entry, &content, cursor.bytes)?;
                if let Some(memory) = &mut self.memory {
                    memory.add(&entry.path, cursor.state(block), cursor.bytes);
                    ended.iter().for_each(|leaf| memory.end_leaf(leaf));
                }
            }
            open.cursor.advance(block);
        }
        self.open = Some(open);
        Ok(())
    }
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

    /// Whether this is another name of a file that could not be read, which is then told.
    fn leave_out(&mut self, writer: &mut SnapshotWriter, entry: &Entry) -> bool {
        let Kind::HardLink(first) = &entry.kind else {
            return false;
        };
        if !self.left_out.contains(first) {
            return false;
        }
        let sentence = "is another name of a file that could not be read; back up again";
        let problem = Problem {
            path: entry.path.clone(),
            kind: ProblemKind::Unreadable,
            sentence: sentence.into(),
        };
        self.note(writer, &problem);
        true
    }
}

/// Something of the walk, in its order.
enum Slot {
    Kept(Kept),
    Read(Receiver<engine::Result<Vec<Object>>>),
    Problem(Problem),
}

/// The end that walks.
struct Walker<'a> {
    walk: Walk,
    remembered: Option<Remembered>,
    put: &'a SyncSender<Slot>,
    give: &'a SyncSender<Job>,
    batch: Vec<Unread>,
    weight: u64,
}

/// The other end is gone; what is found is of no use any more.
struct Gone;

impl Walker<'_> {
    fn all(mut self) -> engine::Result<()> {
        while let Some(found) = self.walk.step() {
            let passed = match found {
                Err(problem) => self.put(Slot::Problem(problem)),
                Ok(found) if self.unchanged(&found)? => Ok(()),
                Ok(found) => self.take(found),
            };
            if passed.is_err() {
                return Ok(());
            }
        }
        let mut kept = Vec::new();
        if let Some(remembered) = &mut self.remembered {
            remembered.end(|k| kept.push(k));
        }
        // nobody waits any more when the backup has failed
        let _ = self.pass_on(kept);
        let _ = self.hand_over();
        Ok(())
    }

    /// Whether this object is as it was in the last backup; what is known to be is passed on.
    fn unchanged(&mut self, found: &Found) -> engine::Result<bool> {
        let Some(remembered) = &mut self.remembered else {
            return Ok(false);
        };
        let mut kept = Vec::new();
        let unchanged = remembered.unchanged(found, |k| kept.push(k))?;
        // who is gone is met at the next object that is not
        let _ = self.pass_on(kept);
        Ok(unchanged)
    }

    fn pass_on(&mut self, kept: Vec<Kept>) -> Result<(), Gone> {
        if !kept.is_empty() {
            self.hand_over()?;
        }
        kept.into_iter().try_for_each(|k| self.put(Slot::Kept(k)))
    }

    fn take(&mut self, found: Found) -> Result<(), Gone> {
        let mut content = None;
        // opened at once: whether its other names may refer to it has to be known when they come
        if found.is_file() && found.has_other_names {
            match found.open() {
                Ok(open) => content = Some(open),
                Err(problem) => {
                    self.walk.forget(&found);
                    return self.put(Slot::Problem(problem));
                }
            }
        }
        self.weight += found.occupied;
        self.batch.push(Unread { found, content });
        if self.batch.len() >= BATCH || self.weight >= BATCH_BYTES {
            self.hand_over()?;
        }
        Ok(())
    }

    /// Gives the batch to a reader.
    fn hand_over(&mut self) -> Result<(), Gone> {
        self.weight = 0;
        if self.batch.is_empty() {
            return Ok(());
        }
        let (tell, answer) = sync_channel(1);
        let batch = std::mem::take(&mut self.batch);
        self.give.send((batch, tell)).map_err(|_| Gone)?;
        self.put(Slot::Read(answer))
    }

    fn put(&self, slot: Slot) -> Result<(), Gone> {
        self.put.send(slot).map_err(|_| Gone)
    }
}
