//! `strongroom restore`: a snapshot into a directory of this machine.

use super::{Session, show, snapshots, told};
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use contract::{EngineProxy, Options};
use filetree::write::{Options as Writing, Report, Writer};
use indicatif::{ProgressBar, ProgressStyle};
use protocol::frame;
use protocol::restore::{Event, Item, Receiver};
use serde_json::json;
use std::fs::File;
use std::io::BufReader;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

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
    /// At a centre, under client custody: the client's share, as printed
    #[arg(long)]
    share: Option<String>,
    /// At a centre: why, for the log of key releases
    #[arg(long, default_value = "strongroom restore")]
    reason: String,
}

pub(super) async fn restore(session: &Session, restore: &Restore) -> Result<()> {
    let id = snapshots::resolve(session, &restore.snapshot).await?;
    let mut options = Options::from([("reason", restore.reason.as_str().into())]);
    if let Some(path) = &restore.path {
        options.insert("path", path.clone().into_vec().into());
    }
    if let Some(share) = &restore.share {
        options.insert("share", share.as_str().into());
    }
    let stream = told(
        EngineProxy::new(&session.bus)
            .await?
            .open_restore(&id, options)
            .await,
    )?;
    let stream = File::from(std::os::fd::OwnedFd::from(stream));
    let target = restore.target.clone();
    let report = tokio::task::spawn_blocking(move || receive(stream, &target)).await??;
    session.answer(
        json!({
            "snapshot": id, "entries": report.entries, "bytes": report.bytes,
            "problems": report.problems.iter().map(|p| p.to_string()).collect::<Vec<_>>(),
        }),
        || {
            println!(
                "{} entries, {} restored to {}",
                report.entries,
                show::size(report.bytes),
                restore.target.display()
            );
            for problem in &report.problems {
                println!("  {problem}");
            }
        },
    )?;
    if !report.problems.is_empty() {
        bail!("{} problems; all else is restored", report.problems.len());
    }
    Ok(())
}

fn receive(stream: File, target: &Path) -> Result<Report> {
    let bar = ProgressBar::new_spinner().with_style(ProgressStyle::with_template(
        "{spinner} {bytes} restored, {binary_bytes_per_sec}  {msg}",
    )?);
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
                bar.set_message(String::from_utf8_lossy(&entry.path).into_owned());
                sink.begin(&entry)?;
                open = true;
            }
            Event::Data(bytes) => {
                bar.inc(bytes.len() as u64);
                sink.data(&bytes)?;
            }
            Event::Hole(length) => sink.hole(length)?,
            Event::Lost(sentence) => {
                sink.abandon(&sentence);
                open = false;
            }
            Event::End { .. } => break,
            Event::Failed(sentence) => bail!("{sentence}"),
        }
    }
    bar.finish_and_clear();
    writer
        .context("an empty snapshot")?
        .finish()
        .map_err(Into::into)
}
