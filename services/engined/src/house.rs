//! What engined has open, and for whom: the own datastore of a site, the replicas of a centre.

use crate::grants::Grants;
use crate::offsite::Offsite;
use crate::peers::Peers;
use crate::seats::Seats;
use crate::session::DaemonEnds;
use crate::store::{Datastore, Role};
use contract::Error;
use format::snapshot::{Clear, Details};
use format::{DatastoreId, Keyset};
use std::collections::HashMap;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// How engined is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It waits, for this reason.
    Waiting(String),
    /// It serves.
    Ready,
    /// It cannot go on, for this reason.
    Failed(String),
}

/// Something to tell on the bus.
#[derive(Clone, Debug)]
pub struct Added {
    /// What everybody can read.
    pub clear: Clear,
    /// What the key opens; none for a copy at a centre.
    pub details: Option<Details>,
    /// The run jobd ordered, or empty.
    pub run: String,
}

/// Memory for the indexes of all datastores together, bytes: full speed for 700 million chunks.
const INDEX_MEMORY: u64 = 1 << 30;

/// What this appliance is to engined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// A site with this datastore.
    Site(DatastoreId),
    /// A centre.
    Centre,
}

#[derive(Default)]
struct Open {
    /// The pool's root, while it is mounted.
    pool: Option<PathBuf>,
    part: Option<Part>,
    own: Option<Arc<Datastore>>,
    replicas: HashMap<DatastoreId, Arc<Datastore>>,
}

