//! What outlives a restart: the configuration and, on a centre, the peers.

use crate::configuration::{Configuration, SitePeer};
use contract::Error;
use ledger::Ledger;
use serde::{Deserialize, Serialize};
use std::path::Path;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) configuration: Option<Configuration>,
    pub(crate) peers: Vec<SitePeer>,
}

pub(crate) struct Store {
    ledger: Ledger<State>,
    state: State,
}

impl Store {
    pub(crate) fn open(directory: &Path) -> Result<Store, ledger::Error> {
        let loaded = Ledger::open(directory.join("uplink"))?;
        if let Some(recovered) = &loaded.recovered {
            tracing::warn!("{recovered}");
        }
        Ok(Store {
            ledger: loaded.ledger,
            state: loaded.state.unwrap_or_default(),
        })
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Saves a state that differs; answers whether it did.
    pub(crate) fn set(&mut self, new: State) -> Result<bool, Error> {
        if new == self.state {
            return Ok(false);
        }
        self.ledger
            .save(&new)
            .map_err(|error| Error::Failed(contract::told(&error)))?;
        self.state = new;
        Ok(true)
    }
}
