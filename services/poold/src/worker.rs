//! The shell: looks, asks [`plan`], does one step, tells, and waits for something to change.

mod making;
mod steps;

use crate::bus::{Pool, Published, Request};
use crate::name::PoolId;
use crate::plan::{self, Action, Memory, State, Verdict};
use crate::remember::Remembered;
use crate::view::{self, View};
use contract::{Error, KeysProxy};
use devices::Source;
use disks::Machine;
use futures_util::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How long a step that failed is left alone, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// With nothing to hear, the pool is looked at so often; a rebuild's progress more often.
const IDLE: Duration = Duration::from_secs(300);
const BUSY: Duration = Duration::from_secs(5);

/// `poold.toml`.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where the mount unit mounts.
    pub mount_point: String,
    /// The mount unit.
    pub mount_unit: String,
    /// The user that owns the folder `datastores` in the pool.
    pub owner: String,
    /// Seconds that disks are given to appear before a pool starts without them.
    pub patience: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            mount_point: "/srv/strongroom/pool".into(),
            mount_unit: "srv-strongroom-pool.mount".into(),
            owner: "strongroom-engined".into(),
            patience: 30,
        }
    }
}

/// What poold works with; tests give their own.
pub struct Parts {
    /// Runs the commands.
    pub machine: Arc<dyn Machine>,
    /// Lists the disks.
    pub source: Arc<dyn Source + Sync>,
    /// A word for each change of disks or arrays.
    pub changes: mpsc::Receiver<()>,
    /// The settings.
    pub settings: Settings,
    /// The folder for what outlives a restart.
    pub state: std::path::PathBuf,
}

struct Worker {
    daemon: runtime::Daemon,
    machine: Arc<dyn Machine>,
    source: Arc<dyn Source + Sync>,
    settings: Settings,
    memory: Memory,
    remembered: Remembered,
    /// The last step that failed, how it was told, until when it rests and how long next time.
    trouble: Option<Trouble>,
    /// The step taken last, while nothing else has happened.
    taken: Option<Action>,
    /// The disks of pools as last seen, and when they last changed.
    seen: (Vec<String>, Instant),
    published: Arc<std::sync::RwLock<Published>>,
}

struct Trouble {
    action: Action,
    state: State,
    told: String,
    until: Instant,
    pause: Duration,
}

/// Serves the interface and keeps the pool until shutdown.
pub async fn run(daemon: runtime::Daemon, parts: Parts) -> anyhow::Result<()> {
    let (requests, received) = mpsc::channel(8);
    let published = Arc::new(std::sync::RwLock::new(Published::default()));
    let mut worker = Worker {
        memory: Memory::default(),
        remembered: Remembered::open(&parts.state),
        trouble: None,
        taken: None,
        seen: (Vec::new(), Instant::now()),
        published: published.clone(),
        machine: parts.machine.clone(),
        source: parts.source,
        settings: parts.settings,
        daemon: daemon.clone(),
    };
    worker.memory.whole = worker.remembered.whole();
    let pool = Pool::new(
        daemon.clone(),
        published,
        parts.machine,
        worker.source.clone(),
        requests,
    );
    daemon.serve(pool).await?;
    tokio::select! {
        result = worker.keep(parts.changes, received) => result?,
        () = daemon.until_shutdown() => {}
    }
    Ok(())
}

