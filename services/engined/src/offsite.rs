//! On a site: which snapshots the centre has confirmed, so that it can be told while the centre
//! is out of reach.

use contract::Error;
use format::SnapshotId;
use ledger::Ledger;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Default, Serialize, Deserialize)]
struct Confirmed {
    snapshots: BTreeSet<String>,
}

/// The snapshots the centre has.
pub(crate) struct Offsite(Mutex<(Ledger<Confirmed>, BTreeSet<SnapshotId>)>);

impl Offsite {
    pub(crate) fn open(state_dir: &Path) -> Result<Self, Error> {
        let loaded = Ledger::<Confirmed>::open(state_dir.join("offsite"))
            .map_err(|e| Error::Failed(e.to_string()))?;
        if let Some(sentence) = loaded.recovered {
            tracing::warn!("{sentence}");
        }
        let ids = loaded.state.unwrap_or_default().snapshots;
        let ids = ids.iter().filter_map(|id| id.parse().ok()).collect();
        Ok(Self(Mutex::new((loaded.ledger, ids))))
    }

    fn inner(&self) -> MutexGuard<'_, (Ledger<Confirmed>, BTreeSet<SnapshotId>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn has(&self, id: &SnapshotId) -> bool {
        self.inner().1.contains(id)
    }

    /// The centre has these of ours now; `all`: and no others.
    pub(crate) fn confirm(&self, ids: &BTreeSet<SnapshotId>, all: bool) -> Result<(), Error> {
        let mut inner = self.inner();
        let (ledger, known) = &mut *inner;
        let now: BTreeSet<SnapshotId> = if all {
            ids.clone()
        } else {
            known.union(ids).copied().collect()
        };
        if now == *known {
            return Ok(());
        }
        let state = Confirmed {
            snapshots: now.iter().map(ToString::to_string).collect(),
        };
        ledger
            .save(&state)
            .map_err(|e| Error::Failed(e.to_string()))?;
        *known = now;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_confirmed_is_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (SnapshotId([1; 16]), SnapshotId([2; 16]));
        let offsite = Offsite::open(dir.path()).unwrap();
        offsite.confirm(&BTreeSet::from([a]), true).unwrap();
        offsite.confirm(&BTreeSet::from([b]), false).unwrap();
        drop(offsite);
        let offsite = Offsite::open(dir.path()).unwrap();
        assert!(offsite.has(&a) && offsite.has(&b));
        offsite.confirm(&BTreeSet::from([b]), true).unwrap();
        assert!(!offsite.has(&a) && offsite.has(&b));
    }
}
