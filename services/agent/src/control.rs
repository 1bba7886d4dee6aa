//! The control session: the agent's end of what jobd orders.

use crate::backup::{Counters, Job, Outcome, Prepared, cache_name};
use crate::identity::StateDir;
use crate::{Error, Result, Stream, session};
use protocol::WireError;
use protocol::control::{Agent, AgentEvent, Backup, FromAgent, FromSite, KEEPALIVE, SILENCE};
use protocol::frame::{self, aio};
use protocol::session::{Kind, Open};
use ring::signature::Ed25519KeyPair;
use std::ffi::OsString;
use std::future::Future;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, sleep_until};
use tokio_util::sync::CancellationToken;

/// What a backup session needs besides its order. Cheap to clone.
#[derive(Clone)]
pub struct Here {
    /// The agent's id.
    pub agent: String,
    /// The agent's key.
    pub key: Arc<Ed25519KeyPair>,
    /// Where caches are.
    pub state: StateDir,
    /// This server's name.
    pub host: String,
}

impl Here {
    /// Runs a backup over a session that `dial` gives.
    ///
    /// # Errors
    /// As [`Prepared::new`] and [`Prepared::run`], and whatever `dial` fails with.
    pub async fn back_up<S: Stream, F: Future<Output = Result<S>>>(
        &self,
        order: &Backup,
        dial: impl Fn() -> F,
        counters: Arc<Counters>,
        cancel: CancellationToken,
    ) -> Result<Outcome> {
        let paths: Vec<PathBuf> = order
            .paths
            .iter()
            .map(|p| OsString::from_vec(p.0.clone()).into())
            .collect();
        let excludes: Vec<Vec<u8>> = order.excludes.iter().map(|p| p.0.clone()).collect();
        let job = Job {
            run: order.run.clone(),
            host: self.host.clone(),
            source: system(),
            cache: Some(self.state.caches().join(cache_name(&paths, &excludes))),
            paths,
            excludes,
        };
        let prepared = Prepared::new(job)?;
        let mut stream = dial().await?;
        session::open(&mut stream, Kind::Intake, &self.agent, &self.key).await?;
        prepared.run(stream, counters, cancel).await
    }
}

/// The operating system as it calls itself.
fn system() -> String {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(
        || "Linux".to_owned(),
        |name| name.trim_matches('"').to_owned(),
    )
}

/// What a session tells while it goes on.
#[derive(Clone, Debug)]
pub enum News {
    /// The appliance is there.
    Attached,
    /// A backup begins.
    Started(Backup, Arc<Counters>),
    /// The backup has ended here.
    BackedUp(Result<Outcome, String>),
    /// A later stage goes on: its name, what it does, bytes done and in the whole.
    Stage(String, String, u64, u64),
    /// All stages have ended: whether well, and a sentence.
    Ended(bool, String),
}

/// What is asked for when the session begins.
#[derive(Clone, Debug)]
pub enum Wish {
    /// To stay and take orders.
    Serve,
    /// One run: of a definition, of paths, or of the only definition there is.
    Run {
        /// Name of a definition or empty.
        definition: String,
        /// Paths, absolute.
        paths: Vec<PathBuf>,
        /// Patterns.
        excludes: Vec<Vec<u8>>,
    },
}

/// Runs one control session until it ends: for [`Wish::Run`] with the run, for [`Wish::Serve`]
/// only when it fails or `cancel` is cancelled. `dial` gives streams: one for the session itself,
/// one for each backup.
///
/// # Errors
/// The stream fails, the peer breaks the protocol, jobd refuses, or `cancel` is cancelled.
pub async fn run<S: Stream, F: Future<Output = Result<S>> + Send + 'static>(
    here: &Here,
    wish: Wish,
    dial: impl Fn() -> F + Clone + Send + Sync + 'static,
    mut tell: impl FnMut(News),
    cancel: CancellationToken,
) -> Result<()> {
    let mut stream = dial().await?;
    let serves = matches!(wish, Wish::Serve);
    let (mut machine, hello) = Agent::begin(&here.host, env!("CARGO_PKG_VERSION"), serves);
    let mut first = frame::encode(&Open::new(Kind::Control))?;
    frame::append(&hello, &mut first)?;
    if let Wish::Run {
        definition,
        paths,
        excludes,
    } = wish
    {
        use protocol::control::Path;
        let path = |p: PathBuf| Path(p.into_os_string().into_vec());
        let paths = paths.into_iter().map(path).collect();
        let excludes = excludes.into_iter().map(Path).collect();
        let request = machine.request(&definition, paths, excludes);
        frame::append(&request, &mut first)?;
    }
    session::begin(&mut stream, &first).await?;
    let (read, write) = tokio::io::split(stream);
    let (messages, mut from_site) = mpsc::channel(16);
    // reading is not cancel-safe, so it has a task of its own
    let reading = tokio::spawn(messages_of(read, messages));
    let mut session = Session {
        machine,
        write,
        said: Instant::now(),
        work: None,
        stop: None,
    };
    tell(News::Attached);
    let ended = session
        .attend(here, &dial, &mut from_site, serves, &mut tell, &cancel)
        .await;
    // said in order, or the other end takes it for a cut
    let _ = tokio::io::AsyncWriteExt::shutdown(&mut session.write).await;
    reading.abort();
    if let Some(stop) = session.stop.take() {
        // the order came by this session; without it nobody would hear of its end
        stop.cancel();
    }
    if let Some((work, _)) = session.work.take() {
        let _ = work.await;
    }
    ended
}

