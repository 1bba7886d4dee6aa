//! `strongroom store restore`.

use super::{Outcome, Unlocked, answer, outcome, refuse_within, reread, resolve, show, tell, work};
use anyhow::{Result, bail};
use clap::Args;
use engine::{Progress, SnapshotInfo, Store, Target, TargetFile};
use filetree::write::{Filling, Options, Report, Writer};
use format::SnapshotId;
use format::entry::Entry;
use serde_json::json;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

/// What to restore, and where to.
#[derive(Args)]
pub(crate) struct Restore {
    #[command(flatten)]
    store: Unlocked,
    /// The snapshot's id or the beginning of it, or `latest`, the newest of all groups
    snapshot: String,
    /// A directory that is empty or does not exist
    target: PathBuf,
    /// Only this path of the snapshot and what is below it, as it was given to the backup, or as
    /// the snapshot has it: of one directory, from there; of several paths, from the root
    #[arg(long)]
    path: Option<OsString>,
    /// Afterwards read every restored file again from the disk and compare it, byte for byte by
    /// the digests, with the snapshot
    #[arg(long)]
    verify: bool,
    /// Keep files of which a part is lost, with zeros there; otherwise they are left out
    #[arg(long)]
    keep_damaged: bool,
}

impl Restore {
    pub(super) fn run(&self, json: bool) -> Result<Outcome> {
        let began = Instant::now();
        refuse_within(&self.store.dir, &self.target)?;
        let store = self.store.open_to_read()?;
        let SnapshotInfo { clear, details } = resolve(&store, &self.snapshot)?;
        let below = self.below(&details.unwrap_or_default().paths);
        let progress = Arc::new(Progress::default());
        let total = if below.is_empty() { clear.logical } else { 0 };
        let total = Arc::new(AtomicU64::new(total));
        let target = self.target.display();
        let kept =
            format!("a part of the snapshot may be in {target}; remove that, and restore again");
        let (report, lost) = work::run(&progress, &total, &kept, || {
            self.write(&store, clear.id, below, &progress)
        })?;
        let mut problems: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
        let mut count = problems.len() as u64 + report.more;
        problems.extend(lost.iter().cloned());
        count += u64::from(lost.is_some());
        let mut reread = None;
        if self.verify {
            let progress = Arc::new(Progress::default());
            let kept = format!("all is restored to {target}, but not all was read again");
            let found = work::run(&progress, &total, &kept, || {
                reread::compare(&store, clear.id, below, &self.target, &progress)
            })?;
            count += found.different;
            problems.extend(found.differences);
            reread = Some((found.files, found.bytes));
        }
        let seconds = began.elapsed().as_secs_f64();
        answer(
            json,
            json!({
                "snapshot": clear.id.to_string(), "entries": report.entries, "bytes": report.bytes,
                "reread_files": reread.map(|r| r.0), "reread_bytes": reread.map(|r| r.1),
                "seconds": seconds, "problem_count": count, "problems": problems,
            }),
            || {
                println!(
                    "{}, {} restored to {target} in {seconds:.1} s",
                    show::count(report.entries, "entry"),
                    show::size(report.bytes),
                );
                if let Some((files, bytes)) = reread {
                    let files = show::count(files, "file");
                    println!("{files}, {} read again", show::size(bytes));
                }
                if count > 0 {
                    eprintln!("{}:", show::count(count, "problem"));
                    tell(&problems, count);
                }
            },
        )?;
        Ok(outcome(count))
    }

    /// The path as snapshots have it. Of a snapshot of one directory that is below this one, which is as
    /// good where it was given in full, as it was at the backup.
    fn below(&self, paths: &[Vec<u8>]) -> &[u8] {
        let mut typed = self.path.as_ref().map_or(&b""[..], |p| p.as_bytes());
        if let [only] = paths
            && only.starts_with(b"/")
            && let Some(rest) = typed.strip_prefix(&only[..])
            && (rest.is_empty() || rest.starts_with(b"/") || only.ends_with(b"/"))
        {
            typed = rest;
        }
        let start = typed.iter().take_while(|b| **b == b'/').count();
        let end = typed.iter().rev().take_while(|b| **b == b'/').count();
        typed.get(start..typed.len() - end).unwrap_or_default()
    }

    /// Writes the entries; also answers why the snapshot could not be read to its end.
    fn write(
        &self,
        store: &Store,
        id: SnapshotId,
        below: &[u8],
        progress: &Progress,
    ) -> Result<(Report, Option<String>)> {
        let mut tree = Tree {
            target: &self.target,
            keeps: self.keep_damaged,
            writer: None,
        };
        let lost = match store.restore(id, below, &mut tree, progress) {
            Ok(()) => None,
            // nothing is made at the target before the snapshot is known to open
            Err(error) if work::is_cancelled(error.downcast_ref()) => return Err(error),
            Err(error) if tree.writer.is_some() && error.is::<engine::Error>() => Some(format!(
                "the rest of the snapshot is not restored: {error:#}"
            )),
            Err(error) => return Err(error),
        };
        let Some(writer) = tree.writer else {
            bail!(
                "the snapshot holds no {}; `--path` names what is below what was backed up",
                filetree::shown(below)
            );
        };
        Ok((writer.finish()?, lost))
    }
}

/// Where entries are restored to.
struct Tree<'a> {
    target: &'a Path,
    keeps: bool,
    writer: Option<Writer>,
}

impl Target for Tree<'_> {
    type File = File;
    type Error = anyhow::Error;

    fn entry(&mut self, entry: &Entry) -> Result<Option<File>> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => self
                .writer
                .insert(Writer::new(self.target, Options::default())?),
        };
        writer.begin(entry)?;
        let keeps = self.keeps;
        Ok(writer.hand_out().map(|filling| File { filling, keeps }))
    }
}

struct File {
    filling: Filling,
    /// Even where a part is lost.
    keeps: bool,
}

impl TargetFile for File {
    fn write(&self, bytes: &[u8], at: u64) {
        self.filling.write(bytes, at);
    }

    fn lost(&self, at: u64, length: u64, error: engine::Error) -> bool {
        let cancelled = work::is_cancelled(Some(&error));
        let why = format!("{:#}", anyhow::Error::from(error));
        let keeps = self.keeps && !cancelled;
        if keeps {
            self.filling.lose(at, length, &why);
        } else if cancelled {
            self.filling.abandon(&why);
        } else {
            let next = "restore with --keep-damaged to have the rest, with zeros there";
            self.filling.abandon(&format!("{why}; {next}"));
        }
        keeps
    }

    fn done(self, length: u64) {
        self.filling.complete(length);
    }
}
