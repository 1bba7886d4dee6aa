//! Seals and unseals keys; holds the certificate authorities and signs requests.

mod authority;
mod callers;
mod centre;
mod custody;
mod harden;
mod keys;
mod releases;
mod service;
mod settings;
mod share;
mod signer;
mod site;
mod store;
mod text;
mod vault;
mod wrap;

use contract::told;
use std::process::ExitCode;

pub(crate) use text::{is_id, require_id, require_name};

fn main() -> ExitCode {
    runtime::main("keyd", async |daemon: runtime::Daemon| {
        harden::harden();
        let settings = daemon.settings().map_err(|e| told(&e))?;
        let directory = daemon.state_dir().map_err(|e| told(&e))?;
        let vault = tokio::task::spawn_blocking(|| {
            harden::wiped(|| vault::Vault::open(settings, directory))
        })
        .await
        .map_err(|e| told(&e))?;
        daemon
            .serve(service::Keys::new(vault))
            .await
            .map_err(|e| told(&e))?;
        tokio::select! {
            ended = service::Keys::await_tpm(&daemon.bus) => {
                ended.map_err(|e| told(&e))?;
                daemon.until_shutdown().await;
            }
            () = daemon.until_shutdown() => {}
        }
        Ok::<(), String>(())
    })
}
