//! What this appliance is, kept over restarts.
//!
//! Nothing is kept before a centre's grant: until then the operator repeats the token, keyd's
//! answers are the same again, and the centre knows this machine by its identity.

use ledger::Ledger;
use protocol::enrol::{Custody, Grant};
use protocol::token::FINGERPRINT;
use serde::{Deserialize, Serialize};
use std::path::Path;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    #[default]
    Unenrolled,
    /// The centre has granted; this machine is being set up as it says.
    Granted(Granted),
    Site(Site),
    /// A centre was asked for; this machine is being set up as one.
    Founding(Founding),
    Centre(Centre),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Granted {
    pub(crate) site: Site,
    pub(crate) grant: Grant,
    /// The authority it is by, DER.
    pub(crate) fleet: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Site {
    /// BLAKE3 of the token that made it one, hexadecimal; the token itself is spent.
    pub(crate) token: String,
    pub(crate) tenant: String,
    pub(crate) tenant_name: String,
    pub(crate) site: String,
    pub(crate) site_name: String,
    /// host:port of the centre's portal.
    pub(crate) endpoint: String,
    /// Of the centre's authority.
    pub(crate) fingerprint: [u8; FINGERPRINT],
    pub(crate) datastore: String,
    pub(crate) custody: Custody,
    /// A change of custody to this was begun and not finished, or its shares were made and nobody
    /// has seen them: the next `enrol` with the same token, or change of custody, does it anew.
    pub(crate) due: Option<Custody>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Founding {
    pub(crate) name: String,
    pub(crate) endpoint: String,
    /// Its address in the tunnel, with prefix length; random once.
    pub(crate) address: String,
    pub(crate) uplink_port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Centre {
    pub(crate) founding: Founding,
    /// Of the fleet authority.
    pub(crate) fingerprint: [u8; FINGERPRINT],
}

impl State {
    /// As the property says it; `busy` while a job changes it.
    pub(crate) fn name(&self, busy: bool) -> &'static str {
        match self {
            State::Unenrolled if !busy => "unenrolled",
            State::Unenrolled | State::Granted(_) | State::Founding(_) => "enrolling",
            State::Site(_) => "site",
            State::Centre(_) => "centre",
        }
    }
}

/// The state and its ledger.
pub(crate) struct Keeper {
    state: State,
    ledger: Ledger<State>,
}

impl Keeper {
    pub(crate) fn open(directory: &Path) -> Result<Keeper, ledger::Error> {
        let opened = Ledger::open(directory.join("state"))?;
        if let Some(recovered) = opened.recovered {
            tracing::error!("{recovered}; compare strongroom status with what this machine is");
        }
        Ok(Keeper {
            state: opened.state.unwrap_or_default(),
            ledger: opened.ledger,
        })
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Saves what is true from now on.
    pub(crate) fn set(&mut self, state: State) -> Result<(), contract::Error> {
        if state != self.state {
            self.ledger
                .save(&state)
                .map_err(|e| contract::Error::Failed(contract::told(&e)))?;
            self.state = state;
        }
        Ok(())
    }
}
