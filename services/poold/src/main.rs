//! poold: assembles, unlocks and mounts disk pools.

use devices::{Udev, Watch};
use disks::{ArrayWatch, Host};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::sync::mpsc;

fn main() -> ExitCode {
    runtime::main("poold", start)
}

async fn start(daemon: runtime::Daemon) -> anyhow::Result<()> {
    let (news, changes) = mpsc::channel(1);
    let mut disks = Watch::new()?;
    let disk_news = news.clone();
    tokio::spawn(async move {
        // a full channel holds a word that has not been heard yet, which is word enough
        while disks.changed().await.is_ok() {
            let _ = disk_news.try_send(());
        }
    });
    match ArrayWatch::new() {
        Ok(mut arrays) => {
            tokio::spawn(async move {
                while arrays.changed().await.is_ok() {
                    let _ = news.try_send(());
                }
            });
        }
        Err(error) => tracing::warn!("/proc/mdstat cannot be watched, md is not loaded: {error}"),
    }
    let parts = poold::Parts {
        machine: Arc::new(Host {
            as_root: !nix::unistd::geteuid().is_root(),
        }),
        source: Arc::new(Udev),
        changes,
        settings: daemon.settings()?,
        state: daemon.state_dir()?,
    };
    poold::run(daemon, parts).await
}
