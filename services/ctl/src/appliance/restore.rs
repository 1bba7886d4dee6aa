//! `strongroom restore`: a snapshot into a directory of this machine.

use super::{Session, secret, show, snapshots, told};
use crate::store::{meter::Meter, tell};
use anyhow::{Context, Result, bail};
use clap::Args;
use contract::{EngineProxy, FieldsExt, Options};
use engine::Progress;
use filetree::write::{Options as Writing, Report, Writer};
use protocol::frame;
use protocol::restore::{Event, Item, Receiver};
use serde_json::json;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// What to restore, and where to.
#[derive(Args)]
pub(crate) struct Restore {
    /// The snapshot's id or the beginning of it, or `latest`
    snapshot: String,
    /// A directory that is empty or does not exist
    target: PathBuf,
    /// Only this path of the snapshot and what is below it
    #[arg(long)]
    path: Option<std::ffi::OsString>,
    #[command(flatten)]
    share: secret::Share,
    /// At a centre: why, for the log of key releases
    #[arg(long, default_value = "strongroom restore")]
    reason: String,
}

pub(super) async fn restore(session: &Session, restore: &Restore) -> Result<()> {
    let snapshot = snapshots::resolve(session, &restore.snapshot).await?;
    let id = show::text(&snapshot, "id");
    let mut options = Options::from([("reason", restore.reason.as_str().into())]);
    if let Some(path) = &restore.path {
        options.insert("path", path.clone().into_vec().into());
    }
    let share = restore.share.read()?;
    if let Some(share) = &share {
        options.insert("share", share.as_str().into());
    }
    let stream = told(
        "engined",
        EngineProxy::new(&session.bus)
            .await?
            .open_restore(&id, options)
            .await,
    )?;
    let stream = File::from(std::os::fd::OwnedFd::from(stream));
    let target = restore.target.clone();
    // how much a part of it comes to is not known before
    let total = match restore.path {
        None => snapshot.required("logical")?,
        Some(_) => 0,
    };
    let progress = Arc::new(Progress::default());
    let meter = Meter::start(progress.clone(), Arc::new(AtomicU64::new(total)));
    let report = tokio::task::spawn_blocking(move || receive(stream, &target, &progress)).await?;
    drop(meter);
    let report = report?;
    let problems: Vec<_> = report.problems.iter().map(|p| p.to_string()).collect();
    let count = problems.len() as u64 + report.more;
    session.answer(
        json!({
            "snapshot": id, "entries": report.entries, "bytes": report.bytes,
            "problem_count": count, "problems": problems,
        }),
        || {
            println!(
                "{}, {} restored to {}",
                show::count(report.entries, "entry"),
                show::size(report.bytes),
                restore.target.display()
            );
            tell(&problems, count);
        },
    )?;
    if count > 0 {
        bail!("{}; all else is restored", show::count(count, "problem"));
    }
    Ok(())
}

fn receive(stream: impl Read, target: &Path, progress: &Progress) -> Result<Report> {
    let mut stream = BufReader::with_capacity(1 << 20, stream);
    let mut receiver = Receiver::default();
    let mut next = || -> Result<Event> {
        let item: Item = frame::read(&mut stream)?.context(
            "engined ended before the snapshot did; see `strongroom log --daemon engined`",
        )?;
        match receiver.receive(item)? {
            Event::Failed(sentence) => bail!("{sentence}"),
            event => Ok(event),
        }
    };
    // nothing is made at the target before the snapshot is known to open
    let mut event = next()?;
    let mut writer = Writer::new(target, Writing::default())?;
    loop {
        match event {
            Event::Entry(entry) => {
                writer.begin(&entry)?;
                progress.add_file();
            }
            Event::Data(bytes) => {
                writer.data(&bytes)?;
                progress.add_bytes(bytes.len() as u64);
            }
            // the whole that progress is of has no holes in it
            Event::Hole(length) => writer.hole(length)?,
            Event::Lost(sentence) => writer.abandon(&sentence),
            Event::End { .. } => return Ok(writer.finish()?),
            Event::Failed(sentence) => bail!("{sentence}"),
        }
        event = next()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use format::entry::{Entry, Kind, Timestamp};

    fn file(path: &str, size: u64) -> Item {
        let entry = Entry {
            path: path.into(),
            kind: Kind::File,
            mode: 0o600,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            user: vec![],
            group: vec![],
            modified: Timestamp::default(),
            xattrs: vec![],
            size,
            content: vec![],
        };
        Item::Entry(Box::new((&entry).into()))
    }

    fn stream(items: &[Item]) -> Vec<u8> {
        items
            .iter()
            .flat_map(|i| frame::encode(i).unwrap())
            .collect()
    }

    #[test]
    fn progress_counts_data_and_no_holes() {
        let dir = tempfile::tempdir().unwrap();
        let (entries, bytes) = (2, (1 << 30) + 3 + 4);
        let items = [
            file("a", (1 << 30) + 3),
            Item::Hole(1 << 30),
            Item::Data(vec![1; 3]),
            file("b", 4),
            Item::Data(vec![2; 4]),
            Item::End { entries, bytes },
        ];
        let progress = Progress::default();
        let report = receive(&stream(&items)[..], dir.path(), &progress).unwrap();
        assert_eq!((report.entries, report.bytes), (2, 7));
        assert_eq!((progress.counts().files, progress.counts().bytes), (2, 7));
    }

    #[test]
    fn a_snapshot_that_does_not_come_whole_is_an_error_and_no_part_of_a_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let items = [
            file("a", 1),
            Item::Data(vec![1]),
            file("b", 2),
            Item::Data(vec![2]),
            Item::failed("a disk failed"),
        ];
        for (count, why) in [(4, "engined ended before"), (5, "a disk failed")] {
            let target = dir.path().join(why);
            let stream = stream(&items[..count]);
            let error = receive(&stream[..], &target, &Progress::default()).unwrap_err();
            assert!(error.to_string().starts_with(why), "{error}");
            assert!(target.join("a").exists() && !target.join("b").exists());
        }
        // nor is anything made for one that does not open
        let target = dir.path().join("none");
        let stream = stream(&items[4..]);
        receive(&stream[..], &target, &Progress::default()).unwrap_err();
        assert!(!target.exists());
    }
}
