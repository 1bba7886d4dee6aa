//! `strongroom store backup`.
//!
//! One thread walks and holds what it finds against the memory of the last backup, some read, cut
//! and store what is not as it was, and the calling one puts it all into the tree, in the order of
//! the walk.

mod memory;
mod read;
mod tree;
mod walker;

use super::{Outcome, Unlocked, answer, in_parentheses, outcome, show, tell, work};
use anyhow::{Context, Result, bail};
use clap::Args;
use engine::{Progress, SnapshotInfo, SnapshotMeta, Store};
use filetree::Pattern;
use filetree::walk::{Options, Walk};
use format::entry::Timestamp;
use format::snapshot::Details;
use memory::{Remembered, Remembering};
use serde_json::json;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::time::{Duration, Instant, SystemTime};
use tree::{Done, Tree};

/// A backup that takes no longer is over before it is told how long it takes.
pub(super) const SOON: Duration = Duration::from_secs(2);

/// Said when one is.
const INTERRUPTED: &str =
    "nothing of this backup is a snapshot; what it stored is found again by the next one";

/// What to back up, and where to.
#[derive(Args)]
pub(crate) struct Backup {
    #[command(flatten)]
    store: Unlocked,
    /// What its snapshots are called together, such as the server's name
    #[arg(long, value_parser = group_name)]
    group: String,
    /// Read all files, also those whose metadata is as it was in the last backup
    #[arg(long)]
    force_read: bool,
    /// Directories, files, and block devices, whose content is then kept as a file
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

/// Longest name of a group, bytes: as long as a file's may be.
const MAX_GROUP: usize = 255;

fn group_name(text: &str) -> Result<String, String> {
    match text.len() {
        1..=MAX_GROUP => Ok(text.to_owned()),
        length => Err(format!(
            "it has {length} bytes; name it with 1 to {MAX_GROUP}"
        )),
    }
}

impl Backup {
    pub(super) fn run(&self, json: bool) -> Result<Outcome> {
        let began = Instant::now();
        let place = memory::place();
        // a backup of itself would never end, a memory of itself never be as it was
        let own = std::fs::canonicalize(&self.store.dir).ok();
        let within = |path: &&PathBuf| {
            let path = std::fs::canonicalize(path).ok();
            own.as_ref()
                .zip(path)
                .is_some_and(|(own, path)| path.starts_with(own))
        };
        if let Some(path) = self.paths.iter().find(within) {
            bail!(
                "{} is the datastore itself, or in it; name what is to be kept in it",
                filetree::shown(path.as_os_str().as_bytes())
            );
        }
        if let Some(own) = &own
            && self
                .paths
                .iter()
                .any(|path| std::fs::canonicalize(path).is_ok_and(|path| own.starts_with(path)))
        {
            eprintln!(
                "strongroom: {} is the datastore itself, and left out",
                own.display()
            );
        }
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
                    "{}, {} in {seconds:.1} s; {} new, {} stored{}",
                    show::count(clear.entries, "entry"),
                    show::size(clear.logical),
                    show::size(clear.unique),
                    show::size(clear.stored),
                    in_parentheses(clear.logical, clear.stored),
                );
                if problem_count > 0 {
                    eprintln!("{}:", show::count(problem_count, "problem"));
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
        let (running, ended) = channel();
        let memory = file.and_then(|file| Remembering::create(file, key));
        let tree = Tree::new(writer, memory);
        std::thread::scope(|scope| {
            if !known {
                let total = total.clone();
                scope.spawn(move || count(&self.paths, options.clone(), &total, &ended));
            }
            let build = || {
                let _running = running;
                tree.build(walk, remembered)
            };
            work::run(&progress, &total, INTERRUPTED, build)
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
            paths: (self.paths.iter())
                .map(|path| whole(path).into_os_string().into_vec())
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

/// A path as snapshots name it, absolute and without links; as it was given, if it is gone since the walk began.
fn whole(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// What the kernel says of itself; empty where /proc is not mounted.
fn first_line(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

/// Sums up what there is to read, for what is left, once that is worth knowing.
fn count(paths: &[PathBuf], options: Options, total: &AtomicU64, ended: &Receiver<()>) {
    if ended.recv_timeout(SOON) != Err(RecvTimeoutError::Timeout) {
        return;
    }
    let mut sum = 0;
    // what cannot be looked at is told by the walk that reads
    let Ok(mut walk) = Walk::new(paths, options) else {
        return;
    };
    while let Some(found) = walk.step() {
        if ended.try_recv() == Err(TryRecvError::Disconnected) {
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
