//! portald: the only daemon that listens on the network. It ends TLS and hands each session, as
//! one end of a socket pair, to the daemon it is for; it dials for the others alike.

mod admit;
mod bus;
mod desk;
mod dial;
mod identity;
mod limits;
mod listen;
mod pairing;
mod peer;
mod portal;
mod session;
mod settings;
mod socket;
mod verify;

use std::process::ExitCode;

fn main() -> ExitCode {
    runtime::main("portald", start)
}

async fn start(daemon: runtime::Daemon) -> anyhow::Result<()> {
    let portal = portal::Portal::new(daemon.clone(), daemon.settings()?)?;
    identity::keep(&portal);
    listen::keep(&portal);
    daemon.serve(bus::Bus::new(portal)).await?;
    daemon.until_shutdown().await;
    Ok(())
}
