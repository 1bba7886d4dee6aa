//! A site's copy on its way into its replica at this centre.

use super::{Ended, Line};
use crate::house::House;
use crate::peers::Site;
use crate::store::{Datastore, told};
use crate::turn::Turn;
use contract::Error;
use format::{DatastoreId, Digest, SnapshotId};
use protocol::replication::{FromCentre, FromSite, ReceiveError, Receiver, Sink};
use protocol::session::Verdict;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// Serves a session from the verdict on.
pub(super) fn serve(house: &Arc<House>, site: &Site, line: &mut Line) -> Result<(), Ended> {
    line.send(&Verdict::Welcome)?;
    let mut sink = Replica {
        house,
        site,
        stream: Some(line.write.try_clone()?),
        store: None,
        hold: None,
        turn: None,
    };
    let mut mute = false;
    let mut receiver = Receiver::default();
    while !receiver.is_done() {
        let message: FromSite = line.expect()?;
        let answers = match receiver.receive(message, &mut sink) {
            Ok(answers) => answers,
            Err(error) => {
                let error = match error {
                    ReceiveError::Wire(error) => Ended::Wire(error),
                    ReceiveError::Sink(Error::PoolFull(_)) => Ended::Told(full()),
                    ReceiveError::Sink(error) => Ended::Told(error),
                };
                if let Some(sentence) = error.sentence() {
                    line.send(&FromCentre::failed(sentence))?;
                    line.linger();
                }
                return Err(error);
            }
        };
        // when the connection is cut, what had arrived by then is still taken
        mute = mute || answers.iter().any(|answer| line.send(answer).is_err());
    }
    Ok(())
}

/// This centre's pool has no room: what a site is told, whose own pool may have plenty.
fn full() -> Error {
    Error::PoolFull(
        "the centre's pool is full; every snapshot is whole at the site, and what earlier copies \
         brought stays at the centre: give the centre a larger pool, then copy again (this release neither adds \
         disks to a pool nor removes snapshots)"
            .into(),
    )
}

struct Replica<'a> {
    house: &'a Arc<House>,
    site: &'a Site,
    stream: Option<UnixStream>,
    store: Option<Arc<Datastore>>,
    /// What was said to be here, or arrived, stays until the snapshots that need it have arrived too.
    hold: Option<engine::Hold>,
    /// Held until what arrived is durable.
    turn: Option<Turn>,
}

/// However the session ends, what arrived is made durable, so that it is not sent again.
impl Drop for Replica<'_> {
    fn drop(&mut self) {
        if let Some(store) = &self.store
            && let Err(error) = store.flush()
        {
            tracing::warn!("what arrived could not be kept: {}", told(error).text());
        }
        self.hold = None;
        self.turn = None;
    }
}

impl Replica<'_> {
    fn store(&self) -> Result<&Arc<Datastore>, Error> {
        self.store.as_ref().ok_or_else(|| {
            Error::Failed(
                "the site sent before it named its datastore; update the older of the two ends"
                    .into(),
            )
        })
    }
}

impl Sink for Replica<'_> {
    type Error = Error;

    fn open(
        &mut self,
        datastore: DatastoreId,
        superblock: &[u8],
    ) -> Result<Vec<SnapshotId>, Error> {
        if datastore != self.site.datastore {
            return Err(Error::NotAuthorised(format!(
                "datastore {datastore} is not this site's; enrol the site again"
            )));
        }
        let store = self.house.make_replica(datastore, superblock)?;
        let gone = || {
            Error::Failed("a newer connection of this site has taken this one's place; nothing is to be done: what arrived stays, and the newer one goes on".into())
        };
        let stream = self.stream.take().ok_or_else(gone)?;
        self.turn = Some(store.turns.take(stream).ok_or_else(gone)?);
        self.hold = Some(store.hold()?);
        let held = store.snapshots()?.iter().map(|s| s.id).collect();
        self.store = Some(store);
        Ok(held)
    }

    fn has(&mut self, digest: &Digest) -> Result<bool, Error> {
        let has = self
            .store()?
            .has(std::slice::from_ref(digest))
            .map_err(told)?;
        Ok(has == [true])
    }

    fn put_frame(&mut self, frame: &[u8]) -> Result<(), Error> {
        self.house.check_running()?;
        self.store()?.put_frame(frame).map_err(told)
    }

    fn put_snapshot(&mut self, file: Vec<u8>) -> Result<SnapshotId, Error> {
        let clear = self
            .store()?
            .put_snapshot(file, &self.site.public)
            .map_err(told)?;
        let id = clear.id;
        self.house.copied(clear);
        Ok(id)
    }
}