impl Worker {
    async fn keep(
        &mut self,
        mut changes: mpsc::Receiver<()>,
        mut requests: mpsc::Receiver<Request>,
    ) -> anyhow::Result<()> {
        let keys = KeysProxy::new(&self.daemon.bus).await?;
        let mut keyd = keys.inner().receive_owner_changed().await?;
        let mut key_states = keys.receive_state_changed().await;
        loop {
            let pause = self.settle().await?;
            // all cancel-safe: streams and channels keep what was not taken
            tokio::select! {
                Some(()) = changes.recv() => self.memory.keyless.clear(),
                Some(_) = keyd.next() => self.key_news(),
                Some(_) = key_states.next() => self.key_news(),
                Some(request) = requests.recv() => {
                    let result = self.create(&request).await;
                    let _ = request.done.send(result);
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn key_news(&mut self) {
        self.memory.keyless.clear();
        if self
            .trouble
            .as_ref()
            .is_some_and(|t| matches!(t.action, Action::Open { .. }))
        {
            self.trouble = None;
        }
    }

    /// Takes steps until there is none to take now; answers how long to wait for news.
    async fn settle(&mut self) -> anyhow::Result<Duration> {
        self.taken = None;
        loop {
            let (view, mut verdict) = match self.look().await {
                Ok(seen) => seen,
                Err(error) => {
                    let told = contract::told(&error);
                    tracing::warn!("{told}");
                    let verdict = Verdict {
                        state: State::Failed,
                        reason: told,
                        ..Verdict::default()
                    };
                    self.publish(&verdict).await?;
                    return Ok(BUSY);
                }
            };
            let now = Instant::now();
            let resting = self
                .trouble
                .as_ref()
                .filter(|t| Some(&t.action) == verdict.action.as_ref());
            if let Some(trouble) = resting {
                if verdict.state != State::Degraded {
                    (verdict.state, verdict.reason) = (trouble.state, trouble.told.clone());
                }
                if trouble.until > now {
                    let pause = trouble.until - now;
                    self.publish(&verdict).await?;
                    return Ok(pause);
                }
            } else {
                self.trouble = None;
            }
            // a locked pool that is tried again is still locked until it is not
            let locked = self.published.read().expect("no panic holds it").state == State::Locked;
            if !(locked && matches!(verdict.action, Some(Action::Open { .. }))) {
                self.publish(&verdict).await?;
            }
            let Some(action) = verdict.action.clone() else {
                if verdict.state == State::Mounted
                    && let Some(pool) = &verdict.pool
                {
                    self.remembered.set(pool, view.serials(pool));
                    self.memory.whole = self.remembered.whole();
                }
                let syncing = view.arrays.iter().any(|(_, a)| a.sync.is_some());
                let patience = Duration::from_secs(self.settings.patience);
                return Ok(match (verdict.waiting, syncing) {
                    (true, _) => (self.seen.1 + patience).saturating_duration_since(now),
                    (_, true) => BUSY,
                    _ => IDLE,
                });
            };
            if self.taken.as_ref() == Some(&action) {
                let told = "a step succeeded and changed nothing; see `strongroom log`";
                self.rest(action, Error::Failed(told.into()));
                continue;
            }
            tracing::info!(?action, "step");
            match self.perform(&action, verdict.pool.as_ref()).await {
                Ok(()) => self.taken = Some(action),
                Err(error) => self.rest(action, error),
            }
        }
    }

    /// Leaves a step alone for a while.
    fn rest(&mut self, action: Action, error: Error) {
        let told = error.text();
        let state = match &action {
            Action::Open { .. } => State::Locked,
            _ => State::Failed,
        };
        let pause = self
            .trouble
            .as_ref()
            .filter(|t| t.action == action)
            .map_or(FIRST_PAUSE, |t| (t.pause * 2).min(LONGEST_PAUSE));
        tracing::warn!(?action, "{told}");
        self.trouble = Some(Trouble {
            action,
            state,
            told,
            until: Instant::now() + pause,
            pause,
        });
    }

    async fn look(&mut self) -> Result<(View, Verdict), view::LookError> {
        let (machine, source) = (self.machine.clone(), self.source.clone());
        let place = self.settings.mount_point.clone();
        let looked =
            tokio::task::spawn_blocking(move || view::look(&*machine, &*source, &place)).await;
        let view = looked.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        let members: Vec<_> = view.members.iter().map(|m| m.path.clone()).collect();
        if members != self.seen.0 {
            self.seen = (members, Instant::now());
        }
        self.memory.settled = self.seen.1.elapsed() >= Duration::from_secs(self.settings.patience);
        let verdict = plan::next(&view, &self.memory);
        Ok((view, verdict))
    }

    async fn publish(&self, verdict: &Verdict) -> zbus::Result<()> {
        let mounted = matches!(verdict.state, State::Mounted | State::Degraded);
        let place = std::path::Path::new(&self.settings.mount_point);
        let (size, _) = if mounted {
            self.machine.space(place).unwrap_or_default()
        } else {
            (0, 0)
        };
        let new = Published {
            state: verdict.state,
            reason: verdict.reason.clone(),
            pool: verdict
                .pool
                .as_ref()
                .map(PoolId::to_string)
                .unwrap_or_default(),
            mount_point: if mounted {
                self.settings.mount_point.clone()
            } else {
                String::new()
            },
            level: verdict.level.clone(),
            size,
        };
        let old = {
            let mut published = self.published.write().expect("no panic holds it");
            std::mem::replace(&mut *published, new.clone())
        };
        if old.state != new.state {
            tracing::info!(state = new.state.word(), reason = new.reason, "pool");
        }
        crate::bus::tell(&self.daemon.bus, &old, &new).await
    }
}
