//! Sole owner of datastores: intake, restore, replication.
//!
//! [`house::House`] is what is open; [`session`] serves what portald hands over, each in a thread
//! over a blocking socket; [`replicate`] copies offsite. Around them, on the bus: `watch` opens
//! and closes the house as pool, enrolment and keys come and go, `bus` is the interface.

mod bus;
mod grants;
pub mod house;
mod known;
mod offsite;
pub mod peers;
mod replicate;
mod seats;
mod session;
mod store;
mod turn;
mod watch;

pub use replicate::{Copied, Tell, replicate};
pub use session::{Peer, accept};

use crate::peers::OnTheBus;
use contract::Error;
use runtime::Daemon;
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// How long sessions may take to end when the daemon stops.
const ENDING: Duration = Duration::from_secs(20);

/// `engined.toml`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// A directory that serves as the pool, instead of asking poold: for tests, and where the
    /// file system is somebody else's.
    pub pool: Option<PathBuf>,
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// Its settings or its state cannot be used, or its name on the bus is taken.
pub async fn run(daemon: Daemon) -> Result<(), Error> {
    let settings: Settings = daemon
        .settings()
        .map_err(|e| Error::Failed(e.to_string()))?;
    let peers = Arc::new(OnTheBus::new(daemon.bus.clone(), Handle::current()));
    let (added, from_house) = mpsc::unbounded_channel();
    let state_dir = daemon.state_dir().map_err(|e| {
        Error::Failed(format!(
            "the state directory of engined cannot be made ({e}); check its permissions"
        ))
    })?;
    let house = house::House::new(peers, state_dir, added, daemon.shutdown.clone())?;
    daemon
        .serve(bus::Engine::new(daemon.clone(), house.clone()))
        .await?;
    let telling = tokio::spawn(bus::tell(daemon.bus.clone(), house.clone(), from_house));
    let watching = tokio::spawn(watch::run(daemon.clone(), house.clone(), settings));
    daemon.until_shutdown().await;
    // sessions end at once, and what they have open is closed in order
    house.end_sessions();
    if tokio::time::timeout(ENDING, house.idle()).await.is_err() {
        tracing::warn!("a session does not end; it is left behind");
    }
    let ended = watching.await;
    telling.abort();
    let closing = house.clone();
    let closed = tokio::task::spawn_blocking(move || {
        closing.close(house::Status::Waiting("engined stops".into()));
    });
    let _ = (ended, closed.await);
    Ok(())
}
