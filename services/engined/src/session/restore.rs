//! Snapshots on their way out: to agents, and over the bus.

use super::{Ended, Line, Scope, Who};
use crate::house::House;
use crate::store::{Datastore, Piece};
use contract::Error;
use format::snapshot::{Clear, Details};
use format::{GroupId, SnapshotId};
use protocol::frame::{self, PART};
use protocol::intake::Path;
use protocol::restore::{Item, ListItem, Listed, MAX_ROOTS, Request};
use protocol::session::Verdict;
use std::io::{BufWriter, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// Bytes gathered before they are written.
const BUFFER: usize = 256 << 10;

/// What a peer may restore from.
pub(crate) struct Place {
    pub(crate) store: Arc<Datastore>,
    /// Only snapshots of this group; all without it.
    pub(crate) group: Option<String>,
    /// Holds the datastore unlocked at a centre.
    pub(crate) _unlocked: Option<crate::grants::Held>,
}

impl Place {
    fn of(house: &Arc<House>, agent: &Who) -> Result<Self, Error> {
        match &agent.scope {
            Scope::Backup => Ok(Self {
                store: house.own()?,
                group: Some(agent.id.clone()),
                _unlocked: None,
            }),
            Scope::Restore(datastore) => {
                let held = house.grants.held(*datastore, &agent.id)?;
                Ok(Self {
                    store: house.replica(*datastore)?,
                    group: None,
                    _unlocked: Some(held),
                })
            }
        }
    }

    fn group(&self) -> Result<Option<GroupId>, Error> {
        let named = self.group.as_ref();
        named.map(|name| self.store.group(name)).transpose()
    }

    /// The snapshots in reach, newest first.
    fn snapshots(&self) -> Result<Vec<(Clear, Option<Details>)>, Error> {
        let group = self.group()?;
        let mut snapshots = self.store.infos()?;
        snapshots.retain(|(clear, _)| group.is_none_or(|g| clear.group == g));
        Ok(snapshots)
    }

    /// That a snapshot is in reach. Another's is as absent as none.
    fn check(&self, id: SnapshotId) -> Result<(), Error> {
        let group = self.group()?;
        match self.store.info(id) {
            Ok((clear, _)) if group.is_none_or(|g| clear.group == g) => Ok(()),
            Ok(_) | Err(Error::NotFound(_)) => Err(Error::NotFound(format!(
                "there is no snapshot {id} that may be restored here; list them first"
            ))),
            Err(error) => Err(error),
        }
    }
}

/// Serves a session from the verdict on.
pub(super) fn serve(house: &Arc<House>, agent: &Who, line: &mut Line) -> Result<(), Ended> {
    let place = welcome(house, agent, line)?;
    let request: Request = line.expect()?;
    let id = SnapshotId(request.snapshot);
    if let Err(error) = place.check(id) {
        line.send(&Item::failed(error.text()))?;
        line.linger();
        return Err(error.into());
    }
    tracing::info!(agent = agent.id, snapshot = %id, "restores");
    let sent = send_all(house, &place, id, &request.path, &line.write);
    line.linger();
    sent
}

fn welcome(house: &Arc<House>, agent: &Who, line: &mut Line) -> Result<Place, Ended> {
    match Place::of(house, agent) {
        Ok(place) => {
            line.send(&Verdict::Welcome)?;
            Ok(place)
        }
        Err(error) => {
            line.send(&Verdict::refused(error.text()))?;
            line.linger();
            Err(error.into())
        }
    }
}

/// The stream of one snapshot, docs/protocol.md "Restore": its end is an `End` or a `Failed`.
pub(crate) fn send_all(
    house: &House,
    place: &Place,
    id: SnapshotId,
    path: &[u8],
    stream: &UnixStream,
) -> Result<(), Ended> {
    let mut out = Out {
        write: BufWriter::with_capacity(BUFFER, stream),
        entries: 0,
        bytes: 0,
    };
    let sent: Result<(), Ended> = place.store.read(id, path, |piece| {
        house.check_running()?;
        out.piece(piece)
    });
    let last = match &sent {
        Ok(()) => Item::End {
            entries: out.entries,
            bytes: out.bytes,
        },
        Err(Ended::Told(error)) => Item::failed(error.text()),
        Err(Ended::Wire(_)) => return sent,
    };
    frame::write(&mut out.write, &last)?;
    out.write.flush()?;
    sent
}

struct Out<'a> {
    write: BufWriter<&'a UnixStream>,
    entries: u64,
    bytes: u64,
}

impl Out<'_> {
    /// An agent's holes may come to more than can be counted; who receives counts in the same way.
    fn count(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn piece(&mut self, piece: Piece<'_>) -> Result<(), Ended> {
        match piece {
            Piece::Entry(entry) => {
                self.entries += 1;
                frame::write(&mut self.write, &Item::Entry(Box::new(entry.into())))?;
            }
            Piece::Data(bytes) => {
                self.count(bytes.len() as u64);
                for part in bytes.chunks(PART) {
                    frame::write(&mut self.write, &Item::Data(part.to_vec()))?;
                }
            }
            Piece::Hole(length) => {
                self.count(length);
                frame::write(&mut self.write, &Item::Hole(length))?;
            }
            Piece::Lost(sentence) => frame::write(&mut self.write, &Item::lost(sentence))?,
        }
        Ok(())
    }
}

/// Serves a session of kind `List` from the verdict on.
pub(super) fn list(house: &Arc<House>, agent: &Who, line: &mut Line) -> Result<(), Ended> {
    let place = welcome(house, agent, line)?;
    let mut out = BufWriter::with_capacity(BUFFER, &line.write);
    let listed = each(&place, |item| Ok(frame::write(&mut out, &item)?));
    let last = match &listed {
        Ok(()) => ListItem::End,
        Err(Ended::Told(error)) => ListItem::Failed(error.text()),
        Err(Ended::Wire(_)) => return listed,
    };
    frame::write(&mut out, &last)?;
    out.flush()?;
    drop(out);
    line.linger();
    listed
}

fn each(place: &Place, mut put: impl FnMut(ListItem) -> Result<(), Ended>) -> Result<(), Ended> {
    for (clear, details) in place.snapshots()? {
        let details = details.unwrap_or_default();
        put(ListItem::Snapshot(Box::new(Listed {
            snapshot: clear.id.0,
            time: clear.time.seconds,
            host: details.host,
            paths: details
                .paths
                .into_iter()
                .take(MAX_ROOTS)
                .map(Path)
                .collect(),
            entries: clear.entries,
            logical: clear.logical,
            unique: clear.unique,
            problems: details.problem_count,
        })))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_beyond_all_counting_do_not_end_a_restore() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut out = Out {
            write: BufWriter::new(&ours),
            entries: 0,
            bytes: 0,
        };
        for _ in 0..3 {
            out.piece(Piece::Hole(i64::MAX as u64)).unwrap();
        }
        out.piece(Piece::Data(b"x")).unwrap();
        assert_eq!(out.bytes, u64::MAX);
    }
}
