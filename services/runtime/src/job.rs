//! Slow work as `org.strongroom.Job1` objects, and waiting for one as a client.

mod object;

use contract::{Error, Fields, FieldsExt};
use futures_util::StreamExt;
use object::JobObject;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use tokio_util::sync::CancellationToken;
use zbus::zvariant::OwnedObjectPath;

/// How long an ended job can still be looked at.
const AFTERLIFE: Duration = Duration::from_secs(60);
/// The rate is measured over this many past ticks of a second.
const RATE_WINDOW: usize = 10;

/// What the work tells of itself while it runs. Cheap to clone and to write.
#[derive(Clone, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Default)]
struct Counters {
    done: AtomicU64,
    total: AtomicU64,
    detail: Mutex<String>,
}

impl Progress {
    /// Bytes in the whole; 0 while unknown.
    pub fn set_total(&self, bytes: u64) {
        self.0.total.store(bytes, Ordering::Relaxed);
    }
    /// Bytes handled so far.
    pub fn set_done(&self, bytes: u64) {
        self.0.done.store(bytes, Ordering::Relaxed);
    }
    /// One sentence for a person: what is done now.
    pub fn set_detail(&self, detail: impl Into<String>) {
        *self.0.detail.lock().expect("no panic holds it") = detail.into();
    }
}

/// A daemon's jobs.
pub struct Jobs {
    bus: zbus::Connection,
    shutdown: CancellationToken,
    next: AtomicU64,
}

enum End {
    Running,
    Succeeded(Fields),
    Failed(Error),
}

struct Shared {
    kind: &'static str,
    started: SystemTime,
    progress: Progress,
    samples: Mutex<VecDeque<(Instant, u64)>>,
    cancel: CancellationToken,
    end: Mutex<End>,
}

impl Jobs {
    pub(crate) fn new(bus: zbus::Connection, shutdown: CancellationToken) -> Self {
        Jobs {
            bus,
            shutdown,
            next: AtomicU64::new(1),
        }
    }

    /// Starts `work` as a job object and answers its path. `work` ends with the fields of its
    /// result; it watches the token, which Cancel and the daemon's shutdown cancel.
    pub async fn start<W, R>(&self, kind: &'static str, work: W) -> Result<OwnedObjectPath, Error>
    where
        W: FnOnce(Progress, CancellationToken) -> R,
        R: Future<Output = Result<Fields, Error>> + Send + 'static,
    {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let unique = self
            .bus
            .unique_name()
            .map_or_else(String::new, |n| n.replace([':', '.'], "_"));
        let path = OwnedObjectPath::try_from(format!("/org/strongroom/Job/{unique}_{number}"))
            .map_err(|e| Error::Failed(format!("a job has no path: {e}")))?;
        let shared = Arc::new(Shared {
            kind,
            started: SystemTime::now(),
            progress: Progress::default(),
            samples: Mutex::default(),
            cancel: self.shutdown.child_token(),
            end: Mutex::new(End::Running),
        });
        self.bus
            .object_server()
            .at(&path, JobObject(shared.clone()))
            .await?;
        let work = work(shared.progress.clone(), shared.cancel.clone());
        let (bus, place) = (self.bus.clone(), path.clone());
        // the work in a task of its own, so that its panic becomes the job's failure
        let work = tokio::spawn(work);
        tokio::spawn(async move {
            attend(&bus, &place, &shared, work).await;
            tokio::time::sleep(AFTERLIFE).await;
            let _ = bus.object_server().remove::<JobObject, _>(&place).await;
        });
        Ok(path)
    }
}

/// Tells how the work goes, then how it ended. What cannot be told is logged: the job ends all the
/// same, for who asks later.
async fn attend(
    bus: &zbus::Connection,
    path: &OwnedObjectPath,
    shared: &Arc<Shared>,
    mut work: tokio::task::JoinHandle<Result<Fields, Error>>,
) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    let result = loop {
        // cancel-safe: a JoinHandle may be polled again after losing
        tokio::select! {
            ended = &mut work => break ended,
            _ = ticks.tick() => {
                shared.sample();
                if let Err(error) = tell_progress(bus, path).await {
                    tracing::debug!(job = shared.kind, "how it goes could not be told: {error}");
                }
            }
        }
    };
    let result = result.unwrap_or_else(|panic| {
        Err(Error::Failed(format!(
            "the {} stopped by a fault of ours: {panic}; see the journal",
            shared.kind
        )))
    });
    let (success, name, message, fields) = match &result {
        Ok(fields) => (true, String::new(), String::new(), clone_fields(fields)),
        Err(error) => (
            false,
            zbus::DBusError::name(error).to_string(),
            error.text(),
            Fields::new(),
        ),
    };
    if success {
        tracing::info!(job = shared.kind, "succeeded");
    } else {
        tracing::warn!(job = shared.kind, "failed: {message}");
    }
    *shared.end.lock().expect("no panic holds it") = match result {
        Ok(fields) => End::Succeeded(fields),
        Err(error) => End::Failed(error),
    };
    if let Err(error) = tell_end(bus, path, success, &name, &message, fields).await {
        tracing::warn!(job = shared.kind, "its end could not be told: {error}");
    }
}

