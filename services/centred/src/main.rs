//! centred: the MSP's control plane. Tenants, their sites, enrolment tokens; which keys of theirs
//! keyd holds; which peers the tunnel has.

mod address;
mod book;
mod bus;
mod centre;
mod control;
mod enrolment;
mod exchange;

use std::process::ExitCode;

fn main() -> ExitCode {
    runtime::main("centred", start)
}

async fn start(daemon: runtime::Daemon) -> anyhow::Result<()> {
    let centre = centre::Centre::open(daemon.clone())?;
    centre::keep_peers(&centre);
    daemon.serve(bus::Bus::new(centre)).await?;
    daemon.until_shutdown().await;
    Ok(())
}
