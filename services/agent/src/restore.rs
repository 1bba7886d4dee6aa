//! A snapshot back into a directory, and the list of snapshots.

use crate::{Error, Result, Stream, session};
use filetree::write::{Options, Report, Writer};
use protocol::frame::aio;
use protocol::restore::{Event, Item, ListItem, Listed, Receiver, Request};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::sync::mpsc;

/// Most bytes of a list of snapshots: 2^20 of them, the most of a datastore, as they commonly are.
const MAX_LIST: usize = 256 << 20;

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
/// The stream fails, the appliance refuses, or the list is longer than an agent takes.
pub async fn list(stream: &mut impl Stream) -> Result<Vec<Listed>> {
    list_within(MAX_LIST, stream).await
}

async fn list_within(most: usize, stream: &mut impl Stream) -> Result<Vec<Listed>> {
    let mut snapshots = Vec::new();
    let mut left = most;
    loop {
        match session::expect(stream).await? {
            ListItem::Snapshot(snapshot) => {
                left = left.checked_sub(weight(&snapshot)).ok_or_else(|| {
                    Error::Refused(format!(
                        "the appliance's list of snapshots is longer than the {} MiB an agent \
                         takes; see it there (`strongroom snapshots`), and restore there \
                         (`strongroom restore`)",
                        most >> 20
                    ))
                })?;
                snapshots.push(*snapshot);
            }
            ListItem::End => {
                let _ = tokio::io::AsyncWriteExt::shutdown(stream).await;
                return Ok(snapshots);
            }
            ListItem::Failed(sentence) => return Err(Error::Refused(sentence)),
        }
    }
}

/// Bytes it takes here.
fn weight(listed: &Listed) -> usize {
    let paths = listed.paths.iter();
    size_of::<Listed>()
        + listed.host.len()
        + paths.map(|p| size_of_val(p) + p.0.len()).sum::<usize>()
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

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::intake::Path;

    #[tokio::test]
    async fn a_list_without_end_ends_at_a_size() {
        let snapshot = Listed {
            snapshot: [1; 16],
            time: 0,
            host: "server".into(),
            paths: vec![Path(vec![b'a'; 1000]); 64],
            entries: 0,
            logical: 0,
            unique: 0,
            problems: 0,
        };
        let (mut ours, mut theirs) = tokio::io::duplex(1 << 16);
        let endless = tokio::spawn(async move {
            let item = ListItem::Snapshot(Box::new(snapshot));
            let mut sent = 0;
            while aio::write(&mut theirs, &item).await.is_ok() {
                sent += 1;
            }
            sent
        });
        let error = list_within(1 << 20, &mut ours).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the appliance's list of snapshots is longer than the 1 MiB an agent takes; see it \
             there (`strongroom snapshots`), and restore there (`strongroom restore`)"
        );
        drop(ours);
        assert!(endless.await.unwrap() < 20);
    }
}
