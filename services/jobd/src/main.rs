//! jobd: backup definitions, their stages, runs and history; the agents' control sessions.

mod agents;
mod bus;
mod journal;
mod request;
mod run;
mod session;
mod state;

use std::process::ExitCode;

fn main() -> ExitCode {
    runtime::main("jobd", start)
}

async fn start(daemon: runtime::Daemon) -> anyhow::Result<()> {
    let state = state::State::open(&daemon.state_dir()?)?;
    let core = run::Core::new(daemon.clone(), state);
    daemon.serve(bus::Jobs::new(core)).await?;
    daemon.until_shutdown().await;
    Ok(())
}
