//! The centre's end.

use super::{FromCentre, FromSite, Ids, Part};
use crate::digests::Bitmap;
use crate::frame::WireError;
use format::frame::MAX_FRAME;
use format::snapshot::MAX_SNAPSHOT;
use format::{DatastoreId, Digest, SnapshotId};

/// What the receiver does to its datastore. Nothing here removes or replaces.
pub trait Sink {
    /// Why it cannot.
    type Error;
    /// Opens the replica of this datastore, or makes it, and answers the snapshots it holds.
    ///
    /// # Errors
    /// It is not the datastore of this site, or cannot be opened.
    fn open(
        &mut self,
        datastore: DatastoreId,
        superblock: &[u8],
    ) -> Result<Vec<SnapshotId>, Self::Error>;
    /// Whether this frame is there or on its way to disk.
    ///
    /// # Errors
    /// The datastore cannot be read.
    fn has(&mut self, digest: &Digest) -> Result<bool, Self::Error>;
    /// Stores a frame after testing its check, its datastore, and that all it refers to is there.
    ///
    /// # Errors
    /// One of these does not hold, or it cannot be written.
    fn put_frame(&mut self, frame: &[u8]) -> Result<(), Self::Error>;
    /// Stores a snapshot after testing its signature against this site's key; on return it and
    /// everything before it are durable.
    ///
    /// # Errors
    /// The signature is not this site's, something is missing, or it cannot be written.
    fn put_snapshot(&mut self, file: Vec<u8>) -> Result<SnapshotId, Self::Error>;
}

/// What the other end did, or what failed here.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError<E> {
    /// The site broke the protocol.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The datastore refused or failed.
    #[error(transparent)]
    Sink(E),
}

/// The centre's end: answers, and stores what comes.
#[derive(Debug, Default)]
pub struct Receiver {
    open: bool,
    done: bool,
    frame: Vec<u8>,
    snapshot: Vec<u8>,
}

impl Receiver {
    /// Whether the site has said that it is done.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Takes a message of the site's, and gives what to answer.
    ///
    /// # Errors
    /// What is out of order or too long, and what the sink refuses.
    pub fn receive<S: Sink>(
        &mut self,
        message: FromSite,
        sink: &mut S,
    ) -> Result<Vec<FromCentre>, ReceiveError<S::Error>> {
        let unexpected = |what| Err(WireError::Unexpected(what).into());
        if self.done {
            return unexpected("a message after the last");
        }
        let sunk = ReceiveError::Sink;
        match message {
            FromSite::Hello {
                datastore,
                superblock,
            } if !self.open => {
                let held = sink
                    .open(DatastoreId(datastore), &superblock)
                    .map_err(sunk)?;
                self.open = true;
                let ids: Vec<[u8; 16]> = held.iter().map(|id| id.0).collect();
                Ok(Ids::pages(&ids)
                    .into_iter()
                    .map(FromCentre::Snapshots)
                    .collect())
            }
            FromSite::Hello { .. } => unexpected("a second hello"),
            _ if !self.open => unexpected("no hello first"),
            FromSite::Have(digests) => {
                let mut bits = Vec::with_capacity(digests.0.len());
                for digest in &digests.0 {
                    bits.push(sink.has(digest).map_err(sunk)?);
                }
                Ok(vec![FromCentre::Known(Bitmap::new(bits))])
            }
            FromSite::Frame(part) => {
                if let Some(frame) = collect(&mut self.frame, part, MAX_FRAME)? {
                    sink.put_frame(&frame).map_err(sunk)?;
                    // its memory serves the next
                    self.frame = frame;
                    self.frame.clear();
                }
                Ok(Vec::new())
            }
            FromSite::Snapshot(part) => match collect(&mut self.snapshot, part, MAX_SNAPSHOT)? {
                Some(file) => {
                    let id = sink.put_snapshot(file).map_err(sunk)?;
                    Ok(vec![FromCentre::Stored(id.0)])
                }
                None => Ok(Vec::new()),
            },
            FromSite::Done if self.frame.is_empty() && self.snapshot.is_empty() => {
                self.done = true;
                Ok(Vec::new())
            }
            FromSite::Done => unexpected("an end inside a frame"),
        }
    }
}

/// Adds a piece; the whole when it was the last.
fn collect(into: &mut Vec<u8>, part: Part, most: usize) -> Result<Option<Vec<u8>>, WireError> {
    if into.len() + part.bytes.len() > most {
        return Err(WireError::Unexpected(
            "a frame or snapshot longer than allowed",
        ));
    }
    if part.bytes.is_empty() {
        return Err(WireError::Unexpected("an empty piece"));
    }
    into.extend_from_slice(&part.bytes);
    Ok(part.last.then(|| std::mem::take(into)))
}
