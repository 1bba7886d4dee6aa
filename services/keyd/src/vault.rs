//! Whether the store is open, and if not, why.

use crate::settings::Settings;
use crate::store::{Saved, Store};
use contract::{Error, told};
use ledger::Ledger;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tpm::Sealer;

/// A TPM that was busy or late at boot is asked again, but not at every call.
pub(crate) const RETRY: Duration = Duration::from_secs(1);

/// The store, or why it is shut.
pub(crate) struct Vault {
    settings: Settings,
    directory: PathBuf,
    tpm: String,
    store: Result<Store, Error>,
    tried: Instant,
}

impl Vault {
    /// Opens the store in `directory`; at the first start makes it. A store that cannot be opened
    /// leaves the vault shut.
    pub(crate) fn open(settings: Settings, directory: PathBuf) -> Vault {
        let mut vault = Vault {
            settings,
            directory,
            tpm: String::new(),
            store: Err(Error::NotReady("not tried yet".into())),
            tried: Instant::now(),
        };
        vault.retry();
        vault
    }

    /// As the property State has it.
    pub(crate) fn state(&self) -> &'static str {
        match &self.store {
            Ok(_) => "ready",
            Err(Error::NoTpm(_)) => "no-tpm",
            Err(Error::Damaged(_)) => "damaged",
            Err(_) => "sealed",
        }
    }

    /// Why it is not ready; empty when it is.
    pub(crate) fn reason(&self) -> String {
        self.store
            .as_ref()
            .err()
            .map(Error::text)
            .unwrap_or_default()
    }

    /// Who the TPM is; empty without one.
    pub(crate) fn tpm(&self) -> &str {
        &self.tpm
    }

    /// The open store, or the error every key method answers.
    pub(crate) fn ready(&mut self) -> Result<&mut Store, Error> {
        if self.store.is_err() && self.tried.elapsed() >= RETRY {
            self.retry();
        }
        self.store.as_mut().map_err(|error| error.clone())
    }

    /// Where the store is, for what lies beside it.
    pub(crate) fn directory(&self) -> &std::path::Path {
        &self.directory
    }

    fn retry(&mut self) {
        let before = self.reason();
        self.store = self.unlock();
        self.tried = Instant::now();
        match &self.store {
            Ok(_) => tracing::info!(tpm = self.tpm, "the root key is unsealed"),
            Err(error) if error.text() != before => tracing::warn!("no keys: {}", error.text()),
            Err(_) => {}
        }
    }

    fn unlock(&mut self) -> Result<Store, Error> {
        let sealer = Sealer::new(&self.settings.tcti).map_err(sealed)?;
        self.tpm = sealer.describe().map_err(sealed)?;
        let loaded = Ledger::<Saved>::open(self.directory.join("store")).map_err(|e| match e {
            ledger::Error::Io { .. } => Error::Failed(told(&e)),
            _ => Error::Damaged(told(&e)),
        })?;
        if let Some(recovered) = &loaded.recovered {
            tracing::error!("{recovered}");
        }
        match loaded.state {
            Some(saved) => {
                let root = Box::new(sealer.unseal(&saved.sealed).map_err(sealed)?);
                Store::open(root, saved, loaded.ledger)
            }
            None => {
                let root = Box::new(runtime::random()?);
                let blob = sealer
                    .seal(&root, &self.settings.policy())
                    .map_err(sealed)?;
                tracing::info!("first start: a new root key is sealed");
                Store::create(root, blob, loaded.ledger)
            }
        }
    }
}

fn sealed(error: tpm::Error) -> Error {
    tracing::debug!("{}", told(&error));
    match error {
        tpm::Error::Absent { .. } => Error::NoTpm(error.to_string()),
        tpm::Error::Blob(_) => Error::Damaged(error.to_string()),
        _ => Error::Sealed(error.to_string()),
    }
}
