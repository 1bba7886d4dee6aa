//! `org.strongroom.Engine1`.

use crate::house::{Added, House, Status};
use crate::session::{self, Place};
use crate::store::{Datastore, Role};
use crate::watch::take_keyset;
use contract::{
    CentreProxy, EnrolProxy, Error, Fields, FieldsExt, KeysProxy, Options, PortalProxy, field,
    fields,
};
use format::snapshot::{Clear, Details};
use format::{Keyset, SnapshotId};
use runtime::Daemon;
use runtime::job::Progress;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::zvariant::{Array, OwnedFd, OwnedObjectPath, Value};

/// A grant that does not say until when.
const GRANT: Duration = Duration::from_secs(24 * 3600);

/// The interface.
pub(crate) struct Engine {
    daemon: Daemon,
    house: Arc<House>,
    /// The copy that runs.
    copying: Mutex<Option<(OwnedObjectPath, Arc<AtomicBool>)>>,
}

impl Engine {
    pub(crate) fn new(daemon: Daemon, house: Arc<House>) -> Self {
        Self {
            daemon,
            house,
            copying: Mutex::default(),
        }
    }
}

/// Runs what blocks on the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Error::Failed(format!("a fault of ours: {e}; see engined's journal")))?
}

fn of_snapshot(house: &House, role: Role, clear: &Clear, details: Option<&Details>) -> Fields {
    let mut snapshot = fields([
        ("id", field(clear.id.to_string())),
        ("datastore", field(clear.datastore.to_string())),
        ("group", field(clear.group.to_string())),
        ("time", field(clear.time.seconds)),
        ("entries", field(clear.entries)),
        ("logical", field(clear.logical)),
        ("unique", field(clear.unique)),
        ("stored", field(clear.stored)),
    ]);
    if role == Role::Own {
        snapshot.insert("offsite".into(), field(house.offsite.has(&clear.id)));
    }
    if let Some(details) = details {
        let paths: Vec<Value<'_>> = details
            .paths
            .iter()
            .map(|p| Value::from(Array::from(p.clone())))
            .collect();
        let mut array = Array::new(&zbus::zvariant::Signature::array(
            zbus::zvariant::Signature::U8,
        ));
        for path in paths {
            // each is an array of bytes, as the signature says
            let _ = array.append(path);
        }
        snapshot.extend(fields([
            ("name", field(details.group.clone())),
            ("host", field(details.host.clone())),
            ("paths", field(Value::from(array))),
            (
                "problems",
                field(u32::try_from(details.problem_count).unwrap_or(u32::MAX)),
            ),
        ]));
    }
    snapshot
}

#[zbus::interface(name = "org.strongroom.Engine1")]
impl Engine {
    #[zbus(property)]
    async fn state(&self) -> String {
        match &*self.house.status().borrow() {
            Status::Waiting(_) => "waiting".into(),
            Status::Ready => "ready".into(),
            Status::Failed(_) => "failed".into(),
        }
    }

    #[zbus(property)]
    async fn reason(&self) -> String {
        match &*self.house.status().borrow() {
            Status::Waiting(reason) | Status::Failed(reason) => reason.clone(),
            Status::Ready => String::new(),
        }
    }

    #[zbus(out_args("datastores"))]
    async fn datastores(&self) -> Result<Vec<Fields>, Error> {
        let (bus, house) = (self.daemon.bus.clone(), self.house.clone());
        let all = blocking(move || {
            let mut all = Vec::new();
            for store in house.datastores()? {
                all.push((store.id.to_string(), store.role, store.totals()?));
            }
            Ok(all)
        })
        .await?;
        let replicas = all.iter().any(|(_, role, _)| *role == Role::Replica);
        // who does not answer has a line of its own in the status, and hides no datastore
        let owners = owners(&bus, replicas).await.unwrap_or_default();
        let nobody = (String::new(), String::new());
        Ok(all
            .into_iter()
            .map(|(id, role, totals)| {
                let (tenant, site) = owners.get(&id).unwrap_or(&nobody);
                fields([
                    ("tenant", field(tenant.clone())),
                    ("site", field(site.clone())),
                    ("id", field(id)),
                    ("role", field(role.name())),
                    ("snapshots", field(totals.snapshots)),
                    ("logical", field(totals.logical)),
                    ("unique", field(totals.unique)),
                    ("stored", field(totals.stored)),
                    ("free", field(totals.free)),
                ])
            })
            .collect())
    }

