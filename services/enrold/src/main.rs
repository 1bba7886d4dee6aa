//! enrold: what this appliance is, and how it becomes that.

mod bus;
mod desk;
mod exchange;
mod fleet;
mod house;
mod state;
mod steps;
mod world;

use serde::Deserialize;
use std::process::ExitCode;

/// `enrold.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// Make a pool over the blank data disks. Off for appliances without disks (tests).
    pool: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { pool: true }
    }
}

fn main() -> ExitCode {
    runtime::main("enrold", start)
}

async fn start(daemon: runtime::Daemon) -> anyhow::Result<()> {
    let settings: Settings = daemon.settings()?;
    let keeper = state::Keeper::open(&daemon.state_dir()?)?;
    let house = house::House::new(daemon.clone(), settings.pool);
    let desk = desk::Desk::new(daemon.clone(), keeper, house);
    daemon.serve(bus::Bus::new(desk.clone())).await?;
    desk.resume().await;
    daemon.until_shutdown().await;
    Ok(())
}