/// The house. Its methods block on the disk.
pub struct House {
    pub(crate) peers: Arc<dyn Peers>,
    memory: Arc<engine::Memory>,
    pub(crate) seats: Seats,
    pub(crate) grants: Grants,
    pub(crate) offsite: Offsite,
    shutdown: CancellationToken,
    open: Mutex<Open>,
    status: watch::Sender<Status>,
    added: mpsc::UnboundedSender<Added>,
    streams: Mutex<Vec<Weak<UnixStream>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl House {
    /// A house with nothing open. What is added goes to `added`; state is kept in `state_dir`.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn new(
        peers: Arc<dyn Peers>,
        state_dir: PathBuf,
        added: mpsc::UnboundedSender<Added>,
        shutdown: CancellationToken,
    ) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self {
            peers,
            memory: engine::Memory::new(INDEX_MEMORY),
            seats: Seats::default(),
            grants: Grants::default(),
            offsite: Offsite::open(&state_dir)?,
            shutdown,
            open: Mutex::default(),
            status: watch::Sender::new(Status::Waiting("engined has just started".into())),
            added,
            streams: Mutex::default(),
        }))
    }

    /// How engined is, and when that changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    pub(crate) fn set_status(&self, status: Status) {
        self.status.send_if_modified(|now| {
            let changed = *now != status;
            if changed {
                tracing::info!(?status, "state");
                *now = status;
            }
            changed
        });
    }

    fn not_ready(&self) -> Error {
        match &*self.status.borrow() {
            Status::Ready => Error::NotReady("engined is about to open its datastore".into()),
            Status::Waiting(reason) | Status::Failed(reason) => Error::NotReady(reason.clone()),
        }
    }

    /// Takes up work on a pool. On a site the keys are needed; on a centre replicas are opened
    /// when they are asked for.
    ///
    /// # Errors
    /// The datastore cannot be made or opened.
    pub fn open(&self, pool: PathBuf, part: Part, keyset: Option<Keyset>) -> Result<(), Error> {
        let mut open = locked(&self.open);
        open.own = match (&part, keyset) {
            (Part::Site(id), Some(keyset)) => Some(Arc::new(Datastore::open_own(
                &pool,
                *id,
                keyset,
                self.memory.clone(),
            )?)),
            _ => None,
        };
        open.pool = Some(pool);
        open.part = Some(part);
        drop(open);
        self.set_status(Status::Ready);
        Ok(())
    }

    /// Whether it works as this part on this pool already.
    pub fn is_open(&self, pool: &std::path::Path, part: &Part) -> bool {
        let open = locked(&self.open);
        open.pool.as_deref() == Some(pool) && open.part.as_ref() == Some(part)
    }

    /// Lets go of everything: the pool is gone, or the daemon stops.
    pub fn close(&self, status: Status) {
        self.set_status(status);
        self.end_sessions();
        self.grants.clear();
        *locked(&self.open) = Open::default();
    }

    /// The own datastore of a site.
    pub(crate) fn own(&self) -> Result<Arc<Datastore>, Error> {
        let open = locked(&self.open);
        match (&open.own, &open.part) {
            (Some(own), _) => Ok(own.clone()),
            (None, Some(Part::Centre)) => Err(Error::WrongRole(
                "this appliance is a centre and takes no backups; pair with a site".into(),
            )),
            (None, _) => Err(self.not_ready()),
        }
    }

    fn pool_of_centre(&self, open: &Open) -> Result<PathBuf, Error> {
        match (&open.pool, &open.part) {
            (Some(pool), Some(Part::Centre)) => Ok(pool.clone()),
            (_, Some(Part::Site(_))) => Err(Error::WrongRole(
                "this appliance is a site and holds no copies of others; ask the centre".into(),
            )),
            _ => Err(self.not_ready()),
        }
    }

    /// A replica that is there.
    pub(crate) fn replica(&self, id: DatastoreId) -> Result<Arc<Datastore>, Error> {
        let mut open = locked(&self.open);
        let pool = self.pool_of_centre(&open)?;
        if let Some(replica) = open.replicas.get(&id) {
            return Ok(replica.clone());
        }
        let replica = Arc::new(Datastore::open_replica(&pool, id, self.memory.clone())?);
        open.replicas.insert(id, replica.clone());
        Ok(replica)
    }

    /// A replica, made when it is not there.
    pub(crate) fn make_replica(
        &self,
        id: DatastoreId,
        superblock: &[u8],
    ) -> Result<Arc<Datastore>, Error> {
        {
            let open = locked(&self.open);
            let pool = self.pool_of_centre(&open)?;
            Datastore::make_replica(&pool, id, superblock)?;
        }
        self.replica(id)
    }

    /// Lets a recovery agent read a replica until then, with the keys keyd released for that.
    ///
    /// # Errors
    /// The replica is not here, or the keys are another's.
    pub fn grant(&self, keyset: &Keyset, agent: &str, until: SystemTime) -> Result<(), Error> {
        let replica = self.replica(keyset.datastore_id)?;
        replica.unlock(keyset)?;
        self.grants.grant(replica, agent, until);
        Ok(())
    }

    /// All datastores that are here; those of a centre are opened for it.
    pub(crate) fn datastores(&self) -> Result<Vec<Arc<Datastore>>, Error> {
        let (pool, part) = {
            let open = locked(&self.open);
            (open.pool.clone(), open.part.clone())
        };
        match (pool, part) {
            (_, Some(Part::Site(_))) => Ok(vec![self.own()?]),
            (Some(pool), Some(Part::Centre)) => crate::store::ids(&pool)?
                .into_iter()
                .map(|id| self.replica(id))
                .collect(),
            _ => Ok(Vec::new()),
        }
    }

    /// The datastore of this id, or the own one for an empty id.
    pub(crate) fn datastore(&self, id: &str) -> Result<Arc<Datastore>, Error> {
        if id.is_empty() {
            return self.own();
        }
        let id: DatastoreId = id
            .parse()
            .map_err(|e| Error::InvalidArgument(format!("{e}")))?;
        let all = self.datastores()?;
        all.into_iter().find(|d| d.id == id).ok_or_else(|| {
            Error::NotFound(format!(
                "there is no datastore {id} here; see strongroom status"
            ))
        })
    }

    /// A backup was committed.
    pub(crate) fn added(&self, clear: Clear, details: Details, run: &str) {
        tracing::info!(snapshot = %clear.id, run, "committed");
        let (details, run) = (Some(details), run.to_owned());
        // nobody listens when the daemon stops, which is no fault of the backup's
        let _ = self.added.send(Added {
            clear,
            details,
            run,
        });
    }

    /// A copy arrived.
    pub(crate) fn copied(&self, clear: Clear) {
        tracing::info!(snapshot = %clear.id, datastore = %clear.datastore, "copied here");
        let (details, run) = (None, String::new());
        let _ = self.added.send(Added {
            clear,
            details,
            run,
        });
    }

    /// Stops what runs when the daemon does.
    pub(crate) fn check_running(&self) -> Result<(), Error> {
        if self.shutdown.is_cancelled() {
            return Err(Error::NotReady(
                "the appliance is shutting down; try again when it is back".into(),
            ));
        }
        Ok(())
    }

    /// Has a session's socket shut down with the daemon.
    pub(crate) fn daemon_ends(&self, stream: UnixStream) -> DaemonEnds {
        let (ends, weak) = DaemonEnds::new(stream);
        let mut streams = locked(&self.streams);
        streams.retain(|s| s.strong_count() > 0);
        streams.push(weak);
        ends
    }

    /// Returns when no session goes on.
    pub async fn idle(&self) {
        self.seats.idle().await;
    }

    /// Ends all sessions.
    pub fn end_sessions(&self) {
        for stream in locked(&self.streams).drain(..).filter_map(|s| s.upgrade()) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Role {
    /// Its name on the bus.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::Own => "own",
            Role::Replica => "replica",
        }
    }
}