    #[zbus(out_args("snapshots"))]
    async fn snapshots(&self, filter: Fields) -> Result<Vec<Fields>, Error> {
        let datastore: Option<String> = filter.optional("datastore")?;
        let [group, name, id] = ["group", "name", "id"].map(|f| filter.optional::<String>(f));
        let (group, name, id) = (group?, name?, id?);
        let wanted = move |clear: &Clear, details: Option<&Details>| {
            group.as_ref().is_none_or(|g| *g == clear.group.to_string())
                && id.as_ref().is_none_or(|i| *i == clear.id.to_string())
                && name
                    .as_ref()
                    .is_none_or(|n| details.is_some_and(|d| d.group == *n))
        };
        let house = self.house.clone();
        blocking(move || {
            let stores = match &datastore {
                Some(id) => vec![house.datastore(id)?],
                None => house.datastores()?,
            };
            let mut all = Vec::new();
            for store in stores {
                for (clear, details) in store.infos()? {
                    if wanted(&clear, details.as_ref()) {
                        let fields = of_snapshot(&house, store.role, &clear, details.as_ref());
                        all.push(((clear.time, clear.id), fields));
                    }
                }
            }
            all.sort_by_key(|(age, _)| std::cmp::Reverse(*age));
            Ok(all.into_iter().map(|(_, fields)| fields).collect())
        })
        .await
    }

    async fn accept_session(
        &self,
        #[zbus(connection)] bus: &zbus::Connection,
        #[zbus(header)] header: Header<'_>,
        kind: String,
        stream: OwnedFd,
        options: Fields,
    ) -> Result<(), Error> {
        runtime::caller::require(bus, &header, &["portald"]).await?;
        let id: String = options.required("peer")?;
        let peer = match kind.as_str() {
            "agent" => session::Peer::Agent(id),
            "site" => session::Peer::Site(id),
            _ => {
                return Err(Error::InvalidArgument(format!(
                    "\"{kind}\" is no kind of session; it is \"agent\" or \"site\""
                )));
            }
        };
        let stream = std::os::unix::net::UnixStream::from(std::os::fd::OwnedFd::from(stream));
        session::accept(&self.house, peer, stream)
    }

    #[zbus(out_args("job"))]
    async fn replicate(
        &self,
        datastore: String,
        _options: Fields,
    ) -> Result<OwnedObjectPath, Error> {
        let mut copying = self.copying.lock().await;
        if let Some((path, running)) = &*copying
            && running.load(Ordering::Acquire)
        {
            return Ok(path.clone());
        }
        let house = self.house.clone();
        blocking(move || match house.datastore(&datastore)?.role {
            Role::Own => Ok(()),
            Role::Replica => Err(Error::WrongRole(
                "a centre's replicas are copied by their sites; run it on the site".into(),
            )),
        })
        .await?;
        let running = Arc::new(AtomicBool::new(true));
        let (house, bus, done) = (self.house.clone(), self.daemon.bus.clone(), running.clone());
        let work = move |progress: Progress, cancel: CancellationToken| async move {
            let _done = SetFalse(done);
            copy(house, bus, progress, cancel).await
        };
        let path = self.daemon.jobs.start("offsite-copy", work).await?;
        *copying = Some((path.clone(), running));
        Ok(path)
    }

