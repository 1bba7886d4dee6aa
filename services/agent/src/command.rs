//! The commands. Each answers the number of problems it met, or why it failed.

use crate::show::{Display, size, when};
use agent::backup::Outcome;
use agent::connect::{Dialer, with_port};
use agent::control::{self, Here, News, Wish};
use agent::identity::{Identity, StateDir};
use agent::{Error, Result, restore, session};
use clap::Args;
use data_encoding::HEXLOWER;
use protocol::WireError;
use protocol::pairing::Code;
use protocol::restore::Listed;
use protocol::session::Kind;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Waits between attempts to reach the appliance: the first, doubled to the last.
const BACKOFF: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

struct Paired {
    identity: Identity,
    dialer: Dialer,
    here: Here,
}

fn paired(state: &Path) -> Result<Paired> {
    let state = StateDir::open(state)?;
    let identity = state.load()?;
    let dialer = Dialer::new(&identity).ok_or_else(|| state.damaged())?;
    let key = identity.signer().ok_or_else(|| state.damaged())?;
    let here = Here {
        agent: identity.agent.clone(),
        key: Arc::new(key),
        state,
        host: hostname(),
    };
    Ok(Paired {
        identity,
        dialer,
        here,
    })
}

impl Paired {
    fn for_backups(self) -> Result<Self> {
        match self.identity.scope.as_str() {
            "backup" => Ok(self),
            _ => Err(Error::Refused(
                "this agent was paired for a restore and takes no orders to back up; \
                 pair it with its site to serve"
                    .into(),
            )),
        }
    }

    /// An open session of this kind.
    async fn session(&self, kind: Kind) -> Result<impl agent::Stream + use<>> {
        let mut stream = self.dialer.dial().await?;
        session::open(&mut stream, kind, &self.identity.agent, &self.here.key).await?;
        Ok(stream)
    }

    fn dial(&self) -> impl Fn() -> DialFuture + Clone + Send + Sync + use<> {
        let dialer = self.dialer.clone();
        move || {
            let dialer = dialer.clone();
            Box::pin(async move { dialer.dial().await })
        }
    }
}

type DialFuture = std::pin::Pin<
    Box<dyn Future<Output = Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>> + Send>,
>;

fn hostname() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "localhost".into())
}

/// Cancelled at SIGINT and SIGTERM.
fn stop_at_signals() -> CancellationToken {
    use tokio::signal::unix::{SignalKind, signal};
    let token = CancellationToken::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let token = token.clone();
        if let Ok(mut signals) = signal(kind) {
            tokio::spawn(async move {
                signals.recv().await;
                token.cancel();
            });
        }
    }
    token
}

#[derive(Args)]
pub(crate) struct Pair {
    /// The appliance: HOST or HOST:PORT
    host: String,
    /// The code the appliance shows; asked for when it is not given
    #[arg(long)]
    code: Option<String>,
    /// What the appliance is to call this server
    #[arg(long)]
    name: Option<String>,
}

impl Pair {
    pub(crate) async fn run(self, state: &Path) -> Result<u64> {
        let state = StateDir::open(state)?;
        let code = match self.code {
            Some(code) => code,
            None => ask("Code shown by the appliance: ").map_err(|e| {
                Error::Refused(format!(
                    "the code cannot be read from standard input ({e}); run this at a terminal, \
                     or give it with --code"
                ))
            })?,
        };
        let code: Code = code.parse().map_err(|e| Error::Refused(format!("{e}")))?;
        let name = self.name.unwrap_or_else(hostname);
        let identity = agent::pair::pair(&with_port(&self.host), &name, &code).await?;
        let kept = state.load().ok().filter(|kept| kept.scope == "backup");
        if let Some(kept) = kept.filter(|_| identity.scope != "backup") {
            return Err(Error::Refused(format!(
                "this server backs up to {}, and a pairing for a restore would end that; ask for \
                 another code and pair with `strongroom-agent --state DIRECTORY pair`",
                kept.endpoint
            )));
        }
        state.save(&identity)?;
        println!(
            "paired with {} as {} (agent {})",
            identity.endpoint, name, identity.agent
        );
        match identity.scope.strip_prefix("restore:") {
            Some(datastore) => println!("this agent may restore from datastore {datastore}"),
            None => println!(
                "next: strongroom-agent backup PATH; for backups that the appliance begins, the \
                 service (strongroom-agent serve) connects by itself wherever it runs"
            ),
        }
        Ok(0)
    }
}

