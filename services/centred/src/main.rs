//! centred: the MSP's control plane. Tenants, their sites, enrolment tokens; which keys of theirs
//! keyd holds; which peers the tunnel has.

mod address;
mod book;
mod bus;
mod centre;
mod control;
mod enrolment;
mod exchange;

use contract::Error;
use ring::rand::SecureRandom;
use std::process::ExitCode;
use zeroize::Zeroizing;

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

pub(crate) fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, Error> {
    let mut bytes = Zeroizing::new([0; N]);
    ring::rand::SystemRandom::new()
        .fill(&mut bytes[..])
        .map_err(|_| {
            Error::Failed("the kernel gave no random bytes; restart the machine".into())
        })?;
    Ok(bytes)
}