async fn tell_progress(bus: &zbus::Connection, path: &OwnedObjectPath) -> zbus::Result<()> {
    let object = bus.object_server().interface::<_, JobObject>(path).await?;
    let (job, emitter) = (object.get().await, object.signal_emitter());
    job.bytes_done_changed(emitter).await?;
    job.progress_changed(emitter).await?;
    job.detail_changed(emitter).await
}

async fn tell_end(
    bus: &zbus::Connection,
    path: &OwnedObjectPath,
    success: bool,
    name: &str,
    message: &str,
    fields: Fields,
) -> zbus::Result<()> {
    let object = bus.object_server().interface::<_, JobObject>(path).await?;
    let emitter = object.signal_emitter();
    object.get().await.state_changed(emitter).await?;
    JobObject::completed(emitter, success, name, message, fields).await
}

fn clone_fields(fields: &Fields) -> Fields {
    fields
        .iter()
        .filter_map(|(k, v)| Some((k.clone(), v.try_clone().ok()?)))
        .collect()
}

impl Shared {
    fn sample(&self) {
        let mut samples = self.samples.lock().expect("no panic holds it");
        samples.push_back((Instant::now(), self.progress.0.done.load(Ordering::Relaxed)));
        if samples.len() > RATE_WINDOW {
            samples.pop_front();
        }
    }

    fn rate(&self) -> u64 {
        let samples = self.samples.lock().expect("no panic holds it");
        let (Some((from, first)), Some((to, last))) = (samples.front(), samples.back()) else {
            return 0;
        };
        let seconds = to.duration_since(*from).as_secs_f64();
        if seconds > 0.0 {
            (last.saturating_sub(*first) as f64 / seconds) as u64
        } else {
            0
        }
    }
}

/// A running job as its client sees it; units as in the contract.
pub struct Seen {
    /// What it does now.
    pub detail: String,
    /// Bytes handled.
    pub done: u64,
    /// Bytes in the whole, 0 while unknown.
    pub total: u64,
    /// Bytes a second.
    pub rate: u64,
    /// Seconds left, `u64::MAX` while unknown.
    pub eta: u64,
}

impl Seen {
    async fn look(job: &contract::JobProxy<'_>) -> zbus::Result<Seen> {
        Ok(Seen {
            detail: job.detail().await?,
            done: job.bytes_done().await?,
            total: job.bytes_total().await?,
            rate: job.rate().await?,
            eta: job.eta().await?,
        })
    }
}

/// The client's side: waits for the job at `path` of `service` to end and answers its result,
/// or the error it failed with. `watch` sees it each second it runs. Cancelling `cancel` asks the
/// job to stop, and goes on waiting for its end.
pub async fn wait(
    bus: &zbus::Connection,
    service: &str,
    path: &OwnedObjectPath,
    cancel: &CancellationToken,
    mut watch: impl FnMut(Seen),
) -> Result<Fields, Error> {
    let job = contract::JobProxy::builder(bus)
        .destination(service.to_owned())?
        .path(path.clone())?
        .cache_properties(zbus::proxy::CacheProperties::No)
        .build()
        .await?;
    let mut ends = job.receive_completed().await?;
    // it may have ended before we listened
    match job.state().await?.as_str() {
        "running" => {}
        "succeeded" => return Ok(job.result().await?),
        _ => {
            let name: String = job.result().await?.required("error")?;
            return Err(Error::from_name(&name, job.detail().await?));
        }
    }
    let owner = zbus::fdo::DBusProxy::new(bus).await?;
    let mut gone = owner
        .receive_name_owner_changed_with_args(&[(0, service)])
        .await?;
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    let mut asked = false;
    loop {
        // cancel-safe: streams, a timer and a token
        tokio::select! {
            end = ends.next() => {
                let Some(end) = end else { break };
                let end = end.args()?;
                return if end.success {
                    Ok(end.result)
                } else {
                    Err(Error::from_name(&end.error, end.message))
                };
            }
            _ = gone.next() => break,
            _ = ticks.tick() => {
                // an error means that it has just ended: the signal follows
                if let Ok(seen) = Seen::look(&job).await {
                    watch(seen);
                }
            }
            () = cancel.cancelled(), if !asked => {
                asked = true;
                job.cancel().await?;
            }
        }
    }
    Err(Error::Failed(format!(
        "{service} stopped before its job ended; see its journal"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bus is gone before the first tick; who looks at the job later must not see it run.
    #[tokio::test]
    async fn a_job_that_cannot_be_told_of_ends_all_the_same() {
        let appliance = crate::testing::Appliance::new();
        let bus = appliance.connect().await;
        let jobs = Jobs::new(bus.clone(), CancellationToken::new());
        let path = jobs.start("test", |_, _| std::future::pending());
        let path = path.await.unwrap();
        let object = bus.object_server().interface::<_, JobObject>(&path);
        let shared = object.await.unwrap().get().await.0.clone();
        drop(appliance);
        bus.closed().await;
        let work = tokio::spawn(async { Ok(Fields::new()) });
        attend(&bus, &path, &shared, work).await;
        assert!(matches!(&*shared.end.lock().unwrap(), End::Succeeded(_)));
    }
}