    #[zbus(out_args("stream"))]
    async fn open_restore(&self, snapshot: String, options: Fields) -> Result<OwnedFd, Error> {
        let id: SnapshotId = snapshot
            .parse()
            .map_err(|e| Error::InvalidArgument(format!("{e}")))?;
        let path: Vec<u8> = options.optional("path")?.unwrap_or_default();
        let path = path.strip_prefix(b"/").unwrap_or(&path);
        let path = path.strip_suffix(b"/").unwrap_or(path).to_vec();
        let house = self.house.clone();
        let store = blocking(move || {
            for store in house.datastores()? {
                match store.info(id) {
                    Ok(_) => return Ok(store),
                    Err(Error::NotFound(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            Err(Error::NotFound(format!(
                "there is no snapshot {id} here; see strongroom snapshots"
            )))
        })
        .await?;
        // before a key is released for it
        let seat = self.house.seats.operator()?;
        let unlocked = match store.role {
            Role::Own => None,
            Role::Replica => {
                let keyset = self.released(&store, &options).await?;
                let replica = store.clone();
                blocking(move || replica.unlock(&keyset)).await?;
                Some(self.house.grants.hold(store.clone()))
            }
        };
        let place = Place {
            store,
            group: None,
            _unlocked: unlocked,
        };
        let failed = session::not_begun(format!("the restore of snapshot {id}"));
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(&failed)?;
        let ends = self.house.daemon_ends(ours.try_clone().map_err(&failed)?);
        let house = self.house.clone();
        std::thread::Builder::new()
            .name("restore".into())
            .spawn(move || {
                let (_seat, _ends) = (seat, ends);
                if let Err(error) = session::send_all(&house, &place, id, &path, &ours) {
                    tracing::warn!(snapshot = %id, "restore ended: {error}");
                }
            })
            .map_err(failed)?;
        Ok(std::os::fd::OwnedFd::from(theirs).into())
    }

    async fn grant(&self, datastore: String, options: Fields) -> Result<(), Error> {
        let agent: String = options.required("agent")?;
        let until = match options.optional::<i64>("until")? {
            None => SystemTime::now() + GRANT,
            Some(seconds) => {
                let seconds = u64::try_from(seconds)
                    .map_err(|_| Error::InvalidArgument("until is a time before 1970".into()))?;
                SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
            }
        };
        let house = self.house.clone();
        let store = blocking(move || house.datastore(&datastore)).await?;
        if store.role == Role::Own {
            return Err(Error::WrongRole(
                "a site's own datastore is not granted; its agents restore by themselves".into(),
            ));
        }
        let keyset = self.released(&store, &options).await?;
        let house = self.house.clone();
        blocking(move || house.grant(&keyset, &agent, until)).await
    }

    #[zbus(out_args("job"))]
    async fn verify(&self, datastore: String, _options: Fields) -> Result<OwnedObjectPath, Error> {
        let house = self.house.clone();
        let store = blocking(move || house.datastore(&datastore)).await?;
        let work = move |progress: Progress, cancel: CancellationToken| async move {
            progress.set_detail("reading and checking every frame");
            let counts = Arc::new(engine::Progress::default());
            let counted = counts.clone();
            let measured = store.clone();
            progress.set_total(blocking(move || measured.totals()).await?.stored);
            let mut verified = tokio::spawn(blocking(move || store.verify(&counted)));
            let mut ticks = tokio::time::interval(Duration::from_secs(1));
            let mut stopping = false;
            let verified = loop {
                // all are cancel-safe
                tokio::select! {
                    ended = &mut verified => break ended,
                    _ = ticks.tick() => progress.set_done(counts.counts().bytes),
                    () = cancel.cancelled(), if !stopping => {
                        stopping = true;
                        counts.cancel();
                    }
                }
            };
            let fault = |e| Error::Failed(format!("a fault of ours: {e}; see engined's journal"));
            let verified = verified.map_err(fault)??;
            Ok(fields([
                ("frames", field(verified.frames)),
                ("damaged", field(verified.damaged)),
                ("snapshots", field(verified.snapshots)),
            ]))
        };
        self.daemon.jobs.start("verify", work).await
    }

    #[zbus(signal)]
    async fn snapshot_added(emitter: &SignalEmitter<'_>, snapshot: Fields) -> zbus::Result<()>;
}

impl Engine {
    /// A replica's keys, released by keyd here and now.
    async fn released(&self, store: &Datastore, options: &Fields) -> Result<Keyset, Error> {
        let share: Option<String> = options.optional("share")?;
        let reason: String = options.optional("reason")?.unwrap_or_default();
        let mut release = Options::from([("reason", reason.as_str().into())]);
        if let Some(share) = &share {
            release.insert("share", share.as_str().into());
        }
        let keys = KeysProxy::new(&self.daemon.bus).await?;
        let pipe = keys.release_keyset(&store.id.to_string(), release).await?;
        take_keyset(pipe, store.id).await
    }
}

struct SetFalse(Arc<AtomicBool>);

impl Drop for SetFalse {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

async fn copy(
    house: Arc<House>,
    bus: zbus::Connection,
    progress: Progress,
    cancel: CancellationToken,
) -> Result<Fields, Error> {
    progress.set_detail("connecting to the centre");
    let membership = EnrolProxy::new(&bus).await?.membership().await?;
    let site: String = membership.required("site")?;
    let dialled = PortalProxy::new(&bus)
        .await?
        .dial("replicate", Options::new())
        .await?;
    let stream = std::os::unix::net::UnixStream::from(std::os::fd::OwnedFd::from(dialled));
    // a thread that waits for the centre sees the order to stop as the end of its stream
    let waking = stream
        .try_clone()
        .map_err(|e| Error::Failed(e.to_string()))?;
    let stopping = cancel.clone();
    let waker = tokio::spawn(async move {
        stopping.cancelled().await;
        let _ = waking.shutdown(std::net::Shutdown::Both);
    });
    let cancelled = cancel.clone();
    let copied = blocking(move || {
        let mut tell = |done, total, detail| {
            progress.set_total(total);
            progress.set_done(done);
            progress.set_detail(detail);
        };
        crate::replicate(
            &house,
            &site,
            stream,
            &|| cancelled.is_cancelled(),
            &mut tell,
        )
    })
    .await;
    waker.abort();
    let copied = match copied {
        Err(_) if cancel.is_cancelled() => {
            return Err(Error::Cancelled(
                "the copy was cancelled; what arrived stays, and the next copy goes on".into(),
            ));
        }
        other => other?,
    };
    Ok(fields([
        (
            "snapshots",
            field(u32::try_from(copied.totals.snapshots).unwrap_or(u32::MAX)),
        ),
        ("frames", field(copied.totals.frames)),
        ("wire", field(copied.wire)),
        ("present", field(copied.totals.present)),
    ]))
}

/// Tenant and site of each datastore.
async fn owners(
    bus: &zbus::Connection,
    centre: bool,
) -> Result<HashMap<String, (String, String)>, Error> {
    if centre {
        let sites = CentreProxy::new(bus).await?.sites().await?;
        return sites
            .iter()
            .map(|s| {
                Ok((
                    s.required("datastore")?,
                    (s.required("tenant")?, s.required("id")?),
                ))
            })
            .collect();
    }
    let membership = EnrolProxy::new(bus).await?.membership().await?;
    let Some(datastore) = membership.optional("datastore")? else {
        return Ok(HashMap::new());
    };
    let tenant = membership.optional("tenant")?.unwrap_or_default();
    let site = membership.optional("site")?.unwrap_or_default();
    Ok(HashMap::from([(datastore, (tenant, site))]))
}

/// Tells the bus of changes of state and of new snapshots, until it is stopped.
pub(crate) async fn tell(
    bus: zbus::Connection,
    house: Arc<House>,
    mut added: mpsc::UnboundedReceiver<Added>,
) {
    let mut status = house.status();
    loop {
        // both are cancel-safe
        let told = tokio::select! {
            changed = status.changed() => match changed {
                Ok(()) => tell_state(&bus).await,
                Err(_) => return,
            },
            snapshot = added.recv() => match snapshot {
                Some(snapshot) => tell_snapshot(&bus, &house, &snapshot).await,
                None => return,
            },
        };
        if let Err(error) = told {
            tracing::warn!("the bus could not be told: {error}");
        }
    }
}

const PATH: &str = "/org/strongroom/Engine1";

async fn tell_state(bus: &zbus::Connection) -> zbus::Result<()> {
    let engine = bus.object_server().interface::<_, Engine>(PATH).await?;
    let emitter = engine.signal_emitter();
    let engine = engine.get().await;
    engine.state_changed(emitter).await?;
    engine.reason_changed(emitter).await
}

async fn tell_snapshot(bus: &zbus::Connection, house: &House, added: &Added) -> zbus::Result<()> {
    let role = if added.details.is_some() {
        Role::Own
    } else {
        Role::Replica
    };
    let mut snapshot = of_snapshot(house, role, &added.clear, added.details.as_ref());
    if role == Role::Own {
        snapshot.insert("run".into(), field(added.run.clone()));
    }
    let emitter = SignalEmitter::new(bus, PATH)?;
    Engine::snapshot_added(&emitter, snapshot).await
}
