//! A run: the stages of a definition, one after the other.

use crate::agents::{Agent, Agents, News, Order};
use crate::request::{self, Request};
use crate::state::{Definition, Outcome, Run, Stage, State};
use contract::{EngineProxy, Error, Fields, FieldsExt, Options};
use data_encoding::HEXLOWER;
use protocol::control::{Backup, Path, Stats};
use runtime::job::Progress;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use zbus::zvariant::OwnedObjectPath;

/// How long an agent that was told to stop is given to say so.
const PATIENCE: Duration = Duration::from_secs(60);
const ENGINE: &str = "org.strongroom.Engine1";

/// What the interface, the sessions and the runs share.
pub(crate) struct Core {
    pub(crate) daemon: runtime::Daemon,
    pub(crate) state: State,
    pub(crate) agents: Agents,
    running: Mutex<Running>,
}

/// By definition the newest run that was begun, and its job.
type Running = HashMap<String, (Weak<Going>, OwnedObjectPath)>;

/// The job of a definition that runs.
fn job_of<'a>(running: &'a Running, name: &str) -> Option<&'a OwnedObjectPath> {
    let (run, job) = running.get(name)?;
    (run.strong_count() > 0).then_some(job)
}

/// There as long as a run goes on, however it ends.
struct Going {
    core: Arc<Core>,
    run: String,
}

impl Drop for Going {
    fn drop(&mut self) {
        // else it has told its end, or jobd stops and tells it at the next start
        if std::thread::panicking() {
            self.core.state.abandon(&self.run);
        }
    }
}

impl Core {
    pub(crate) fn new(daemon: runtime::Daemon, state: State) -> Arc<Core> {
        Arc::new(Core {
            daemon,
            state,
            agents: Agents::default(),
            running: Mutex::default(),
        })
    }

    /// The appliance's operator runs a definition. While it runs, the same job is answered.
    pub(crate) async fn ordered(
        self: &Arc<Self>,
        name: &str,
        definition: Definition,
    ) -> Result<OwnedObjectPath, Error> {
        let agent = self.agents.get(&definition.agent).ok_or_else(|| {
            Error::AgentAway(format!(
                "the agent of {name} is not connected; start strongroom-agent on the protected server"
            ))
        })?;
        self.begin(name, definition, agent).await
    }

    /// The protected server's operator asks for a run over `agent`'s own session.
    pub(crate) async fn requested(
        self: &Arc<Self>,
        agent: &Agent,
        request: Request,
    ) -> Result<(), Error> {
        let (name, definition) = request::choose(request, &agent.id, &self.state.definitions())?;
        if job_of(&*self.running.lock().await, &name).is_some() {
            return Err(Error::AlreadyExists(format!(
                "{name} is running already; see `strongroom jobs`"
            )));
        }
        self.begin(&name, definition, agent.clone()).await.map(drop)
    }

    async fn begin(
        self: &Arc<Self>,
        name: &str,
        definition: Definition,
        agent: Agent,
    ) -> Result<OwnedObjectPath, Error> {
        let (core, id) = (self.clone(), agent.id.clone());
        self.start(name, id, |run, progress, cancel| {
            core.carry_out(run, definition, agent, progress, cancel)
        })
        .await
    }

    async fn start<R>(
        self: &Arc<Self>,
        name: &str,
        agent: String,
        work: impl FnOnce(Run, Progress, CancellationToken) -> R + Send,
    ) -> Result<OwnedObjectPath, Error>
    where
        R: Future<Output = Result<Fields, Error>> + Send + 'static,
    {
        // held until the job is known, so that two callers cannot both begin
        let mut running = self.running.lock().await;
        if let Some(job) = job_of(&running, name) {
            return Ok(job.clone());
        }
        let run = Run {
            // random, so that it means nothing to a stranger and never repeats
            id: HEXLOWER.encode(&runtime::random::<16>()?[..]),
            definition: name.to_owned(),
            agent,
            started: runtime::now(),
            ended: 0,
            state: Outcome::Running,
            snapshot: String::new(),
            stages: Vec::new(),
        };
        let going = Arc::new(Going {
            core: self.clone(),
            run: run.id.clone(),
        });
        let alive = Arc::downgrade(&going);
        let start = |progress, cancel| {
            let work = work(run, progress, cancel);
            async move {
                let _going = going;
                work.await
            }
        };
        let job = self.daemon.jobs.start("run", start).await?;
        if !name.is_empty() {
            running.insert(name.to_owned(), (alive, job.clone()));
        }
        Ok(job)
    }

