//! A snapshot back into a directory, and the list of snapshots.

use crate::{Error, Result, Stream, session};
use filetree::write::{Options, Report, Writer};
use protocol::frame::aio;
use protocol::restore::{Event, Item, ListItem, Listed, Receiver, Request};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::sync::mpsc;

/// How far a restore has come.
#[derive(Debug, Default)]
pub struct Counters {
    /// Entries begun.
    pub entries: AtomicU64,
    /// Bytes of content, holes not counted.
    pub bytes: AtomicU64,
}

/// The snapshots this agent may restore, newest first, over a session of kind `List` that is open.
///
/// # Errors
/// The stream fails, or the appliance refuses.
pub async fn list(stream: &mut impl Stream) -> Result<Vec<Listed>> {
    let mut snapshots = Vec::new();
    loop {
        match session::expect(stream).await? {
            ListItem::Snapshot(snapshot) => snapshots.push(*snapshot),
            ListItem::End => {
                let _ = tokio::io::AsyncWriteExt::shutdown(stream).await;
                return Ok(snapshots);
            }
            ListItem::Failed(sentence) => return Err(Error::Refused(sentence)),
        }
        if snapshots.len() > protocol::replication::MAX_SNAPSHOTS {
            return Err(protocol::WireError::Unexpected("a list without end").into());
        }
    }
}

/// Restores a snapshot below `target`, over a session of kind `Restore` that is open. `path`: only
/// this path of the snapshot and what is below it, empty for all.
///
/// # Errors
/// The stream fails or ends early, the appliance fails, or the target cannot be written; what was
/// written until then stays.
pub async fn restore(
    mut stream: impl Stream,
    snapshot: [u8; 16],
    path: Vec<u8>,
    target: PathBuf,
    options: Options,
    counters: Arc<Counters>,
) -> Result<Report> {
    aio::write(&mut stream, &Request { snapshot, path }).await?;
    // disks block, so writing has a thread; the queue holds a few MiB
    let (events, mut queue) = mpsc::channel::<Event>(32);
    let writing = tokio::task::spawn_blocking(move || write(&target, options, &mut queue));
    let received = receive(&mut stream, &events, &counters).await;
    drop(events);
    // said in order, or the other end takes it for a cut
    let _ = tokio::io::AsyncWriteExt::shutdown(&mut stream).await;
    // what the writer met says more than that it took no more
    let report = writing.await.map_err(|e| Error::Fault(e.to_string()))?;
    match (received, report) {
        (Ok(()), Ok(Some(report))) => Ok(report),
        (Ok(()), Ok(None)) => Err(protocol::WireError::Ended.into()),
        (_, Err(error)) | (Err(error), _) => Err(error),
    }
}

async fn receive(
    stream: &mut impl Stream,
    events: &mpsc::Sender<Event>,
    counters: &Counters,
) -> Result<()> {
    let mut receiver = Receiver::default();
    loop {
        let item: Item = session::expect(stream).await?;
        let event = receiver.receive(item)?;
        match &event {
            Event::Entry(_) => counters.entries.fetch_add(1, Relaxed),
            Event::Data(bytes) => counters.bytes.fetch_add(bytes.len() as u64, Relaxed),
            Event::Failed(sentence) => return Err(Error::Refused(sentence.clone())),
            Event::Hole(_) | Event::Lost(_) | Event::End { .. } => 0,
        };
        let last = matches!(event, Event::End { .. });
        if events.send(event).await.is_err() || last {
            return Ok(());
        }
    }
}

/// Writes until the end; `None` when the stream ended before it.
fn write(
    target: &Path,
    options: Options,
    events: &mut mpsc::Receiver<Event>,
) -> Result<Option<Report>> {
    // nothing is made at the target before the snapshot is known to open
    let Some(first) = events.blocking_recv() else {
        return Ok(None);
    };
    let mut writer = Writer::new(target, options)?;
    let mut next = Some(first);
    while let Some(event) = next {
        match event {
            Event::Entry(entry) => writer.begin(&entry)?,
            Event::Data(bytes) => writer.data(&bytes)?,
            Event::Hole(length) => writer.hole(length)?,
            Event::Lost(sentence) => writer.abandon(&sentence),
            Event::End { .. } => return Ok(Some(writer.finish()?)),
            Event::Failed(sentence) => return Err(Error::Refused(sentence)),
        }
        next = events.blocking_recv();
    }
    Ok(None)
}
