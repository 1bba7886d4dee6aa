use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The directory that stands for `/`: `STRONGROOM_ROOT`, else `/`.
pub fn root() -> PathBuf {
    std::env::var_os("STRONGROOM_ROOT").map_or_else(|| "/".into(), PathBuf::from)
}

/// The bus our names are on: `STRONGROOM_BUS`, else the system bus.
pub async fn connect() -> zbus::Result<zbus::Connection> {
    let builder = match std::env::var("STRONGROOM_BUS") {
        Ok(address) => zbus::connection::Builder::address(address.as_str())?,
        Err(_) => zbus::connection::Builder::system()?,
    };
    // An object server that starts later than the connection takes a moment to listen, and loses
    // the calls that come before; one that has something to serve listens when build returns.
    builder
        .serve_at("/org/strongroom", Listening)?
        .build()
        .await
}

/// Served so that something is.
struct Listening;

#[zbus::interface(name = "org.strongroom.Listening1")]
impl Listening {}

/// What a daemon is given to live with. Cheap to clone.
#[derive(Clone)]
pub struct Daemon {
    /// Its short name, `keyd`.
    pub name: &'static str,
    /// The bus.
    pub bus: zbus::Connection,
    /// Cancelled at SIGTERM or SIGINT: stop taking work, finish or drop what runs.
    pub shutdown: CancellationToken,
    /// Its job objects.
    pub jobs: Arc<crate::job::Jobs>,
}

impl Daemon {
    /// A daemon on this bus; [`main`] makes one, tests may.
    pub fn new(name: &'static str, bus: zbus::Connection, shutdown: CancellationToken) -> Daemon {
        let jobs = Arc::new(crate::job::Jobs::new(bus.clone(), shutdown.clone()));
        Daemon {
            name,
            bus,
            shutdown,
            jobs,
        }
    }

    /// The directory for state that survives a reboot; made by systemd (`StateDirectory=`), or
    /// here when it is missing.
    pub fn state_dir(&self) -> std::io::Result<PathBuf> {
        use std::os::unix::fs::DirBuilderExt;
        let path = match std::env::var_os("STATE_DIRECTORY") {
            Some(path) => PathBuf::from(path),
            None => root().join("var/lib/strongroom").join(self.name),
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)?;
        Ok(path)
    }

    /// Its settings, see [`crate::config`].
    pub fn settings<T: serde::de::DeserializeOwned>(
        &self,
    ) -> Result<T, crate::config::ConfigError> {
        crate::config::load(self.name)
    }

    /// Exports `interface` at `/org/strongroom/<X>1`, takes the name `org.strongroom.<X>1` and
    /// tells systemd that the daemon is ready. Fails when another process holds the name.
    pub async fn serve<I: zbus::object_server::Interface>(&self, interface: I) -> zbus::Result<()> {
        let name = I::name();
        let path = format!("/{}", name.as_str().replace('.', "/"));
        self.bus.object_server().at(path, interface).await?;
        let flags = zbus::fdo::RequestNameFlags::DoNotQueue;
        self.bus
            .request_name_with_flags(name.as_str(), flags.into())
            .await?;
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
            tracing::debug!(%error, "no service manager to notify");
        }
        tracing::info!("ready");
        Ok(())
    }

    /// Waits for the order to stop.
    pub async fn until_shutdown(&self) {
        self.shutdown.cancelled().await;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    }
}

/// Runs a daemon: `start` sets it up, calls [`Daemon::serve`] and returns at shutdown.
/// Logs to standard error, as the journal takes it; ends with 1 when `start` fails.
pub fn main<F, R, E>(name: &'static str, start: F) -> ExitCode
where
    F: FnOnce(Daemon) -> R,
    R: Future<Output = Result<(), E>>,
    E: std::fmt::Display + std::fmt::Debug,
{
    // each call of the TPM, and what keyd says of a failed one in a sentence, is told there too
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| "info,zbus=warn,tss_esapi=off".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time() // the journal has its own clock
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("{name} cannot start its threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let bus = connect()
            .await
            .map_err(|e| format!("the bus cannot be reached: {e}"))?;
        spawn_signals(shutdown.clone()).map_err(|e| format!("signals cannot be caught: {e}"))?;
        spawn_watchdog(shutdown.clone());
        start(Daemon::new(name, bus, shutdown))
            .await
            .map_err(|e| format!("{e:#}"))
    });
    // what still blocks must not hold a shutdown up
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err::<(), String>(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn spawn_signals(shutdown: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        // both are cancel-safe: a signal missed by one poll is seen by the next
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        shutdown.cancel();
    });
    Ok(())
}

/// Tells systemd twice per period that the runtime still turns (`WatchdogSec=`).
fn spawn_watchdog(shutdown: CancellationToken) {
    let Some(period) = sd_notify::watchdog_enabled() else {
        return;
    };
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(period / 2);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
                }
                () = shutdown.cancelled() => return,
            }
        }
    });
}
