//! `strongroom store restore`.

use super::{Outcome, Unlocked, answer, outcome, refuse_within, reread, resolve, show, tell, work};
use anyhow::{Result, bail};
use clap::Args;
use engine::{Progress, SnapshotInfo, Store, Target, TargetFile};
use filetree::write::{Filling, Options, Report, Writer};
use format::SnapshotId;
use format::entry::Entry;
use serde_json::json;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
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
    /// Only this path and what is below it: as it was or would be given to the backup, or as the snapshot
    /// has it: of one directory, from there; of several paths, from the root
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
        let snapshot = resolve(&store, &self.snapshot)?;
        let clear = &snapshot.clear;
        let progress = Arc::new(Progress::default());
        let total = if self.path.is_none() {
            clear.logical
        } else {
            0
        };
        let total = Arc::new(AtomicU64::new(total));
        let target = self.target.display();
        let kept =
            format!("a part of the snapshot may be in {target}; remove that, and restore again");
        let (below, report, lost) = work::run(&progress, &total, &kept, || {
            self.write_first(&store, &snapshot, &progress)
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
                reread::compare(&store, clear.id, &below, &self.target, &progress)
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

    /// What the snapshot may call the path: what is below the one that was backed up, and the path itself; as
    /// it was typed, from where we are, and without links.
    fn names(&self, paths: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let Some(typed) = self.path.as_ref().map(Path::new) else {
            return vec![Vec::new()];
        };
        let root = match paths {
            [only] => Path::new(OsStr::from_bytes(only)),
            _ => Path::new("/"),
        };
        let full = [std::path::absolute(typed), typed.canonicalize()];
        let mut names = Vec::new();
        for path in std::iter::once(typed.to_owned()).chain(full.into_iter().flatten()) {
            for path in path.strip_prefix(root).into_iter().chain([&*path]) {
                let parts = path.components();
                let parts = parts.filter(|p| !matches!(p, Component::RootDir | Component::CurDir));
                let name = parts.collect::<PathBuf>().into_os_string().into_vec();
                // where we are is none of the snapshot's own names
                let is_here = path == typed && path.is_relative() && name.is_empty();
                if !is_here && !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        names
    }

    /// Restores what the snapshot has by the first of these names; also answers by which, and why the
    /// snapshot could not be read to its end.
    fn write_first(
        &self,
        store: &Store,
        snapshot: &SnapshotInfo,
        progress: &Progress,
    ) -> Result<(Vec<u8>, Report, Option<String>)> {
        let paths = snapshot.details.as_ref().map(|d| &d.paths[..]);
        let paths = paths.unwrap_or_default();
        for name in self.names(paths) {
            let mut tree = Tree {
                target: &self.target,
                keeps: self.keep_damaged,
                writer: None,
            };
            let lost = tree.write(store, snapshot.clear.id, &name, progress)?;
            if let Some(writer) = tree.writer {
                return Ok((name, writer.finish()?, lost));
            }
        }
        let shown: Vec<_> = paths.iter().map(|p| filetree::shown(p)).collect();
        bail!(
            "the snapshot holds no {}, it is of {}; name it as it was backed up, or look for it in `strongroom \
             store mount`",
            filetree::shown(self.path.as_ref().map_or(b"", |p| p.as_bytes())),
            shown.join(", ")
        )
    }
}

/// Where entries are restored to.
struct Tree<'a> {
    target: &'a Path,
    keeps: bool,
    writer: Option<Writer>,
}

impl Tree<'_> {
    /// Writes the entries; answers why the snapshot could not be read to its end.
    fn write(
        &mut self,
        store: &Store,
        id: SnapshotId,
        below: &[u8],
        progress: &Progress,
    ) -> Result<Option<String>> {
        match store.restore(id, below, self, progress) {
            Ok(()) => Ok(None),
            // nothing is made at the target before the snapshot is known to open
            Err(error) if work::is_cancelled(error.downcast_ref()) => Err(error),
            Err(error) if self.writer.is_some() && error.is::<engine::Error>() => Ok(Some(
                format!("the rest of the snapshot is not restored: {error:#}"),
            )),
            Err(error) => Err(error),
        }
    }
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
