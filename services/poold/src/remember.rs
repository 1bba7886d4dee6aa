//! What outlives a restart: the serial numbers of the pool's disks, for telling which is missing.

use crate::name::PoolId;
use ledger::Ledger;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Whole {
    pool: String,
    serials: BTreeSet<String>,
}

pub(crate) struct Remembered {
    ledger: Option<Ledger<Whole>>,
    whole: Whole,
}

impl Remembered {
    /// Never fails: all that can be lost is the name of a missing disk.
    pub(crate) fn open(directory: &Path) -> Remembered {
        match Ledger::open(directory.join("pool")) {
            Ok(loaded) => Remembered {
                ledger: Some(loaded.ledger),
                whole: loaded.state.unwrap_or_default(),
            },
            Err(error) => {
                tracing::warn!("{}", contract::told(&error));
                Remembered {
                    ledger: None,
                    whole: Whole::default(),
                }
            }
        }
    }

    pub(crate) fn whole(&self) -> Option<(PoolId, BTreeSet<String>)> {
        Some((PoolId::parse(&self.whole.pool)?, self.whole.serials.clone()))
    }

    /// The pool is whole with these disks.
    pub(crate) fn set(&mut self, pool: &PoolId, serials: BTreeSet<String>) {
        let whole = Whole {
            pool: pool.to_string(),
            serials,
        };
        if whole == self.whole {
            return;
        }
        self.whole = whole;
        if let Some(ledger) = &mut self.ledger
            && let Err(error) = ledger.save(&self.whole)
        {
            tracing::warn!("{}", contract::told(&error));
        }
    }
}
