//! `strongroom store copy`.

use super::backup::SOON;
use super::{Outcome, answer, open, open_to_read, options, outcome, show, tell, unread, work};
use anyhow::{Context, Result, bail};
use clap::Args;
use engine::storage::directory::Directory;
use engine::{Copied, Error, Lacking, Progress, Store};
use format::superblock::{Profile, Superblock};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::time::{Duration, Instant};

/// Said when one is.
const INTERRUPTED: &str = "what was copied stays; copy again to go on from there";

/// What there is to copy is counted for so long: of a huge datastore that takes longer than a day's changes.
const PATIENCE: Duration = Duration::from_secs(10);

/// From where, and where to.
#[derive(Args)]
pub(crate) struct Copy {
    /// The datastore's directory
    dir: PathBuf,
    /// The directory of its copy, which is made where there is nothing yet
    target: PathBuf,
}

impl Copy {
    pub(super) fn run(&self, json: bool) -> Result<Outcome> {
        let began = Instant::now();
        let store = open_to_read(&self.dir)?;
        let target = self.target(&store)?;
        let progress = Arc::new(Progress::default());
        let total = Arc::new(AtomicU64::new(0));
        let lacking = store.lacking(&target)?;
        let (running, ended) = channel();
        let copied = std::thread::scope(|scope| {
            scope.spawn(|| count(&lacking, &total, ended));
            work::run(&progress, &total, INTERRUPTED, || {
                let _running = running;
                store.copy_to(&target, &progress)
            })
        })?;
        let Copied {
            snapshots,
            present,
            frames,
            bytes,
            left_out,
        } = copied;
        let problems = unread(left_out);
        let count = problems.len() as u64;
        let seconds = began.elapsed().as_secs_f64();
        let ids: Vec<String> = snapshots.iter().map(ToString::to_string).collect();
        answer(
            json,
            json!({
                "snapshots": ids, "present": present, "frames": frames, "bytes": bytes,
                "seconds": seconds, "problem_count": count, "problems": problems,
            }),
            || {
                println!(
                    "{} copied to {}, {present} there already; {}, {} in {seconds:.1} s",
                    show::count(snapshots.len() as u64, "snapshot"),
                    self.target.display(),
                    show::count(frames, "frame"),
                    show::size(bytes),
                );
                if count > 0 {
                    eprintln!("{} not copied:", show::count(count, "snapshot"));
                    tell(&problems, count);
                }
            },
        )?;
        Ok(outcome(count))
    }

    /// Opens the copy, or begins it.
    fn target(&self, store: &Store) -> Result<Store> {
        let target = self.target.display();
        refuse_itself(&self.dir, &self.target)?;
        let directory = Directory::create(&self.target);
        let directory = Arc::new(directory.with_context(|| format!("{target} cannot be made"))?);
        let is_none =
            |error: &anyhow::Error| matches!(error.downcast_ref(), Some(Error::NoDatastore { .. }));
        let opened = match open(&self.target) {
            Err(error) if is_none(&error) => {
                let superblock = Superblock {
                    profile: Profile::Centre,
                    ..*store.superblock()
                };
                Store::init(directory, superblock, options())?
            }
            opened => opened?,
        };
        if opened.datastore() != store.datastore() {
            bail!(
                "{target} holds datastore {}, not a copy of {}; choose another directory for that",
                opened.datastore(),
                store.datastore()
            );
        }
        Ok(opened)
    }
}

/// Refuses the datastore's own directory where that of another copy is meant.
pub(super) fn refuse_itself(dir: &Path, copy: &Path) -> Result<()> {
    let whole = |path: &Path| std::fs::canonicalize(path).ok();
    if whole(dir).is_some_and(|dir| whole(copy) == Some(dir)) {
        bail!(
            "{} is the datastore itself; name another directory, for its copy",
            copy.display()
        );
    }
    Ok(())
}

/// Sums up what there is to copy, once that is worth knowing. What snapshots say of themselves is of no
/// use for it: it is what they brought beyond others that may be forgotten by now.
fn count(lacking: &Lacking<'_>, total: &AtomicU64, ended: Receiver<()>) {
    if ended.recv_timeout(SOON) != Err(RecvTimeoutError::Timeout) {
        return;
    }
    let enough = Instant::now() + PATIENCE;
    // what cannot be read is told by the copy
    if let Ok(Some(bytes)) = lacking.bytes(|| is_wanted(&ended, enough)) {
        total.store(bytes, Relaxed);
    }
}

/// Whether to count on: the copy runs, and it has not been long.
fn is_wanted(ended: &Receiver<()>, enough: Instant) -> bool {
    ended.try_recv() != Err(TryRecvError::Disconnected) && Instant::now() < enough
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_counted_once_the_copy_ended_or_for_too_long() {
        let (running, ended) = channel();
        let now = Instant::now();
        assert!(is_wanted(&ended, now + Duration::from_secs(3600)));
        assert!(!is_wanted(&ended, now));
        drop(running);
        assert!(!is_wanted(&ended, now + Duration::from_secs(3600)));
    }
}
