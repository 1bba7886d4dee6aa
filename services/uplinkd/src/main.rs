//! uplinkd: keeps the WireGuard uplink and the clock it needs.

use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    runtime::main("uplinkd", start)
}

async fn start(daemon: runtime::Daemon) -> anyhow::Result<()> {
    let parts = uplinkd::Parts {
        ports: Box::new(wireguard::Kernel),
        clock: Arc::new(uplinkd::clock::SystemClock),
        settings: daemon.settings()?,
        state: daemon.state_dir()?,
    };
    uplinkd::run(daemon, parts).await
}
