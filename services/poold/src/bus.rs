//! org.strongroom.Pool1.

use crate::plan::State;
use contract::{Error, Fields, field};
use devices::{Content, Source};
use disks::Machine;
use runtime::job::Progress;
use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use tokio::sync::{mpsc, oneshot};
use zbus::zvariant::{OwnedObjectPath, OwnedValue};

/// What the properties say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) state: State,
    pub(crate) reason: String,
    pub(crate) pool: String,
    pub(crate) mount_point: String,
    pub(crate) level: String,
    pub(crate) size: u64,
}

/// A Create on its way to the worker.
pub(crate) struct Request {
    pub(crate) serials: Vec<String>,
    pub(crate) progress: Progress,
    pub(crate) done: oneshot::Sender<Result<Fields, Error>>,
}

/// The interface's object.
pub(crate) struct Pool {
    daemon: runtime::Daemon,
    published: Arc<RwLock<Published>>,
    machine: Arc<dyn Machine>,
    source: Arc<dyn Source + Sync>,
    requests: mpsc::Sender<Request>,
}

impl Pool {
    pub(crate) fn new(
        daemon: runtime::Daemon,
        published: Arc<RwLock<Published>>,
        machine: Arc<dyn Machine>,
        source: Arc<dyn Source + Sync>,
        requests: mpsc::Sender<Request>,
    ) -> Pool {
        Pool {
            daemon,
            published,
            machine,
            source,
            requests,
        }
    }

    fn published(&self) -> Published {
        self.published.read().expect("no panic holds it").clone()
    }
}

/// Tells what changed to who listens.
pub(crate) async fn tell(
    bus: &zbus::Connection,
    old: &Published,
    new: &Published,
) -> zbus::Result<()> {
    let object = bus
        .object_server()
        .interface::<_, Pool>("/org/strongroom/Pool1")
        .await?;
    let (pool, emitter) = (object.get().await, object.signal_emitter());
    if old.reason != new.reason {
        pool.reason_changed(emitter).await?;
    }
    if old.pool != new.pool {
        pool.pool_changed(emitter).await?;
    }
    if old.mount_point != new.mount_point {
        pool.mount_point_changed(emitter).await?;
    }
    if old.level != new.level {
        pool.level_changed(emitter).await?;
    }
    if old.size != new.size {
        pool.size_changed(emitter).await?;
    }
    // last, so that who waits for a state finds the rest in step with it
    if old.state != new.state {
        pool.state_changed(emitter).await?;
    }
    Ok(())
}

#[zbus::interface(name = "org.strongroom.Pool1")]
impl Pool {
    #[zbus(property)]
    fn state(&self) -> String {
        self.published().state.word().to_owned()
    }
    #[zbus(property)]
    fn reason(&self) -> String {
        self.published().reason
    }
    #[zbus(property)]
    fn pool(&self) -> String {
        self.published().pool
    }
    #[zbus(property)]
    fn mount_point(&self) -> String {
        self.published().mount_point
    }
    #[zbus(property)]
    fn level(&self) -> String {
        self.published().level
    }
    #[zbus(property)]
    fn size(&self) -> u64 {
        self.published().size
    }
    /// Read anew at each question, and so without a signal.
    #[zbus(property(emits_changed_signal = "false"))]
    fn free(&self) -> u64 {
        let place = self.published().mount_point;
        if place.is_empty() {
            return 0;
        }
        self.machine
            .space(std::path::Path::new(&place))
            .map_or(0, |(_, free)| free)
    }

    async fn disks(&self) -> Result<Vec<Fields>, Error> {
        let source = self.source.clone();
        let disks = tokio::task::spawn_blocking(move || source.disks())
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
            .map_err(|error| Error::Failed(contract::told(&error)))?;
        Ok(disks.iter().map(describe).collect())
    }

    async fn create(
        &self,
        serials: Vec<String>,
        options: HashMap<String, OwnedValue>,
    ) -> Result<OwnedObjectPath, Error> {
        if let Some(option) = options.keys().next() {
            return Err(Error::InvalidArgument(format!(
                "there is no option {option}"
            )));
        }
        let requests = self.requests.clone();
        self.daemon
            .jobs
            .start("pool-create", move |progress, cancel| async move {
                let (done, mut ended) = oneshot::channel();
                let request = Request {
                    serials,
                    progress,
                    done,
                };
                let stopping = || Error::NotReady("poold is stopping; ask again".into());
                requests.send(request).await.map_err(|_| stopping())?;
                // once begun it is not cancelled: half a pool helps nobody, and it takes seconds
                tokio::select! {
                    result = &mut ended => result.unwrap_or_else(|_| Err(stopping())),
                    () = cancel.cancelled() => ended.await.unwrap_or_else(|_| Err(stopping())),
                }
            })
            .await
    }
}

fn describe(disk: &devices::Disk) -> Fields {
    let pool = match &disk.content {
        Content::Signature { label, .. } => crate::name::PoolId::of_label(label).map(|(id, _)| id),
        _ => None,
    };
    let using = match (&disk.content, &pool) {
        _ if disk.system => "system".to_owned(),
        (_, Some(_)) => "pool".to_owned(),
        (Content::Blank, _) => "blank".to_owned(),
        (other, _) => format!("foreign: {}", other.describe()),
    };
    Fields::from([
        (
            "path".to_owned(),
            field(disk.path.to_string_lossy().as_ref()),
        ),
        ("serial".to_owned(), field(disk.serial.as_str())),
        ("model".to_owned(), field(disk.model.as_str())),
        ("size".to_owned(), field(disk.size)),
        ("use".to_owned(), field(using)),
        (
            "pool".to_owned(),
            field(pool.map_or_else(String::new, |id| id.to_string())),
        ),
    ])
}