struct Session<S> {
    machine: Agent,
    write: WriteHalf<S>,
    said: Instant,
    work: Option<(JoinHandle<Result<Outcome>>, Arc<Counters>)>,
    stop: Option<CancellationToken>,
}

impl<S: Stream> Session<S> {
    async fn send(&mut self, message: FromAgent) -> Result<()> {
        self.said = Instant::now();
        Ok(aio::write(&mut self.write, &message).await?)
    }

    async fn attend<F: Future<Output = Result<S>> + Send + 'static>(
        &mut self,
        here: &Here,
        dial: &(impl Fn() -> F + Clone + Send + Sync + 'static),
        from_site: &mut mpsc::Receiver<Result<FromSite, WireError>>,
        serves: bool,
        tell: &mut impl FnMut(News),
        cancel: &CancellationToken,
    ) -> Result<()> {
        let mut heard = Instant::now();
        let mut silent = true;
        let mut ticks = interval(Duration::from_secs(1));
        let mut cancelled = false;
        loop {
            let message = tokio::select! {
                message = from_site.recv() => {
                    heard = Instant::now();
                    let message = match message {
                        None | Some(Err(WireError::Ended)) if silent => return Err(Error::Silent),
                        message => message.ok_or(WireError::Ended)??,
                    };
                    silent = false;
                    self.on_message(message, here, dial, serves, tell)?
                }
                ended = ended(&mut self.work) => self.on_end(ended, tell),
                _ = ticks.tick() => match &self.work {
                    Some((_, counters)) => self.machine.progress(counters.progress()),
                    None => None,
                },
                () = sleep_until(self.said + KEEPALIVE) => Some(FromAgent::Ping),
                () = sleep_until(heard + SILENCE) => return Err(WireError::Ended.into()),
                () = cancel.cancelled(), if !cancelled => {
                    cancelled = true;
                    let message = self.machine.cancel();
                    match &self.stop {
                        // later stages of a run are jobd's, whether this service stops or not
                        Some(_) if serves && self.work.is_none() => return Err(Error::Cancelled),
                        // jobd hears how the backup ended
                        Some(stop) if message.is_some() => stop.cancel(),
                        _ => return Err(Error::Cancelled),
                    }
                    message
                }
            };
            match message {
                Some(FromAgent::Finished { .. }) if cancelled => {
                    self.send_all(message).await?;
                    return Err(Error::Cancelled);
                }
                message => self.send_all(message).await?,
            }
            if self.is_over(serves) {
                return Ok(());
            }
        }
    }

    async fn send_all(&mut self, message: Option<FromAgent>) -> Result<()> {
        match message {
            Some(message) => self.send(message).await,
            None => Ok(()),
        }
    }

    /// One run was asked for, and it has ended.
    fn is_over(&self, serves: bool) -> bool {
        !serves && self.work.is_none() && self.stop.is_some() && self.machine.cancel().is_none()
    }

    fn on_message<F: Future<Output = Result<S>> + Send + 'static>(
        &mut self,
        message: FromSite,
        here: &Here,
        dial: &(impl Fn() -> F + Clone + Send + Sync + 'static),
        serves: bool,
        tell: &mut impl FnMut(News),
    ) -> Result<Option<FromAgent>> {
        match self.machine.receive(message)? {
            AgentEvent::Start(order) => {
                let counters = Arc::new(Counters::default());
                let stop = CancellationToken::new();
                tell(News::Started(order.clone(), counters.clone()));
                self.stop = Some(stop.clone());
                let (here, dial, seen) = (here.clone(), dial.clone(), counters.clone());
                let work = async move { here.back_up(&order, dial, counters, stop).await };
                self.work = Some((tokio::spawn(work), seen));
            }
            AgentEvent::Cancel => {
                if let Some(stop) = &self.stop {
                    stop.cancel();
                }
            }
            AgentEvent::Update {
                stage,
                detail,
                done,
                total,
            } => {
                tell(News::Stage(stage, detail, done, total));
            }
            AgentEvent::Ended { succeeded, message } => tell(News::Ended(succeeded, message)),
            AgentEvent::Refused(sentence) if !serves => return Err(Error::Refused(sentence)),
            AgentEvent::Refused(_) | AgentEvent::Alive => {}
        }
        Ok(None)
    }

    fn on_end(&mut self, ended: Result<Outcome>, tell: &mut impl FnMut(News)) -> Option<FromAgent> {
        self.work = None;
        let ended = ended.map_err(|e| e.in_full());
        tell(News::BackedUp(ended.clone()));
        self.machine.finished(ended.map(|outcome| outcome.stats()))
    }
}

/// The end of the work; never, when there is none.
async fn ended(work: &mut Option<(JoinHandle<Result<Outcome>>, Arc<Counters>)>) -> Result<Outcome> {
    match work {
        Some((work, _)) => match work.await {
            Ok(ended) => ended,
            Err(panic) => Err(Error::Fault(panic.to_string())),
        },
        None => std::future::pending().await,
    }
}

async fn messages_of<S: Stream>(
    mut read: ReadHalf<S>,
    messages: mpsc::Sender<Result<FromSite, WireError>>,
) {
    while let Some(message) = aio::read(&mut read).await.transpose() {
        let last = message.is_err();
        if messages.send(message).await.is_err() || last {
            return;
        }
    }
}