    async fn carry_out(
        self: Arc<Self>,
        mut run: Run,
        definition: Definition,
        agent: Agent,
        progress: Progress,
        cancel: CancellationToken,
    ) -> Result<Fields, Error> {
        let began = self.begin_stage(&mut run, "backup").await;
        let stats = async {
            let before = self.snapshots("name", &run.agent).await?;
            let told = back_up(&agent, &run, &definition, &progress, &cancel).await?;
            self.confirmed(&run, &before, told).await
        };
        let stats = stats.await;
        if let Ok(stats) = &stats {
            run.snapshot = HEXLOWER.encode(&stats.snapshot);
        }
        let stage = stats.map(|s| backup_stage(*s));
        let mut outcome = self.end_stage(&mut run, began, stage).await;
        if outcome.is_ok() && definition.offsite {
            let began = self.begin_stage(&mut run, "offsite").await;
            let copied = self.copy_offsite(&agent, &progress, &cancel).await;
            outcome = self.end_stage(&mut run, began, copied).await;
        }
        run.ended = runtime::now();
        run.state = match &outcome {
            Err(_) => Outcome::Failed,
            Ok(()) if run.stages.iter().any(|s| s.state == Outcome::Warnings) => Outcome::Warnings,
            Ok(()) => Outcome::Succeeded,
        };
        self.keep(&run).await;
        let said = |s: &Stage| format!("{}: {}", s.name, s.message);
        let message = run.stages.iter().map(said).collect::<Vec<_>>().join("; ");
        // the agent may be gone; the run has ended all the same
        let _ = agent
            .orders
            .send(Order::Ended {
                succeeded: outcome.is_ok(),
                message,
            })
            .await;
        outcome.map(|()| run.fields())
    }

    async fn keep(&self, run: &Run) {
        // it fails only when jobd stops
        let _ = self.state.keep(run).await;
    }

    async fn begin_stage(&self, run: &mut Run, name: &str) -> Instant {
        run.stages.push(Stage::begin(name));
        self.keep(run).await;
        Instant::now()
    }

    async fn end_stage(
        &self,
        run: &mut Run,
        began: Instant,
        result: Result<Stage, Error>,
    ) -> Result<(), Error> {
        let begun = run.stages.last_mut().expect("a stage has begun");
        let outcome = match result {
            Ok(stage) => {
                *begun = stage;
                Ok(())
            }
            Err(error) => {
                begun.end(Outcome::Failed, &error.text());
                Err(error)
            }
        };
        begun.seconds = began.elapsed().as_secs_f64();
        self.keep(run).await;
        outcome
    }

    /// What engined has of that name or id.
    async fn snapshots(&self, field: &str, wanted: &str) -> Result<Vec<Fields>, Error> {
        let engine = EngineProxy::new(&self.daemon.bus).await?;
        engine
            .snapshots(Options::from([(field, wanted.into())]))
            .await
    }

    /// What an agent says it made, with engined's figures. Its word alone is not believed: a
    /// captured agent must not have a backup succeed that was never made, or long ago. That it is
    /// of this run is told by what was there before; the clock may have jumped since.
    async fn confirmed(
        &self,
        run: &Run,
        before: &[Fields],
        mut stats: Box<Stats>,
    ) -> Result<Box<Stats>, Error> {
        let id = HEXLOWER.encode(&stats.snapshot);
        let is_it = |s: &Fields| s.required::<String>("id").is_ok_and(|of| of == id);
        for snapshot in self.snapshots("id", &id).await? {
            if !before.iter().any(is_it)
                && snapshot.optional::<String>("name")?.as_ref() == Some(&run.agent)
            {
                stats.entries = snapshot.required("entries")?;
                stats.logical = snapshot.required("logical")?;
                stats.unique = snapshot.required("unique")?;
                stats.stored = snapshot.required("stored")?;
                return Ok(stats);
            }
        }
        Err(Error::Failed(format!(
            "the agent says that it made the snapshot {id}, but this site has no such snapshot of \
             this run; run it again, and if that stays so, look at the protected server: what \
             speaks for it may be no agent of ours"
        )))
    }