fn ask(question: &str) -> std::io::Result<String> {
    use std::io::Write;
    let mut answer = String::new();
    print!("{question}");
    std::io::stdout().flush()?;
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim().to_owned())
}

/// Stays connected until it is told to stop, as whoever this server is paired as.
pub(crate) async fn serve(state: &Path) -> Result<u64> {
    // before the identity is read, so that none is missed
    let mut pairings = StateDir::open(state)?.pairings();
    let stop = stop_at_signals();
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    while !stop.is_cancelled() {
        let until = stop.child_token();
        let mut attending = std::pin::pin!(attend(state, &until));
        tokio::select! {
            ended = &mut attending => ended?,
            Some(()) = pairings.recv() => {
                tracing::info!("this server was paired anew");
                until.cancel();
                attending.await?;
            }
        }
    }
    Ok(0)
}

/// Stays connected by the pairing there is now; without one, waits until it is told to end.
async fn attend(state: &Path, until: &CancellationToken) -> Result<()> {
    let paired = match paired(state).and_then(Paired::for_backups) {
        Ok(paired) => paired,
        // another pairing mends these
        Err(error @ (Error::NotPaired | Error::Damaged(_) | Error::Refused(_))) => {
            tracing::warn!("{}; it is then taken up without a restart", error.in_full());
            until.cancelled().await;
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let mut wait = BACKOFF[0];
    while !until.is_cancelled() {
        let mut attached = false;
        let tell = |news| {
            attached |= matches!(news, News::Attached);
            log(&news);
        };
        let dial = paired.dial();
        let ended = control::run(&paired.here, Wish::Serve, dial, tell, until.clone()).await;
        if until.is_cancelled() {
            break;
        }
        if attached {
            wait = BACKOFF[0];
        }
        if let Err(error) = ended {
            let error = error.in_full();
            tracing::warn!("{error}; next attempt in {} s", wait.as_secs());
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = until.cancelled() => {}
        }
        wait = (wait * 2).min(BACKOFF[1]);
    }
    Ok(())
}

fn log(news: &News) {
    match news {
        News::Attached => tracing::info!("connected to the appliance"),
        News::Started(order, _) => {
            tracing::info!(run = order.run, "backup {:?} begins", order.paths)
        }
        News::BackedUp(Ok(outcome)) => tracing::info!("{}", summary(outcome)),
        News::BackedUp(Err(error)) => tracing::error!("{error}"),
        News::Stage(..) => {}
        News::Ended(_, message) => tracing::info!("{message}"),
    }
}

fn summary(outcome: &Outcome) -> String {
    let c = &outcome.committed;
    format!(
        "snapshot {}: {} entries, {}; new {}, stored {}, sent {}",
        HEXLOWER.encode(&c.snapshot),
        c.entries,
        size(c.logical),
        size(c.unique),
        size(c.stored),
        size(c.wire)
    )
}

#[derive(Args)]
pub(crate) struct Backup {
    /// What to protect; without it, the definition the appliance has for this server
    paths: Vec<PathBuf>,
    /// Leave out what matches this pattern
    #[arg(long)]
    exclude: Vec<OsString>,
    /// A definition of the appliance's for this server
    #[arg(long, conflicts_with_all = ["paths", "exclude"])]
    definition: Option<String>,
}

impl Backup {
    pub(crate) async fn run(self, state: &Path) -> Result<u64> {
        let paired = paired(state)?;
        let mut paths = Vec::new();
        for path in &self.paths {
            // also when it is no more than a wrong path, that is told before anything is dialled
            filetree::walk::Walk::new(std::slice::from_ref(path), Default::default())?;
            paths.push(std::path::absolute(path).map_err(|e| {
                Error::Refused(format!(
                    "{} cannot be told from where this runs ({e}); give it as an absolute path",
                    path.display()
                ))
            })?);
        }
        let wish = Wish::Run {
            definition: self.definition.unwrap_or_default(),
            paths,
            excludes: self.exclude.into_iter().map(OsString::into_vec).collect(),
        };
        let mut display = Display::new();
        let mut outcome = None;
        let mut end = None;
        let tell = |news| match news {
            News::Started(_, counters) => display.watch_backup(counters),
            News::BackedUp(result) => {
                display.finish();
                if let Ok(done) = &result {
                    println!("{}", summary(done));
                    done.problems.iter().for_each(|p| println!("  {p}"));
                }
                outcome = Some(result);
            }
            News::Stage(stage, detail, done, total) => display.stage(&stage, &detail, done, total),
            News::Ended(succeeded, message) => {
                display.finish();
                end = Some((succeeded, message));
            }
            News::Attached => {}
        };
        control::run(&paired.here, wish, paired.dial(), tell, stop_at_signals()).await?;
        match (outcome, end) {
            (Some(Err(sentence)), _) => Err(Error::Refused(sentence)),
            (_, Some((false, sentence))) => Err(Error::Refused(sentence)),
            (Some(Ok(outcome)), _) => Ok(outcome.problem_count),
            (None, _) => Err(WireError::Ended.into()),
        }
    }
}

#[derive(Args)]
pub(crate) struct List {
    /// As JSON
    #[arg(long)]
    json: bool,
}

impl List {
    pub(crate) async fn run(self, state: &Path) -> Result<u64> {
        let paired = paired(state)?;
        let snapshots = restore::list(&mut paired.session(Kind::List).await?).await?;
        if self.json {
            let list: Vec<_> = snapshots.iter().map(as_json).collect();
            println!("{}", serde_json::Value::from(list));
            return Ok(0);
        }
        if snapshots.is_empty() {
            println!("no snapshots");
        }
        for s in &snapshots {
            let paths: Vec<_> = s.paths.iter().map(|p| filetree::shown(&p.0)).collect();
            println!(
                "{}  {}  {:>10}  {:>8} entries  {}  {}",
                HEXLOWER.encode(&s.snapshot),
                when(s.time),
                size(s.logical),
                s.entries,
                s.host,
                paths.join(" ")
            );
        }
        Ok(0)
    }
}

fn as_json(s: &Listed) -> serde_json::Value {
    serde_json::json!({
        "id": HEXLOWER.encode(&s.snapshot),
        "time": s.time,
        "host": s.host,
        "paths": s.paths.iter().map(|p| filetree::shown(&p.0)).collect::<Vec<_>>(),
        "entries": s.entries,
        "logical": s.logical,
        "unique": s.unique,
        "problems": s.problems,
    })
}

#[derive(Args)]
pub(crate) struct Restore {
    /// The snapshot's id or the beginning of it, or `latest`
    snapshot: String,
    /// A directory that is empty or does not exist
    target: PathBuf,
    /// Only this path of the snapshot and what is below it
    #[arg(long)]
    path: Option<OsString>,
    /// Restore into a directory that holds something: what is there of the same name is replaced
    #[arg(long)]
    overwrite: bool,
}

impl Restore {
    pub(crate) async fn run(self, state: &Path) -> Result<u64> {
        let paired = paired(state)?;
        let snapshots = restore::list(&mut paired.session(Kind::List).await?).await?;
        let snapshot = find(&snapshots, &self.snapshot)?;
        let path = self.path.unwrap_or_default().into_vec();
        let path = path.strip_prefix(b"/").unwrap_or(&path);
        let path = path.strip_suffix(b"/").unwrap_or(path).to_vec();
        let stream = paired.session(Kind::Restore).await?;
        let counters = Arc::new(restore::Counters::default());
        let mut display = Display::new();
        let whole = if path.is_empty() { snapshot.logical } else { 0 };
        display.watch_restore(counters.clone(), whole);
        let options = filetree::write::Options {
            overwrite: self.overwrite,
        };
        let stop = stop_at_signals();
        let restoring = restore::restore(
            stream,
            snapshot.snapshot,
            path,
            self.target.clone(),
            options,
            counters,
        );
        let report = tokio::select! {
            report = restoring => report,
            () = stop.cancelled() => Err(Error::Refused(format!(
                "stopped; what was restored until now is in {}", self.target.display()
            ))),
        };
        display.finish();
        let report = report?;
        println!(
            "{} entries, {} restored to {}",
            report.entries,
            size(report.bytes),
            self.target.display()
        );
        report.problems.iter().for_each(|p| println!("  {p}"));
        Ok(report.problems.len() as u64 + report.more)
    }
}

fn find<'a>(snapshots: &'a [Listed], wanted: &str) -> Result<&'a Listed> {
    let fits = |s: &&Listed| {
        HEXLOWER
            .encode(&s.snapshot)
            .starts_with(&wanted.to_lowercase())
    };
    let mut fitting = snapshots.iter().filter(fits);
    let (one, other) = match wanted {
        "latest" => (snapshots.first(), None),
        "" => (None, None),
        _ => (fitting.next(), fitting.next()),
    };
    match (one, other) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => Err(Error::Refused(format!(
            "several snapshots begin with {wanted}; give more of the id"
        ))),
        (None, _) => Err(Error::Refused(format!(
            "there is no snapshot {wanted}; look at strongroom-agent list"
        ))),
    }
}
