//! `strongroom restore`: a snapshot into a directory of this machine.

use super::{Session, secret, show, snapshots, told};
use crate::store::{meter::Meter, tell};
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use contract::{EngineProxy, FieldsExt, Options};
use engine::Progress;
use filetree::write::{Options as Writing, Report, Writer};
use protocol::frame;
use protocol::restore::{Event, Item, Receiver};
use serde_json::json;
use std::fs::File;
use std::io::BufReader;
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
                "{} entries, {} restored to {}",
                report.entries,
                show::size(report.bytes),
                restore.target.display()
            );
            tell(&problems, count);
        },
    )?;
    if count > 0 {
        bail!("{count} problems; all else is restored");
    }
    Ok(())
}

fn receive(stream: File, target: &Path, progress: &Progress) -> Result<Report> {
    let mut stream = BufReader::with_capacity(1 << 20, stream);
    let mut receiver = Receiver::default();
    let mut writer: Option<Writer> = None;
    let mut open = false;
    loop {
        let item: Item = frame::read(&mut stream)?.ok_or_else(|| {
            anyhow!("engined ended before the snapshot did; see `strongroom log --daemon engined`")
        })?;
        let event = receiver.receive(item)?;
        // nothing is made at the target before the snapshot is known to open
        let sink = match (&mut writer, &event) {
            (None, Event::Failed(sentence)) => bail!("{sentence}"),
            (Some(writer), _) => writer,
            (none, _) => none.insert(Writer::new(target, Writing::default())?),
        };
        if open && matches!(event, Event::Entry(_) | Event::End { .. }) {
            sink.end()?;
        }
        match event {
            Event::Entry(entry) => {
                sink.begin(&entry)?;
                progress.add_file();
                open = true;
            }
            Event::Data(bytes) => {
                sink.data(&bytes)?;
                progress.add_bytes(bytes.len() as u64);
            }
            Event::Hole(length) => {
                sink.hole(length)?;
                progress.add_bytes(length);
            }
            Event::Lost(sentence) => {
                sink.abandon(&sentence);
                open = false;
            }
            Event::End { .. } => break,
            Event::Failed(sentence) => bail!("{sentence}"),
        }
    }
    writer
        .context("an empty snapshot")?
        .finish()
        .map_err(Into::into)
}