    /// The second stage: the engine copies what the centre has not.
    async fn copy_offsite(
        &self,
        agent: &Agent,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<Stage, Error> {
        progress.set_done(0);
        progress.set_total(0);
        progress.set_detail("copying offsite");
        let bus = &self.daemon.bus;
        let engine = EngineProxy::new(bus).await?;
        let datastores = engine.datastores().await?;
        let own = datastores
            .iter()
            .find(|d| d.required::<String>("role").is_ok_and(|r| r == "own"));
        let own = own.ok_or_else(|| {
            Error::NotReady("there is no datastore to copy offsite; see `strongroom status`".into())
        })?;
        let job = engine
            .replicate(&own.required::<String>("id")?, Options::new())
            .await?;
        let orders = agent.orders.clone();
        let watch = |seen: runtime::job::Seen| {
            progress.set_done(seen.done);
            progress.set_total(seen.total);
            progress.set_detail(format!("offsite: {}", seen.detail));
            let update = Order::Update {
                stage: "offsite",
                detail: seen.detail,
                done: seen.done,
                total: seen.total,
            };
            // an agent that is gone or slow does not hold the copy up
            let _ = orders.try_send(update);
        };
        let result = runtime::job::wait(bus, ENGINE, &job, cancel, watch).await?;
        let count = |name: &str| result.optional::<u64>(name).ok().flatten().unwrap_or(0);
        let snapshots = result.optional::<u32>("snapshots")?.unwrap_or(0);
        let mut stage = Stage::begin("offsite");
        let message = format!(
            "{snapshots} snapshots copied, {} bytes sent for {} frames, {} were there already",
            count("wire"),
            count("frames"),
            count("present"),
        );
        stage.end(Outcome::Succeeded, &message);
        stage.counters = ["wire", "frames", "present"]
            .map(|name| (name.to_owned(), count(name)))
            .into();
        stage.counters.insert("snapshots".into(), snapshots.into());
        Ok(stage)
    }
}

/// The first stage, at the agent.
async fn back_up(
    agent: &Agent,
    run: &Run,
    definition: &Definition,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Box<Stats>, Error> {
    let away = || {
        Error::AgentAway(
            "the agent was lost before the backup ended; what it had sent is kept, run it again"
                .into(),
        )
    };
    let paths = |list: &[Vec<u8>]| list.iter().cloned().map(Path).collect();
    let backup = Backup {
        run: run.id.clone(),
        definition: run.definition.clone(),
        paths: paths(&definition.paths),
        excludes: paths(&definition.excludes),
    };
    let (to_us, mut news) = mpsc::channel(16);
    progress.set_detail("backing up");
    agent
        .orders
        .send(Order::Start {
            backup,
            news: to_us,
        })
        .await
        .map_err(|_| away())?;
    // until when one that was told to stop is waited for
    let mut until: Option<Instant> = None;
    loop {
        let told = until.is_some();
        // cancel-safe: a channel, a token and a timer
        tokio::select! {
            item = news.recv() => match item {
                None if told => return Err(Error::Cancelled("the backup was stopped".into())),
                None => return Err(away()),
                Some(News::Progress(p)) => {
                    progress.set_done(p.done);
                    progress.set_total(p.total);
                    progress.set_detail(format!("backing up: {} entries, {} bytes sent", p.entries, p.sent));
                }
                Some(News::Finished(Ok(stats))) => return Ok(stats),
                Some(News::Finished(Err(_))) if told => {
                    return Err(Error::Cancelled("the backup was stopped".into()));
                }
                Some(News::Finished(Err(sentence))) => return Err(Error::Failed(sentence)),
                Some(News::Cancel) => cancel.cancel(),
            },
            () = cancel.cancelled(), if !told => {
                until = Some(Instant::now() + PATIENCE);
                let _ = agent.orders.send(Order::Cancel).await;
            }
            () = sleep_until(until.unwrap_or_else(Instant::now)), if told => {
                return Err(Error::Cancelled("the backup was stopped; the agent did not answer".into()));
            }
        }
    }
}

fn backup_stage(stats: Stats) -> Stage {
    let mut stage = Stage::begin("backup");
    let mut message = format!(
        "{} entries, {} bytes, {} of them new, {} stored",
        stats.entries, stats.logical, stats.unique, stats.stored
    );
    let state = if stats.problem_count == 0 {
        Outcome::Succeeded
    } else {
        message += &format!("; {} problems", stats.problem_count);
        Outcome::Warnings
    };
    stage.end(state, &message);
    let counters = [
        ("entries", stats.entries),
        ("logical", stats.logical),
        ("unique", stats.unique),
        ("stored", stats.stored),
        ("wire", stats.wire),
    ];
    stage.counters = counters
        .map(|(name, count)| (name.to_owned(), count))
        .into();
    stage.add_problems(stats.problems.iter().map(|s| s.0.as_str()));
    stage
}

#[cfg(test)]
mod tests;
